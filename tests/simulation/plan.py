"""What befalls a simulated world, decided before it begins: a list of events that follows from the seed alone, so that it can be cut down.

Nothing here acts; `world` does what the events say.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from broker.messages import ErrorCode

GROUPS = ("a", "b", "c")
PATHS = ("/etc/fleet/one", "/etc/fleet/two", "/etc/fleet/three")
CODES = (ErrorCode.BUSY, ErrorCode.READ_ONLY, ErrorCode.POLICY_REFUSED)


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds since the world began. `args` are for the method of `world.World` that is named."""

    at: float
    what: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:7.1f}  {self.what}{self.args}"


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a world is, and what its network and database are like all the time until it is healed."""

    devices: int
    inventories: int
    managers: int
    trouble_s: float
    delay_s: float
    drop: float
    double: float
    late: float
    slow: float
    cut_before: float
    cut_after: float
    scans: bool
    """Without the periodic scans, only events tell the managers what to do: none may be missed."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    shape: Shape
    events: tuple[Event, ...]


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    dice = Random(f"plan {seed}")
    shape = _shape(dice)
    events = [event for _ in range(dice.randint(4, 9)) for event in _wish(dice, shape)]
    events += [event for _ in range(dice.randint(2, 7)) for event in _trouble(dice, shape)]
    return Plan(seed, shape, tuple(sorted(events, key=lambda event: event.at)))


def _shape(dice: Random) -> Shape:
    hostile = dice.random() < 0.4
    shaky = dice.random() < 0.4
    return Shape(
        devices=dice.choice((1, 2, 2)),
        inventories=dice.choice((1, 2)),
        managers=dice.choice((1, 2)),
        trouble_s=dice.choice((45.0, 90.0)),
        delay_s=dice.choice((0.02, 0.02, 0.3, 1.5)),
        drop=dice.choice((0.02, 0.2)) if hostile else 0.0,
        double=dice.choice((0.05, 0.3)) if hostile else 0.0,
        late=dice.choice((0.0, 0.1)) if hostile else 0.0,
        slow=dice.choice((0.0, 0.05)) if shaky else 0.0,
        cut_before=0.05 if shaky else 0.0,
        cut_after=0.05 if shaky else 0.0,
        scans=dice.random() < 0.5,
    )


def _wish(dice: Random, shape: Shape) -> list[Event]:
    """Something that a user asks for, or that changes on a device by itself."""
    at = dice.uniform(2.0, shape.trouble_s)
    device = dice.randrange(shape.devices)
    config = dice.randrange(3)
    match dice.choice(("config", "config", "config", "content", "content", "drop", "label", "state", "pump", "pump", "drift", "facts")):
        case "config":
            paths = tuple(sorted(dice.sample(PATHS, dice.randint(1, 2))))
            return [Event(at, "place_config", (config, dice.choice(("", *GROUPS[:2])), paths, dice.randrange(3)))]
        case "content":
            return [Event(at, "change_config", (config, dice.randrange(1000)))]
        case "drop":
            return [Event(at, "delete_config", (config,))]
        case "label":
            return [Event(at, "label_host", (device, dice.choice(GROUPS)))]
        case "state":
            return [Event(at, "set_state", (device, "registered")), Event(at + dice.uniform(1, 20), "set_state", (device, "onboarded"))]
        case "pump":
            crash = Event(at + dice.uniform(0.1, 6.0), "crash_device", (device, dice.random() < 0.5))
            return [Event(at, "start_pump", (device, dice.choice((20, 60)))), *([crash] if dice.random() < 0.5 else [])]
        case "drift":
            return [Event(at, "edit_by_hand", (device,))]
        case _:
            return [Event(at, "find_facts", (device, dice.choice(("os", "software")), dice.randrange(1000)))]


def _trouble(dice: Random, shape: Shape) -> list[Event]:
    """Something that fails."""
    at = dice.uniform(2.0, shape.trouble_s)
    seconds = dice.choice((1.0, 8.0, 40.0)) * (0.5 + dice.random())
    what = dice.choice(_TROUBLES)
    if what in _OF_A_DEVICE:
        return [Event(at, *_of_a_device(dice, what, dice.randrange(shape.devices), seconds))]
    process = dice.choice(("inventory", "managers")), dice.randrange(2)
    match what:
        case "replay":
            return [Event(at, "replay_messages", (dice.choice((5, 40)),))]
        case "broker":
            return [Event(at + n * 5, "restart_broker", (dice.uniform(0.1, 3.0),)) for n in range(dice.randint(1, 3))]
        case "cut process":
            return [Event(at, "cut_process", (*process, *dice.choice(_CUTS), seconds))]
        case "pause":
            # Something to hold in its hands while it is stopped, for longer than a lease lasts.
            work = Event(at, "place_config", (dice.randrange(3), "", (dice.choice(PATHS),), dice.randrange(3)))
            return [Event(at, "pause_process", (*process, seconds)), work]
        case "stall":
            return _correction(dice, at)
        case "journal":
            return _loss(dice, at, dice.randrange(shape.devices))
        case "kill" | "stop":
            return [Event(at, f"{what}_process", (*process, seconds))]
        case _:
            return [Event(at, "crash_database", (seconds / 2,))]


def _loss(dice: Random, at: float, device: int) -> list[Event]:
    """A journal is lost; now and then amid commands, and nothing reaches the device at first when it is back."""
    if dice.random() < 0.5:
        return [Event(at, "lose_journal", (device, 0.0))]
    commands = [Event(at, "start_pump", (device, 60))] * 3
    return [*commands, Event(at + dice.uniform(4.0, 10.0), "lose_journal", (device, dice.uniform(5.0, 15.0)))]


def _correction(dice: Random, at: float) -> list[Event]:
    """Somebody changes at once what has just been asked for, while a manager still decides on what it has read of that."""
    config, paths, priority = dice.randrange(3), (dice.choice(PATHS),), dice.randrange(3)
    seconds = dice.uniform(4.0, 12.0)
    better = dice.choice(
        (
            ("change_config", (config, dice.randrange(1000))),
            *(("place_config", (config, group, paths, priority)) for group in GROUPS[:2]),
        )
    )
    return [
        Event(at, "stall_managers", (dice.randrange(2), seconds)),
        Event(at, "place_config", (config, "", paths, priority)),
        Event(at + dice.uniform(1.0, seconds), *better),
    ]


def _of_a_device(dice: Random, what: str, device: int, seconds: float) -> tuple[str, tuple[Any, ...]]:
    match what:
        case "crash":
            return "crash_device", (device, dice.random() < 0.5)
        case "crash at commit":
            return "crash_at_commit", (device, dice.random() < 0.5)
        case "crash in effects":
            return "crash_in_effects", (device, dice.randrange(6))
        case "disk":
            return "fill_disk", (device, seconds)
        case "clock":
            return "skew_clock", (device, dice.uniform(-86400, 86400))
        case "roams":
            return "roam_device", (device, dice.uniform(15.0, 40.0), dice.uniform(6.0, 12.0))
        case "fails":
            return "fail_applies", (device, str(dice.choice(CODES)), dice.randint(1, 3))
        case _:
            return "cut_device", (device, *dice.choice(_CUTS), seconds * 2)


_CUTS = ((True, True), (True, False), (False, True))
_OF_A_DEVICE = ("crash", "crash at commit", "crash in effects", "disk", "clock", "fails", "cut", "roams")
_TROUBLES = (
    *(*_OF_A_DEVICE, "journal", "journal"),
    *("crash", "crash at commit", "fails", "cut", "roams"),
    *(
        "cut process",
        "replay",
        "replay",
        "broker",
        "broker",
        "kill",
        "kill",
        "kill",
        "stop",
        "pause",
        "pause",
        "stall",
        "stall",
        "database",
        "database",
    ),
)
