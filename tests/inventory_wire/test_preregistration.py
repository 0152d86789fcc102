"""Pre-registration: sheets as people's programs write them, what is wrong with them, and the hosts that they become."""

from typing import Any

import pytest

from inventory.db import Database
from inventory.errors import Invalid
from inventory.preregistration import MOST_LINES, TOLD, Line, read, write
from inventory.store import Store
from tests.inventory_wire.test_enrollment import ADMIN

UUID = "4C4C4544-004B-5210-8051-B4C04F4A4D32"
SHEET = f"serial,uuid,name,title,site,labels\n5CG1234ABC,,press-9,Press 9,plant,line=4; hall=2\n,{UUID},,,,\n"


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as refused:
        read(text)
    return [(problem.pointer, problem.detail) for problem in refused.value.errors]


def test_a_sheet_is_read() -> None:
    """Each line with its number, what names the machine, and what makes its host."""
    [first, second] = read(SHEET)
    assert (first.number, first.serial, first.uuid) == (2, "5CG1234ABC", None)
    assert first.body == {
        "name": "press-9",
        "title": "Press 9",
        "site": "plant",
        "expected_serial": "5CG1234ABC",
        "labels": {"line": "4", "hall": "2"},
        "desired_state": "onboarded",
    }
    assert (second.number, second.uuid, second.body["name"]) == (3, UUID, UUID.lower())


@pytest.mark.parametrize(
    "text",
    [
        "serial,name\nAB1,a\n", "serial;name\r\nAB1;a\r\n", "serial\tname\nAB1\ta",
        "\ufeffserial,name\nAB1,a\n", "\n\nSerial,NAME\n\nAB1, a \n,\n",
        'Serial Number,Host\n"AB1","a"\n', "sn,host\nAB1,a",
    ],
)  # fmt: skip
def test_sheets_as_programs_write_them(text: str) -> None:
    """Commas, semicolons and tabs; a byte order mark, Windows' line ends, quotes, blank lines, other headings."""
    [line] = read(text)
    assert (line.serial, line.body["name"]) == ("AB1", "a")


WRONG: list[tuple[str, str, str]] = [
    ("", "/heading", "the first line names the columns"),
    ("serail\nAB1", "/heading", "there is no column 'serail'"),
    ("AB1\nAB2", "/heading", "there is no column 'ab1'"),
    ("name\na", "/heading", "serial or uuid is needed"),
    ("serial,serial\nAB1,AB2", "/heading", "twice"),
    ("serial\n", "/lines", "no machine"),
    ('serial\n"AB1', "/lines/2", "is no CSV"),
    ("serial,name\n,a", "/lines/2/serial", "is needed"),
    ("serial\nAB1,b", "/lines/2", "2 values under 1 headings"),
    ("serial\nTo Be Filled By O.E.M.", "/lines/2/serial", "many machines share"),
    ("uuid\n03000200-0400-0500-0006-000700080009", "/lines/2/uuid", "many machines share"),
    ("uuid\n4711", "/lines/2/uuid", "is no SMBIOS UUID"),
    ("serial\nAB1\nab1", "/lines/3", "the same machine as line 2"),
    ("serial,labels\nAB1,line", "/lines/2/labels", "write key=value"),
    ("serial\n" + "".join(f"AB{n}\n" for n in range(MOST_LINES + 1)), f"/lines/{MOST_LINES + 2}", "hand in several"),
]


@pytest.mark.parametrize(("text", "pointer", "words"), WRONG, ids=[row[1] + " " + row[2] for row in WRONG])
def test_what_is_wrong_with_a_sheet(text: str, pointer: str, words: str) -> None:
    """By line and column, with what to do."""
    [(where, detail)] = problems(text)
    assert where == pointer and words in detail


def test_everything_that_is_wrong_is_said() -> None:
    """Not the first thing alone; and not without end."""
    assert [where for where, _ in problems("serial,uuid\n0,\nAB1,\n,x\n")] == ["/lines/2/serial", "/lines/4/uuid"]
    assert len(problems("serial\n" + "0\n" * 500)) == TOLD


def test_a_placeholder_beside_a_uuid_counts_for_nothing() -> None:
    """The UUID will do, and that is said."""
    [line] = read(f"serial,uuid\nDefault string,{UUID}\n")
    assert line.serial is None and "expected_serial" not in line.body and "only the UUID counts" in line.note


async def test_hosts_are_written_down(db: Database, store: Store) -> None:
    """With everything in the sheet; a second time nothing changes."""
    site = await store.create("site", {"name": "plant"}, ADMIN)
    done = await write(store, read(SHEET), ADMIN)
    assert [(each["line"], each["name"]) for each in done.created] == [(2, "press-9"), (3, UUID.lower())]
    host = await store.get("host", "press-9")
    assert (host["site"], host["labels"], host["desired_state"]) == (site["id"], {"line": "4", "hall": "2"}, "onboarded")
    assert (host["expected_serial"], host["presence"], host["enrollment"]) == ("5CG1234ABC", "never", None)
    again = await write(store, read(SHEET), ADMIN)
    assert again.created == [] and [each["id"] for each in again.known] == [each["id"] for each in done.created]


async def test_all_lines_or_none(db: Database, store: Store) -> None:
    """What a line refers to is looked up; each that fits nothing is named, and nothing is written. Nor is it by a dry run."""
    with pytest.raises(Invalid) as refused:
        await write(store, read("serial,site,name\nAB1,,a\nAB2,nowhere,b\nAB3,,Not A Name\n"), ADMIN)
    assert [problem.pointer for problem in refused.value.errors] == ["/lines/3/site", "/lines/4/name"]
    assert len((await write(store, read("serial\nAB1\n"), ADMIN, dry_run=True)).created) == 1
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM host") == 0


async def test_names_that_are_taken_get_a_number(db: Database, store: Store) -> None:
    """As of any host."""
    lines = [Line(n, f"AB{n}", None, _body(f"AB{n}")) for n in (2, 3)]
    assert [each["name"] for each in (await write(store, lines, ADMIN)).created] == ["press", "press-2"]


def _body(serial: str) -> dict[str, Any]:
    return {"name": "press", "expected_serial": serial}
