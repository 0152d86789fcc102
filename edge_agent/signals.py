"""What goes into the agent's decisions and what comes out: closed types, no behaviour.

`agent.step` takes one `Input` and gives back a new state and a tuple of `Effect`s; a shell (`runtime` on a device, `simulated.fleet` for
thousands) executes them in order. Nothing here does I/O, and nothing here is stored: what must survive a crash is `state.Durable`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from broker.messages import CertificateRequest, ErrorCode, Item, ResourceRef
from edge_agent.policy import Policy
from edge_agent.trust import Ring

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clock:
    """`mono`: seconds since boot that never jump and go on while suspended; `wall`: Unix seconds, used only before a checkpoint."""

    mono: float
    wall: float


class StopReason(StrEnum):
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


# --- outcomes of work -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The work is done. `items`: what there is now of the resources it touched. `warnings`: what people should know all the same."""

    output: str = ""
    items: tuple[Item, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The work could not be done; whether to try again follows from `code`."""

    code: ErrorCode
    message: str
    output: str = ""
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Stopped:
    """The work ended early because a `Stop` asked for it."""

    reason: StopReason
    output: str = ""
    items: tuple[Item, ...] = ()


Outcome = Succeeded | Failed | Stopped

# --- the certificate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The device's certificate as it is on disk. `serial`: hex; `issuer`: the SHA-256 of its CA, hex, empty where that is not trusted;
    times in Unix seconds."""

    serial: str
    issuer: str
    issued_at: float
    expires_at: float


# --- inputs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Booted:
    """The first input of a process: takes up what the journal holds of the last one."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due by `agent.wake_at`."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has confirmed the subscription of this session."""

    session: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    session: str
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    session: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Scanned:
    """What discovery found: facts by section, and sections that could not be read. `commands`: refreshes that this scan answers."""

    sections: Json
    errors: dict[str, str] = field(default_factory=dict)
    force: tuple[str, ...] | None = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Items as they are now on the device; with `complete`, all there are."""

    items: tuple[Item, ...]
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Progressed:
    command: str
    percent: int


@dataclass(frozen=True, slots=True)
class Finished:
    command: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples for `up/metrics`: (name, unix milliseconds, value)."""

    samples: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class Governed:
    """What the device's owner allows from now on."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class JournalFailed:
    """The last step could not be made durable; it is void, and from now on nothing is until `JournalMended`."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class JournalMended:
    """The whole durable state has been written anew."""


@dataclass(frozen=True, slots=True)
class JournalLost:
    """The journal was corrupt and is set aside (or there was none where there should be one): everything is reported anew."""

    message: str


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the certificate on disk is."""

    held: Held


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request for the next certificate; its key is on disk."""

    request: CertificateRequest


@dataclass(frozen=True, slots=True)
class Renewed:
    """The next certificate is in its place. `ring`: whom the device trusts since, where the server has said so along with it."""

    held: Held
    ring: Ring | None = None


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """Nothing has changed. `denied`: the server has said no, and why."""

    message: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Stopping:
    """The process is asked to end: say goodbye."""


Input = (
    Booted
    | Tick
    | Connected
    | Disconnected
    | Received
    | Scanned
    | Observed
    | Progressed
    | Finished
    | Measured
    | Governed
    | JournalFailed
    | JournalMended
    | JournalLost
    | Inspected
    | Prepared
    | Renewed
    | RenewalFailed
    | Stopping
)

# --- effects ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a session of its own: a new client, this Will, one subscription to `subscribe`."""

    session: str
    will_topic: str
    will: bytes
    subscribe: str
    keepalive_s: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the session; `clean` suppresses the Will."""

    session: str
    clean: bool


@dataclass(frozen=True, slots=True)
class Publish:
    topic: str
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Run:
    """Hand a command to its applier. It has been journalled as started."""

    command: str
    verb: str
    args: Json
    resource: ResourceRef | None
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End a running command early; its applier answers with `Stopped`."""

    command: str
    reason: StopReason


@dataclass(frozen=True, slots=True)
class Scan:
    """Look again. `sections` None: all. `force`: which of them to report even when unchanged (None: all)."""

    sections: tuple[str, ...] | None
    force: tuple[str, ...] | None = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the local log: a constant message and its fields."""

    level: int
    message: str
    fields: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look at the certificate: answered with `Inspected`."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the next key and a request for it, or take up those that there are: answered with `Prepared`."""


@dataclass(frozen=True, slots=True)
class Install:
    """Put this certificate (PEM) in the place of the present one, with its key: answered with `Renewed`."""

    certificate: str


@dataclass(frozen=True, slots=True)
class Appeal:
    """Ask the server over HTTP, as the broker can't be asked, and install what it gives: answered with `Renewed`."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Trust these from now on, on disk too."""

    ring: Ring


CertificateJob = Inspect | Prepare | Install | Appeal
"""What needs X.509: any of them may be answered with `RenewalFailed`."""

Effect = Connect | Disconnect | Publish | Run | Stop | Scan | Note | CertificateJob | Adopt
