"""A short round of the simulation; `make simulate` and `make chaos` go on for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent import outbox
from edge_agent.outbox import Outbox, acknowledge
from tests.simulation.__main__ import report, verdicts
from tests.simulation.mutations import BY_NAME, MUTATIONS, Mutation, hunt, plant
from tests.simulation.plan import plan
from tests.simulation.shrinking import shrink
from tests.simulation.world import simulate

TREE = Path(__file__).resolve().parents[2]


def test_every_promise_is_kept() -> None:
    """In some dozens of worlds; a seed that breaks one is named with what it breaks."""
    assert [(v.seed, v.broken) for v in verdicts(range(1, 31), jobs=1) if v.broken] == []


def test_the_same_seed_gives_the_same_trace() -> None:
    """Byte for byte, also in another process, where Python hashes strings otherwise."""
    here = simulate(plan(7)).trace
    command = [sys.executable, "-m", "tests.simulation", "--from", "7", "--trace"]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True, check=True).stdout
    assert there.splitlines()[1:-1] == here
    assert simulate(plan(8)).digest != simulate(plan(7)).digest


@pytest.mark.parametrize("name", ["takes-gaps", "outdated-success-counts"])
def test_a_planted_bug_is_found(name: str) -> None:
    """Two of those that `make simulate` plants, all of which have to be found."""
    assert hunt(BY_NAME[name], seeds=40) is not None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_bug_has_its_place(mutation: Mutation) -> None:
    """The piece of source that it replaces is there exactly once; where the product changes, the bug has to follow."""
    assert (TREE / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.breaks.endswith(".")


def test_a_bug_whose_place_is_gone_is_an_error(tmp_path: Path) -> None:
    """A mutation that changes nothing would prove nothing."""
    with pytest.raises(ValueError, match="is 0 times"):
        plant(Mutation("nowhere", "broker/topics.py", "no such text", "", "Nothing."), tmp_path)


def test_a_broken_seed_is_cut_down_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown breaks the same promise with fewer events, and says how to see it again."""

    def forgets_one(outbox: Outbox, ack: object) -> object:
        after, verdict = acknowledge(outbox, ack)  # type: ignore[arg-type]
        return (after if after is outbox else Outbox(after.epoch, after.next_seq, after.sent[1:], after.waiting)), verdict

    monkeypatch.setattr(outbox, "acknowledge", forgets_one)
    seed = next(v.seed for v in verdicts(range(1, 40), jobs=1) if v.broken)
    small, said = shrink(plan(seed), tries=15), list[str]()
    assert len(small.events) < len(plan(seed).events)
    assert "nothing is dropped before it is committed" in str(simulate(small).broken)
    monkeypatch.setattr("tests.simulation.__main__.shrink", lambda planned: small)
    report(seed, said.append)
    assert any(f"--from {seed} --seeds 1 --trace" in line for line in said)
