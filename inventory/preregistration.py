"""Pre-registration: hosts written down before their machines come, from a sheet of serial numbers or SMBIOS UUIDs (CSV).

`read` is pure: it makes lines of the text, or says everything that is wrong with it, by line and column. `write` makes a host of each line
that is no host yet, all of them or none; a sheet that is handed in again changes nothing. A machine with such a key and a valid token
then becomes its host without waiting (`inventory.enrollment`).

Called by web for `POST /api/v1/hosts:preregister` and for the enroll page. Source: RFC 4180; docs/enrollment.md.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inventory.actor import Actor
from inventory.db import SQL
from inventory.enrollment import host_name
from inventory.errors import Invalid, InventoryError, Problem
from inventory.kinds.host import HOST
from inventory.recognition import serial_key, uuid_key
from inventory.store import Writes
from inventory.writer import Writer

COLUMNS = ("serial", "uuid", "name", "title", "site", "labels")
SPELLINGS = {"serial number": "serial", "serialnumber": "serial", "sn": "serial", "smbios uuid": "uuid", "guid": "uuid", "host": "name"}
"""Headings that other programs write."""
DELIMITERS = ",;\t"
MOST_LINES = 2000
"""A sheet: some ten seconds of work, in one transaction."""
TOLD = 50
"""Most problems that one refusal names."""


@dataclass(frozen=True, slots=True)
class Line:
    """A machine that is expected. `number`: of the line in the sheet, from 1; `note`: what of it counts for nothing."""

    number: int
    serial: str | None
    uuid: str | None
    body: Mapping[str, Any]
    note: str = ""


@dataclass(slots=True)
class Registered:
    """What became of a sheet, each as {line, id, name}: hosts that were made, and those that were there. `notes`: {line, detail}."""

    created: list[dict[str, Any]] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        return {"created": self.created, "known": self.known, "notes": self.notes}


def read(text: str) -> list[Line]:
    """The lines of a sheet with a heading. Commas, semicolons or tabs between; empty lines are passed over. Raises Invalid."""
    rows = _rows(text)
    _, heading = next(rows, (0, []))
    columns = _columns(heading)
    problems: list[Problem] = []
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, cells in rows:
        if len(lines) >= MOST_LINES:
            raise _wrong([Problem(f"/lines/{number}", f"is more than the {MOST_LINES} that one sheet may hold: hand in several")])
        if len(cells) > len(columns):
            problems.append(Problem(f"/lines/{number}", f"has {len(cells)} values under {len(columns)} headings"))
            continue
        values = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
        lines += _line(number, values, seen, problems)
    if not lines and not problems:
        problems.append(Problem("/lines", "there is no machine in it"))
    if problems:
        raise _wrong(problems)
    return lines


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Those that hold something, with the number of their last line. Raises Invalid."""
    text = text.removeprefix("\ufeff")
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise _wrong([Problem(f"/lines/{reader.line_num}", f"is no CSV: {error}")]) from None


def _columns(heading: Sequence[str]) -> list[str]:
    """Raises Invalid."""
    found = [SPELLINGS.get(name.lower(), name.lower()) for name in heading]
    wrong = [name for name in found if name not in COLUMNS]
    if wrong or not heading:
        there = f"there is no column {wrong[0][:64]!r}" if wrong else "is empty"
        raise _wrong([Problem("/heading", f"{there}: the first line names the columns, of {', '.join(COLUMNS)}")])
    if len(set(found)) < len(found):
        raise _wrong([Problem("/heading", "a column is there twice")])
    if not {"serial", "uuid"} & set(found):
        raise _wrong([Problem("/heading", "a column serial or uuid is needed: machines are recognised by it")])
    return found


def _line(number: int, values: Mapping[str, str], seen: dict[str, int], problems: list[Problem]) -> Iterator[Line]:
    serial, uuid, note = values.get("serial"), values.get("uuid"), ""
    if serial and serial_key(serial) is None:
        serial, note = None, f"serial {serial!r} is what makers leave where one belongs: only the UUID counts"
    if uuid and uuid_key(uuid) is None:
        words = "is no SMBIOS UUID, or one that many machines share"
        problems.append(Problem(f"/lines/{number}/uuid", words))
        return
    if not serial and not uuid:
        words = "a serial number that many machines share names none" if note else "a serial number or a UUID is needed"
        problems.append(Problem(f"/lines/{number}/serial", words))
        return
    for key in filter(None, (serial_key(serial), uuid_key(uuid))):
        first = seen.setdefault(key, number)
        if first != number:
            problems.append(Problem(f"/lines/{number}", f"is the same machine as line {first}"))
            return
    try:
        yield Line(number, serial, uuid, _body(values, serial, uuid), note)
    except ValueError as error:
        problems.append(Problem(f"/lines/{number}/labels", str(error)))


def _body(values: Mapping[str, str], serial: str | None, uuid: str | None) -> dict[str, Any]:
    """What makes the host. Raises ValueError."""
    given = {name: values[name] for name in ("name", "title", "site") if name in values}
    expected = {name: value for name, value in (("expected_serial", serial), ("expected_uuid", uuid)) if value}
    named = {"name": host_name(serial or uuid)} | given
    return named | expected | {"labels": _labels(values.get("labels", "")), "desired_state": "onboarded"}


def _labels(cell: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in filter(None, (part.strip() for part in re.split(r"[;\n]", cell))):
        key, equals, value = each.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{each[:64]!r}: write key=value, with semicolons between them")
        found[key.strip()] = value.strip()
    return found


class _Undone(Exception):
    """Takes a dry run back."""


async def write(store: Writes, lines: Sequence[Line], actor: Actor, *, dry_run: bool = False) -> Registered:
    """Make a host of each that is none yet, approved. Raises Invalid naming lines; then nothing was written."""
    done = Registered()

    async def once() -> None:
        done.created, done.known = [], []
        async with store.transaction() as w:
            await _write(w, lines, actor, done)
            if dry_run:
                raise _Undone

    try:
        await store.retrying(once)
    except _Undone:
        pass
    done.notes = [{"line": line.number, "detail": line.note} for line in lines if line.note]
    return done


async def _write(w: Writer, lines: Sequence[Line], actor: Actor, done: Registered) -> None:
    problems: list[Problem] = []
    for line in lines:
        serial, uuid = serial_key(line.serial), uuid_key(line.uuid)
        spelled = sorted({str(line.serial), serial, serial.upper()}) if serial else []
        there = await w.tx.raw.fetchrow(SQL["recognised_hosts"], serial, uuid, spelled, None)
        if there is not None and not await w.inside(HOST, there["id"], actor):
            problems.append(Problem(f"/lines/{line.number}", "is known already, as a host that your role does not hold for"))
            continue
        if there is not None:
            done.known.append({"line": line.number, "id": there["id"], "name": there["name"]})
            continue
        try:
            id = await w.create(HOST, dict(line.body), actor)
        except InventoryError as error:
            problems += _placed(line, error)
            continue
        done.created.append({"line": line.number, "id": id, "name": (await w.load(HOST, id))["name"]})
    if problems:
        raise _wrong(problems)


def _placed(line: Line, error: InventoryError) -> list[Problem]:
    """What is wrong with a line, by its columns."""
    if not error.errors:
        return [Problem(f"/lines/{line.number}", error.detail)]
    return [Problem(f"/lines/{line.number}{problem.pointer.replace('/expected_', '/')}", problem.detail) for problem in error.errors]


def _wrong(problems: Sequence[Problem]) -> Invalid:
    told = tuple(problems[:TOLD])
    more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
    return Invalid("; ".join(f"{_where(p.pointer)}: {p.detail}" for p in told) + more, errors=told)


def _where(pointer: str) -> str:
    """`/lines/7/serial` as `line 7, serial`."""
    match pointer.strip("/").split("/"):
        case ["lines", number, *rest]:
            return ", ".join([f"line {number}", *rest])
    return pointer.strip("/")
