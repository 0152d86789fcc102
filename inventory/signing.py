"""Signs commands and checkpoints with the delegated command key, which is all that the managers have of the installation's keys: they can
command devices, and enroll none. The key and its delegation are made, and exchanged, by `inventory.authority`.

Called by ingest (checkpoints) and by the managers' dispatcher. Source: design.md section 4.
"""

import base64
import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from broker.messages import ContractError, Delegation, Mandate, Moment, decode_text, encode_text, now_text
from inventory.keychain import key_id
from inventory.secret_files import AuthorityError, Fresh, read_raw_key


@dataclass(frozen=True, slots=True)
class Signed:
    """A text's signature (base64, Ed25519), the id of the key that made it, and why that key may."""

    signature: str
    key: str
    delegation: Delegation


@dataclass(frozen=True, slots=True)
class Delegated:
    """The command key, and why it may."""

    key: SigningKey
    delegation: Delegation
    generation: int

    @classmethod
    def read(cls, secrets_dir: Path) -> "Delegated":
        key = SigningKey(read_raw_key(secrets_dir / "command.key"))
        delegation, mandate = read_delegation(secrets_dir / "delegation.json")
        if mandate.public_key != b64(bytes(key.verify_key)):
            raise AuthorityError(f"{secrets_dir}: command.key and delegation.json don't belong together: run `fleetward migrate`")
        return cls(key, delegation, mandate.generation)


class CommandSigner:
    """Signs commands and checkpoints with the delegated command key. Follows when `command.key` and `delegation.json` are replaced."""

    def __init__(self, secrets_dir: Path) -> None:
        """Raises AuthorityError, OSError."""
        self._held = Fresh(lambda: Delegated.read(secrets_dir), secrets_dir / "command.key", secrets_dir / "delegation.json")
        self._held.get()

    @property
    def generation(self) -> int:
        """Of the delegation; a checkpoint tells it, and so voids older ones."""
        return self._held.get().generation

    def sign(self, text: str) -> Signed:
        """Over the exact UTF-8 bytes of `text`."""
        held = self._held.get()
        return Signed(b64(held.key.sign(text.encode()).signature), key_id(bytes(held.key.verify_key)), held.delegation)

    def checkpoint(self, moment: Moment) -> tuple[str, Signed]:
        """The text of a checkpoint, and its signature; the generation is that of the delegation it is signed under."""
        text = encode_text(replace(moment, generation=self.generation))
        return text, self.sign(text)


def delegate(root: SigningKey, public: bytes, generation: int, begins: datetime, ends: datetime) -> bytes:
    """What `delegation.json` holds: that the command root lets this key sign between these times."""
    mandate = Mandate(public_key=b64(public), generation=generation, not_before=now_text(begins), not_after=now_text(ends))
    signed = encode_text(mandate)
    return encode_text(Delegation(signed=signed, signature=b64(root.sign(signed.encode()).signature))).encode() + b"\n"


def read_delegation(path: Path) -> tuple[Delegation, Mandate]:
    """With what it says. Raises AuthorityError for a damaged one, OSError."""
    try:
        delegation = decode_text(Delegation, path.read_text())
        return delegation, decode_text(Mandate, delegation.signed)
    except (ContractError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AuthorityError(f"{path} is damaged ({error}): restore it from a backup") from None


def delegated_by(root: VerifyKey, delegation: Delegation) -> bool:
    """Whether this command root has signed it."""
    try:
        root.verify(delegation.signed.encode(), base64.b64decode(delegation.signature))
        return True
    except (BadSignatureError, ValueError):
        return False


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
