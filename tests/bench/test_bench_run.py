"""What `make bench` puts together: every script is there and described, and the table says what was measured."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.ground import ROOT
from benchmarks.meters import quantile
from benchmarks.profiling import added_up
from benchmarks.report import Row

README = ROOT / "benchmarks" / "README.md"
ROWS = [Row("idle fleet", "0.5 core", "0.07 core", "EIM: 26 cores", "1/371", True), Row("lists", "50 ms", "60 ms", "40 ms", "1.50", False)]


def test_every_row_has_its_script_and_a_quick_form() -> None:
    """The runner names no module that is not there."""
    assert all(importlib.util.find_spec(f"benchmarks.{module}") for module, *_ in run.SCRIPTS.values())
    assert run.QUICK.keys() == run.SCRIPTS.keys()


def test_every_script_is_in_the_readme() -> None:
    """Whoever adds a script says there what it measures."""
    told = README.read_text()
    scripts = [path for path in README.parent.glob("*.py") if "def main()" in path.read_text()]
    assert [path.name for path in scripts if f"`{path.name}`" not in told] == []


def test_the_table_says_what_was_missed() -> None:
    """One line a row, as Markdown."""
    assert run.table(ROWS).splitlines()[2:] == [
        "| idle fleet | 0.5 core | 0.07 core | EIM: 26 cores | 1/371 | met |",
        "| lists | 50 ms | 60 ms | 40 ms | 1.50 | **missed** |",
    ]


def test_a_whole_run_replaces_the_table_in_the_docs_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people wrote around it stays."""
    docs = tmp_path / "benchmarks.md"
    docs.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    monkeypatch.setattr(run, "DOCS", docs)
    run.write(ROWS)
    written = docs.read_text()
    assert written.startswith(f"before\n{run.BEGIN}\nMeasured ") and written.endswith(f"{run.END}\nafter\n")
    assert "old" not in written and run.table(ROWS) in written


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 6.0), (0.99, 10.0)])
def test_quantiles_are_values_that_were_measured(share: float, value: float) -> None:
    """No interpolation, and no index beyond the last."""
    assert quantile([float(n) for n in range(10, 0, -1)], share) == value


LOG = """\
LOG:  duration: 1.500 ms  execute __asyncpg_stmt_1__: -- What has committed and has no position yet.
\tWITH taken AS (
\t    DELETE FROM changes_in RETURNING *
DETAIL:  Parameters: $1 = '500'
LOG:  duration: 0.500 ms  statement: COMMIT;
LOG:  duration: 2.000 ms  execute __asyncpg_stmt_1__: -- What has committed and has no position yet.
\tWITH taken AS (
"""


def test_statements_are_added_up_by_what_stands_below_their_comment() -> None:
    """The dearest first."""
    assert added_up(LOG.splitlines()) == [(3.5, 2, "WITH taken AS ("), (0.5, 1, "COMMIT;")]
