"""A config's secrets on their way to a device: in the order that is signed, in the file, and nowhere that anybody can look."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.appliers.config import digest_of as device_digest
from inventory import vault_keys
from inventory.applying import Config, Host
from inventory.db import Database
from inventory.deposits import Depositor
from inventory.resource import Resource
from inventory.store import Store, utcnow
from inventory.vault import KEY_FILE, Keys, Slot, Unsealable, Vault
from managers.rendering import Job, Renderer
from managers.sealed_args import filled, put_away
from tests.managers.fleet import FakeWire, Fleet, contents, eventually, managed

PLAIN = "hunter2-in-the-clear"
FILE = {"path": "/etc/app/key", "template": "password={{ secrets.password }}\n", "mode": "0600"}
BESIDE = {"path": "/etc/app/motd", "content": "hello\n"}


@pytest.fixture
async def vaulted(db: Database, command_secrets: Path, tmp_path: Path) -> Path:
    """A secrets directory of its own: the vault's keys change here."""
    for name in ("command.key", "delegation.json"):
        (tmp_path / name).write_bytes((command_secrets / name).read_bytes())
    await vault_keys.ensure(db, tmp_path, utcnow())
    return tmp_path


@pytest.fixture
def keeping(db: Database, vaulted: Path) -> Fleet:
    """A fleet whose store takes secrets in."""
    fleet = Fleet(db, Store(db, depositor=Depositor(Slot(vaulted), b"session key")), FakeWire(), vaulted)
    fleet.wire.answer = fleet.obey
    return fleet


async def config(fleet: Fleet, **more: Any) -> Resource:
    return await fleet.create("config", **({"name": "app", "selector": "", "files": [FILE, BESIDE], "secrets": {"password": PLAIN}} | more))


async def test_a_secret_reaches_the_file_and_nothing_else(keeping: Fleet) -> None:
    """The order holds it, with the salt of a digest that the device can check and that nobody finds the secret by; the command's row, once
    it has ended, holds no more than that a file has secrets in it, and before that nothing that can be read."""
    async with managed(keeping):
        keeping.wire.answer = None
        host = await keeping.host("a")
        made = await config(keeping)
        await eventually(lambda: _sent(keeping, 1))
        [under_way] = await keeping.all("command")
        assert await _sealed(keeping.db) not in (None, "")
        rows = await _rows(keeping.db)
        assert PLAIN not in rows and base64.b64encode(f"password={PLAIN}".encode()).decode()[:20] not in rows
        [order] = keeping.wire.orders
        await keeping.obey(order)
        found = await keeping.settled(host, made["id"])
    assert contents(order) == {"/etc/app/key": f"password={PLAIN}\n", "/etc/app/motd": "hello\n"}
    assert (order.args["hidden"], set(order.args)) == ([PLAIN], {"config", "digest", "files", "on_change", "salt", "hidden"})
    files = [(f["path"], f["mode"], f["owner"], f["group"], base64.b64decode(f["content"])) for f in order.args["files"]]
    assert order.args["digest"] == found["digest"] == device_digest(files, order.args["salt"]) != device_digest(files)
    shown = {file["path"]: file for file in under_way["args"]["files"]}
    assert shown["/etc/app/key"] == {"path": "/etc/app/key", "secret": True, "mode": "0600", "owner": None, "group": None}
    assert base64.b64decode(shown["/etc/app/motd"]["content"]) == b"hello\n"
    assert "salt" not in under_way["args"] and "hidden" not in under_way["args"]
    assert await _sealed(keeping.db) is None


async def test_another_value_is_another_command_and_an_equal_one_is_none(keeping: Fleet) -> None:
    """The digest, which has its salt for as long as the config has secrets, decides as ever; so it does over a rotation."""
    async with managed(keeping):
        host = await keeping.host("a")
        made = await config(keeping)
        await keeping.settled(host, made["id"])
        await keeping.patch("config", "app", secrets={"password": PLAIN, "unused": "x"})
        await vault_keys.rotate(keeping.db, keeping.secrets, utcnow())
        await keeping.patch("config", "app", priority=3)
        await keeping.quiet()
        assert len(keeping.wire.orders) == 1
        await keeping.patch("config", "app", secrets={"password": "swordfish"})
        await eventually(lambda: _sent(keeping, 2))
        assert contents(keeping.wire.orders[1])["/etc/app/key"] == "password=swordfish\n"
        assert keeping.wire.orders[1].args["hidden"] == ["swordfish"]
        await keeping.settled(host, made["id"])


async def test_without_its_key_a_process_leaves_it_to_others(keeping: Fleet, command_secrets: Path) -> None:
    """A replica whose secrets directory lacks the key touches neither the config nor a command on its way; other configs go on, paths stay
    whose they are, and once the key is there all of it is done."""
    lacking = Keys.read(keeping.secrets)
    (keeping.secrets / KEY_FILE).write_bytes((command_secrets / KEY_FILE).read_bytes())
    async with managed(keeping):
        host = await keeping.host("a")
        made = await config(keeping, priority=5)
        plain = await config(
            keeping, name="plain", secrets={}, files=[{"path": "/etc/app/key", "content": "stranger\n"}, BESIDE | {"path": "/y"}]
        )
        found = await keeping.settled(host, plain["id"])
        assert found["paths"] == ["/y"] and await keeping.host_config(host, made["id"]) is None
        lacking.write(keeping.secrets)
        await keeping.patch("config", "app", title="again")
        await keeping.device(host, hostname="another")
        await keeping.settled(host, made["id"])
        assert contents(keeping.wire.orders[-1])["/etc/app/key"] == f"password={PLAIN}\n"


async def test_a_command_waits_for_its_key_and_is_made_anew_where_it_is_damaged(keeping: Fleet) -> None:
    """Signed by whoever can open it; what nobody can open is withdrawn, and another one takes its place."""
    async with managed(keeping):
        keeping.wire.answer = None
        keeping.wire.connected_since = None
        host = await keeping.host("a")
        made = await config(keeping)
        await eventually(lambda: _made(keeping))
        kept = Keys.read(keeping.secrets)
        Keys((b"x" * 32,)).write(keeping.secrets)
        keeping.wire.connected_since = datetime.now(UTC)
        await asyncio.sleep(0)
        assert not keeping.wire.orders
        kept.write(keeping.secrets)  # another file: one that is written over at the same moment would not be read anew
        async with keeping.db.acquire() as connection:
            await connection.execute("UPDATE command SET sealed = left(sealed, -8) || 'AAAAAAA=', due_at = now()")
        keeping.wire.answer = keeping.obey
        await keeping.settled(host, made["id"])
        states = sorted(command["state"] for command in await keeping.all("command"))
        assert states[-1] == "succeeded" and "cancelled" in states


# --- templates ------------------------------------------------------------------------------------------------------------------

HOST = Host("host-1", "press-4", True, {"name": "press-4"}, {"line": "db"})
CONFIG = Config(
    "conf-1", "app", 1, 1, "", 0, (), None, datetime(2026, 1, 1, tzinfo=UTC), False, secrets={"db": PLAIN, "items": "i"}, salt="s"
)


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    renderer = Renderer()
    yield renderer
    await renderer.close()


def job(*templates: str) -> Job:
    files = tuple({"path": f"/etc/{n}", "template": text} for n, text in enumerate(templates))
    return Job(replace(CONFIG, files=files), HOST, tuple(file["path"] for file in files))


async def test_templates_name_their_secrets(renderer: Renderer) -> None:
    """By attribute, by item, by what a label says, and by names that a mapping's methods have."""
    [found] = await renderer.render([job("{{ secrets.db }} {{ secrets['items'] }} {{ secrets.items }} {{ secrets[labels.line] }}")])
    assert found.files[0].content == f"{PLAIN} i i {PLAIN}".encode()
    assert PLAIN not in repr(found) and PLAIN not in repr(CONFIG)


async def test_what_goes_wrong_shows_no_secret(renderer: Renderer) -> None:
    """Only what kind of error it is, and where: the words may hold the value."""
    wrong = {
        "{{ {}[secrets.db] }}": "UndefinedError in line 1",
        "\n{{ secrets[labels.line + 'x'] }}": "UndefinedError in line 2",
        "{{ secrets.db + 1 }}": "TypeError in line 1",
        "{{ secrets }}": "TypeError in line 1",
        "{{ secrets._values }}": "SecurityError in line 1",
    }
    found = await renderer.render([job(text) for text in wrong])
    for rendered, said in zip(found, wrong.values(), strict=True):
        assert said in rendered.error and PLAIN not in rendered.error


async def test_only_who_names_them_gets_them(renderer: Renderer) -> None:
    """Another file of the same config is rendered without, its errors are told in full, and its digest is as it always was."""
    [without, wrong, beside] = await renderer.render([job("{{ host.name }}"), job("{{ nothing }}"), job("{{ secrets.db }}", "x")])
    assert (without.salt, without.files[0].secret) == ("", False)
    assert without.digest == device_digest([("/etc/0", "0644", None, None, b"press-4")])
    assert "'nothing' is undefined" in wrong.error
    assert [file.secret for file in beside.files] == [True, False]


async def test_what_is_put_away(renderer: Renderer, tmp_path: Path) -> None:
    """For this command alone; of the secrets the device learns those that its files hold, line by line, and no short ones."""
    Keys((b"k" * 32,)).write(tmp_path)
    vault, secrets = Vault(tmp_path), {"db": f"{PLAIN}\nsecond line\nx", "other": "not in the file"}
    template = replace(job("{{ secrets.db }}").config, secrets=secrets)
    [found] = await renderer.render([Job(template, HOST, ("/etc/0",))])
    args = {"config": "app", "files": [file.argument() for file in found.files]}
    sealed = put_away(vault, "cmd-1", found, secrets)
    assert sealed is not None and PLAIN not in json.dumps(args)
    whole = filled(vault, "cmd-1", args, sealed)
    assert base64.b64decode(whole["files"][0]["content"]).decode() == secrets["db"] and "secret" not in whole["files"][0]
    assert whole["hidden"] == [PLAIN, "second line"]
    with pytest.raises(Unsealable):
        filled(vault, "cmd-2", args, sealed)


async def _sent(fleet: Fleet, count: int) -> bool:
    return len(fleet.wire.orders) >= count


async def _made(fleet: Fleet) -> bool:
    return bool(await fleet.all("command"))


async def _sealed(db: Database) -> str | None:
    async with db.acquire() as connection:
        found: str | None = await connection.fetchval("SELECT sealed FROM command")
        return found


async def _rows(db: Database) -> str:
    """What commands, host-configs, the change log and the work queue hold."""
    async with db.acquire() as connection:
        tables = ("command", "host_config", "changes", "changes_in", "work", "config", "secret", "notification")
        found = [await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables]
    return "\n".join(row[0] for rows in found for row in rows)
