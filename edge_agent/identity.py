"""Who this device is: what enrollment left in the state directory, read and checked. No X.509 in here; TLS loads the files itself."""

import base64
import binascii
import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.topics import TopicError, Topics
from edge_agent import atomic
from edge_agent.trust import Ring

log = logging.getLogger(__name__)

KEY_FILE = "device.key"
CERTIFICATE_FILE = "device.crt"
CA_FILE = "ca.crt"
IDENTITY_FILE = "identity.json"
TRUST_FILE = "trust.json"
NEXT_KEY_FILE = "device.key.next"
NEXT_CERTIFICATE_FILE = "device.crt.next"
JOURNAL_FILE = "journal.db"
SETTINGS_FILE = "agent.toml"


KEPT = ("device", "prefix", "command_root", "command_roots", "keys", "channel_key", "broker")
"""Members of the answer to enrollment that are kept. An older server gives neither `command_roots` nor `keys`."""


class NotEnrolled(Exception):
    """There is no usable identity in the state directory; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`ring`: whom it trusts; `channel_key`: for the MACs, 32 bytes."""

    device: str
    topics: Topics
    ring: Ring
    channel_key: bytes = field(repr=False)
    host: str
    port: int
    server: str
    state_dir: Path

    @property
    def key_file(self) -> Path:
        return self.state_dir / KEY_FILE

    @property
    def certificate_file(self) -> Path:
        return self.state_dir / CERTIFICATE_FILE

    @property
    def ca_file(self) -> Path:
        return self.state_dir / CA_FILE


def load(state_dir: Path) -> Identity:
    """Raises NotEnrolled."""
    path = state_dir / IDENTITY_FILE
    try:
        values = json.loads(path.read_bytes())
        identity = parse(values, state_dir)
    except FileNotFoundError:
        raise NotEnrolled(f"{state_dir} holds no identity: run `fleetward-agent enroll --server URL --token T` first") from None
    except OSError as error:
        raise NotEnrolled(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise NotEnrolled(f"{path} can't be used ({error}): enroll again") from error
    identity = _following(identity)
    for file in (identity.key_file, identity.certificate_file, identity.ca_file):
        if not file.is_file():
            raise NotEnrolled(f"{file} is missing: enroll again")
    return identity


@contextmanager
def alone(state_dir: Path) -> Iterator[None]:
    """Meanwhile nobody else puts key, certificate or CAs in their places: the agent and each of its jobs (`certificates`) are processes of
    their own, which would move away each other's files, and TLS reads two of them. Before enrollment there is nobody. Raises OSError."""
    with ExitStack() as held:
        with suppress(FileNotFoundError):
            file = held.enter_context((state_dir / IDENTITY_FILE).open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def settle(state_dir: Path) -> None:
    """Finish what a crash has interrupted: the exchange of key and certificate, and of the CAs that are trusted. Raises OSError."""
    with alone(state_dir):
        _settle(state_dir)


def _settle(state_dir: Path) -> None:
    """The next certificate is written once it is known to fit the next key: then the exchange has happened, whatever is moved when."""
    next_key, next_certificate = state_dir / NEXT_KEY_FILE, state_dir / NEXT_CERTIFICATE_FILE
    if next_certificate.exists():
        if next_key.exists():
            next_key.replace(state_dir / KEY_FILE)
            atomic.sync_directory(state_dir)
        next_certificate.replace(state_dir / CERTIFICATE_FILE)
        atomic.sync_directory(state_dir)
    ring = _trusted(state_dir)
    bundle = "".join(ring.authorities).encode() if ring is not None else b""
    if bundle and (state_dir / CA_FILE).read_bytes() != bundle:
        atomic.write(state_dir / CA_FILE, bundle, 0o644)


def adopt(state_dir: Path, ring: Ring) -> None:
    """Trust these from now on, where no later ones have been adopted meanwhile. Raises OSError."""
    roots = [base64.b64encode(root).decode() for root in ring.roots]
    kept = {"generation": ring.generation, "command_roots": roots, "authorities": list(ring.authorities)}
    with alone(state_dir):
        known = _trusted(state_dir)
        if known is None or known.generation <= ring.generation:
            atomic.write(state_dir / TRUST_FILE, json.dumps(kept, indent=1).encode(), 0o600)
        _settle(state_dir)


def _following(identity: Identity) -> Identity:
    """With what has been adopted since the enrollment."""
    ring = _trusted(identity.state_dir)
    return identity if ring is None or ring.generation <= identity.ring.generation else replace(identity, ring=ring)


def _trusted(state_dir: Path) -> Ring | None:
    """What was adopted last. One that can't be read is as none: the server sends it again."""
    try:
        values = json.loads((state_dir / TRUST_FILE).read_bytes())
        roots = tuple(_base64(root) for root in values["command_roots"])
        return Ring(int(values["generation"]), roots, tuple(str(pem) for pem in values["authorities"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what was trusted last can't be read", extra={"path": str(state_dir / TRUST_FILE), "error": str(error)})
        return None


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 address stands in brackets. Raises ValueError."""
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port and parts.netloc == text and parts.username is None:
            return parts.hostname, parts.port
    except ValueError:
        pass  # said below, in words of our own
    raise ValueError(f"{text!r} is no HOST:PORT")


def parse(values: Any, state_dir: Path) -> Identity:
    """Check an answer to enrollment, or what was stored of it. Raises ValueError naming the member."""
    device = _text(values, "device")
    prefix = _text(values, "prefix")
    topics = _topics(device, prefix)
    broker = values.get("broker")
    if not isinstance(broker, dict):
        raise ValueError("broker: must be an object")
    port = broker.get("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError("broker.port: must be a port")
    return Identity(
        device=device,
        topics=topics,
        ring=_enrolled_ring(values),
        channel_key=_hex(_text(values, "channel_key")),
        host=_text(broker, "host"),
        port=port,
        server=str(values.get("server", "")),
        state_dir=state_dir,
    )


def _enrolled_ring(values: Any) -> Ring:
    """What enrollment has said; a server of an earlier release names one root and no list."""
    first, generation = _base64(_text(values, "command_root")), values.get("keys", 0)
    roots = values.get("command_roots", [])
    if isinstance(generation, bool) or not isinstance(generation, int) or not isinstance(roots, list):
        raise ValueError("keys: must be a number, and command_roots a list")
    return Ring(generation, tuple(dict.fromkeys((first, *(_base64(root) for root in roots)))))


def _topics(device: str, prefix: str) -> Topics:
    try:
        topics = Topics(prefix.split("/")[0])
        good = topics.device_prefix(device) == prefix
    except TopicError as error:
        raise ValueError(f"prefix: {error}") from None
    if not good:
        raise ValueError(f"prefix: {prefix!r} is not that of {device}")
    return topics


def _text(values: Any, name: str) -> str:
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: must be a text")
    return value


def _base64(text: Any) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ValueError("command_root: must be 32 bytes in base64")
    return raw


def _hex(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ValueError("channel_key: must be 32 bytes in hex")
    return raw
