#!/usr/bin/env python3
"""Brings the dashboard's libraries into `web/static/vendor`, from what package-lock.json pins. Run by hand when a version changes.

Needs npm, which nobody else does: what it writes is committed, with licences and hashes (`manifest.json`, checked by a test).
Icons become one sprite of those named in `ICONS`; of everything else single files are copied as they are.
"""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
TARGET = HERE.parent / "static" / "vendor"

FILES = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "idiomorph-ext.min.js": "idiomorph/dist/idiomorph-ext.min.js",
    "idiomorph.LICENSE": "idiomorph/LICENSE",
    "lucide.LICENSE": "lucide-static/LICENSE",
}

ICONS = (
    *("activity", "arrow-down", "arrow-up", "battery", "bell", "building-2", "check", "chevron-left", "chevron-right", "circle-alert"),
    *("circle-check", "circle-dashed", "circle-x", "circuit-board", "clock", "copy", "cpu", "ethernet-port", "file-cog", "git-compare"),
    *("gpu", "hard-drive", "history", "hourglass", "inbox", "info", "key-round", "keyboard", "layers", "layout-dashboard", "log-out"),
    *("map", "map-pin", "memory-stick", "menu", "monitor", "moon", "network", "pencil", "plus", "rotate-cw", "rows-3", "rows-4"),
    *("search", "server", "shield-check", "sun", "tag", "terminal", "thermometer", "trash-2", "triangle-alert", "unplug", "usb", "x"),
)


def main() -> None:
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name, source in FILES.items():
        shutil.copyfile(MODULES / source, TARGET / name)
    (TARGET / "icons.svg").write_text(sprite(), encoding="utf-8")
    write_manifest()
    shutil.rmtree(MODULES)


def sprite() -> str:
    """One SVG with a symbol an icon, to be used as `<use href="…/icons.svg#name">`."""
    symbols = "\n".join(_symbol(name) for name in sorted(ICONS))
    return f'<!-- lucide icons, ISC: see lucide.LICENSE --><svg xmlns="http://www.w3.org/2000/svg">\n{symbols}\n</svg>\n'


def _symbol(name: str) -> str:
    text = (MODULES / "lucide-static" / "icons" / f"{name}.svg").read_text(encoding="utf-8")
    found = re.search(r"<svg[^>]*>(.*)</svg>", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{name}: no SVG")
    return f'<symbol id="{name}" viewBox="0 0 24 24">{" ".join(found[1].split())}</symbol>'


def write_manifest() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {
        path.removeprefix("node_modules/"): {name: entry[name] for name in ("version", "license", "integrity")}
        for path, entry in lock["packages"].items()
        if path
    }
    files = {path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(TARGET.iterdir())}
    text = json.dumps({"packages": packages, "files": files}, indent=2) + "\n"
    (TARGET / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
