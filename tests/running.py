"""How the suite is run: by how many workers (pytest-xdist), what stays together in one worker, how much of what is tried a thousand
times, and when a skip is a failure.

A pytest plugin, loaded by tests/conftest.py. `make test` says `-n auto`; without that, and for a part of the suite, everything runs in
one process. docs/testing.md says why it is cut like this.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

TOGETHER: Mapping[str, str] = MappingProxyType(
    {"up": "installations", "system": "installations", "chaos": "installations", "pages": "pages", "front": "front"}
)
"""Directories below tests/ whose files share a worker: because they share a costly fixture of the session, or because each starts a
whole installation, of which there shall be one at a time. Any other file is a group of its own."""
LONG = (
    "tests/inventory_wire/test_renewing_agents.py",
    "tests/web/test_install_script.py",
    "tests/web/test_fuzz.py",
    "tests/operate/test_backup_commands.py",
)
"""Files that take longest beside those."""
FIRST = (*dict.fromkeys(TOGETHER.values()), *LONG)
"""The longest groups begin first, so that none is left alone at the end."""
MOST_WORKERS = 6


def group_of(nodeid: str) -> str:
    """What a test shares its worker with: `tests/web/test_a.py::test_b[c]` gives `tests/web/test_a.py`."""
    path = nodeid.split("::", 1)[0]
    parts = path.split("/")
    return TOGETHER.get(parts[1], path) if len(parts) > 2 else path


def workers(cores: int, args: list[str], chosen: str) -> int:
    """One more than there are cores, because tests mostly wait; none (0) for files, single tests, or a choice by -k or -m."""
    whole = all("::" not in arg and Path(arg).suffix != ".py" for arg in args)
    return min(cores + 1, MOST_WORKERS) if whole and not chosen else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    chosen = (config.option.keyword, config.option.markexpr, "lf" if config.getoption("lf", False) else "")
    return workers(len(os.sched_getaffinity(0)), config.args, "".join(chosen))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        """A group goes to one worker, whole, and groups begin in the order of collection."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker the longest groups come first; in one process the files' own order stays."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place(group_of(item.nodeid)))


def _place(group: str) -> int:
    return FIRST.index(group) if group in FIRST else len(FIRST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="take the pictures of pages that tests name, for people to look at")
    parser.addoption("--full", action="store_true", help="rounds in the number that is promised, where `make test` makes do with a sample")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sampled: its rounds are a sample; `make full` runs them all (docs/testing.md)")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether a test that is marked `sampled` goes through all of its rounds."""
    return bool(request.config.getoption("--full"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true a test that was skipped for want of a tool is a failure (.ci/run). Workers report to the process that counts."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
