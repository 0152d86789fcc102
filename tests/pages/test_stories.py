"""Changes as sentences, differences and forms: what the pages decide without a database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from inventory.changes import Change, Move
from inventory.errors import Invalid, Problem
from web.pages import config_form
from web.pages.differences import compare
from web.pages.formats import ago, size, words
from web.pages.labels import read_labels
from web.pages.listing import Wrong, quoted
from web.pages.places import tree
from web.pages.sheets import harmless
from web.pages.story import gathered, tell, without_company, without_parts

AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def change(kind: str, id: str, changed: tuple[str, ...] = (), *, op: str = "updated", host: str | None = None, **states: Any) -> Change:
    """A change from `before` to `after`."""
    return Change(
        1, kind, id, op, 2, 1, changed, states.get("after", {}), states.get("before"), host, {"type": "user", "name": "admin"}, AT
    )


@pytest.mark.parametrize(
    ("told", "name", "verb"),
    [
        (change("component", "c", op="created", host="h", after={"type": "disk", "attributes": {"name": "sda"}}), "disk sda", "found"),
        (change("component", "c", ("present",), after={"type": "nic", "key": "aa", "present": False}), "nic aa", "vanished"),
        (change("host", "h", ("presence",), after={"name": "gw", "presence": "offline"}), "gw", "is offline"),
        (
            change("host-config", "x", ("status.reason",), after={"config": "c1", "status": {"halted": True, "reason": "NoSpace"}}),
            "config Greeting",
            "halted: no space",
        ),
        (change("config", "c1", ("retry",), after={"name": "motd"}), "motd", "to be tried again"),
        (change("site", "s", op="deleted", before={"name": "lyon", "title": "Lyon"}, after=None), "Lyon", "deleted"),
    ],
)
def test_a_change_is_told(told: Change, name: str, verb: str) -> None:
    """Each kind of change has its sentence."""
    line = tell(told, {"c1": "Greeting"})
    assert (line.name, line.verb, line.actor) == (name, verb, "admin")


def test_what_changed_is_told_with_its_old_value() -> None:
    """Paths with both values; bytes as sizes; files by name; what only the machinery knows not at all."""
    before = {"labels": {"line": "4"}, "memory_bytes": 1024**3, "files": [{"path": "/a", "content": "1"}], "observed_generation": 1}
    after = {"labels": {"line": "5"}, "memory_bytes": 2 * 1024**3, "files": [{"path": "/b", "content": "1"}], "observed_generation": 2}
    told = tell(change("host", "h", ("labels.line", "memory_bytes", "files", "observed_generation"), before=before, after=after), {})
    assert told.details == (("labels.line", "4", "5"), ("memory_bytes", "1 GiB", "2 GiB"), ("files", "—", "/b added, /a removed"))


def test_the_same_of_many_hosts_is_told_once() -> None:
    """Newest first, with the hosts that it happened to; what is of another actor or verb stays apart."""
    lines = [tell(change("host", f"h{n}", ("presence",), after={"name": f"gw-{n}", "presence": "online"}), {}) for n in range(3)]
    lines.append(tell(change("host", "h9", ("presence",), after={"name": "gw-9", "presence": "offline"}), {}))
    groups = gathered(lines, 10)
    assert [(each.line.verb, list(each.hosts.values())) for each in groups] == [
        ("is online", ["gw-0", "gw-1", "gw-2"]),
        ("is offline", ["gw-9"]),
    ]


@pytest.mark.parametrize(("move", "op", "verb"), [("entered", "created", "came into your scope"), ("left", "deleted", "left your scope")])
def test_who_moves_by_an_edit_was_neither_found_nor_deleted(move: Move, op: str, verb: str) -> None:
    """Of a host that comes into the reader's scope there is one line, and what hangs on it is said to have come with it."""
    things = [("host", "h1", "h1"), ("component", "c1", "h1"), ("notification", "n1", "h1"), ("command", "k1", "h1")]
    states: dict[str, Any] = (
        {"after": {"name": "gw", "severity": "error"}} if op == "created" else {"before": {"name": "gw"}, "after": None}
    )
    moves = [replace(change(kind, id, op=op, host=host, **states), scope=move) for kind, id, host in things]
    lines = [tell(each, {"h1": "gw"}) for each in moves]
    assert {(line.verb, line.tone, line.details, line.to_host) for line in lines} == {(verb, "mute", (), "with")}
    assert without_company(moves) == moves[:1]
    assert without_company(moves[1:]) == moves[1:], "where hosts are not asked for, what moved with them is told by itself"


def test_what_goes_with_a_host_is_not_told() -> None:
    """Of a host that was deleted with its disk there is one line; a disk that another host lost stays told."""
    things = [("host", "h1", "h1"), ("component", "c1", "h1"), ("component", "c2", "h2")]
    deletions = [change(kind, id, op="deleted", host=host, before={"name": id}) for kind, id, host in things]
    assert [line.change.id for line in without_parts(tell(each, {}) for each in deletions)] == ["h1", "c2"]


@pytest.mark.parametrize(
    ("text", "cell"), [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("-2", "'-2"), ("10.0.0.1", "10.0.0.1"), ("", "")]
)
def test_a_cell_is_no_formula(text: str, cell: str) -> None:
    """What a device calls itself is never worked out by a spreadsheet."""
    assert harmless(text) == cell


def test_a_difference_by_lines() -> None:
    """Members with both values; a changed file with its lines, an added one in full; nothing where nothing differs."""
    old = {"selector": "", "files": [{"path": "/a", "content": "1\n2\n", "mode": "0644"}]}
    new = {"selector": "x", "files": [{"path": "/a", "content": "1\n3\n", "mode": "0600"}, {"path": "/b", "template": "t"}]}
    found = compare(old, new)
    assert found.members == (("selector", "—", "x"),)
    assert [(file.path, file.what, file.attributes) for file in found.files] == [
        ("/a", "changed", (("mode", "0644", "0600"),)),
        ("/b", "added", ()),
    ]
    assert [(line.sign, line.text) for line in found.files[0].lines] == [(" ", "1"), ("-", "2"), ("+", "3")]
    assert not compare(old, old)


PARTS = ("name", "value", "drop", "kept")


def test_a_config_survives_its_form() -> None:
    """A config read into the form and written back is the same, a command given as a list included."""
    files = [{"path": "/a", "content": "\n  x\r", "mode": "0600", "owner": "root"}, {"path": "/b", "template": "{{ x }}", "mode": "0644"}]
    config = {"name": "c", "title": "", "labels": {"a": "b"}, "selector": "x", "priority": -3, "version": 7, "files": files}
    config["on_change"] = {"command": ["systemctl", "reload", "a b"], "timeout_s": 9}
    config["secrets"] = {"kept": {"set": True, "changed_at": "2026-11-26T20:00:00.000Z"}}
    body, problems = config_form.body(config_form.of(config), {"a": "b"}, config)
    assert not problems
    assert body == {name: value for name, value in config.items() if name != "version"} | {"secrets": {}}


def test_secrets_as_typed() -> None:
    """An empty value keeps what is there, a box removes it, a new row needs both its inputs; a row without either is none."""
    rows = [("kept", "", "", "yes"), ("gone", "typed", "yes", "yes"), ("anew", "v 1", "", "yes"), (" new ", "v", "", ""), ("", "", "", "")]
    rows += [("new", "w", "", ""), ("lonely", "", "", ""), ("", "nameless", "", "")]
    form = {f"secret-{n}-{part}": value for n, row in enumerate(rows) for part, value in zip(PARTS, row, strict=True)}
    inputs = config_form.read(form)
    body, problems = config_form.body(inputs, {}, None)
    assert body["secrets"] == {"gone": None, "anew": "v 1", "new": "v"}
    assert {problem.pointer: problem.detail for problem in problems} == {
        "/secrets/5/name": "is there twice",
        "/secrets/6/value": "is needed",
        "/secrets/7/name": "is needed",
    }
    assert compare({"secrets": {"a": 1, "b": 1, "d": 1}}, {"secrets": {"a": 1, "b": 2, "c": 1}}).members == (
        ("secret b", "a value", "another value"),
        ("secret c", "—", "a value"),
        ("secret d", "a value", "—"),
    )


def test_line_ends_survive_a_browser() -> None:
    """A file with CRLF comes back from a browser with LF; as long as nobody edits it, it stays as it was."""
    config: dict[str, Any] = {"files": [{"path": "/a", "content": "x\r\ny\r\n"}], "on_change": None}
    for typed, kept in (("x\r\ny\r\n", "x\r\ny\r\n"), ("x\r\nz\r\n", "x\nz\n")):
        body, _ = config_form.body(config_form.read({"file-0-path": "/a", "file-0-text": typed}), {}, config)
        assert body["files"][0]["content"] == kept


def test_problems_find_their_inputs() -> None:
    """A pointer into a file is that file's input; what belongs to no input is kept apart."""
    pointers = (
        "/files/2/template",
        "/files/0",
        "/on_change/timeout_s",
        "/labels/x",
        "/nothing",
        "/secrets/0/name",
        "/secrets/db",
        "/secrets/a b",
    )
    inputs = config_form.read({"secret-0-name": "db", "secret-7-name": "a b"})
    placed = config_form.placed([Problem(pointer, pointer) for pointer in pointers], inputs)
    assert set(placed) == {"file-2-text", "file-0-path", "timeout_s", "labels", "", "secret-0-name", "secret-0-value", "secret-1-name"}


def test_labels_as_typed() -> None:
    """One a line; what is none is refused with its line."""
    assert read_labels(" a=1\n\nb = x=y ") == {"a": "1", "b": "x=y"}
    for text, words_ in (("a=1\nb", "line 2"), ("a=1\na=2", "twice")):
        with pytest.raises(Invalid, match=words_):
            read_labels(text)


def test_the_place_of_an_error() -> None:
    """The word at the column is marked; at the end of the text, a blank."""
    assert (Wrong("", "a = presense", 5).before, Wrong("", "a = presense", 5).token) == ("a = ", "presense")
    assert Wrong("", "a =", 4).token == " "
    assert quoted('a"b\\*') == '"a\\"b\\\\\\*"'


def test_health_is_rolled_up() -> None:
    """Counts of sites add up in the regions above; a region whose parent is not there is a root."""
    regions: list[dict[str, Any]] = [
        {"id": "r1", "kind": "region", "parent": None},
        {"id": "r2", "kind": "region", "parent": "r1"},
        {"id": "r3", "kind": "region", "parent": "gone"},
    ]
    sites: list[dict[str, Any]] = [{"id": "s1", "kind": "site", "region": "r2"}, {"id": "s2", "kind": "site", "region": None}]
    counts = {"hosts": 3, "online": 2, "stale": 0, "offline": 1, "halted": 0}
    roots = tree(regions, sites, {"s1": counts})
    assert [node.place["id"] for node in roots] == ["r1", "r3", "s2"]
    assert roots[0].counts == counts


def test_values_for_people() -> None:
    """Sizes in binary units, times by their largest unit, states as words."""
    assert (size(1536), size(None), size(16 * 1024**3)) == ("1.5 KiB", "—", "16 GiB")
    assert (ago("2026-11-22T17:55:00Z", AT), ago("2026-11-25T18:00:00Z", AT)) == ("5 min ago", "in 3 d")
    assert words("WaitingForDevice") == "waiting for device"
