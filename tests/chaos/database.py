"""PostgreSQL under chaos: one primary on a small disk, and, when asked for, a synchronous standby that takes its place.

Everybody reaches the database by a socket directory that is a symbolic link of ours; promoting turns the link. So clients see what they
see in a failover by a moved address: their connections break, and what answers next is the standby.
"""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from fleetward import postgres
from fleetward.owner import give
from tests.chaos.disks import Disk, Disks
from tests.chaos.parts import Part, until

DISK_MB = 400
SETTINGS = {
    **postgres.throwaway(),
    "wal_level": "replica",
    "max_wal_size": "96MB",
    "min_wal_size": "32MB",
    "wal_keep_size": "32MB",
    "dynamic_shared_memory_type": "posix",  # the disk that is filled shall stop what is written to disk, and nothing else
}
"""Kept by the kernel, not by a disk: nothing here survives a power cut, and no nemesis is one."""
REPLICA = "chaos_standby"


@dataclass(slots=True)
class Server:
    cluster: postgres.Cluster
    disk: Disk


@dataclass(slots=True)
class Database:
    """`part` is the primary's process. `home`: where disks and the link are made."""

    home: Path
    disks: Disks
    environment: dict[str, str]
    servers: list[Server] = field(default_factory=list)
    """The primary, and behind it the standby while there is one."""
    _part: Part | None = None
    _following: Part | None = None

    @property
    def running(self) -> tuple[Part, ...]:
        """Every process there is."""
        return tuple(part for part in (self._part, self._following) if part is not None)

    @property
    def link(self) -> Path:
        return self.home / "database"

    @property
    def url(self) -> str:
        return f"postgresql://{postgres.ROLE}@/{postgres.ROLE}?host={self.link}"

    @property
    def part(self) -> Part:
        assert self._part is not None, "prepare() comes first"
        return self._part

    @property
    def primary(self) -> Server:
        return self.servers[0]

    async def start(self) -> None:
        """The first primary, with the product's role and database."""
        disk = self._disk()
        cluster = postgres.prepare(disk.path / "cluster", SETTINGS)
        _allow_replication(cluster)
        self.servers.append(Server(cluster, disk))
        self._point()
        self._part = self._process(cluster, "postgres")
        await self.part.start()
        cluster.ensure_database()

    async def standby(self) -> Part:
        """A synchronous standby: from when this returns, no commit is acknowledged that it does not have."""
        old = self.primary.cluster
        disk = self._disk()
        home = disk.path / "cluster"
        home.mkdir(mode=0o711)
        data = home / "data"
        data.mkdir(mode=0o700)
        give(data, old.owner)
        source = f"host={old.sockets} user={postgres.SUPERUSER} application_name={REPLICA}"
        copy = [old.programs.path("pg_basebackup"), "-D", str(data), "-d", source, "-R", "-c", "fast", "-X", "stream"]
        await self._run(copy, old)
        new = postgres.prepare(home, SETTINGS)
        _allow_replication(new)
        self.servers.append(Server(new, disk))
        part = self._following = self._process(new, "standby")
        await part.start()
        old.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{REPLICA}'")
        old.sql("SELECT pg_reload_conf()")
        asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        await until(lambda: old.sql(asked) == "1", 20, "the standby to be in step")
        return part

    async def promote(self, standby: Part) -> None:
        """The primary is killed; the standby takes its place."""
        self.part.kill()
        del self.servers[0]
        self._point()
        self.primary.cluster.sql("SELECT pg_promote(wait => true)")
        standby.name = "postgres"
        self._part, self._following = standby, None

    def _disk(self) -> Disk:
        return self.disks.make(self.home / f"postgres-{len(self.disks.made)}", DISK_MB)

    def _point(self) -> None:
        partial = self.link.with_suffix(".partial")
        partial.symlink_to(self.primary.cluster.sockets)
        partial.replace(self.link)

    def _process(self, cluster: postgres.Cluster, name: str) -> Part:
        return Part(
            name,
            tuple(cluster.command()),
            self.environment,
            self.home / "log" / f"postgres-{len(self.disks.made)}.log",
            ready=lambda _: cluster.ready(),
            user=cluster.owner.user,
            death=signal.SIGQUIT,
            before=cluster.clear_stale,
        )

    async def _run(self, command: list[str], cluster: postgres.Cluster) -> None:
        step = Part("basebackup", tuple(command), self.environment, self.home / "log" / "basebackup.log", user=cluster.owner.user)
        step.spawn()
        await until(lambda: not step.running, 60, "the base backup")
        assert step.process is not None
        if step.process.returncode != 0:
            raise RuntimeError(f"pg_basebackup failed: {step.last_words()}")


def _allow_replication(cluster: postgres.Cluster) -> None:
    """The standby's process, which is the cluster's owner, may follow."""
    with (cluster.home / "pg_hba.conf").open("a") as rules:
        rules.write("local replication all peer map=supervisor\n")
    with (cluster.home / "pg_ident.conf").open("a") as names:
        names.write(f'supervisor "{cluster.owner.name}" {postgres.SUPERUSER}\n')
