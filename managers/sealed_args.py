"""What a `config.apply` carries of secrets: sealed in the command's row, put into its arguments where it is signed.

So a command at rest, in the database and whatever shows it, says of a file with secrets in it no more than that; `inventory` can't open it.
Called by `managers.kinds.host_config`, which makes commands, and `managers.dispatch`, which signs them. Decision: docs/adr/0028-secrets.md.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from inventory.vault import Vault
from managers.rendering import Rendered

SHORTEST = 4
"""Characters of what is kept out of output: anything shorter is found in too much that is no secret."""


def put_away(vault: Vault, command: str, rendered: Rendered, secrets: Mapping[str, str]) -> str | None:
    """For the row of the command of this id; None where no file has secrets in it. Raises NoKey."""
    files = [file for file in rendered.files if file.secret]
    if not files:
        return None
    contents = {file.path: base64.b64encode(file.content).decode() for file in files}
    away = {"salt": rendered.salt, "contents": contents, "hidden": _hidden(b"\n".join(file.content for file in files), secrets)}
    return vault.seal(_context(command), json.dumps(away).encode())


def _hidden(contents: bytes, secrets: Mapping[str, str]) -> list[str]:
    """What the device keeps out of whatever on_change says: the lines of the secrets that it gets, and of no others."""
    lines = {line.strip() for secret in secrets.values() for line in secret.splitlines()}
    return sorted(line for line in lines if len(line) >= SHORTEST and line.encode() in contents)


def filled(vault: Vault, command: str, args: Mapping[str, Any], sealed: str | None) -> dict[str, Any]:
    """The arguments as the device gets them. Raises Unsealable, NoKey."""
    if sealed is None:
        return dict(args)
    away = json.loads(vault.open(_context(command), sealed))
    files = [_whole(file, away["contents"]) for file in args["files"]]
    return {**args, "files": files, "salt": away["salt"], "hidden": away["hidden"]}


def _whole(file: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    if not file.get("secret"):
        return dict(file)
    return {name: value for name, value in file.items() if name != "secret"} | {"content": contents[file["path"]]}


def _context(command: str) -> str:
    return f"{command}\narguments"
