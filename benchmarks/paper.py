"""A fleet on paper, for lists and sizes: 100,000 hosts and 4 million components in Inventory's tables, without devices (`seed.sql`).

Neither a script nor a measurement: `benchmarks.listing` and `benchmarks.scale` stand on it.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ground import ROOT, end, free_port, until
from fleetward import launch, postgres
from fleetward.postgres import Cluster

SEED = Path(__file__).with_name("seed.sql")


@contextmanager
def cluster(home: Path, **settings: str) -> Iterator[Cluster]:
    """A PostgreSQL as `fleetward up` runs it, with an empty database. `settings`: more than those."""
    made = postgres.prepare(home, postgres.production(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) | settings)
    command = launch.through(made.command(), user=made.owner.user, death=signal.SIGQUIT)
    server = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until(made.ready, 60, "PostgreSQL")
        made.ensure_database()
        yield made
    finally:
        end(server)


def seed(made: Cluster, hosts: int, components: int) -> None:
    """Fill an empty, migrated database. Raises CalledProcessError with psql's words on standard error."""
    sizes = ("-v", f"hosts={hosts}", "-v", f"components={components}")
    with SEED.open() as script:
        subprocess.run([made.programs.path("psql"), "-XAtq", *sizes, made.url(role=postgres.SUPERUSER)], stdin=script, check=True)


@dataclass(frozen=True, slots=True)
class Site:
    """A web process over a fleet on paper, and nothing else."""

    cluster: Cluster
    url: str
    headers: dict[str, str]

    @property
    def database(self) -> str:
        return self.cluster.url()


@contextmanager
def site(home: Path, hosts: int, components: int) -> Iterator[Site]:
    """Neither ingest nor managers run: to them, nobody of this fleet would be there."""
    with cluster(home / "postgres") as made, (home / "log").open("wb") as log:
        secrets, token, port = home / "secrets", home / "admin-token", free_port()
        environment = {
            **os.environ,
            "FLEETWARD_DATABASE": made.url(),
            "FLEETWARD_SECRETS": str(secrets),
            "FLEETWARD_BROKER": "mqtts://127.0.0.1:1",
        }
        bootstrap = [sys.executable, "-m", "inventory", "bootstrap", "--secrets", str(secrets), "--admin-token-file", str(token)]
        subprocess.run(bootstrap, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
        seed(made, hosts, components)
        web = subprocess.Popen([sys.executable, "-m", "web", "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: _answers(port), 60, "the web process")
            yield Site(made, f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token.read_text().strip()}"})
        finally:
            end(web)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
