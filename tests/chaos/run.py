"""One run: an installation is started, a workload goes on, nemeses come one after the other, and what happened is checked.

After each nemesis the workload pauses until everything has converged, for which there is a bound. Called by `__main__` and by the tests.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos import aftermath
from tests.chaos.checks import CONVERGE_S, Check, examine
from tests.chaos.ground import Ground
from tests.chaos.history import History, Round
from tests.chaos.nemeses.registry import NEMESES
from tests.chaos.schedule import Step
from tests.chaos.story import Story
from tests.chaos.workload import Workload
from tests.waiting import Deadline, Stopwatch

GIVE_UP_S = 90.0
"""How long convergence is waited for, so that a late one can be told from none."""
WARM_UP_S = 1.5
"""Of workload before the first nemesis, and between two."""


async def run(
    broker: str, seed: int, steps: Sequence[Step], story: Story, *, keep: bool = False, simulated: int = 12
) -> tuple[History, list[Check]]:
    """The history and what the checkers say of it. `keep`: leave the installation's files where they are. `simulated`: how many devices."""
    history = History()
    ground = Ground(broker, story, seed, simulated)
    try:
        story.tell(f"starting PostgreSQL, {broker} broker, inventory, managers, web, 3 agents and {ground.simulated} simulated ones")
        await ground.start()
        story.tell(f"{len(ground.hosts)} hosts are online; the workload begins (files: {ground.home})")
        workload = Workload(ground, history, random.Random(f"{seed} workload"))
        await workload.begin()
        try:
            for step in steps:
                await _round(ground, history, workload, step)
            await workload.pause()
            await _converge(ground, history, Stopwatch())
            await aftermath.collect(ground, history)
        finally:
            await workload.end()
            history.save(ground.home / "history.json")
    finally:
        await ground.stop(keep)
    return history, examine(history)


async def _round(ground: Ground, history: History, workload: Workload, step: Step) -> None:
    story, nemesis = ground.story, NEMESES[step.nemesis]()
    if why := nemesis.lacking(ground):
        story.tell(f"{nemesis.name}: LEFT OUT ({why})")
        return
    await asyncio.sleep(WARM_UP_S)
    began = story.now()
    must_cut, may_cut = dict(nemesis.must_cut(ground)), nemesis.may_cut(ground)
    before = _counts(history)
    story.tell(f"{nemesis.name}: {await nemesis.inject(ground)}")
    await asyncio.sleep(step.hold_s)
    story.tell(f"{nemesis.name}: {await nemesis.heal(ground)}")
    await _judge(ground, history, workload, _Under(nemesis.name, began, before, may_cut, must_cut, nemesis.demands))
    began, before = story.now(), _counts(history)
    if told := await nemesis.settle(ground):
        story.tell(f"{nemesis.name}: {told}")
        await _judge(ground, history, workload, _Under(f"{nemesis.name}, undone", began, before, may_cut))


@dataclass(frozen=True, slots=True)
class _Under:
    """What is being judged: see `history.Round`. `before`: what had been done when it began."""

    name: str
    began: float
    before: dict[str, int]
    may_cut: frozenset[str]
    must_cut: dict[str, float] = field(default_factory=dict)
    demands: list[str] = field(default_factory=list)


async def _judge(ground: Ground, history: History, workload: Workload, under: _Under) -> None:
    """It is healed: wait for everything to converge, and note when it did."""
    healed, watch = ground.story.now(), Stopwatch()
    under.demands.extend(await ground.revive())
    await workload.pause()
    converged, lacking = await _converge(ground, history, watch)
    ground.story.tell(_told(under, _counts(history), healed, converged, lacking))
    ended = under.may_cut, under.must_cut, tuple(under.demands), lacking, watch.seconds()
    history.rounds.append(Round(under.name, under.began, healed, converged, *ended))
    workload.resume()


async def _converge(ground: Ground, history: History, watch: Stopwatch) -> tuple[float | None, str]:
    """When all was as it should be; None where it never was, and what was missing at the bound."""
    at_bound, deadline = "", Deadline(GIVE_UP_S)
    while True:
        missing = await aftermath.lacking(ground, history)
        if not missing:
            return ground.story.now(), at_bound
        if watch.wall() <= CONVERGE_S:
            at_bound = missing
        if deadline.over():
            return None, missing
        await asyncio.sleep(0.2)


def _counts(history: History) -> dict[str, int]:
    answered = {outcome: sum(i.outcome == outcome for i in history.intents) for outcome in ("ok", "unknown")}
    return {"intents": answered["ok"], "unanswered": answered["unknown"], "disks": len(history.discoveries)}


def _told(under: _Under, after: dict[str, int], healed: float, converged: float | None, lacking: str) -> str:
    done = ", ".join(f"{after[name] - under.before[name]} {name}" for name in after)
    if converged is None:
        return f"{under.name}: NOT CONVERGED; meanwhile {done}; {lacking}"
    late = f" (late: {lacking})" if converged - healed > CONVERGE_S else ""
    return f"{under.name}: meanwhile {done}; converged {converged - healed:.1f} s after healing{late}"
