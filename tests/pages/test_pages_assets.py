"""What is vendored is what the lock pins, complete and unchanged, and is served so that browsers keep it."""

import hashlib
import json
import re
from pathlib import Path

from tests.pages.conftest import Fleet
from web.pages.assets import STATIC, asset

VENDOR = STATIC / "vendor"
VENDORING = Path(__file__).resolve().parents[2] / "web" / "vendoring"


def test_vendored_files_are_as_they_came() -> None:
    """Each file has the hash that it was vendored with, and none is there besides."""
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    found = {
        path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir() if path.name != "manifest.json"
    }
    assert found == manifest["files"]


def test_the_manifest_is_of_the_lock() -> None:
    """Versions and integrity are those of package-lock.json, which names no registry."""
    text = (VENDORING / "package-lock.json").read_text()
    assert "http" not in text
    locked = {path.removeprefix("node_modules/"): entry for path, entry in json.loads(text)["packages"].items() if path}
    manifest = json.loads((VENDOR / "manifest.json").read_text())["packages"]
    for name, entry in manifest.items():
        assert {"version": locked[name]["version"], "integrity": locked[name]["integrity"]}.items() <= entry.items()
    assert manifest.keys() == locked.keys()


def test_every_icon_that_is_used_is_there() -> None:
    """A name in a template or a module that the sprite lacks would show nothing."""
    sprite = set(re.findall(r'<symbol id="([\w-]+)"', (VENDOR / "icons.svg").read_text()))
    here = STATIC.parent
    used = {name for path in here.glob("templates/*.html") for name in re.findall(r'icon\("([\w-]+)"', path.read_text())}
    for path in here.glob("pages/*.py"):
        used |= set(re.findall(r'"[\w-]+": "((?:[a-z]+-)*[a-z0-9]+)",', path.read_text())) & sprite
    assert len(used) > 30 and used <= sprite


def test_assets_are_served_for_good(fleet: Fleet) -> None:
    """Under the digest's path every file is there to be kept; under an old one it is there, but not to be kept."""
    with fleet.site.client(None) as client:
        for path in STATIC.rglob("*"):
            if path.is_file():
                name = str(path.relative_to(STATIC))
                answer = client.get(asset(name))
                assert answer.status_code == 200 and answer.content == path.read_bytes()
                assert "immutable" in answer.headers["Cache-Control"]
        assert client.get("/assets/0000/app.css").headers["Cache-Control"] == "no-cache"
        assert client.get("/assets/0000/../app.py").status_code == 404
