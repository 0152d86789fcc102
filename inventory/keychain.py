"""Whom devices are to trust: lists of CAs and command roots, each signed by those roots that were trusted before it. Pure.

`keys.json` in the secrets directory holds the last lists. Of the CAs in a list the first issues, of the roots the first delegates; the
second of either is trusted beside it. A rotation is three lists: the new ones are announced, take over, and stand alone. A list is
signed by every root that stands in it or in the one before, so that a device follows from whichever it trusts, and one that has missed
some follows step by step; a hostile broker can make none.

Called by `inventory.authority` (which reads and writes the file) and by `inventory.rotation`. Decision: docs/adr/0016-rotation.md.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import cached_property

from nacl.signing import SigningKey

from broker.messages import ContractError, KeyList, Keys, KeySignature, SignedKeys, decode_text, encode_text, from_json, to_json
from inventory.secret_files import AuthorityError

KEPT = 16
"""Lists that are kept: five rotations. A device that has missed more has to enroll anew."""

AFTER_RESTORE = 1_000_000_000
"""What a restore adds to the generation: more than there can have been since the backup."""


class Phase(Enum):
    """Where a rotation stands."""

    RESTING = "resting"
    ANNOUNCED = "announced"
    """The new ones are trusted, the old ones still issue and delegate."""
    TAKEN_OVER = "taken over"
    """The new ones issue and delegate, the old ones are still trusted."""


@dataclass(frozen=True)
class Keychain:
    """The last lists, the newest at the end; there is one at least."""

    lists: tuple[SignedKeys, ...]

    @cached_property
    def latest(self) -> KeyList:
        return _read(self.lists[-1])

    @property
    def generation(self) -> int:
        return self.latest.generation

    @cached_property
    def message(self) -> Keys:
        """As devices are sent it."""
        return Keys(lists=self.lists)

    @property
    def phase(self) -> Phase:
        if max(len(self.latest.authorities), len(self.latest.command_roots)) == 1:
            return Phase.RESTING
        before = _read(self.lists[-2]) if len(self.lists) > 1 else self.latest
        same = set(before.authorities) == set(self.latest.authorities) and set(before.command_roots) == set(self.latest.command_roots)
        return Phase.TAKEN_OVER if same else Phase.ANNOUNCED

    @property
    def took_over(self) -> datetime | None:
        """Since when the CA that issues now does; None where it has ever since the lists began."""
        lists = [_read(each) for each in self.lists]
        since = None
        for before, after in itertools.pairwise(lists):
            if before.authorities[0] != after.authorities[0]:
                since = datetime.fromisoformat(after.issued_at)
        return since

    def extended(self, wanted: KeyList, signers: Iterable[SigningKey]) -> "Keychain":
        """With another list, whose generation is the next."""
        made = replace(wanted, generation=self.generation + 1)
        return Keychain((*self.lists, signed(made, signers))[-KEPT:])

    def renumbered(self, signers: Iterable[SigningKey]) -> "Keychain":
        """With the newest list under a number that no device has seen, in its own place: after a restore."""
        return Keychain((*self.lists[:-1], signed(replace(self.latest, generation=self.generation + AFTER_RESTORE), signers)))

    def encoded(self) -> bytes:
        return json.dumps({"lists": [to_json(each) for each in self.lists]}, indent=1).encode() + b"\n"


def key_id(public: bytes) -> str:
    """What a command key is called on the wire: the first 16 hex digits of the SHA-256 of its raw public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def signed(wanted: KeyList, signers: Iterable[SigningKey]) -> SignedKeys:
    text = encode_text(wanted)
    return SignedKeys(signed=text, signatures=tuple(_signature(text, key) for key in signers))


def decoded(content: bytes, where: object) -> Keychain:
    """Raises AuthorityError naming `where`."""
    try:
        chain = Keychain(tuple(from_json(SignedKeys, each) for each in json.loads(content)["lists"]))
        if not chain.latest.authorities or not chain.latest.command_roots:
            raise ValueError("a list is empty")
        return chain
    except (ValueError, KeyError, TypeError, IndexError, ContractError) as error:
        raise AuthorityError(f"{where} is damaged ({error}): restore it from a backup") from None


def _signature(text: str, key: SigningKey) -> KeySignature:
    return KeySignature(key=key_id(bytes(key.verify_key)), signature=base64.b64encode(key.sign(text.encode()).signature).decode())


def _read(each: SignedKeys) -> KeyList:
    return decode_text(KeyList, each.signed)
