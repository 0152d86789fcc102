"""The file of a backup: what went in comes out, and not one byte of it may be other than it was written."""

import stat
import tarfile
from pathlib import Path

import pytest

from fleetward import archive
from fleetward.archive import DATABASE, SECRETS, Damaged

DESCRIBED = {"made_at": "2026-11-26T12:00:00.000Z", "release": "0.1.0", "schema": ["0001_initial"], "position": 7, "hosts": 3}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A small backup."""
    (tmp_path / "dump").write_bytes(b"database")
    (tmp_path / "key").write_bytes(b"secret")
    archive.write(tmp_path / "b", DESCRIBED, {DATABASE: tmp_path / "dump", SECRETS + "ca.key": tmp_path / "key"})
    return tmp_path / "b"


def test_what_went_in_comes_out(whole: Path) -> None:
    """Members, manifest, modes; nothing partial is left; tar reads it."""
    found = archive.check(whole)
    assert (found.made_at, found.schema, found.hosts) == (DESCRIBED["made_at"], ("0001_initial",), 3)
    assert found.secrets() == ("ca.key",)
    found.extract(SECRETS + "ca.key", whole.with_name("out"))
    assert whole.with_name("out").read_bytes() == b"secret"
    assert stat.S_IMODE(whole.stat().st_mode) == stat.S_IMODE(whole.with_name("out").stat().st_mode) == 0o600
    assert not list(whole.parent.glob("*.partial"))
    with tarfile.open(whole) as tar:
        assert tar.getnames() == ["manifest.json", DATABASE, SECRETS + "ca.key"]


def test_every_cut_and_every_flipped_byte_is_refused(whole: Path) -> None:
    """Wherever it is, padding and the last line included."""
    content = whole.read_bytes()
    damaged = whole.with_name("damaged")
    for length in (*range(0, len(content), 97), len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(Damaged):
            archive.check(damaged)
    for at in (*range(0, len(content), 89), len(content) - 1):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Damaged):
            archive.check(damaged)
    damaged.write_bytes(content + b"x")
    with pytest.raises(Damaged):
        archive.check(damaged)


def test_another_format_says_which_release_reads_it(tmp_path: Path) -> None:
    """A backup of some later release is told from a damaged one."""
    archive.write(tmp_path / "b", DESCRIBED | {"format": 2}, {})
    with pytest.raises(Damaged, match="format 2"):
        archive.check(tmp_path / "b")
