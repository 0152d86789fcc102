"""Tables, ages and sizes, the order of applying, patches and waits: everything of the command line that decides without asking anyone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleetward.cli import describing, events, render
from fleetward.cli.apply import comparable, in_order, to_set
from fleetward.cli.configuration import from_file
from fleetward.cli.documents import Document
from fleetward.cli.exits import CommandError, words_for
from fleetward.cli.resources import merge_patch, order_by
from fleetward.cli.wait import condition, is_current, seconds
from fleetward.client import ApiError, Conflict, Event, FieldError, Kind

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("title", "", "-"),
        ("title", None, "-"),
        ("present", True, "yes"),
        ("present", False, "no"),
        ("cpu_cores", 8, "8"),
        ("memory_bytes", 16 * 1024**3, "16 GiB"),
        ("memory_bytes", 1000, "1000 B"),
        ("disk_bytes", 512_110_190_592, "477 GiB"),
        ("last_seen", ago(seconds=42), "42s"),
        ("last_seen", ago(minutes=59), "59m"),
        ("created_at", ago(hours=47), "47h"),
        ("created_at", ago(days=400), "400d"),
        ("expires_at", ago(minutes=-15), "in 15m"),
        ("created_at", "yesterday", "yesterday"),
        ("labels", {"line": "4", "hall": "n"}, "line=4,hall=n"),
        ("macs", ["a", "b"], "a,b"),
        ("title", "two\nlines", "two lines"),
        ("title", "x" * 80, "x" * 59 + "…"),
    ],
)
def test_cells(column: str, value: Any, shown: str) -> None:
    """A value in a table is short, on one line, and says its unit."""
    assert render.cell(column, value, NOW) == shown


def test_a_table_is_aligned() -> None:
    """Columns are as wide as their widest cell, with nothing behind the last."""
    assert render.table(["NAME", "SITE"], [["a", "berlin"], ["longer-name", "-"]]) == [
        "NAME         SITE",
        "a            berlin",
        "longer-name  -",
    ]
    assert render.table([], []) == []


def test_values_by_path() -> None:
    """Dots lead into members; a label's key may hold dots itself."""
    resource = {"status": {"reason": "Halted"}, "labels": {"a.b": "c"}, "plain.dotted": 1}
    paths = ("status.reason", "status.none.deeper", "labels.a.b", "plain.dotted", "absent")
    assert [render.value_at(resource, path) for path in paths] == ["Halted", None, "c", 1, None]


def test_the_story_of_a_resource() -> None:
    """`explain` in sentences: the summary, then each cause with since and next attempt."""
    told = {
        "summary": "not as wanted",
        "causes": [{"reason": "Retrying", "message": "read-only", "since": ago(minutes=3), "next_attempt_at": ago(seconds=-30)}],
    }
    assert render.story(told, NOW) == ["not as wanted", "- Retrying, for 3m: read-only; next attempt in 30s"]


def kind(name: str, **references: str) -> Kind:
    return Kind(
        name, f"{name}s", name, "declarative", "", (), (), tuple({"name": field, "reference": to} for field, to in references.items())
    )


def test_documents_are_applied_after_what_they_refer_to() -> None:
    """Stable otherwise; names that are not among the documents, and circles, are left to the server."""
    region, site = kind("region", parent="region"), kind("site", region="region")
    given = [
        (site, Document("f", 1, "site", "s", {"region": "child"})),
        (region, Document("f", 2, "region", "child", {"parent": "top"})),
        (region, Document("f", 3, "region", "top", {"parent": "elsewhere"})),
        (region, Document("f", 4, "region", "x", {"parent": "y"})),
        (region, Document("f", 5, "region", "y", {"parent": "x"})),
    ]
    assert [document.name for _, document in in_order(given)] == ["top", "child", "s", "y", "x"]


def test_only_differences_are_sent() -> None:
    """An exported resource names much that is as it is, and some that nobody may set."""
    before = {"name": "a", "title": "old", "cpu_cores": 4, "labels": {"a": "b"}}
    assert to_set({"name": "a", "title": "new", "cpu_cores": 4, "site": "x"}, before) == {"title": "new", "site": "x"}
    assert comparable({"version": 3, "title": "t", "status": {}}) == {"title": "t"}


def test_merge_patches() -> None:
    """RFC 7396: null for what is gone, objects by members, lists as a whole."""
    before = {"title": "a", "labels": {"x": "1", "y": "2"}, "files": [1], "site": "s"}
    after = {"title": "a", "labels": {"x": "3"}, "files": [1, 2]}
    assert merge_patch(before, after) == {"labels": {"x": "3", "y": None}, "files": [1, 2], "site": None}


def test_sorting_as_the_api_wants_it() -> None:
    """A minus in front is `desc` behind."""
    assert order_by("-last_seen, name") == "last_seen desc, name"
    assert order_by("name desc") == "name desc"
    assert order_by(None) is None


def test_durations() -> None:
    """Units add up; anything else is refused."""
    assert [seconds(text) for text in ("60s", "1h30m", "250ms", "90", "1.5m")] == [60, 5400, 0.25, 90, 90]
    for text in ("", "soon", "5 m", "m5", "-3s"):
        with pytest.raises(CommandError):
            seconds(text)


def test_current_means_states_generation_and_rest() -> None:
    """Neither an older generation nor a manager at work counts as current."""
    good = {
        "desired_state": "present",
        "current_state": "present",
        "generation": 3,
        "observed_generation": 3,
        "status": {"indicator": "idle"},
    }
    assert is_current(good)
    for worse in ({"current_state": "absent"}, {"observed_generation": 2}, {"status": {"indicator": "in_progress"}}):
        assert not is_current(good | worse)
    assert not is_current(None)
    assert is_current({"desired_state": None, "current_state": None, "generation": 1, "observed_generation": None, "status": None})


def test_conditions_on_fields() -> None:
    """A field's value is compared as it is written."""
    resource = {"status": {"reason": "Halted"}, "present": True, "site": None, "cpu_cores": 4}
    for text in ("status.reason=Halted", "present=true", "site=null", "cpu_cores=4"):
        assert condition(text)(resource)
    assert not condition("present=false")(resource)
    assert condition("deleted")(None)


def test_configuration_file(tmp_path: Any) -> None:
    """fleetward.toml becomes environment variables; what is no setting is named."""
    file = tmp_path / "fleetward.toml"
    file.write_text('database = "postgresql://db/fleet"\ntopic_root = "plant"\n')
    assert from_file(file) == {"FLEETWARD_DATABASE": "postgresql://db/fleet", "FLEETWARD_TOPIC_ROOT": "plant"}
    for text, words in (
        ('datbase = "x"', "datbase: there is no such setting"),
        ("database = 4", "database: must be text"),
        ("database", "Expected"),
    ):
        file.write_text(text)
        with pytest.raises(CommandError, match=words):
            from_file(file)


@pytest.mark.parametrize(
    ("status", "pointer", "detail", "said"),
    [
        (409, "/name", "is taken", "there is a site named x already"),
        (422, "/timezone", "is no zone", "/timezone: is no zone"),
        (400, "since", "since: must be a time", "since: must be a time"),
    ],
)
def test_a_refusal_says_which_and_why_once(status: int, pointer: str, detail: str, said: str) -> None:
    """Of a conflict what it is with; of a member where it is, with its name once."""
    kind = Conflict if status == 409 else ApiError
    assert words_for(kind(status, "Refused", "there is a site named x already", [FieldError(pointer, detail)])) == said


def test_what_is_nested_is_described_whole() -> None:
    """As YAML below its name, not cut off in its line; a manager is called one."""
    kind = Kind("host", "hosts", "host", "", "", (), (), ())
    body = {"at": ago(seconds=5), "actor": {"type": "manager", "name": "host"}}
    told = list(describing.description(kind, {"policy": {"roots": ["/srv"]}}, {}, [Event(7, "host", "h", "updated", {}, body)], NOW))
    assert told[:3] == ["policy:", "  roots:", "  - /srv"]
    assert "host manager" in told[-1]


@pytest.mark.parametrize(("more", "shown"), [({}, "created"), ({"scope": "entered"}, "entered")])
def test_what_came_into_a_scope_was_not_created(more: dict[str, str], shown: str) -> None:
    """An event says what it is to the one who reads it."""
    body = {"at": ago(seconds=5), "actor": {"type": "user", "name": "ann"}, **more}
    assert events.row(Event(7, "host", "host-1", "created", {"name": "gw"}, body))[2:] == [shown, "host/gw", "-", "ann"]
