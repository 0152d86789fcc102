"""YAML files: what is read from them, and that each mistake is named with file, document number and field, before anything is sent."""

from pathlib import Path

import pytest

from fleetward.cli import render
from fleetward.cli.documents import parse, read, scalar
from fleetward.cli.exits import CommandError


def test_what_is_written_is_what_is_meant() -> None:
    """Octal modes, times and yes/no stay text; numbers and true/false do not."""
    [document] = parse(
        "f.yaml",
        "kind: config\nname: x\nmode: 0644\nat: 2026-11-22\nanswer: yes\nclock: 12:30\ncount: 12\nratio: 1.5\non: true\nnone: null\n",
    )
    assert document.body == {
        "name": "x",
        "mode": "0644",
        "at": "2026-11-22",
        "answer": "yes",
        "clock": "12:30",
        "count": 12,
        "ratio": 1.5,
        "on": True,
        "none": None,
    }


def test_several_documents_and_lists() -> None:
    """Documents are numbered; empty ones are none; what `get -o json` prints is taken apart."""
    text = '---\nkind: site\nname: a\n---\n---\n{"items": [{"kind": "site", "name": "b"}, {"kind": "site", "name": "c"}], "position": 4}\n'
    assert [(one.number, one.name) for one in parse("f", text)] == [(1, "a"), (3, "b"), (3, "c")]


def test_an_exported_resource_can_be_read_back() -> None:
    """What `get -o yaml` prints comes back as what a user may set; texts of several lines survive exactly."""
    resource = {
        "id": "conf-1",
        "kind": "config",
        "name": "x",
        "version": 7,
        "status": {"halted": False},
        "files": [{"content": "a\n  b\n\n# c"}],
    }
    [document] = parse("f", render.to_yaml(resource))
    assert document.body == {"name": "x", "files": [{"content": "a\n  b\n\n# c"}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("just text", "document 1: must be a mapping"),
        ("- kind: site", "document 1: must be a mapping"),
        ("name: x", "document 1: kind: must be there"),
        ("kind: site", "document 1: name: must be there"),
        ("kind: site\nname: 4", "name: must be there, as text"),
        ("kind: [site]\nname: x", "kind: must be there, as text"),
        ("kind: site\nname: x\n---\nkind: site", "document 2: name"),
        ("kind: site\nname: x\nname: y", "line 3, column 1: name: is there twice"),
        ("kind: site\nname: x\nlabels: {a: 1, a: 2}", "a: is there twice"),
        ("kind: site\nname: x\nlabels: &l {a: b}\nmore: *l", "line 4, column 7: aliases are not taken"),
        ("kind: site\nname: x\n? [a, b]\n: c", "a key must be text"),
        ("kind: site\nname: [unclosed", "line 2"),
        ("kind: site\n name: x", "line 2"),
        ("kind: site\nname: x\n\tlabels: {}", "line 3"),
        ("kind: !!python/object:os.system site\nname: x", "line 1"),
        ("kind: site\nname: x\ntitle: \x00", "document 1"),
        ("[" * 5000, "document 1"),
        ("kind: site\nname: x\n---\nkind: site\nname: x", "document 2 (site x): is there already, in"),
        ("", "no document in it"),
        ("# only a comment\n", "no document in it"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    """Each with the file, the document's number, and the field or the line; never a traceback."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(CommandError) as refused:
        read((str(file),))
    assert str(refused.value).startswith(str(file))
    assert words in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, binary, and empty places are named."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for place, words in ((tmp_path / "missing.yaml", "No such file"), (binary, "UTF-8"), (tmp_path, "UTF-8")):
        with pytest.raises(CommandError, match=words):
            read((str(place),))


def test_a_directory_is_its_files_in_order(tmp_path: Path) -> None:
    """YAML and JSON files at any depth, by path; others are none of its business."""
    (tmp_path / "b").mkdir()
    for name, text in (("a.yml", "kind: site\nname: a"), ("b/c.json", '{"kind": "site", "name": "c"}'), ("README.md", "hello: [")):
        (tmp_path / name).write_text(text)
    assert [document.name for document in read((str(tmp_path),))] == ["a", "c"]


def test_scalars_on_the_command_line() -> None:
    """`--set` values are read as in a file."""
    assert [scalar(text) for text in ("4", "0644", "true", "yes", "[a, 1]", "")] == [4, "0644", True, "yes", ["a", 1], None]
