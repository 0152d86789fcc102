"""What must hold after whatever was done: pure checkers over a history, in Jepsen's way. They know nothing of how it came about.

Each counts what it looked at, so that an empty history shows as zeros and not as success, and tells each violation in a line. `CHECKS` is
the visible list; `tests/chaos/test_checks.py` shows that each can fail. Source: design.md section 7 (G1 to G12).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.history import History, Intent, Json, Outcome, Round, Row

LEDGER_VERB = "chaos.append"
"""The test-only verb: not idempotent."""
CONVERGE_S = 30.0
"""After healing."""
FINAL = frozenset({"succeeded", "failed", "rejected", "timed_out", "cancelled", "unknown"})


@dataclass(frozen=True, slots=True)
class Check:
    """`counted`: how much was looked at, in words. `problems`: one line a violation."""

    name: str
    counted: str
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems


def content(config: Json | None) -> str | None:
    """What a config's first file should hold."""
    files = (config or {}).get("files") or []
    return files[0].get("content") if files else None


def intents_kept(history: History) -> Check:
    """G1: what was answered with a 2xx stands in the change log under the version that was promised, and nothing older has replaced it."""
    log = {(row.version, content(row.resource)) for row in history.rows if row.kind == "config"}
    promised = [intent for intent in history.intents if intent.outcome is Outcome.OK]
    problems = [f"lost: {i.config} = {i.content!r}, promised as version {i.version}" for i in promised if (i.version, i.content) not in log]
    problems += list(_replaced(history))
    refused = sum(i.outcome is Outcome.REFUSED for i in history.intents)
    return Check("no 2xx lost", f"{len(promised)} promised, {len(history.intents) - len(promised) - refused} unanswered", problems)


def _replaced(history: History) -> Iterator[str]:
    """The last word of each config must be its last promise, or something asked for later that was never answered."""
    by_config: dict[str, list[Intent]] = defaultdict(list)
    for intent in history.intents:
        if intent.outcome is not Outcome.REFUSED:
            by_config[intent.config].append(intent)
    for config, intents in by_config.items():
        last = max((n for n, intent in enumerate(intents) if intent.outcome is Outcome.OK), default=None)
        if last is None:
            continue
        allowed = {intent.content for intent in intents[last:]}
        if history.wanted.get(config) not in allowed:
            yield f"{config} holds {history.wanted.get(config)!r} though {intents[last].content!r} was promised last"


def discoveries_kept(history: History) -> Check:
    """G2: what a device found is a component."""
    problems = [f"lost: disk {d.key} of {d.host}" for d in history.discoveries if (d.host, d.key) not in history.components]
    return Check("no discovery lost", f"{len(history.discoveries)} made", problems)


def effects_once(history: History) -> Check:
    """G3: the device never begins a command twice."""
    begun = Counter(effect.command for effect in history.effects if effect.phase == "begin")
    problems = [f"{command} was executed {times} times" for command, times in begun.items() if times > 1]
    return Check("no effect executed twice", f"{len(begun)} executed", problems)


def results_true(history: History) -> Check:
    """G3: `succeeded` means done, `failed`, `rejected` and `cancelled` mean not begun, and begun without an end is `unknown`."""
    begun, ended = ({e.command for e in history.effects if e.phase == phase} for phase in ("begin", "end"))
    ours = [command for command in history.commands if command.verb == LEDGER_VERB]
    problems = []
    for command in ours:
        said = {command.state, command.late}
        if command.state == "succeeded" and command.id not in ended:
            problems.append(f"{command.id} is said to have succeeded and did not")
        if command.id in begun - ended and "unknown" not in said:
            problems.append(f"{command.id} was cut short and is {command.state}, not unknown")
        if command.id in begun and command.state in ("failed", "rejected", "cancelled"):
            problems.append(f"{command.id} is {command.state} and was begun")
    doubtful = sum(command.state == "unknown" for command in ours)
    return Check("unknown where it is ambiguous", f"{len(ours)} commands, {len(begun - ended)} cut short, {doubtful} unknown", problems)


def commands_ended(history: History) -> Check:
    """G9."""
    problems = [f"{command.id} ({command.verb}) is still {command.state}" for command in history.commands if command.state not in FINAL]
    return Check("every command ended", f"{len(history.commands)} commands", problems)


def positions_contiguous(history: History) -> Check:
    """G5, G8: positions have no hole and no double."""
    problems = [] if not history.rows or history.rows[0].position == 1 else [f"the log begins at {history.rows[0].position}"]
    problems += [f"after {a.position} comes {b.position}" for a, b in pairwise(history.rows) if b.position != a.position + 1]
    return Check("positions contiguous", f"{len(history.rows)} changes", problems)


def versions_rise(history: History) -> Check:
    """G5: of each resource, also across its deletion; and no version is given twice."""
    last: dict[str, Row] = {}
    problems = []
    for row in history.rows:
        before = last.get(row.id)
        if before is not None and row.version <= before.version:
            problems.append(f"{row.id} fell from version {before.version} to {row.version} at position {row.position}")
        last[row.id] = row
    given = Counter(row.version for row in history.rows)
    problems += [f"version {version} was given {times} times" for version, times in given.items() if times > 1]
    return Check("versions rise", f"{len(last)} resources", problems)


def chain_intact(history: History) -> Check:
    """G12."""
    problems = [f"the hash at position {row.position} does not follow" for row in history.rows if not row.good]
    return Check("hash chain intact", f"{len(history.rows)} links", problems)


def reader_told_true(history: History) -> Check:
    """G8: a reader that went on from where it was got every published change once, in order, as the log has it to the end."""
    log = [row.event for row in history.rows if row.published]
    told = set(history.events)
    problems = [f"the reader never got position {event.position} ({event.op} of {event.id})" for event in log if event not in told]
    problems += [f"position {event.position} was told as {event.op} of {event.id}, which is not in the log" for event in told - set(log)]
    problems += [f"position {b.position} was told after {a.position}" for a, b in pairwise(history.events) if b.position <= a.position]
    return Check("the reader saw the log", f"{len(history.events)} events", problems)


@dataclass(frozen=True, slots=True)
class Offline:
    """A host was shown offline, after `earliest` and not after `latest`."""

    host: str
    position: int
    earliest: float
    latest: float


def offlines(history: History) -> list[Offline]:
    """When hosts were shown offline: when the log grew past the change's position."""
    found = []
    presence: dict[str, str] = {}
    for row in history.rows:
        if row.kind != "host" or row.resource is None:
            continue
        now = str(row.resource.get("presence"))
        if now == "offline" and presence.get(row.id) != "offline":
            earliest = max((s.at for s in history.sightings if s.position < row.position), default=0.0)
            latest = min((s.at for s in history.sightings if s.position >= row.position), default=float("inf"))
            found.append(Offline(row.id, row.position, earliest, latest))
        presence[row.id] = now
    return found


def no_false_offline(history: History) -> Check:
    """A host is shown offline only where a nemesis really kept it from the broker, from then until all had converged."""
    found = offlines(history)
    problems = [
        f"{o.host} was shown offline at about {o.latest:.1f} s (position {o.position}), and nothing had cut it off"
        for o in found
        if not any(o.host in r.may_cut and o.latest >= r.began and o.earliest <= _end(r) for r in history.rounds)
    ]
    return Check("no false offline", f"{len(found)} times offline", problems)


def _end(round: Round) -> float:
    return float("inf") if round.converged is None else round.converged


def offline_in_time(history: History) -> Check:
    """A host that was cut off is shown offline within its bound."""
    found = offlines(history)
    problems, bounds = [], 0
    for r in history.rounds:
        for host, seconds in r.must_cut.items():
            bounds += 1
            if not any(o.host == host and o.latest >= r.began and o.earliest <= r.began + seconds for o in found):
                problems.append(f"{host} was not shown offline within {seconds:.1f} s of {r.nemesis} at {r.began:.1f} s")
    return Check("offline within its bound", f"{bounds} cuts", problems)


def converged(history: History) -> Check:
    """All is as it was asked for, everybody is online and nothing is under way within 30 s of healing; a busy machine is given more."""
    problems = [
        f"not within {CONVERGE_S:.0f} s of healing {r.nemesis} at {r.healed:.1f} s: {r.lacking}"
        for r in history.rounds
        if r.converged is None or min(r.converged - r.healed, r.calm_s) > CONVERGE_S
    ]
    slowest = max((r.converged - r.healed for r in history.rounds if r.converged is not None), default=0.0)
    return Check("converged after healing", f"{len(history.rounds)} times, the slowest in {slowest:.1f} s", problems)


def files_stand(history: History) -> Check:
    """What the devices' disks hold is what the configs say."""
    problems = [
        f"{device}: the file of {name} holds {text!r}, not {history.wanted.get(name)!r}"
        for device, held in history.files.items()
        for name, text in held.items()
        if text != history.wanted.get(name)
    ]
    return Check("files stand on the devices", f"{sum(map(len, history.files.values()))} files", problems)


def nemeses_content(history: History) -> Check:
    """Nothing ended that was not killed, and what a nemesis demanded to see was seen: the agent says which of its files is damaged."""
    problems = [f"{r.nemesis}: {demand}" for r in history.rounds for demand in r.demands]
    return Check("nothing else broke, damage was named", f"{len(history.rounds)} rounds", problems)


CHECKS: tuple[Callable[[History], Check], ...] = (
    intents_kept,
    discoveries_kept,
    effects_once,
    results_true,
    commands_ended,
    positions_contiguous,
    versions_rise,
    chain_intact,
    reader_told_true,
    no_false_offline,
    offline_in_time,
    converged,
    files_stand,
    nemeses_content,
)


def examine(history: History) -> list[Check]:
    """All checks, in their order."""
    return [check(history) for check in CHECKS]
