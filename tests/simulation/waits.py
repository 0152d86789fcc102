"""What may last longer than `CONVERGE_S` once everything is healed, because the design makes it last. Looks at a world, changes nothing.

All else has to come to rest within `CONVERGE_S` of the healing or of the end of the last such wait (`world.World`). Each is bounded by
the part that waits; together they are bounded by `world.PATIENCE_S`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.state import Phase
from inventory.db import loads
from tests.simulation.device import Device

if TYPE_CHECKING:
    from tests.simulation.world import World

CONVERGE_S = 30.0
"""Within so many seconds all is as it was asked for: the promise that `tests.chaos` holds a real installation to."""
GROWN = 2
"""Tries after which the agent's pause before the next one has grown."""


def on_the_way(world: "World") -> str:
    """A hostile broker holds messages back for up to a minute, and those that it has are not healed with it."""
    return "messages are on their way" if world.broker.dawdles_until > world.loop.now else ""


def running(world: "World") -> str:
    """A command may run as long as its time limit says, and one runs at a time."""
    return next((f"{device.name} runs a command" for device in world.devices if _has_commands(device)), "")


def _has_commands(device: Device) -> bool:
    return device.shell is not None and any(entry.phase is not Phase.DONE for entry in device.shell.state.durable.commands)


def dialling(world: "World") -> str:
    """A connection that was begun before the healing fails by its own time limit, and only then is the next one begun."""
    for device in world.devices:
        if device.shell is None:
            continue
        link = device.shell.state.link
        trying = link.session is not None and not link.connected
        if trying and device.booted_at + link.since < (world.healed_at or 0.0):
            return f"{device.name} waits for a connection"
    return ""


def pausing(world: "World") -> str:
    """The agent says again what was not answered after 5 s (a report) or 10 s (its request for the time), then ever later, up to 5 min."""
    for device in world.devices:
        state = device.shell.state if device.shell is not None else None
        if state is None:
            continue
        if state.durable.outbox.sent and state.resend.at is not None and state.resend.tries >= GROWN:
            return f"{device.name} will send again"
        if state.link.presence_at is not None and state.link.presence_tries >= GROWN:
            return f"{device.name} will ask for the time again"
    return ""


def backing_off(world: "World") -> str:
    """What a device failed at is tried again after 2 s to 10 min; what has halted waits for its user."""
    failed = (row for row in world.memory["work"].rows.values() if row["halted"] or row["backoff"])
    return next((f"{world.alias(row['key'])} backs off" for row in failed), "")


def displaced(world: "World") -> str:
    """A session whose place a late message took is current again when it has spoken twice: two heartbeats."""
    for device in world.devices:
        stream = world.memory["device_stream"].rows[device.host]
        living = device.shell.state.link.session if device.shell is not None else None
        if living is not None and any(each[0] == living for each in loads(stream["retired"])):
            return f"{device.name} was displaced"
    return ""


def forgotten(world: "World") -> str:
    """A command that its device has taken and then lost ends at its deadline."""
    taken = (row for row in world.memory["command"].rows.values() if row["state"] in ("accepted", "running"))
    for row in taken:
        device = next(device for device in world.devices if device.host == row["host"])
        if device.shell is not None and all(entry.id != row["id"] for entry in device.shell.state.durable.commands):
            return f"{world.alias(row['id'])} is lost"
    return ""


WAITS: tuple[Callable[["World"], str], ...] = (on_the_way, running, dialling, pausing, backing_off, displaced, forgotten)


def waited_for(world: "World") -> str:
    """What is waited for just now, in words; empty where nothing is that may last."""
    return next((why for wait in WAITS if (why := wait(world))), "")
