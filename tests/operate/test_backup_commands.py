"""`fleetward backup` and `restore` on a data directory, without services: what is written, kept, refused and exchanged."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetward import backup, postgres
from fleetward.layout import DataDir
from fleetward.owner import owner
from fleetward.services import modules

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}


def fleetward(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fleetward", *arguments], env=PLAIN, capture_output=True, text=True, check=False, timeout=100
    )


def refused(*arguments: str) -> str:
    """What is said; exit code 2, one line."""
    done = fleetward(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the database's user may pass through."""
    place = Path(tempfile.mkdtemp(prefix="fleetward-backup-", dir="/tmp"))
    place.chmod(0o711)
    yield place
    for link in place.glob("*/postgres"):
        if link.is_symlink():
            shutil.rmtree(link.resolve(), ignore_errors=True)
    shutil.rmtree(place)


@pytest.fixture
def data(home: Path) -> DataDir:
    """An installation that is stopped: a database with the schema, and secrets."""
    made = DataDir(home / "d")
    made.make(owner())
    with backup.running(postgres.prepare(made.postgres, postgres.throwaway())) as cluster:
        cluster.ensure_database()
        environment = PLAIN | {"FLEETWARD_DATABASE": cluster.url(), "FLEETWARD_SECRETS": str(made.secrets)}
        subprocess.run([*modules("inventory"), "bootstrap"], env=environment, check=True, capture_output=True, cwd="/")
    return made


def position(data: DataDir) -> int:
    with backup.running(postgres.prepare(data.postgres, postgres.throwaway())) as cluster:
        return int(cluster.sql("SELECT position FROM relay", postgres.ROLE))


def test_there_and_back(data: DataDir, home: Path) -> None:
    """From a stopped installation into itself and into an empty place; nothing is replaced unasked, and what was replaced is kept."""
    file, where = home / "fleet.backup", ("--data-dir", str(data.root))
    done = fleetward("backup", str(file), *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(file) and file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in home.iterdir()) == ["d", "fleet.backup"], "nothing else is left"

    key = (data.secrets / "ca.key").read_bytes()
    assert "--force" in refused("restore", str(file), *where)
    damaged = home / "damaged.backup"
    damaged.write_bytes(file.read_bytes()[:-7])
    assert "cut short" in refused("restore", str(damaged), *where, "--force")
    assert (data.secrets / "ca.key").read_bytes() == key and position(data) == 0

    handle = data.lock()
    assert "stop it first" in refused("restore", str(file), *where, "--force")
    os.close(handle)

    (data.secrets / "ca.key").write_text("another")
    again = fleetward("restore", str(file), *where, "--force")
    assert again.returncode == 0, again.stderr
    assert (data.secrets / "ca.key").read_bytes() == key and position(data) == 1_000_000_000
    [kept] = data.root.glob("replaced-*")
    assert (kept / "secrets" / "ca.key").read_text() == "another" and (kept / "postgres" / "data").exists()
    assert not data.unfinished.exists() and not (data.root / "restoring").exists()

    empty = DataDir(home / "e")
    assert fleetward("restore", str(file), "--data-dir", str(empty.root)).returncode == 0
    assert position(empty) == 1_000_000_000 and (empty.secrets / "ca.key").read_bytes() == key


def test_what_can_not_be_backed_up_is_said(home: Path) -> None:
    """No installation, no secrets, half of the options: one line that says what to give."""
    file = str(home / "b")
    assert "--data-dir" in refused("backup", file, "--data-dir", str(home / "none"))
    assert "give both" in refused("backup", file, "--database", "postgresql://x/y")
    assert "ca.key" in refused("backup", file, "--database", "postgresql://x/y", "--secrets", str(home))
    assert list(home.iterdir()) == []
    (home / "ca.key").touch()
    with pytest.raises(backup.BackupFailed, match="make that directory"):
        backup.back_up(backup.Place("postgresql://x/y", home), home / "nowhere" / "b")


def test_up_does_not_start_on_half_an_exchange(home: Path) -> None:
    """Killed between the renames, a restore leaves a mark; `up` says what to do instead of making new keys for an old database."""
    made = DataDir(home / "d")
    made.make(owner())
    made.unfinished.write_text("now\n")
    assert "fleetward restore" in refused("up", "--data-dir", str(made.root), "--no-agent")
