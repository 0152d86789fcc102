"""Certificates that are taken back: the list as Inventory tells it, as it travels, and as a broker keeps it.

A list is always whole, and newer than another by its number: what got lost or comes twice does no harm. It travels in parts, because a
message holds 256 KiB and a large fleet's list does not. `Follower` puts the parts together, keeps the list in a file, so that a broker that
starts refuses at once whom it refused before, and hands each newer list to whoever acts on it: the guard (`broker.embedded`), or Mosquitto
(`broker.following`). Only `svc-inventory` may publish it (`broker.acl`); nobody else's word counts.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.messages import MAX_BYTES, now_text

log = logging.getLogger(__name__)

PART = 96 * 1024
"""Characters of the list in one message: as JSON within JSON they may double, and stay below the bound of a message."""
MOST_PARTS = 1024
"""What is put together is bounded: a list of a million certificates."""


class NotAList(ValueError):
    """A payload or a file is no list of revoked certificates; the text says why."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One certificate: its serial number in hex, lower case and without leading zeros, and whose it was (its common name)."""

    serial: str
    name: str


@dataclass(frozen=True, slots=True)
class RevocationList:
    """`number` rises with each list. `crl`: the same as CRLs (RFC 5280), PEM, one for each CA; empty where none could be signed."""

    number: int = 0
    revoked: tuple[Revoked, ...] = ()
    crl: str = ""

    @property
    def serials(self) -> frozenset[str]:
        return frozenset(one.serial for one in self.revoked)

    def names_since(self, before: "RevocationList") -> list[str]:
        """Whose certificates are on this list and were not on that one."""
        known = before.serials
        return sorted({one.name for one in self.revoked if one.serial not in known})

    def text(self) -> str:
        listed = [[one.serial, one.name] for one in self.revoked]
        return json.dumps({"v": 1, "number": self.number, "revoked": listed, "crl": self.crl})


def read_list(text: str) -> RevocationList:
    """The inverse of `RevocationList.text`. Raises NotAList."""
    match _json(text):
        case {"number": int(number), "revoked": list(listed), "crl": str(crl)}:
            return RevocationList(number, tuple(_revoked(each) for each in listed), crl)
    raise NotAList("it must have number, revoked and crl")


def parts_of(whole: RevocationList) -> Iterator[bytes]:
    """The messages that a list travels in."""
    text = whole.text()
    pieces = [text[start : start + PART] for start in range(0, len(text), PART)]
    for n, piece in enumerate(pieces):
        body = {"v": 1, "sent_at": now_text(), "number": whole.number, "part": n, "parts": len(pieces), "text": piece}
        yield json.dumps(body).encode()


class Follower:
    """Takes messages as they come, and hands a list that is newer than the one it has to `act`."""

    def __init__(self, file: Path, act: Callable[[RevocationList, RevocationList], None]) -> None:
        """`act` is given the newer list and the one before."""
        self._file, self._act = file, act
        self._parts: dict[int, str] = {}
        self._of: tuple[int, int] = (0, 0)
        self.known = RevocationList()

    def restore(self) -> RevocationList:
        """What was kept. A file that can't be used is said, and counts as none: Inventory tells the list again as soon as it connects."""
        try:
            self.known = read_list(self._file.read_text())
        except FileNotFoundError:
            log.debug("no certificate is known to be revoked yet", extra={"path": str(self._file)})
        except (NotAList, OSError, UnicodeDecodeError) as error:
            log.error("the list of revoked certificates can't be read", extra={"path": str(self._file), "error": str(error)})
        return self.known

    def take(self, payload: bytes) -> None:
        """A message on the topic. What is no part of a list is said, and changes nothing."""
        try:
            whole = self._assembled(payload)
        except NotAList as error:
            log.error("a list of revoked certificates can't be used", extra={"error": str(error)})
            return
        if whole is not None and whole.number > self.known.number:
            before, self.known = self.known, whole
            log.info("certificates are revoked", extra={"certificates": len(whole.revoked), "number": whole.number})
            self._act(whole, before)
            self._keep(whole)

    def _assembled(self, payload: bytes) -> RevocationList | None:
        """The list, once all of its parts are there."""
        match _json(payload) if len(payload) <= MAX_BYTES else None:
            case {"number": int(number), "part": int(part), "parts": int(parts), "text": str(text)} if 0 <= part < parts <= MOST_PARTS:
                pass
            case _:
                raise NotAList("it must have number, part, parts and text")
        if self._of != (number, parts):
            self._of, self._parts = (number, parts), {}
        self._parts[part] = text
        if len(self._parts) < parts:
            return None
        whole = read_list("".join(self._parts[n] for n in range(parts)))
        self._of, self._parts = (0, 0), {}
        return whole

    def _keep(self, whole: RevocationList) -> None:
        """A broker that can't write its directory refuses all the same, until it is started again; that is said."""
        fresh = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(whole.text())
            fresh.replace(self._file)
        except OSError as error:
            log.error("the list of revoked certificates can't be kept", extra={"path": str(self._file), "error": str(error)})


def plain_serial(hexadecimal: str) -> str:
    """A serial number as lists have it, from any way of writing it in hex. Raises ValueError."""
    return f"{int(hexadecimal, 16):x}"


def _revoked(each: object) -> Revoked:
    match each:
        case [str(serial), str(name)]:
            return Revoked(serial, name)
    raise NotAList(f"an entry is no [serial, name]: {each!r}")


def _json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAList(f"it is no JSON: {error}") from None
