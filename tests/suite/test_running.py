"""The suite's own rules: what runs by several workers, what keeps together, and that no failure of a worker goes by unnoticed."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import running, waiting
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def suite(directory: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run two files of tests, one of them `text`, by two workers, as `make test WORKERS=auto` does."""
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_fine.py").write_text("def test_fine():\n    pass\n")
    (directory / "test_other.py").write_text(text)
    plugins = ["-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "tests.running"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "-n", "2", "--max-worker-restart", "0", *arguments]
    # Its temporary files are its own: a run closes the directory that all runs of a user share to other users.
    apart = {"PYTEST_DEBUG_TEMPROOT": str(directory)}
    environment = os.environ | {"CI": "true", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | apart
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_last_line_counts_the_tests_of_all_workers(tmp_path: Path) -> None:
    """It is pytest's own, and the exit code is 0."""
    done = suite(tmp_path, "def test_a():\n    pass\n\n\ndef test_b():\n    pass\n")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("3 passed in ")


def test_a_skip_in_a_worker_fails_ci(tmp_path: Path) -> None:
    """The workers skip; the process that counts says no."""
    done = suite(tmp_path, "import pytest\n\n\ndef test_a():\n    pytest.skip('no tool')\n")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("1 passed, 1 skipped in ")


def test_a_worker_that_dies_fails_the_run(tmp_path: Path) -> None:
    """The test that it died in is named, and the others' are counted."""
    done = suite(tmp_path, "import os, signal\n\n\ndef test_a():\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    assert done.returncode == 1
    assert "crashed while running 'test_other.py::test_a'" in done.stdout
    assert "1 failed, 1 passed in " in done.stdout


def test_a_test_that_hangs_fails_the_run(tmp_path: Path) -> None:
    """Its time-out ends it in the worker as anywhere else."""
    done = suite(tmp_path, "import threading\n\n\ndef test_a():\n    threading.Event().wait()\n", "--timeout", "4")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("1 failed, 1 passed in ")


@pytest.mark.parametrize(
    ("args", "chosen", "expected"),
    [
        (["tests"], "", 3),
        (["tests/web", "tests/up"], "", 3),
        (["tests"], "sign", 0),
        (["tests/web/test_signin.py"], "", 0),
        (["tests/web", "tests/up/test_up.py::test_ports_in_use"], "", 0),
    ],
)
def test_a_file_or_a_choice_starts_no_workers(args: list[str], chosen: str, expected: int) -> None:
    """Starting them takes longer than a few tests."""
    assert running.workers(2, args, chosen) == expected


def test_whole_installations_are_tested_one_at_a_time() -> None:
    """Whatever file starts them; any other file goes by itself."""
    together = {running.group_of(f"tests/{name}/test_x.py::TestY::test_z[a/b::c]") for name in ("up", "system", "chaos")}
    assert together == {"installations"}
    assert running.group_of("tests/web/test_signin.py::test_guessing[a]") == "tests/web/test_signin.py"


def test_the_files_that_begin_first_are_there() -> None:
    """One that was renamed would begin whenever its turn came."""
    assert [path for path in running.LONG if not (ROOT / path).is_file()] == []


def test_a_free_port_is_kept_for_its_server() -> None:
    """Nobody else gets it, and who connects to it is refused, before its server listens and after it has died; it listens again at once."""
    port = free_port()
    for _ in range(2):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with socket.create_server(("", port)), socket.create_connection(("127.0.0.1", port), 5):
            pass


def test_time_in_which_a_machine_is_busy_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of 1 s is over after 1 s with CPUs to spare, and after more where something had to wait for one; not without end."""
    now, lost = 0.0, 0.0
    monkeypatch.setattr("tests.waiting.time.monotonic", lambda: now)
    monkeypatch.setattr(waiting, "_lost", lambda: lost)
    deadline = waiting.Deadline(1.0)
    now, lost = 50.0, 49.0
    assert not deadline.over()
    now = 54.0
    assert deadline.over()
    deadline = waiting.Deadline(1.0)
    now, lost = now + waiting.LONGEST_S + 1, lost + waiting.LONGEST_S + 1
    assert deadline.over()


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is a TimeoutError."""
    monkeypatch.setattr(waiting, "_LAG_S", 0.0)
    with pytest.raises(TimeoutError):
        async with waiting.patience(0.05):
            await asyncio.Event().wait()
