"""`fleetward backup` and `restore`: one file with database and secrets, made beside a running installation, put back into a stopped one.

Where things are and in which order they are replaced is known here; what is in the database is `inventory`'s (`python -m inventory dump`
and `load`), what the file looks like `fleetward.archive`'s. A data directory is restored beside what is there, and then exchanged by
renaming; what was there is kept. An exchange that was cut short leaves a mark, which `up` refuses to start with. Called by
`fleetward.cli.backups`.

Decision: docs/adr/0015-backup-and-restore.md.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleetward import __version__, archive, launch, postgres
from fleetward.archive import DATABASE, SECRETS, Backup
from fleetward.layout import DataDir, InUse
from fleetward.owner import owner
from fleetward.preflight import libpq_environment
from fleetward.services import modules

START_SECONDS = 120.0
"""For a database of ours to start, recovery included."""


class BackupFailed(Exception):
    """It was not done; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """An installation whose roles run on their own: its database and its secrets directory."""

    database: str
    secrets: Path


# --- backup -----------------------------------------------------------------------------------------------------------------------


def back_up(place: Place, to: Path) -> Mapping[str, object]:
    """Write the file; the manifest. Raises BackupFailed, OSError."""
    if not (place.secrets / "ca.key").exists():
        raise BackupFailed(f"{place.secrets} has no ca.key: give the directory that holds the installation's secrets with --secrets")
    to = to.absolute()
    if not to.parent.is_dir():
        raise BackupFailed(f"{to.parent} is not there: make that directory, or give another file")
    with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as directory:
        dumped = Path(directory) / DATABASE
        said = _inventory(place, "dump", "--to", str(dumped))
        described = {"made_at": _now(), "release": __version__, **json.loads(said)}
        archive.write(to, described, {DATABASE: dumped} | {SECRETS + path.name: path for path in secret_files(place.secrets)})
    return described


def secret_files(directory: Path) -> list[Path]:
    """All that the directory holds, without locks and what is being written."""
    return sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".") and path.suffix != ".partial")


@contextlib.contextmanager
def place_of(data: DataDir) -> Iterator[Place]:
    """The installation of a data directory, its database up: the one that runs there, or started for as long as this lasts."""
    if not (data.postgres / "data").exists():
        raise BackupFailed(f"there is no database in {data.root}: choose another --data-dir, or give --database and --secrets")
    cluster = postgres.standing(data.postgres)
    if cluster.ready():
        yield Place(cluster.url(), data.secrets)
        return
    with _locked(data), running(postgres.prepare(data.postgres, postgres.production(_memory_bytes()))) as cluster:
        yield Place(cluster.url(), data.secrets)


# --- restore ----------------------------------------------------------------------------------------------------------------------


def restore_place(found: Backup, place: Place, *, force: bool) -> None:
    """Into a database that stands and a secrets directory. Raises BackupFailed, OSError."""
    there = secret_files(place.secrets) if place.secrets.exists() else []
    if (there or _inhabited(place)) and not force:
        raise BackupFailed("there is an installation already: say --force to replace it, database and secrets")
    fresh = place.secrets.with_name(place.secrets.name + ".restoring")
    shutil.rmtree(fresh, ignore_errors=True)
    _extract_secrets(found, fresh)
    _load(found, Place(place.database, fresh))
    aside = place.secrets.with_name(f"{place.secrets.name}.replaced-{_stamp()}")
    if place.secrets.exists():
        place.secrets.rename(aside)
    fresh.rename(place.secrets)


def restore_data(found: Backup, data: DataDir, *, force: bool) -> Path | None:
    """Into a data directory that nothing runs on; where what was there is kept now. Raises BackupFailed, PostgresError, OSError."""
    data.make(owner())
    with _locked(data):
        there = [path for path in (data.postgres, data.secrets) if _holds_something(path)]
        if there and not force:
            raise BackupFailed(f"{data.root} holds an installation already: say --force to replace it (what is there is kept beside)")
        fresh = data.root / "restoring"
        _discard(fresh)
        fresh.mkdir(mode=0o711)
        _extract_secrets(found, fresh / "secrets")
        with running(postgres.prepare(fresh / "postgres", postgres.production(_memory_bytes()))) as cluster:
            cluster.ensure_database()
            _load(found, Place(cluster.url(), fresh / "secrets"))
        aside = data.root / f"replaced-{_stamp()}"
        _exchange(data, fresh, aside if there else None)
        return aside if there else None


def _exchange(data: DataDir, fresh: Path, aside: Path | None) -> None:
    """By renaming; the mark stands while it is neither the one nor the other."""
    data.unfinished.write_text(f"{_now()}\n")
    if aside is not None:
        aside.mkdir(mode=0o711, exist_ok=True)
    for place in (data.postgres, data.secrets):
        if aside is not None and (place.exists() or place.is_symlink()):
            place.rename(aside / place.name)
        elif place.exists():
            place.rmdir()
        (fresh / place.name).rename(place)
    fresh.rmdir()
    os.sync()
    data.unfinished.unlink()


def _load(found: Backup, place: Place) -> None:
    with tempfile.TemporaryDirectory(prefix="restoring-", dir=place.secrets.parent) as directory:
        dumped = Path(directory) / DATABASE
        found.extract(DATABASE, dumped)
        _inventory(place, "load", "--from", str(dumped), "--schema", ",".join(found.schema))


def _extract_secrets(found: Backup, to: Path) -> None:
    to.mkdir(mode=0o700, parents=True)
    for name in found.secrets():
        found.extract(SECRETS + name, to / name)


def _holds_something(path: Path) -> bool:
    return (path / "data").exists() if path.name == "postgres" else bool(path.exists() and secret_files(path))


def _inhabited(place: Place) -> bool:
    """Whether the database holds a Fleetward."""
    command = [postgres.installed()[0].path("psql"), "-XAtqc", "SELECT to_regclass('public.tortoise_migrations') IS NOT NULL"]
    asked = subprocess.run(command, capture_output=True, text=True, env=os.environ | libpq_environment(place.database), check=False)
    if asked.returncode != 0:
        raise BackupFailed(f"the database does not answer: {asked.stderr.strip()}")
    return asked.stdout.strip() == "t"


def _discard(fresh: Path) -> None:
    """What a restore that was cut short has left, its cluster elsewhere included."""
    cluster = fresh / "postgres"
    if cluster.is_symlink():
        shutil.rmtree(cluster.resolve(), ignore_errors=True)
    if fresh.exists():
        shutil.rmtree(fresh)


# --- around ------------------------------------------------------------------------------------------------------------------------


def _inventory(place: Place, *arguments: str) -> str:
    """`python -m inventory`, with the programs of PostgreSQL; its standard output. Raises BackupFailed with its last line."""
    programs = str(postgres.installed()[0].root / "bin")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
    environment |= {"FLEETWARD_DATABASE": place.database, "FLEETWARD_SECRETS": str(place.secrets), "FLEETWARD_LOG": "WARNING"}
    environment |= libpq_environment(place.database)
    command = [*modules("inventory"), *arguments, "--programs", programs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, cwd="/")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise BackupFailed(lines[-1].removeprefix("inventory: "))
    return done.stdout


@contextlib.contextmanager
def running(cluster: postgres.Cluster) -> Iterator[postgres.Cluster]:
    """A cluster of ours, up for as long as this lasts; it ends with this process however that ends."""
    cluster.clear_stale()
    command = launch.through(cluster.command(), user=cluster.owner.user, death=signal.SIGQUIT)
    server = subprocess.Popen(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not cluster.ready():
            if server.poll() is not None or time.monotonic() > deadline:
                raise BackupFailed(f"the database in {cluster.home} does not start: run `fleetward up`, whose log says why")
            time.sleep(0.05)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


@contextlib.contextmanager
def _locked(data: DataDir) -> Iterator[None]:
    try:
        handle = data.lock()
    except InUse as error:
        raise BackupFailed(f"`fleetward up` ({error}) runs on {data.root}: stop it first") from None
    try:
        yield
    finally:
        os.close(handle)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
