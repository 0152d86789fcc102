"""The vault's keys: what is sealed opens with the right key in its own context alone, and who takes secrets in can't give them out."""

import secrets
from pathlib import Path

import pytest

from inventory.secret_files import AuthorityError
from inventory.vault import KEY_FILE, PUBLIC_FILE, Keys, NoKey, Slot, Unsealable, Vault, key_of


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A key in its files."""
    found = Keys((secrets.token_bytes(32),))
    found.write(tmp_path)
    return found


def test_there_and_back(keys: Keys, tmp_path: Path) -> None:
    """What the slot takes in, the vault gives out; the id of the key is in front, and no two seals of a text are the same."""
    slot, vault = Slot(tmp_path), Vault(tmp_path)
    one, other = (slot.seal(keys.newest, "conf-1\nname", b"value") for _ in range(2))
    assert one != other and key_of(one) == keys.newest
    assert vault.open("conf-1\nname", one) == vault.open("conf-1\nname", other) == b"value"
    assert vault.open("x", vault.seal("x", b"")) == b""


@pytest.mark.parametrize("context", ["conf-2\nname", "conf-1\nother", "", "conf-1"])
def test_it_opens_in_no_other_context(keys: Keys, tmp_path: Path, context: str) -> None:
    """A row that is moved to another config, or under another name, is worth nothing."""
    sealed = Slot(tmp_path).seal(keys.newest, "conf-1\nname", b"value")
    with pytest.raises(Unsealable, match="changed"):
        Vault(tmp_path).open(context, sealed)


def test_every_changed_character_shows(keys: Keys, tmp_path: Path) -> None:
    """Of the id, of the encapsulated key, of the text: wherever it is."""
    vault = Vault(tmp_path)
    sealed = vault.seal("x", b"v")
    for place, letter in enumerate(sealed):
        with pytest.raises(Unsealable):
            vault.open("x", sealed[:place] + ("A" if letter != "A" else "B") + sealed[place + 1 :])
    for damaged in ("", ".", keys.newest, f"{keys.newest}.", sealed[:-4], sealed + "AAAA"):
        with pytest.raises(Unsealable):
            vault.open("x", damaged)


def test_the_slot_holds_nothing_that_opens(keys: Keys, tmp_path: Path) -> None:
    """In its file stand the public halves; the private key is in its own, for its owner alone."""
    text = (tmp_path / PUBLIC_FILE).read_text()
    assert (tmp_path / KEY_FILE).read_text() not in text and text not in (tmp_path / KEY_FILE).read_text()
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_files_are_followed(keys: Keys, tmp_path: Path) -> None:
    """A key that is put in front is used at once; the one behind still opens; one that is gone is said to be."""
    slot, vault = Slot(tmp_path), Vault(tmp_path)
    before = vault.seal("x", b"v")
    newer = Keys((secrets.token_bytes(32), *keys.private))
    with pytest.raises(NoKey, match=PUBLIC_FILE):
        slot.seal(newer.newest, "x", b"v")
    newer.write(tmp_path)
    assert key_of(slot.seal(newer.newest, "x", b"v")) == key_of(vault.seal("x", b"v")) == newer.newest
    assert vault.open("x", before) == b"v"
    Keys(newer.private[:1]).write(tmp_path)
    with pytest.raises(NoKey, match=f"{keys.newest}.*{KEY_FILE}"):
        vault.open("x", before)


@pytest.mark.parametrize("content", ["", "\n", "short\n", "!\n", "A" * 44 + "\n"])
def test_damaged_files_are_said_to_be(tmp_path: Path, content: str) -> None:
    """With their path, and what to do."""
    (tmp_path / KEY_FILE).write_text(content)
    with pytest.raises(AuthorityError, match=f"{KEY_FILE} is damaged: restore it"):
        Keys.read(tmp_path)
    with pytest.raises(NoKey, match=KEY_FILE):
        Vault(tmp_path).seal("x", b"v")
