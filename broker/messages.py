"""The messages between devices and the server: frozen types, JSON encoding and decoding, MACs.

Encoding is deterministic: members in the order of the fields, no white space, `mac` last; the golden files under
`tests/golden/messages/` hold the exact bytes. Decoding is in two steps, so that a bad body never blocks a device: `open_envelope`
checks size, MAC, `v`, `epoch` and `seq`; `read` then checks the body. Signatures are made and checked elsewhere (`Signed` only carries
them), because this module, imported by agent and server alike, needs nothing but the standard library.

Times are kept as the text that was sent: clocks lie, and the server orders by `seq`, never by time.

Source: contract.md section 3; RFC 8259 (JSON), RFC 3339 (times), RFC 2104 (HMAC).
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

MAX_BYTES = 256 * 1024
"""No payload is larger, in either direction."""

SPLIT_BYTES = 192 * 1024
"""Senders keep below this, so that there is room for what the envelope adds."""

Json = dict[str, Any]


class ContractError(ValueError):
    """A message breaks the wire contract; the text names the member and what is wrong with it."""


class BadMac(ContractError):
    """The message was not made by the holder of the device's channel key, or not for this topic."""


class CommandState(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset(
    {
        CommandState.SUCCEEDED,
        CommandState.FAILED,
        CommandState.REJECTED,
        CommandState.TIMED_OUT,
        CommandState.CANCELLED,
        CommandState.UNKNOWN,
    }
)


class Verb(StrEnum):
    CONFIG_APPLY = "config.apply"
    CONFIG_REMOVE = "config.remove"
    FACTS_REFRESH = "facts.refresh"
    CANCEL = "cancel"


class ErrorCode(StrEnum):
    PATH_OUTSIDE_ROOTS = "PathOutsideRoots"
    SYMLINK_ESCAPE = "SymlinkEscape"
    UNKNOWN_OWNER = "UnknownOwner"
    BAD_TEMPLATE = "BadTemplate"
    ON_CHANGE_FAILED = "OnChangeFailed"
    POLICY_REFUSED = "PolicyRefused"
    READ_ONLY = "ReadOnly"
    PERMISSION_DENIED = "PermissionDenied"
    NO_SPACE = "NoSpace"
    BUSY = "Busy"
    TIMED_OUT = "TimedOut"
    INTERNAL = "Internal"

    @property
    def recoverable(self) -> bool:
        return self in _RECOVERABLE


_RECOVERABLE = frozenset(
    {
        ErrorCode.READ_ONLY,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.NO_SPACE,
        ErrorCode.BUSY,
        ErrorCode.TIMED_OUT,
        ErrorCode.INTERNAL,
    }
)


class Doubt(StrEnum):
    """Why a device dropped what came in its server's name; `messages-refused` (up/log) says how often.

    `late-`, `stale-`, `replayed-` and `void-`: made by the server once, and not to be believed now. An honest network repeats and reorders,
    and a key that was just replaced has signed what is still on its way, so that some of these are nobody's fault."""

    FOREIGN_TOPIC = "foreign-topic"
    UNREADABLE = "unreadable"
    BAD_MAC = "bad-mac"
    FORGED_COMMAND = "forged-command"
    MISDELIVERED_COMMAND = "misdelivered-command"
    VOID_COMMAND = "void-command"
    REPLAYED_COMMAND = "replayed-command"
    STALE_COMMAND = "stale-command"
    EXPIRED_COMMAND = "expired-command"
    UNJUDGED_COMMAND = "unjudged-command"
    FORGED_CHECKPOINT = "forged-checkpoint"
    MISDELIVERED_CHECKPOINT = "misdelivered-checkpoint"
    VOID_CHECKPOINT = "void-checkpoint"
    LATE_CHECKPOINT = "late-checkpoint"
    FORGED_KEYS = "forged-keys"
    LATE_CERTIFICATE = "late-certificate"
    LATE_ACK = "late-ack"
    REPLAYED_RESYNC = "replayed-resync"

    @property
    def hostile(self) -> bool:
        """Whether somebody must have meant it: no network makes this of what the server sent."""
        return self in _HOSTILE


_HOSTILE = frozenset(
    {
        Doubt.FOREIGN_TOPIC,
        Doubt.BAD_MAC,
        Doubt.FORGED_COMMAND,
        Doubt.MISDELIVERED_COMMAND,
        Doubt.FORGED_CHECKPOINT,
        Doubt.MISDELIVERED_CHECKPOINT,
        Doubt.FORGED_KEYS,
    }
)

MESSAGES_REFUSED = "messages-refused"
"""The type of the log that counts them: `data` is {doubt: how many}."""

SEVERITIES = ("info", "warning", "error", "critical")
"""Of log messages and notifications, mildest first."""

SECTIONS = (
    "cpu",
    "memory",
    "storage",
    "network",
    "pci",
    "usb",
    "gpu",
    "tpm",
    "power",
    "sensors",
    "firmware",
    "os",
    "platform",
    "software",
    "time",
)
"""The sections of a device's facts that discovery finds."""

AGENT_SECTION = "agent"
"""The section in which the agent speaks of itself: the owner's policy, and commands that have not reached it."""

MAX_AWAITED = 16
"""Commands that a checkpoint names."""

# --- checks of single members -------------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]
"""Takes a decoded JSON value, returns what the field holds, raises ContractError."""

_ODD = re.compile("[\0\ud800-\udfff]")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|\+00:00)")
_TOKEN = re.compile(r"[A-Za-z0-9._:/+=-]{1,256}")


def _text(limit: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ContractError("must be a string")
        if len(value) > limit:
            raise ContractError(f"is longer than {limit} characters")
        return value

    return check


def _token(value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ContractError("must be 1 to 256 letters, digits or ._:/+=-")
    return value


def _time(value: Any) -> str:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ContractError("must be an RFC 3339 time in UTC, such as 2026-11-22T18:00:00.000Z")
    return value


def _whole(low: int, high: int = 2**53) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ContractError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ContractError("must be true or false")
    return value


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise ContractError("must be an object")
    return value


def _one_of(enum: type[StrEnum]) -> Check:
    def check(value: Any) -> StrEnum:
        try:
            return enum(value)
        except ValueError:
            raise ContractError(f"must be one of {', '.join(enum)}") from None

    return check


def _word_of(words: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if value not in words:
            raise ContractError(f"must be one of {', '.join(words)}")
        return str(value)

    return check


def _or_null(inner: Check) -> Check:
    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def _list_of(inner: Check, limit: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise ContractError(f"must be a list of at most {limit}")
        return tuple(_at(str(n), inner, item) for n, item in enumerate(value))

    return check


def _map_of(inner: Check, limit: int) -> Check:
    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > limit:
            raise ContractError(f"must be an object of at most {limit} members")
        return {key: _at(key, inner, item) for key, item in value.items()}

    return check


def _at(place: str, inner: Check, value: Any) -> Any:
    try:
        return inner(value)
    except ContractError as error:
        raise ContractError(f"{place}: {error}" if str(error).startswith("must") else f"{place}.{error}") from None


def _sample(value: Any) -> tuple[str, int, float]:
    match value:
        case [str(name), int(at), int() | float() as number] if not isinstance(number, bool):
            return name, at, float(number)
    raise ContractError("must be [name, unix_ms, value]")


def member(check: Check, **kwargs: Any) -> Any:
    """A dataclass field that knows how to check the JSON member of its name."""
    return field(metadata={"check": check}, **kwargs)


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=_Record)


def from_json(kind: type[R], body: Any) -> R:
    """Build a message or a part of one. Raises ContractError naming the member; unknown members are ignored."""
    _object(body)
    values = {}
    for name, check, required in _members(kind):
        if name in body:
            values[name] = _at(name, check, body[name])
        elif required:
            raise ContractError(f"{name}: must be there")
    return kind(**values)


@cache
def _members(kind: type[R]) -> tuple[tuple[str, Check, bool], ...]:
    """Of each field: its name, its check, and whether it has no default."""
    return tuple((f.name, f.metadata["check"], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind))


def to_json(value: Any) -> Any:
    """The inverse of `from_json`, members in the order of the fields."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


def _record(kind: type[R]) -> Check:
    return lambda value: from_json(kind, value)


# --- up -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A session begins (`online`), or has ended (the Will). `nonce` asks for a checkpoint."""

    suffix: ClassVar[str] = "up/presence"
    online: bool = member(_boolean)
    session: str = member(_token)
    epoch: str = member(_token)
    boot_id: str = member(_token)
    agent_version: str = member(_text(256))
    keepalive_s: int = member(_whole(1, 65535))
    heartbeat_s: int = member(_whole(1, 86400))
    nonce: str = member(_token)
    contract: tuple[int, ...] = member(_list_of(_whole(1), 16), default=(1,))
    keys: int | None = member(_or_null(_whole(0)), default=None)
    """The generation of the key list that the device trusts; None: it knows of none, and is sent none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    suffix: ClassVar[str] = "up/heartbeat"
    session: str = member(_token)
    uptime_s: int = member(_whole(0))
    unacked: int = member(_whole(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the facts; `hash` is `sha256:` and the hex digest of `data` as `canonical` writes it."""

    hash: str = member(_token)
    data: Any = member(lambda value: value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Sections that changed, and the hashes of all, so that the server sees by itself what it lacks."""

    suffix: ClassVar[str] = "up/facts"
    sections: dict[str, Section] = member(_map_of(_record(Section), 64))
    manifest: dict[str, str] = member(_map_of(_token, 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What became of one resource on the device: `state` as in the resource's `current_state`."""

    kind: str = member(_token)
    id: str = member(_token)
    generation: int = member(_whole(0))
    state: str = member(_token)
    digest: str | None = member(_or_null(_token), default=None)
    reason: str = member(_text(128), default="")
    message: str = member(_text(4096), default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Items that changed; with `full`, all there are, so that what is not named is gone."""

    suffix: ClassVar[str] = "up/status"
    full: bool = member(_boolean)
    items: tuple[Item, ...] = member(_list_of(_record(Item), 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    code: str = member(_token)
    message: str = member(_text(4096))
    recoverable: bool = member(_boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Progress or outcome of a command. `id` names the report, `command` the command."""

    suffix: ClassVar[str] = "up/result"
    id: str = member(_token)
    command: str = member(_token)
    state: CommandState = member(_one_of(CommandState))
    progress: int = member(_whole(0, 100), default=0)
    output: str = member(_text(64 * 1024), default="")
    error: Error | None = member(_or_null(_record(Error)), default=None)
    started_at: str | None = member(_or_null(_time), default=None)
    finished_at: str | None = member(_or_null(_time), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Something that the device wants known, such as dropped metrics or a drifted file."""

    suffix: ClassVar[str] = "up/log"
    id: str = member(_token)
    type: str = member(_token)
    severity: str = member(_word_of(SEVERITIES))
    message: str = member(_text(4096))
    data: Json = member(_object, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    suffix: ClassVar[str] = "up/metrics"
    samples: tuple[tuple[str, int, float], ...] = member(_list_of(_sample, 5000))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """Another certificate in the place of the one with the serial number `replaces` (hex). `csr`: PKCS #10 in PEM, of the key to be
    certified. `proof`: ECDSA with SHA-256 (DER, base64) over the bytes of `csr`, by the key of the certificate that is replaced."""

    suffix: ClassVar[str] = "up/csr"
    csr: str = member(_text(16 * 1024))
    replaces: str = member(_token)
    proof: str = member(_token)


# --- down ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Everything up to `seq` of `epoch` is committed. `seq` 0: nothing of this epoch."""

    suffix: ClassVar[str] = "down/ack"
    epoch: str = member(_token)
    seq: int = member(_whole(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Send again: these sections (None: all of them), and, with `items`, the status of every item.

    It counts once (`id`), and in the session that it is meant for; an older server does not say."""

    suffix: ClassVar[str] = "down/resync"
    sections: tuple[str, ...] | None = member(_or_null(_list_of(_token, 64)), default=None)
    items: bool = member(_boolean, default=False)
    reason: str = member(_text(256), default="")
    session: str | None = member(_or_null(_token), default=None)
    id: str | None = member(_or_null(_token), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """The command root says that a key may sign commands: `signed` is a `Mandate` as JSON text, `signature` base64 Ed25519."""

    signed: str = member(_text(4096))
    signature: str = member(_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """The text of a delegation. `public_key` is the raw 32 bytes in base64; of two generations the higher one counts."""

    public_key: str = member(_token)
    generation: int = member(_whole(1))
    not_before: str = member(_time)
    not_after: str = member(_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The time, for a device that trusts no clock: `signed` is a `Moment` as JSON text."""

    suffix: ClassVar[str] = "down/checkpoint"
    signed: str = member(_text(4096))
    signature: str = member(_token)
    key: str = member(_token)
    delegation: Delegation = member(_record(Delegation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The text of a checkpoint. `generation` is that of the delegation in force: older ones are void. `fence`: the highest number that a
    command to this device has been signed with. `device`: whose question it answers. `epoch` and `seq`: what of the device's stream is
    committed. `awaiting`: commands that were sent and that the device has not answered, oldest first. An older server says none of
    these."""

    nonce: str = member(_token)
    time: str = member(_time)
    generation: int = member(_whole(0))
    fence: int = member(_whole(0), default=0)
    device: str | None = member(_or_null(_token), default=None)
    epoch: str | None = member(_or_null(_token), default=None)
    seq: int | None = member(_or_null(_whole(0)), default=None)
    awaiting: tuple[str, ...] = member(_list_of(_token, MAX_AWAITED), default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A signed order: `signed` is an `Order` as JSON text and the signature covers exactly these bytes (UTF-8)."""

    suffix: ClassVar[str] = "down/command"
    signed: str = member(_text(MAX_BYTES))
    signature: str = member(_token)
    key: str = member(_token)
    delegation: Delegation = member(_record(Delegation))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRef:
    kind: str = member(_token)
    id: str = member(_token)
    generation: int = member(_whole(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a device is to do. It runs only above the highest `fence` seen, starts before `not_after`, runs `timeout_s` at most.

    `first_fence`: the number it was signed with when it was first sent; an older server does not say."""

    id: str = member(_token)
    device: str = member(_token)
    verb: str = member(_token)
    args: Json = member(_object)
    resource: ResourceRef | None = member(_or_null(_record(ResourceRef)), default=None)
    fence: int = member(_whole(1))
    attempt: int = member(_whole(1))
    issued_at: str = member(_time)
    not_after: str = member(_time)
    timeout_s: int = member(_whole(1, 86400))
    first_fence: int | None = member(_or_null(_whole(1)), default=None)


class Denial(StrEnum):
    """Why there is no certificate."""

    REPLACED = "Replaced"
    """The one that is to be replaced has been replaced already, by another key: there are two of the device, or an older state of it."""
    LAPSED = "Lapsed"
    """It ended longer ago than the grace period."""
    UNTRUSTED = "Untrusted"
    """People have decided so."""
    TOO_SOON = "TooSoon"
    """The present one is not due yet."""
    INVALID = "Invalid"
    """The request can't be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateAnswer:
    """The answer to the `CertificateRequest` with the same `replaces`: a certificate (PEM), or null and why not. `message`: for people."""

    suffix: ClassVar[str] = "down/certificate"
    replaces: str = member(_token)
    certificate: str | None = member(_or_null(_text(16 * 1024)))
    reason: Denial | None = member(_or_null(_one_of(Denial)), default=None)
    message: str = member(_text(1024), default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList:
    """Whom to trust from now on, as the text that a signature covers. `authorities`: CAs (PEM), the one that issues first;
    `command_roots`: raw Ed25519 public keys (base64), the one that delegates first. Of two lists the higher `generation` counts."""

    generation: int = member(_whole(1))
    issued_at: str = member(_time)
    authorities: tuple[str, ...] = member(_list_of(_text(16 * 1024), 8))
    command_roots: tuple[str, ...] = member(_list_of(_token, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySignature:
    """`signature` (base64, Ed25519) by the command root whose id is `key`."""

    key: str = member(_token)
    signature: str = member(_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedKeys:
    """A `KeyList` as JSON text. It is good where one of the command roots has signed that are trusted until then."""

    signed: str = member(_text(96 * 1024))
    signatures: tuple[KeySignature, ...] = member(_list_of(_record(KeySignature), 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The last lists in the order of their generations, so that a device that has missed some can follow from one to the next."""

    suffix: ClassVar[str] = "down/keys"
    lists: tuple[SignedKeys, ...] = member(_list_of(_record(SignedKeys), 16))


UpMessage = Presence | Heartbeat | Facts | Status | Result | Log | Metrics | CertificateRequest
DownMessage = Ack | Resync | Checkpoint | Command | CertificateAnswer | Keys
Message = UpMessage | DownMessage
Types = tuple[type[Message], ...]

TYPES: Types = (
    *(Presence, Heartbeat, Facts, Status, Result, Log, Metrics, CertificateRequest),
    *(Ack, Resync, Checkpoint, Command, CertificateAnswer, Keys),
)
BY_SUFFIX: dict[str, type[Message]] = {kind.suffix: kind for kind in TYPES}

DURABLE = frozenset({"up/facts", "up/status", "up/result", "up/log"})
"""Kept by their sender until acknowledged: they carry `epoch`, `seq` and a MAC."""

AUTHENTICATED = DURABLE | {"down/ack", "down/resync", "up/csr", "down/certificate"}
"""They end with a MAC. Commands, checkpoints and key lists are signed instead."""

QOS = {suffix: 0 if suffix in ("up/heartbeat", "up/metrics") else 1 for suffix in BY_SUFFIX}

# --- envelope -----------------------------------------------------------------------------------------------------------------

_SEAL = b',"mac":'
_MAC = re.compile(_SEAL + rb'\s*"([0-9a-fA-F]{64})"\s*\}\s*')
_TAIL = 128
"""The bytes at the end that are searched for the MAC: other programs' JSON may have white space in it."""
_EPOCH = re.compile(rb'"epoch"\s*:\s*"([A-Za-z0-9._:/+=-]{1,256})"')
_SEQ = re.compile(rb'"seq"\s*:\s*([0-9]{1,15})\s*[,}]')


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of a message before its body is looked at. `body` is None where it can't be read: `read` then says why."""

    suffix: str
    sent_at: str
    epoch: str | None
    seq: int | None
    body: Json | None
    escapes: bool
    problem: str = ""


def now_text(at: datetime | None = None) -> str:
    """RFC 3339, UTC, milliseconds."""
    return (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def canonical(value: Any) -> bytes:
    """JSON with sorted members and no white space: what hashes of facts sections are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def section_hash(data: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical(data)).hexdigest()


def encode_text(value: Any) -> str:
    """A record that gets signed (`Order`, `Mandate`, `Moment`) as the JSON text whose bytes the signature covers."""
    return _dumps(to_json(value)).decode()


def decode_text(kind: type[R], text: str) -> R:
    """The inverse of `encode_text`. Raises ContractError."""
    body = _loads(text.encode("utf-8", "surrogatepass"))
    _refuse_odd_text(body)
    return from_json(kind, body)


def encode(
    message: Message,
    *,
    sent_at: str,
    epoch: str | None = None,
    seq: int | None = None,
    topic: str = "",
    key: bytes | None = None,
) -> bytes:
    """The payload of a message. Durable ones need `epoch` and `seq`; authenticated ones `topic` and `key`. Raises ContractError
    above MAX_BYTES or for text that isn't allowed (NUL, lone surrogates), so that what can't be decoded never leaves."""
    suffix = message.suffix
    if (suffix in DURABLE) != (epoch is not None and seq is not None):
        raise ContractError(f"{suffix}: epoch and seq belong to durable messages, and to these always")
    if (suffix in AUTHENTICATED) != (key is not None and topic != ""):
        raise ContractError(f"{suffix}: a topic and a key belong to authenticated messages, and to these always")
    head: Json = {"v": 1, "sent_at": sent_at}
    if suffix in DURABLE:
        head |= {"epoch": epoch, "seq": seq}
    body = to_json(message)
    _refuse_odd_text(body)
    payload = _dumps(head | body)
    if key is not None:
        payload = payload[:-1] + b',"mac":"' + mac(key, topic, payload[:-1]).encode() + b'"}'
    if len(payload) > MAX_BYTES:
        raise ContractError(f"{suffix}: {len(payload)} bytes are more than {MAX_BYTES}")
    return payload


def mac(key: bytes, topic: str, unsealed: bytes) -> str:
    """HMAC-SHA256, hex, over the topic, a newline, and the bytes before `,"mac":`."""
    return hmac.digest(key, topic.encode() + b"\n" + unsealed, "sha256").hex()


def open_envelope(suffix: str, payload: bytes, *, topic: str = "", key: bytes | None = None) -> Envelope:
    """Check size, MAC, `v`, `sent_at`, and of durable messages `epoch` and `seq`. Raises BadMac or ContractError.

    A durable message with a good MAC gives an envelope wherever its number can be told, even out of what is no JSON: its sender would
    otherwise send it for ever.
    """
    if suffix not in BY_SUFFIX:
        raise ContractError(f"{suffix!r} is not a message of contract 1")
    if len(payload) > MAX_BYTES:
        raise ContractError(f"{len(payload)} bytes are more than {MAX_BYTES}")
    if suffix in AUTHENTICATED:
        _check_mac(payload, topic, key)
    try:
        body = _loads(payload)
    except ContractError as error:
        return _salvaged(suffix, payload, error)
    return _envelope(suffix, body, b"\\u" in payload)


def read(envelope: Envelope) -> Message:
    """The message in an envelope. Raises ContractError naming the member that is missing or wrong."""
    if envelope.body is None:
        raise ContractError(envelope.problem)
    if envelope.escapes:
        _refuse_odd_text(envelope.body)
    return from_json(BY_SUFFIX[envelope.suffix], envelope.body)


def decode(suffix: str, payload: bytes, *, topic: str = "", key: bytes | None = None) -> Message:
    """Both steps at once, for who needs no envelope."""
    return read(open_envelope(suffix, payload, topic=topic, key=key))


def _check_mac(payload: bytes, topic: str, key: bytes | None) -> None:
    if key is None or not topic:
        raise BadMac("there is no key to check this message with")
    start = payload.rfind(_SEAL, max(0, len(payload) - _TAIL))
    found = _MAC.fullmatch(payload, start) if start >= 0 else None
    if found is None:
        raise BadMac('the message does not end with its "mac"')
    if not hmac.compare_digest(found[1].decode().lower(), mac(key, topic, payload[:start])):
        raise BadMac('the "mac" does not fit')


def _envelope(suffix: str, body: Json, escapes: bool) -> Envelope:
    epoch = seq = None
    if suffix in DURABLE:
        epoch, seq = _at("epoch", _token, body.get("epoch")), _at("seq", _whole(1), body.get("seq"))
    try:
        if body.get("v") != 1 or isinstance(body.get("v"), bool):
            raise ContractError("v: must be 1")
        sent_at = _at("sent_at", _time, body.get("sent_at"))
    except ContractError as error:
        if seq is None:
            raise
        return Envelope(suffix, "", epoch, seq, None, False, str(error))
    return Envelope(suffix, sent_at, epoch, seq, body, escapes)


def _salvaged(suffix: str, payload: bytes, error: ContractError) -> Envelope:
    """The envelope of a durable message that is no JSON, by the first epoch and seq that stand in it. Raises `error` where none do."""
    epoch, seq = _EPOCH.search(payload), _SEQ.search(payload)
    if suffix not in DURABLE or epoch is None or seq is None:
        raise error
    return Envelope(suffix, "", epoch[1].decode(), int(seq[1]), None, False, str(error))


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ContractError(f"can't be written as JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ContractError(f"must be JSON: {name} is none")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
"""Made once: `json.loads` makes one for each text where it is told of constants."""


def _loads(payload: bytes) -> Json:
    try:
        value = _DECODER.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ContractError(f"must be JSON in UTF-8: {error}") from None
    return _object(value)


def _refuse_odd_text(value: Any) -> None:
    """NUL, which Postgres can't store, and lone surrogates, which UTF-8 can't."""
    stack = [value]
    while stack:
        match stack.pop():
            case str(text):
                if _ODD.search(text):
                    raise ContractError("text must not hold NUL or lone surrogates")
            case dict() as members:
                stack.extend(members.keys())
                stack.extend(members.values())
            case list() as items:
                stack.extend(items)
