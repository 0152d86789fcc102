"""Secrets of configs in the store: written and never read, sealed at rest, kept by the marks that stand in their place; and their key."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from inventory import changes, vault_keys
from inventory.actor import Actor
from inventory.applying import Configs
from inventory.changes import Relay
from inventory.db import SQL, Database
from inventory.deposits import Depositor
from inventory.errors import Invalid, Unavailable
from inventory.idempotency import Claim
from inventory.resource import Resource
from inventory.secret_field import SALT
from inventory.secret_files import AuthorityError
from inventory.store import Store, utcnow
from inventory.vault import KEY_FILE, PUBLIC_FILE, Keys, Slot, Vault

PLAIN = "hunter2-in-the-clear"
OTHER = "swordfish-in-the-clear"


@pytest.fixture
async def keyed(db: Database, tmp_path: Path) -> Path:
    """A secrets directory with the first key of the vault."""
    await vault_keys.ensure(db, tmp_path, utcnow())
    return tmp_path


@pytest.fixture
def taking(db: Database, keyed: Path) -> Store:
    """A store that takes secrets in, as the web process has it."""
    return Store(db, depositor=Depositor(Slot(keyed), b"session key"))


async def made(store: Store, admin: Actor, name: str = "db", **given: Any) -> Resource:
    body = {"name": name, "selector": "", "files": [{"path": "/etc/x", "template": "p={{ secrets.password }}"}]}
    return await store.create("config", body | {"secrets": {"password": PLAIN}} | given, admin)


async def opened(db: Database, directory: Path) -> dict[str, dict[str, str]]:
    """The secrets of all configs by name, as the managers see them."""
    return {config.name: dict(config.secrets) for config in (await Configs(db, Vault(directory)).all()).values()}


async def every_text(db: Database) -> str:
    """All rows of all tables, as text."""
    async with db.acquire() as connection:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = [await connection.fetch(f'SELECT t::text FROM "{table["tablename"]}" t') for table in tables]
    return "\n".join(row[0] for rows in found for row in rows)


async def test_it_is_written_and_never_read(taking: Store, admin: Actor, db: Database, keyed: Path) -> None:
    """A mark stands in its place, everywhere and for ever; the managers alone have it."""
    config = await made(taking, admin)
    assert config["secrets"] == {"password": {"set": True, "changed_at": config["updated_at"]}}
    assert await opened(db, keyed) == {"db": {"password": PLAIN}}
    await taking.patch("config", "db", {"secrets": {"password": OTHER}}, admin)
    await taking.patch("config", "db", {"secrets": {"password": None}, "files": []}, admin)
    await Relay(db).step()
    history = await changes.history(db, config["id"])
    assert [change.changed for change in history] == [("generation", "files", "secrets.password"), ("generation", "secrets.password"), ()]
    everything = await every_text(db)
    assert "secrets" in everything and PLAIN not in everything and OTHER not in everything
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM secret") == 0


async def test_marks_keep_what_is_there(taking: Store, admin: Actor, db: Database, keyed: Path) -> None:
    """Read, edited and sent back, it stays; a name that a patch does not mention stays too; an equal value is no change at all."""
    config = await made(taking, admin, secrets={"password": PLAIN, "items": OTHER})
    unchanging: tuple[dict[str, Any], ...] = (
        {"secrets": config["secrets"], "title": "edited"},
        {"secrets": {"password": {"set": True}}},
        {"secrets": {"password": {"set": True, "changed_at": "2020-01-01T00:00:00.000Z"}}},
        {"secrets": {"password": PLAIN}},
        {"secrets": {}},
    )
    for patch in unchanging:
        after = await taking.patch("config", "db", patch, admin)
        assert (after["secrets"], after["generation"]) == (config["secrets"], 1)
    replaced = await taking.patch("config", "db", {"secrets": {"password": "another"}}, admin)
    assert replaced["generation"] == 2 and replaced["secrets"]["items"] == config["secrets"]["items"]
    assert replaced["secrets"]["password"]["changed_at"] == replaced["updated_at"]
    assert await opened(db, keyed) == {"db": {"password": "another", "items": OTHER}}


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"password": {"set": True}}, "/secrets/password", "no value to be kept"),
    ({"password": ""}, "/secrets/password", "1 to 32768 characters"),
    ({"password": "a\0b"}, "/secrets/password", "NUL"),
    ({"password": "ä" * 32769}, "/secrets/password", "1 to 32768 characters"),
    ({"password": 7}, "/secrets/password", "must be a text, or"),
    ({"password": {"set": False}}, "/secrets/password", "must be a text, or"),
    ({"password": {"set": True, "changed_at": "yesterday"}}, "/secrets/password", "must be a text, or"),
    ({"password": {"set": True, "value": PLAIN}}, "/secrets/password", "must be a text, or"),
    ({"pass word": PLAIN}, "/secrets/pass word", "pattern"),
    ({".salt": PLAIN}, "/secrets/.salt", "pattern"),
    ({f"n{n}": PLAIN for n in range(65)}, "/secrets", "at most 64"),
    ({"other": PLAIN}, "/files/0/template", "uses secrets.password, which this config does not have"),
)


async def test_what_can_not_be_taken(taking: Store, admin: Actor) -> None:
    """Each with its place and a reason, which never shows a value."""
    for given, pointer, words in REFUSED:
        with pytest.raises(Invalid, match=words) as refused:
            await made(taking, admin, secrets=given)
        assert pointer in [problem.pointer for problem in refused.value.errors]
        assert PLAIN not in refused.value.detail


async def test_what_a_template_uses_stays(taking: Store, admin: Actor) -> None:
    """Neither goes the secret, nor comes a template, without the other; both may in one patch."""
    await made(taking, admin)
    with pytest.raises(Invalid, match=r"files/0/template: uses secrets\.password"):
        await taking.patch("config", "db", {"secrets": {"password": None}}, admin)
    both = [{"path": "/etc/x", "template": "{{ secrets['user'] }}{{ secrets[labels.line] }}"}]
    with pytest.raises(Invalid, match=r"files/0/template: uses secrets\.user"):
        await taking.patch("config", "db", {"files": both}, admin)
    after = await taking.patch("config", "db", {"files": both, "secrets": {"password": None, "user": "u"}}, admin)
    assert list(after["secrets"]) == ["user"]


async def test_a_dry_run_keeps_nothing(taking: Store, admin: Actor, db: Database) -> None:
    """It says what would be, and nothing of it is there."""
    would = await taking.create("config", {"name": "a", "selector": "", "secrets": {"x": PLAIN}}, admin, dry_run=True)
    assert would["secrets"]["x"]["set"] is True
    async with db.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM secret") == 0


async def test_who_takes_none_says_so(store: Store, taking: Store, admin: Actor, keyed: Path) -> None:
    """An intent over the broker brings no secret; what else it asks for of such a config is done. A web process that can't seal is
    unavailable, and says which file it needs."""
    await made(taking, admin)
    with pytest.raises(Invalid, match="not taken this way"):
        await store.patch("config", "db", {"secrets": {"password": OTHER}}, admin)
    assert (await store.patch("config", "db", {"title": "t", "secrets": {"password": {"set": True}}}, admin))["title"] == "t"
    (keyed / PUBLIC_FILE).unlink()
    elsewhere = Store(store.db, depositor=Depositor(Slot(keyed), b"session key"))
    with pytest.raises(Unavailable, match=PUBLIC_FILE):
        await elsewhere.patch("config", "db", {"secrets": {"password": OTHER}}, admin)


async def test_a_row_that_was_moved_opens_nowhere(taking: Store, admin: Actor, db: Database, keyed: Path) -> None:
    """Whoever writes to the database can't bring one config's secret to another's devices: that config says so, and others go on."""
    await made(taking, admin)
    await made(taking, admin, name="other", secrets={"password": OTHER})
    async with db.acquire() as connection:
        await connection.execute(
            "UPDATE secret SET sealed = (SELECT s.sealed FROM secret s JOIN config c ON c.id = s.owner WHERE c.name = 'db' "
            "AND s.name = 'password') WHERE name = 'password'"
        )
    found = {config.name: config for config in (await Configs(db, Vault(keyed)).all()).values()}
    assert (found["db"].secrets["password"], found["db"].locked) == (PLAIN, "")
    assert not found["other"].secrets and found["other"].locked.startswith("password: ")


async def test_a_rotation_seals_all_anew(taking: Store, admin: Actor, db: Database, keyed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches; a version is no other, the key before opens no more than what it sealed, and the audit knows of it."""
    monkeypatch.setattr(vault_keys, "BATCH", 2)
    config = await made(taking, admin, secrets={"password": PLAIN} | {f"n{n}": f"{PLAIN} {n}" for n in range(6)})
    before = Keys.read(keyed)
    assert await vault_keys.rotate(db, keyed, utcnow()) == 8  # the salt is one
    after = Keys.read(keyed)
    assert after.private[1:] == before.private and len(await opened(db, keyed)) == 1
    standing = await vault_keys.standing(db)
    assert (standing.key, standing.secrets, standing.older) == (after.newest, 7, 0)
    Keys(after.private[:1]).write(keyed)
    assert (await opened(db, keyed))["db"]["n5"] == f"{PLAIN} 5"
    assert (await taking.get("config", "db"))["version"] == config["version"]
    await Relay(db).step()
    [told] = [change for change in await changes.history(db, "vault") if change.kind == "installation"]
    assert (told.before, told.resource) == ({"vault_key": before.newest}, {"vault_key": after.newest})


async def test_a_rotation_that_was_cut_short_is_finished(
    taking: Store, admin: Actor, db: Database, keyed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was: meanwhile all can be read and written, and the next one makes no further key."""
    monkeypatch.setattr(vault_keys, "BATCH", 1)
    wanted = {"password": PLAIN, "other": OTHER}
    await made(taking, admin, secrets=wanted)
    for cut_after in ("private", "files", "name", "a batch"):
        newer = await _begun(db, keyed, cut_after)
        assert (await opened(db, keyed))["db"] == wanted
        wanted["other"] = cut_after
        await taking.patch("config", "db", {"secrets": {"other": cut_after}}, admin)
        await vault_keys.rotate(db, keyed, utcnow())
        assert Keys.read(keyed) == newer
        assert (await vault_keys.standing(db)).older == 0
        assert (await opened(db, keyed))["db"] == wanted


async def _begun(db: Database, keyed: Path, cut_after: str) -> Keys:
    """A rotation that came so far, with the keys that it had made."""
    public, newer = (keyed / PUBLIC_FILE).read_bytes(), Keys((secrets.token_bytes(32), *Keys.read(keyed).private[:1]))
    newer.write(keyed)
    if cut_after == "private":
        (keyed / PUBLIC_FILE).write_bytes(public)
    if cut_after in ("name", "a batch"):
        async with db.acquire() as connection:
            await connection.execute(SQL["name_vault_key"], newer.newest, utcnow())
    if cut_after == "a batch":
        async with db.transaction() as tx:
            rows = await tx.raw.fetch(SQL["older_secrets"], newer.newest, 0, 1)
            assert await vault_keys._reseal_some(tx, Vault(keyed), rows) == 1
    return newer


async def test_writers_and_rotations_at_once(taking: Store, admin: Actor, db: Database, keyed: Path) -> None:
    """Three rotations while secrets are written all the time: none is lost, and none lies under a key that is gone."""
    await made(taking, admin)
    stop = asyncio.Event()

    async def write(name: str) -> int:
        n = 0
        while not stop.is_set():
            n += 1
            await taking.patch("config", "db", {"secrets": {name: f"{name} {n}"}}, admin)
        return n

    writers = [asyncio.create_task(write(name)) for name in ("a", "b")]
    for _ in range(3):
        await vault_keys.rotate(db, keyed, utcnow())
    stop.set()
    counts = await asyncio.gather(*writers)
    assert (await vault_keys.standing(db)).older == 0
    assert await opened(db, keyed) == {"db": {"password": PLAIN, "a": f"a {counts[0]}", "b": f"b {counts[1]}"}}


async def test_a_key_that_is_gone_is_never_replaced(taking: Store, admin: Actor, db: Database, keyed: Path) -> None:
    """While secrets lie under it, a start says which file is missing, or that it is another one; without secrets it makes a new one."""
    config = await made(taking, admin)
    kept = (keyed / KEY_FILE).read_bytes()
    (keyed / KEY_FILE).unlink()
    with pytest.raises(AuthorityError, match=rf"{KEY_FILE} is gone"):
        await vault_keys.ensure(db, keyed, utcnow())
    Keys((secrets.token_bytes(32),)).write(keyed)
    with pytest.raises(AuthorityError, match="is not the one"):
        await vault_keys.ensure(db, keyed, utcnow())
    (keyed / KEY_FILE).write_bytes(kept)
    await vault_keys.ensure(db, keyed, utcnow())
    assert await opened(db, keyed) == {"db": {"password": PLAIN}}
    await taking.delete("config", config["id"], admin, force=True)
    (keyed / KEY_FILE).unlink()
    await vault_keys.ensure(db, keyed, utcnow())
    assert (await vault_keys.standing(db)).key == Keys.read(keyed).newest


def test_the_digest_of_a_request_can_not_be_guessed_from() -> None:
    """Under an Idempotency-Key it is kept for a day: without the key of the installation nobody finds a short secret by trying."""
    asked = {"secrets": {"pin": "1234"}}
    claims = [Claim.of(Actor.user("a", "admin"), "k", "POST /x", asked, utcnow(), secret=key) for key in (b"1", b"2")]
    assert claims[0].digest != claims[1].digest and claims[0].key == claims[1].key


async def test_equal_values_have_tags_of_their_own(taking: Store, admin: Actor, db: Database) -> None:
    """Nobody sees in the database that two configs have the same password, nor that a salt is another's."""
    await made(taking, admin, secrets={"password": PLAIN, "again": PLAIN})
    await made(taking, admin, name="other")
    async with db.acquire() as connection:
        rows = await connection.fetch("SELECT tag, sealed FROM secret WHERE name <> $1", SALT)
    assert len({bytes(row["tag"]) for row in rows}) == len({row["sealed"] for row in rows}) == 3
