"""The journal: `state.Durable` in SQLite, so that a crash at any point costs nothing that was promised.

WAL with synchronous=FULL: a commit is on disk when it returns. What is deleted is overwritten, and once a command that carried secrets is
done the WAL, which has it still, begins anew: the journal keeps them no longer than it needs them. The difference of two `Durable`s is
written in one transaction; records that did not change are the same objects and cost nothing. A journal that can't be written is a
condition that the caller handles (`JournalError`), one that can't be read is set aside (`open_journal` says so). Applied configs are
deliberately not in here: what an applier must undo some day has to survive the loss of this file (`appliers.ledger`). Used by `runtime`,
from one thread.
"""

import json
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.messages import (
    BY_SUFFIX,
    ContractError,
    ErrorCode,
    Facts,
    Item,
    Log,
    Order,
    Result,
    Section,
    Status,
    from_json,
    to_json,
)
from edge_agent.failures import code_of
from edge_agent.outbox import FactsPart, FullStatus, Manifest, Outbox, Part, Sent, Waiting
from edge_agent.state import Durable, Entry, Phase

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    space TEXT NOT NULL, key TEXT NOT NULL, place INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (space, key)
) WITHOUT ROWID
"""
_OWNER = "CREATE TABLE IF NOT EXISTS owner (device TEXT NOT NULL)"
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "cache_size=-256",
    "wal_autocheckpoint=200",
    "journal_size_limit=1048576",
)


class JournalError(Exception):
    """The journal can't be written now. `code`: ReadOnly, NoSpace, PermissionDenied or Internal."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class JournalCorrupt(Exception):
    """The journal's file is damaged, or holds what no agent wrote."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One row, not yet encoded: `value` is the very object of the `Durable`, compared by identity."""

    space: str
    key: str
    place: int
    value: Any


class Journal:
    """An open journal."""

    def __init__(self, path: Path) -> None:
        """Raises JournalError or JournalCorrupt."""
        with _explained():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            try:
                for pragma in _PRAGMAS:
                    self._db.execute(f"PRAGMA {pragma}")
                self._db.execute(_SCHEMA)
                self._db.execute(_OWNER)
                self._check()
            except BaseException:
                self._db.close()
                raise

    def claim(self, device: str) -> bool:
        """Make it the device's, if it is nobody's yet; whether it is the device's now. Raises JournalError or JournalCorrupt."""
        with _explained():
            found = self._db.execute("SELECT device FROM owner").fetchone()
            if found is None:
                self._db.execute("INSERT INTO owner VALUES (?)", (device,))
            return found is None or found[0] == device

    def load(self) -> Durable | None:
        """What was saved last; None in a new journal. Raises JournalCorrupt."""
        with _explained():
            rows = self._db.execute("SELECT space, key, body FROM records ORDER BY place").fetchall()
        try:
            return _decode(rows) if rows else None
        except (ContractError, ValueError, KeyError, TypeError) as error:
            raise JournalCorrupt(f"a record can't be read: {error}") from error

    def save(self, before: Durable | None, after: Durable) -> None:
        """Make `after` durable, given that `before` is (None: whatever is there goes). Raises JournalError or JournalCorrupt."""
        if before is after:
            return
        old = {} if before is None else {(r.space, r.key): r for r in _records(before)}
        new = {(r.space, r.key): r for r in _records(after)}
        gone = [key for key in old if key not in new]
        changed = [r for key, r in new.items() if key not in old or not _same(old[key], r)]
        if before is not None and not gone and not changed:
            return
        self._write(gone, changed, clear=before is None)
        if any(_let_go_of_secrets(old.get((r.space, r.key)), r) for r in changed):
            with _explained():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._db.close()

    def _write(self, gone: list[tuple[str, str]], changed: list[_Record], clear: bool) -> None:
        with _explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if clear:
                    self._db.execute("DELETE FROM records")
                self._db.executemany("DELETE FROM records WHERE space = ? AND key = ?", gone)
                self._db.executemany(
                    "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", [(r.space, r.key, r.place, _text(r.value)) for r in changed]
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _check(self) -> None:
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise JournalCorrupt(f"SQLite says: {found[0] if found else 'nothing'}")


def open_journal(path: Path, device: str) -> tuple[Journal, Durable | None, str]:
    """The device's journal, what it holds, and, when a corrupt one was set aside beside it, why. One of another device (this machine,
    enrolled anew) is set aside too, without more ado: its fences and sequence numbers are between that device and its server. Raises
    JournalError."""
    try:
        journal = Journal(path)
        try:
            if journal.claim(device):
                return journal, journal.load(), ""
        except (JournalCorrupt, JournalError):
            journal.close()
            raise
    except JournalCorrupt as error:
        aside = _set_aside(path, ".corrupt")
        log.error("journal set aside", extra={"path": str(aside), "error": str(error)})
        return _new(path, device), None, str(error)
    journal.close()
    aside = _set_aside(path, ".former")
    log.info("journal of another device set aside", extra={"path": str(aside)})
    return _new(path, device), None, ""


def _new(path: Path, device: str) -> Journal:
    journal = Journal(path)
    journal.claim(device)
    return journal


def read_only(path: Path) -> Durable | None:
    """What a journal that can't be opened for writing holds, read from a copy; None where even that fails."""
    try:
        with tempfile.TemporaryDirectory(prefix="fleetward-journal-") as folder:
            for suffix in ("", "-wal"):
                source = path.with_name(path.name + suffix)
                if source.exists():
                    shutil.copyfile(source, Path(folder, path.name + suffix))
            copy = Journal(Path(folder, path.name))
            try:
                return copy.load()
            finally:
                copy.close()
    except (OSError, JournalError, JournalCorrupt) as error:
        log.warning("journal not readable", extra={"path": str(path), "error": str(error)})
        return None


def _set_aside(path: Path, suffix: str) -> Path:
    """Rename the file and what belongs to it; the copy that was set aside last time goes. Raises JournalError."""
    aside = path.with_name(path.name + suffix)
    try:
        for part in ("-wal", "-shm", ""):
            source = path.with_name(path.name + part)
            if source.exists():
                source.replace(aside.with_name(aside.name + part))
    except OSError as error:
        raise JournalError(code_of(error), str(error)) from error
    return aside


class _explained:
    """Turns what SQLite raises into `JournalError` or `JournalCorrupt`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise JournalCorrupt(f"{name}: {error}") from error
        raise JournalError(_sqlite_code(name), f"{name}: {error}") from error


def _sqlite_code(name: str) -> ErrorCode:
    """SQLite reports a full disk inside the WAL as a write error; both are NoSpace to whoever has to act."""
    match name:
        case "SQLITE_FULL" | "SQLITE_IOERR_WRITE" | "SQLITE_IOERR_SHMSIZE" | "SQLITE_IOERR_FSYNC":
            return ErrorCode.NO_SPACE
        case "SQLITE_PERM" | "SQLITE_AUTH":
            return ErrorCode.PERMISSION_DENIED
        case "SQLITE_BUSY" | "SQLITE_LOCKED":
            return ErrorCode.BUSY
        case _ if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return ErrorCode.READ_ONLY
        case _:
            return ErrorCode.INTERNAL


def _let_go_of_secrets(old: _Record | None, new: _Record) -> bool:
    """Whether a command had secrets among its arguments (contract.md section 4: their salt is there then), and has them no more."""
    if old is None or not (isinstance(old.value, Entry) and isinstance(new.value, Entry)) or old.value.order is None:
        return False
    return new.value.order is None and "salt" in old.value.order.args


def _same(old: _Record, new: _Record) -> bool:
    """Unchanged records are the same objects; the small values, made anew each time, are compared."""
    if old.place != new.place:
        return False
    return old.value is new.value or (isinstance(new.value, str | int | float) and old.value == new.value)


# --- records ----------------------------------------------------------------------------------------------------------------


def _records(durable: Durable) -> Iterator[_Record]:
    box = durable.outbox
    yield from _numbers(durable)
    for message in box.sent:
        yield _Record("sent", str(message.seq), message.seq, message)
    for place, waiting in enumerate(box.waiting):
        yield _Record("waiting", waiting.key, place, waiting)
    for entry in durable.commands:
        yield _Record("command", entry.id, entry.fence, entry)
    yield from _mapping("item", durable.items)
    yield from _mapping("manifest", durable.manifest)


def _numbers(durable: Durable) -> Iterator[_Record]:
    box = durable.outbox
    values = {
        "epoch": box.epoch,
        "next_seq": box.next_seq,
        "dropped": box.dropped,
        "fence": durable.fence,
        "generation": durable.generation,
        "born": durable.born,
        "logs": durable.logs,
    }
    for key, value in values.items():
        yield _Record("number", key, 0, value)


def _mapping(space: str, values: Mapping[str, Any]) -> Iterator[_Record]:
    for key, value in values.items():
        yield _Record(space, key, 0, value)


def _text(value: Any) -> str:
    return json.dumps(_json(value), ensure_ascii=False, separators=(",", ":"))


def _json(value: Any) -> Any:
    match value:
        case Sent(seq, sent_at, body):
            return {"seq": seq, "sent_at": sent_at, "suffix": body.suffix, "body": to_json(body)}
        case Waiting(key, part, size, _):
            return {"key": key, "size": size, **_part_json(part)}
        case _:
            return to_json(value)


def _part_json(part: Part) -> dict[str, Any]:
    match part:
        case FactsPart(name, section):
            return {"type": "facts", "name": name, "part": to_json(section)}
        case Manifest():
            return {"type": "manifest", "part": None}
        case FullStatus():
            return {"type": "full", "part": None}
        case Item():
            return {"type": "item", "part": to_json(part)}
        case Result():
            return {"type": "result", "part": to_json(part)}
        case Log():
            return {"type": "log", "part": to_json(part)}


def _decode(rows: list[tuple[str, str, str]]) -> Durable:
    spaces: dict[str, dict[str, Any]] = {name: {} for name in ("number", "sent", "waiting", "command", "item", "manifest")}
    for space, key, body in rows:
        spaces[space][key] = json.loads(body)
    numbers = spaces["number"]
    box = Outbox(
        epoch=str(numbers["epoch"]),
        next_seq=int(numbers["next_seq"]),
        sent=tuple(_sent(value) for value in spaces["sent"].values()),
        waiting=tuple(_waiting(value) for value in spaces["waiting"].values()),
        dropped=int(numbers["dropped"]),
    )
    return Durable(
        outbox=box,
        commands=tuple(_entry(value) for value in spaces["command"].values()),
        items={key: from_json(Item, value) for key, value in spaces["item"].items()},
        manifest={key: str(value) for key, value in spaces["manifest"].items()},
        fence=int(numbers["fence"]),
        generation=int(numbers["generation"]),
        born=numbers.get("born"),
        logs=int(numbers["logs"]),
    )


def _sent(value: dict[str, Any]) -> Sent:
    body = from_json(BY_SUFFIX[value["suffix"]], value["body"])
    if not isinstance(body, Facts | Status | Result | Log):
        raise ContractError(f"{value['suffix']} is not durable")
    return Sent(int(value["seq"]), str(value["sent_at"]), body)


def _waiting(value: dict[str, Any]) -> Waiting:
    return Waiting(str(value["key"]), _part(value), int(value["size"]))


def _part(value: dict[str, Any]) -> Part:
    part = value["part"]
    match value["type"]:
        case "facts":
            return FactsPart(str(value["name"]), from_json(Section, part))
        case "manifest":
            return Manifest()
        case "full":
            return FullStatus()
        case "item":
            return from_json(Item, part)
        case "result":
            return from_json(Result, part)
        case "log":
            return from_json(Log, part)
    raise ContractError(f"{value['type']!r} is no part of the outbox")


def _entry(value: dict[str, Any]) -> Entry:
    order, result = value["order"], value["result"]
    return Entry(
        id=str(value["id"]),
        fence=int(value["fence"]),
        phase=Phase(value["phase"]),
        order=None if order is None else from_json(Order, order),
        starts=int(value["starts"]),
        started_at=value["started_at"],
        result=None if result is None else from_json(Result, result),
        signed=int(value.get("signed", value["fence"])),
    )
