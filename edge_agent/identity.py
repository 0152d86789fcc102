"""Who this device is: what enrollment left in the state directory, read and checked. No X.509 in here; TLS loads the files itself."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.topics import TopicError, Topics

KEY_FILE = "device.key"
CERTIFICATE_FILE = "device.crt"
CA_FILE = "ca.crt"
IDENTITY_FILE = "identity.json"
JOURNAL_FILE = "journal.db"
SETTINGS_FILE = "agent.toml"


class NotEnrolled(Exception):
    """There is no usable identity in the state directory; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`authority`: the command root's raw public key; `channel_key`: for the MACs; both 32 bytes."""

    device: str
    topics: Topics
    authority: bytes
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
    for file in (identity.key_file, identity.certificate_file, identity.ca_file):
        if not file.is_file():
            raise NotEnrolled(f"{file} is missing: enroll again")
    return identity


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
        authority=_base64(_text(values, "command_root")),
        channel_key=_hex(_text(values, "channel_key")),
        host=_text(broker, "host"),
        port=port,
        server=str(values.get("server", "")),
        state_dir=state_dir,
    )


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


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
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
