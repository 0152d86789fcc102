"""Secrets of configs on the command line: they go there, come back as marks, and are sealed anew by a command."""

import json
import sys
from pathlib import Path

import pytest

from tests.front.conftest import Api, Fleet
from tests.front.test_cli import ok

PLAIN = "hunter2-on-the-command-line"
DOCUMENT = f"""
kind: config
name: cli-secret
selector: name = nowhere
secrets:
  password: {PLAIN}
files:
  - path: /etc/app/key
    template: "p={{{{ secrets.password }}}}"
"""


def test_round_and_round(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied, applied again, taken along and applied, edited, replaced and removed: what is shown never holds a value."""
    document, taken = tmp_path / "config.yaml", tmp_path / "taken.yaml"
    document.write_text(DOCUMENT)
    assert ok(fleet("apply", "-f", str(document))) == "config/cli-secret created\n"
    assert ok(fleet("apply", "-f", str(document))) == "config/cli-secret unchanged\n"
    assert ok(fleet("diff", "-f", str(document))) == ""
    taken.write_text(ok(fleet("get", "config", "cli-secret", "-o", "yaml")))
    assert "set: true" in taken.read_text() and PLAIN not in taken.read_text()
    assert ok(fleet("apply", "-f", str(taken))) == "config/cli-secret unchanged\n"
    described = ok(fleet("describe", "config", "cli-secret"))
    assert "SECRETS:\n  password: set " in described and PLAIN not in described

    document.write_text(DOCUMENT.replace(PLAIN, PLAIN.upper()))
    difference = ok(fleet("diff", "-f", str(document)))
    assert "changed_at" in difference and PLAIN.upper() not in difference
    assert ok(fleet("apply", "-f", str(document))) == "config/cli-secret configured\n"

    editor = tmp_path / "editor.py"
    editor.write_text(
        "import pathlib, re, sys; path = pathlib.Path(sys.argv[1])\ntext = path.read_text()\nassert 'hunter' not in text.lower()\n"
    )
    with editor.open("a") as more:
        more.write("path.write_text(re.sub(r'password:(\\n    .*){2}', 'password: edited\\n  other: another', text))\n")
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    ok(fleet("edit", "config", "cli-secret"))
    found = json.loads(ok(fleet("get", "config", "cli-secret", "-o", "json")))
    assert set(found["secrets"]) == {"password", "other"} and found["generation"] == 3


def test_the_key_is_exchanged(fleet: Fleet, api: Api) -> None:
    """`show` says which it is and what lies under it; `rotate` makes another; without the installation's secrets neither does."""
    place = ("--secrets", str(api.secrets), "--database", api.database)
    ok(fleet("apply", "-f", "-", input=DOCUMENT.replace("cli-secret", "cli-rotated")))
    before = json.loads(ok(fleet("secrets", "show", *place, "-o", "json")))
    assert before["secrets"] >= 1 and before["older"] == 0
    assert "sealed anew" in fleet("secrets", "rotate", *place).output
    after = json.loads(ok(fleet("secrets", "show", *place, "-o", "json")))
    assert after["key"] != before["key"] and (after["secrets"], after["older"]) == (before["secrets"], 0)
    ok(fleet("apply", "-f", "-", input=DOCUMENT.replace("cli-secret", "cli-rotated").replace(PLAIN, "another")))
    refused = fleet("secrets", "rotate", "--secrets", "/nowhere", "--database", api.database)
    assert refused.exit_code == 2 and "has no vault.key" in refused.output
