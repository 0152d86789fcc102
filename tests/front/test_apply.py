"""`apply` and `diff` against the real API: what files say is brought about, and nothing beyond it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Fleet = Callable[..., Result]

PLACES = """\
kind: site
name: {p}-hall
region: {p}-north
timezone: Europe/Berlin
labels: {{line: "4"}}
---
kind: region
name: {p}-north
parent: {p}-top
---
kind: region
name: {p}-top
title: Top
"""


def ok(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def test_apply_creates_changes_and_leaves_alone(fleet: Fleet, tmp_path: Path) -> None:
    """First created, in the order of their references; then unchanged; then only what a file says differently is changed."""
    file = tmp_path / "places.yaml"
    file.write_text(PLACES.format(p="one"))
    order = ["region/one-top", "region/one-north", "site/one-hall"]
    assert ok(fleet("apply", "-f", str(file))) == [f"{name} created" for name in order]
    assert ok(fleet("apply", "-f", str(file))) == [f"{name} unchanged" for name in order]
    before = json.loads("\n".join(ok(fleet("get", "site", "one-hall", "-o", "json"))))
    ok(fleet("label", "site", "one-hall", "extra=kept"))
    file.write_text(PLACES.format(p="one").replace("title: Top", "title: The top"))
    assert ok(fleet("apply", "-f", str(file))) == ["region/one-top configured", "region/one-north unchanged", "site/one-hall unchanged"]
    after = json.loads("\n".join(ok(fleet("get", "site", "one-hall", "-o", "json"))))
    assert after["labels"] == {"line": "4", "extra": "kept"}
    assert after["generation"] == before["generation"]


def test_dry_run_and_diff_write_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Both see documents that refer to each other before either exists, show what would come, and leave no trace."""
    file = tmp_path / "places.yaml"
    file.write_text(PLACES.format(p="dry"))
    assert ok(fleet("apply", "-f", str(file), "--dry-run")) == [
        "region/dry-top created (dry run)",
        "region/dry-north created (dry run)",
        "site/dry-hall created (dry run)",
    ]
    shown = ok(fleet("diff", "-f", str(file)))
    assert "+timezone: Europe/Berlin" in shown
    assert fleet("get", "region", "dry-top").exit_code == 3
    ok(fleet("apply", "-f", str(file)))
    assert ok(fleet("diff", "-f", str(file), "--exit-code")) == []
    file.write_text(PLACES.format(p="dry").replace("Berlin", "Paris"))
    different = fleet("diff", "-f", str(file), "--exit-code")
    assert different.exit_code == 1
    assert {"-timezone: Europe/Berlin", "+timezone: Europe/Paris"} <= set(different.stdout.splitlines())
    assert json.loads("\n".join(ok(fleet("get", "site", "dry-hall", "-o", "json"))))["timezone"] == "Europe/Berlin"


def test_one_wrong_document_leaves_nothing_half_applied(fleet: Fleet, tmp_path: Path) -> None:
    """Whatever the server refuses, wherever it stands: the documents before it are not written either."""
    file = tmp_path / "places.yaml"
    file.write_text("kind: region\nname: half-1\n---\nkind: region\nname: half-2\nbogus: 1\n---\nkind: region\nname: half-3\n")
    refused = fleet("apply", "-f", str(file))
    assert refused.exit_code == 1
    assert "document 2 (region half-2): /bogus" in refused.stderr
    assert not refused.stdout
    assert fleet("get", "region", "half-1").exit_code == 3


def test_what_only_works_in_order_is_applied_in_order(fleet: Fleet, tmp_path: Path) -> None:
    """Two regions change places, and a site moves to a region that the same file makes: trying it first must not refuse it."""
    file = tmp_path / "places.yaml"
    file.write_text("kind: region\nname: turn-a\n---\nkind: region\nname: turn-b\nparent: turn-a\n---\nkind: site\nname: turn-s\n")
    ok(fleet("apply", "-f", str(file)))
    file.write_text(
        "kind: region\nname: turn-a\nparent: turn-b\n---\nkind: region\nname: turn-b\nparent: null\n---\n"
        "kind: site\nname: turn-s\nregion: turn-c\n---\nkind: region\nname: turn-c\n"
    )
    assert ok(fleet("apply", "-f", str(file))) == [
        "region/turn-b configured",
        "region/turn-a configured",
        "region/turn-c created",
        "site/turn-s configured",
    ]


def test_prune_deletes_what_the_files_have_ceased_to_mention(fleet: Fleet, tmp_path: Path) -> None:
    """And nothing that others have made; without an earlier apply it deletes nothing, and says so."""
    directory = tmp_path / "fleet"
    directory.mkdir()
    for name in ("p-one", "p-two"):
        (directory / f"{name}.yaml").write_text(f"kind: region\nname: {name}\n")
    ok(fleet("create", "region", "p-of-others"))
    first = fleet("apply", "-f", str(directory), "--prune")
    assert "nothing to prune" in first.stderr
    (directory / "p-two.yaml").unlink()
    assert "region/p-two pruned (dry run)" in ok(fleet("apply", "-f", str(directory), "--prune", "--dry-run"))
    assert ok(fleet("apply", "-f", str(directory), "--prune")) == ["region/p-one unchanged", "region/p-two pruned"]
    assert fleet("get", "region", "p-two").exit_code == 3
    ok(fleet("get", "region", "p-of-others"))
    assert ok(fleet("apply", "-f", str(directory), "--prune")) == ["region/p-one unchanged"]


def test_an_export_applies_as_unchanged(fleet: Fleet, tmp_path: Path) -> None:
    """`get -o yaml` and `get -o json` are files that `apply` takes, and that change nothing."""
    ok(fleet("create", "region", "exported", "--label", "a=b"))
    for output in ("yaml", "json"):
        exported = "\n".join(ok(fleet("get", "regions", "--filter", 'name = "exported"', "-o", output)))
        assert ok(fleet("apply", "-f", "-", input=exported)) == ["region/exported unchanged"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("kind: spaceship\nname: x", 2, "document 1 (spaceship x): kind: spaceship is no kind"),
        ("kind: site\nname: x\ntimezone: Mars", 1, "document 1 (site x): /timezone"),
        ("kind: site\nname: x\nregion: nowhere", 1, "document 1 (site x): /region"),
        ("kind: site\nname: x\nlatitude: 91", 1, "/latitude"),
        ("kind: site\nname: x\nsurprise: 1", 1, "/surprise"),
        ("kind: site\nname: X Y", 1, "/name"),
        ("kind: config\nname: x\nselector: presence = online\nfiles: []", 1, "/selector"),
        ("kind: config\nname: x\nselector: arch =\nfiles: []", 1, "/selector"),
        ("kind: config\nname: x\nselector: name = a\nfiles: [{path: relative, content: x}]", 1, "/files/0/path"),
        ("kind: config\nname: x\nselector: name = a\nfiles: [{path: /a, content: x, mode: 644}]", 1, "/files/0/mode"),
        ("kind: component\nname: x", 1, "document 1 (component x)"),
    ],
)
def test_mistakes_are_told_with_document_and_field(fleet: Fleet, tmp_path: Path, text: str, code: int, words: str) -> None:
    """The server's word on a field, with the file and the document it stands in; nothing is half-written."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    for more in (("--dry-run",), ()):
        refused = fleet("apply", "-f", str(file), *more)
        assert (refused.exit_code, refused.stdout) == (code, ""), refused.stderr
        assert str(file) in refused.stderr
        assert words in refused.stderr
