"""Where secrets of resources are sealed: values that devices get and nobody reads here, such as a password in a config.

HPKE (base mode; X25519, HKDF-SHA256, AES-256-GCM) under the installation's vault keys, which are in the secrets directory and never in the
database. Who only takes secrets in has the public halves (`Slot`, `vault.pub`): the web process seals what it can't open again. The
managers have the keys (`Vault`, `vault.key`). A file has a key a line, the newest first; the one before it stays until the next rotation,
for backups made meanwhile and for what is on its way. What is sealed is bound to a context, such as whose secret it is and its name, and
opens in no other; in front of it stands the id of its key. Pure but for reading those files.

Called by `inventory.deposits` and the managers. Source: RFC 9180 (HPKE); docs/adr/0028-secrets.md.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from inventory.keychain import key_id
from inventory.secret_files import AuthorityError, Fresh, raw_key, write_secret

KEY_FILE, PUBLIC_FILE = "vault.key", "vault.pub"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Unsealable(Exception):
    """It was sealed for another context, or has been changed."""


class NoKey(Unsealable):
    """It was sealed under a key that this process does not have."""


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys, the newest first; 32 raw bytes each."""

    private: tuple[bytes, ...]

    @classmethod
    def read(cls, secrets_dir: Path) -> "Keys":
        """Raises AuthorityError, OSError."""
        return cls(_lines(secrets_dir / KEY_FILE))

    def write(self, secrets_dir: Path) -> None:
        """The keys first: nothing is ever sealed that nobody could open."""
        write_secret(secrets_dir / KEY_FILE, _text(self.private))
        self.write_public(secrets_dir)

    def write_public(self, secrets_dir: Path) -> None:
        """Where it is not as it should be, as after a kill between the two files."""
        public = _text(tuple(self.public.values()))
        path = secrets_dir / PUBLIC_FILE
        if not path.exists() or path.read_bytes() != public:
            write_secret(path, public)

    @property
    def public(self) -> Mapping[str, bytes]:
        """The public halves by id."""
        halves = [X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw() for raw in self.private]
        return {key_id(half): half for half in halves}

    @property
    def newest(self) -> str:
        return next(iter(self.public))


class Slot:
    """Takes secrets in, and can't give them out. Follows when its file is replaced."""

    def __init__(self, secrets_dir: Path) -> None:
        path = secrets_dir / PUBLIC_FILE
        self._held = Fresh(lambda: {key_id(raw): X25519PublicKey.from_public_bytes(raw) for raw in _lines(path)}, path)

    def seal(self, key: str, context: str, secret: bytes) -> str:
        """Under the key of this id. Raises NoKey; AuthorityError or OSError where there is no file."""
        held = self._held.get()
        if key not in held:
            raise NoKey(f"this process does not have the key {key}: copy {PUBLIC_FILE} from the installation's secrets")
        return f"{key}.{base64.b64encode(_SUITE.encrypt(secret, held[key], context.encode())).decode()}"


class Vault:
    """Takes secrets in and gives them out. Follows when its file is replaced."""

    def __init__(self, secrets_dir: Path) -> None:
        path = secrets_dir / KEY_FILE
        self._held = Fresh(lambda: {_id(key): key for key in map(X25519PrivateKey.from_private_bytes, _lines(path))}, path)

    def seal(self, context: str, secret: bytes) -> str:
        """Under the newest key. Raises NoKey where there is none at all."""
        key, private = next(iter(self._keys().items()))
        return f"{key}.{base64.b64encode(_SUITE.encrypt(secret, private.public_key(), context.encode())).decode()}"

    def open(self, context: str, sealed: str) -> bytes:
        """Raises Unsealable, NoKey."""
        key, _, text = sealed.partition(".")
        private = self._keys().get(key)
        if private is None:
            raise NoKey(f"this process does not have the key {key}: copy {KEY_FILE} from the installation's secrets")
        try:
            raw = base64.b64decode(text, validate=True)
            if base64.b64encode(raw).decode() != text:
                raise ValueError("the unused bits of its last letter are set")
            return _SUITE.decrypt(raw, private, context.encode())
        except (InvalidTag, binascii.Error, ValueError):
            raise Unsealable("it was not sealed here, or has been changed") from None

    def _keys(self) -> Mapping[str, X25519PrivateKey]:
        try:
            return self._held.get()
        except (AuthorityError, OSError) as error:
            raise NoKey(f"{KEY_FILE} can't be read ({error}): copy it from the installation's secrets") from None


def key_of(sealed: str) -> str:
    """The id of the key that it was sealed under."""
    return sealed.partition(".")[0]


def _id(key: X25519PrivateKey) -> str:
    return key_id(key.public_key().public_bytes_raw())


def _lines(path: Path) -> tuple[bytes, ...]:
    """A key a line. Raises AuthorityError, OSError."""
    found = tuple(raw_key(line, path) for line in path.read_text(errors="replace").splitlines() if line.strip())
    if not found:
        raise AuthorityError(f"{path} is damaged: restore it from a backup")
    return found


def _text(keys: tuple[bytes, ...]) -> bytes:
    return b"".join(base64.b64encode(raw) + b"\n" for raw in keys)
