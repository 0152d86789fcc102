"""A short run of the whole: a real installation, three things killed, everything promised checked. `make chaos` is the long one."""

import pytest

from tests.chaos.run import run
from tests.chaos.schedule import Step
from tests.chaos.story import Story

STEPS = (Step("kill-broker", 1.0), Step("kill-agent-1", 1.0), Step("kill-inventory", 1.0))


@pytest.mark.timeout(300)
async def test_what_was_promised_holds_though_things_are_killed() -> None:
    """Broker, a real agent and Inventory are killed -9 under load; all checks hold, and each had something to look at."""
    story = Story(quiet=True)
    history, checks = await run("embedded", 1, STEPS, story, simulated=3)
    assert [f"{check.name}: {problem}" for check in checks for problem in check.problems] == [], "\n".join(story.lines)
    assert len(history.rounds) == len(STEPS)
    assert history.intents and history.discoveries and history.effects and history.events
