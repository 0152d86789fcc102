"""What an installation keeps to itself: secrets of every sort are planted in a running one, and then all of its files are searched; no two
installations share a secret; and nothing listens but what the README lists."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fleetward import postgres
from fleetward.cli.run import up
from inventory import second_factor
from inventory.bootstrap import Wanted, bootstrap
from inventory.db import Database
from inventory.store import utcnow
from tests.conftest import Databases
from tests.system.conftest import Installation, until

CONFIG = "hunter2/planted+in a config"
OWN_PASSWORD = "planted battery staple 77"

KEPT_ON_PURPOSE = ("secrets/", "admin-token", "agent/identity.json", "agent/files/planted")
"""Where a planted secret may be: the installation's keys, the local command line's token, the agent's own key, and the file that the
secret is for; all 0600."""


def forms(secret: bytes) -> set[bytes]:
    """As it is, in hex, and in base64 wherever it begins in what was encoded."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + secret)
        found.add(text[4 if shift else 0 : -4])
    return {form for form in found if len(form) >= 12}


@pytest.fixture(scope="module")
def planted(installation: Installation, host: dict[str, Any]) -> dict[str, bytes]:
    """A secret of every sort, in use, by what it is."""
    installation.fleetward("label", "host", host["name"], "local=yes")
    path = installation.data / "agent" / "files" / "planted"
    installation.apply(
        {
            "kind": "config",
            "name": "planted",
            "selector": "labels.local = yes",
            "secrets": {"password": CONFIG},
            "files": [{"path": str(path), "template": "password={{ secrets.password }}\n", "mode": "0600"}],
            "on_change": f"cat {path}",
        }
    )
    made = {"config": CONFIG.encode(), "own password": OWN_PASSWORD.encode(), **_account(installation)}
    made["api token"] = _issued(installation, "api-tokens", {"name": "planted", "role": "viewer"}, "token")
    made["enrollment token"] = _issued(installation, "enrollment-tokens", {}, "token")
    made["admin token"] = (installation.data / "admin-token").read_bytes().strip()
    made["channel key"] = bytes.fromhex(json.loads((installation.data / "agent" / "identity.json").read_text())["channel_key"])
    made["first password"] = re.findall(rb"sign-in: admin (\S+)", installation.output())[0]
    for name in ("vault.key", "session.key", "audit.key", "channel-master.key", "command.key"):
        made[name] = (installation.data / "secrets" / name).read_bytes().split()[0]
    out = installation.data.parent / "planted"
    installation.fleetward("integration", "create", "planted", "--out", str(out))
    made["integration key"] = b"".join((out / "client.key").read_bytes().splitlines()[1:-1])[60:120]
    until(lambda: path.exists() and path.read_text() == f"password={CONFIG}\n", 20, "the file")
    until(lambda: _settled(installation), 20, "it to be reported")
    return made


def _settled(installation: Installation) -> bool:
    found = installation.items("host-configs", 'config = "planted"')
    return bool(found) and found[0]["status"]["reason"] == "Reconciled"


def _issued(installation: Installation, collection: str, body: dict[str, Any], member: str) -> bytes:
    answer = installation.call("POST", f"/api/v1/{collection}", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()[member]).encode()


def _account(installation: Installation) -> dict[str, bytes]:
    """Somebody with a password of their own, a second factor, and an open session."""
    handed = _issued(installation, "users", {"name": "planted", "role": "viewer"}, "password").decode()
    with httpx.Client(base_url=installation.url, trust_env=False, timeout=20) as browser:
        browser.headers["X-CSRF-Token"] = browser.post("/login", json={"username": "planted", "password": handed}).json()["csrf_token"]
        own = {"current_password": handed, "new_password": OWN_PASSWORD}
        browser.headers["X-CSRF-Token"] = browser.post("/api/v1/account:change-password", json=own).json()["csrf_token"]
        seed = browser.post("/api/v1/account:begin-second-factor", json={"password": OWN_PASSWORD}).json()["secret"]
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        code = second_factor.code_at(raw, int(datetime.now(UTC).timestamp()) // second_factor.STEP_S)
        done = browser.post("/api/v1/account:confirm-second-factor", json={"code": code})
        assert done.status_code == 200, done.text
        (cookie,) = (value for name, value in browser.cookies.items() if "session" in name)
    recovery = str(done.json()["recovery_codes"][0]).encode()
    return {"one-time password": handed.encode(), "seed": seed.encode(), "raw seed": raw, "session": cookie.encode(), "recovery": recovery}


def test_nothing_at_rest_holds_a_secret(installation: Installation, planted: dict[str, bytes]) -> None:
    """Every file of the data directory, PostgreSQL's own and its log included, and a backup with its dump unpacked: in no form, but where
    it belongs. A text that is no secret, planted likewise, is found in both, so that the search is one."""
    installation.apply({"kind": "config", "name": "planted", "title": "marker-that-is-no-secret"})
    database = postgres.standing(installation.data / "postgres")
    database.sql("CHECKPOINT")
    backup = installation.data.parent / "planted.backup"
    installation.fleetward("backup", str(backup))
    found: dict[str, set[str]] = {}
    markers = set()
    for place, content in _everything(installation.data, backup):
        if content.find(b"marker-that-is-no-secret") >= 0:
            markers.add(place.split("/")[0])
        for name, secret in planted.items():
            if any(content.find(form) >= 0 for form in forms(secret)):
                found.setdefault(place, set()).add(name)
    assert markers == {"postgres", "backup"}
    assert {place: names for place, names in found.items() if not place.startswith(KEPT_ON_PURPOSE)} == {}
    assert found["agent/files/planted"] == {"config"} and found["admin-token"] == {"admin token"}
    assert {"channel key"} == found["agent/identity.json"] and found["secrets/vault.key"] == {"vault.key"}
    for place in found:
        assert (installation.data / place).stat().st_mode & 0o077 == 0, place


def _everything(data: Path, backup: Path) -> Iterator[tuple[str, bytes]]:
    """Each file by its path in the data directory; of the backup the dump, in the clear, and the names in it. Its copy of the secrets is
    left out: whoever has it has the fleet, as is said."""
    # It runs, and PostgreSQL keeps neither files nor directories for ever: `os.walk` passes by one that has gone.
    for path in (Path(directory) / name for directory, _, names in os.walk(data) for name in names):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield str(path.relative_to(data)), path.read_bytes()
    with tarfile.open(backup) as tar:
        yield "backup/listing", "\n".join(tar.getnames()).encode()
        for name in ("manifest.json", "database.sql.gz"):
            member = tar.extractfile(name)
            assert member is not None
            content = member.read()
            yield f"backup/{name}", gzip.GzipFile(fileobj=io.BytesIO(content)).read() if name.endswith(".gz") else content


def test_nothing_that_is_shown_holds_a_secret(installation: Installation, planted: dict[str, bytes]) -> None:
    """The administrator's every list, the events, the audit and the command's own result, in which on_change has shown the file."""
    paths = [f"{kind['collection']}?page_size=1000" for kind in installation.get("kinds")["items"]]
    paths += ["events?after=0", "audit?limit=1000", "users", "api-tokens", "sessions", "integrations", "configs/planted/explain"]
    answers = {path: installation.call("GET", f"/api/v1/{path}") for path in paths}
    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200} == {}
    for path, answer in answers.items():
        shown = {name for name, secret in planted.items() if any(form in answer.content for form in forms(secret))}
        assert not shown, path
    [command] = [each for each in installation.items("commands", "verb = config.apply") if "secret" in json.dumps(each["args"])]
    assert command["result"]["output"] == "password=••••\n"


def test_nothing_listens_but_what_the_readme_lists(installation: Installation) -> None:
    """Every socket of every process of the installation, whatever it is bound to: two TCP ports of the loopback, and no UDP at all."""
    supervisor = psutil.Process(installation.pid("supervisor"))
    processes = [supervisor, *supervisor.children(recursive=True)]
    assert len(processes) > 7
    listening = {(each.laddr.ip, each.laddr.port) for each in _sockets(processes, "inet") if each.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", installation.http), ("127.0.0.1", installation.mqtt)}
    assert not _sockets(processes, "udp")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    said = re.findall(r"two ports of 127\.0\.0\.1 and no others: (\d+) .* and (\d+) ", readme)
    defaults = {str(parameter.name): str(parameter.default) for parameter in up.params}
    assert said == [(defaults["http_port"], defaults["mqtt_port"])]


def _sockets(processes: Iterable[psutil.Process], kind: str) -> list[Any]:
    """Of those that are still there: PostgreSQL's and the agent's helpers come and go."""
    found = list[Any]()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.net_connections(kind)
    return found


def test_two_fresh_installations_share_no_secret(databases: Databases, migrated: str, tmp_path: Path) -> None:
    """No key, password or token of one is another's, in the files nor in what the database keeps of them."""
    found = [asyncio.run(_bootstrapped(databases, migrated, tmp_path / name)) for name in ("one", "two")]
    assert found[0] and len(found[0]) == len(found[1])
    assert not found[0] & found[1]


async def _bootstrapped(databases: Databases, migrated: str, home: Path) -> set[str]:
    name = databases.create(migrated)
    home.mkdir()
    password = await bootstrap(Wanted(home / "secrets", databases.url(name), admin_token_file=home / "admin-token"), utcnow())
    keys = [path for path in (home / "secrets").iterdir() if path.suffix in (".key", ".pub", "") and not path.name.startswith(".")]
    keys += [home / "secrets" / "keys.json", home / "secrets" / "delegation.json", home / "admin-token"]
    lines = {line.strip() for path in keys for line in path.read_text().splitlines() if len(line) > 20 and not line.startswith("-----")}
    db = await Database.open(databases.url(name), application="test-fresh", pool_size=1)
    async with db.acquire() as connection:
        kept = "SELECT password AS kept FROM users UNION ALL SELECT token_hash FROM api_tokens UNION ALL SELECT key FROM vault_state"
        rows = await connection.fetch(kept)
    await db.close()
    databases.drop(name)
    assert password is not None
    return {*lines, password, *(row["kept"] for row in rows)}
