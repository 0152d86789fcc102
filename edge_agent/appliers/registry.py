"""Every applier of a device, in one visible list."""

from pathlib import Path

from edge_agent.appliers import Applier
from edge_agent.appliers.config import ConfigApplier
from edge_agent.settings import Settings


def appliers(state_dir: Path, settings: Settings) -> tuple[Applier, ...]:
    """Raises ValueError where two claim a verb."""
    made: tuple[Applier, ...] = (ConfigApplier(state_dir, settings.roots, settings.on_change),)
    verbs = [verb for applier in made for verb in applier.verbs]
    if len(set(verbs)) < len(verbs):
        raise ValueError(f"two appliers have a verb in common: {verbs}")
    return made
