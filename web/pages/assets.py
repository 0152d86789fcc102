"""Style, scripts and icons, under a path that changes with their content: `/assets/<digest>/<name>`.

So browsers keep them for good and never show an old one, and scripts import each other by relative paths without a bundler. For
everybody: they say nothing about the installation. The digest is taken once, at the first use.
"""

import hashlib
from functools import cache
from pathlib import Path

from quart import Blueprint, Response, send_from_directory

blueprint = Blueprint("assets", __name__)

STATIC = Path(__file__).resolve().parent.parent / "static"
KEPT_S: int = 365 * 24 * 3600
"""How long a browser may keep them, in seconds: a year, which is for ever."""


@cache
def digest() -> str:
    """Of all files below `static`, names included."""
    hashed = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            hashed.update(str(path.relative_to(STATIC)).encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:16]


def asset(name: str) -> str:
    """The path of a file below `static`; a global of the templates."""
    return f"/assets/{digest()}/{name}"


@blueprint.get("/assets/<version>/<path:name>")
async def serve(version: str, name: str) -> Response:
    """An old version's path gives the current file, for an hour of a page that is still open, and is not kept."""
    response = await send_from_directory(STATIC, name)
    response.headers["Cache-Control"] = f"public, max-age={KEPT_S}, immutable" if version == digest() else "no-cache"
    return response
