"""The parts `fleetward up` is made of: the launcher, addresses, the table of services, and where PostgreSQL's files go."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fleetward import launch, owner, postgres
from fleetward.layout import DataDir
from fleetward.preflight import Unusable, check_port, libpq_environment
from fleetward.process import identify, note, noted
from fleetward.services import Table
from fleetward.settings import OIDC_NAMES, Up
from fleetward.supervisor import Service, Supervisor, restart_delay, said_ready, worth_saying
from tests.up.runs import gone
from tests.waiting import until
from web.providers import VARIABLES

PARENT = """
import signal, subprocess, sys
sys.path.insert(0, {root!r})
from fleetward import launch
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
child = subprocess.Popen(launch.through(["sleep", "600"]))
print(child.pid, flush=True)
signal.pause()
"""


def test_a_launched_program_dies_with_its_parent() -> None:
    """Even with kill -9, and with none of the parent's blocked signals."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", PARENT.format(root=root)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", 10, "the program did not start")
        status = Path(f"/proc/{child}/status").read_text()
        assert "SigBlk:\t0000000000000000" in status
        parent.kill()
    until(lambda: gone(child), 5, "it outlived its parent")


def test_a_program_that_is_not_there() -> None:
    """127 and its name, as a shell would say it."""
    failed = subprocess.run(launch.through(["no-such-program"]), capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (launch.NOT_STARTED, "no-such-program: No such file or directory\n")


def test_a_signal_goes_to_the_process_meant_or_to_none() -> None:
    """The same pid with another start time is another process."""
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        found = identify(sleeper.pid)
        assert found is not None
        stranger = type(found)(found.pid, found.started - 1, found.boot)
        assert not stranger.send(signal.SIGKILL)
        assert sleeper.poll() is None
        assert found.send(signal.SIGKILL)
        assert sleeper.wait(10) == -signal.SIGKILL
        assert not found.send(signal.SIGKILL)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_restarts_come_within_five_seconds() -> None:
    """Quickly at first, never slower than promised, and mentioned ever more rarely."""
    delays = [restart_delay(failures) for failures in range(1, 100)]
    assert delays == sorted(delays)
    assert delays[0] < 0.5
    assert max(delays) < 5
    assert [failures for failures in range(1, 20) if worth_saying(failures)] == [1, 2, 4, 8, 16]


def test_a_log_that_is_deleted_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tidies up in the data directory must not end everything that runs."""
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: set())
    (tmp_path / "run").mkdir()
    (tmp_path / "log").mkdir()
    supervisor = Supervisor(tmp_path / "run", tmp_path / "log", lambda _: None)
    supervisor.start(Service("sleeper", ("sleep", "600")))
    try:
        (tmp_path / "log" / "sleeper.log").unlink()
        for ready in (False, True):
            supervisor._children["sleeper"].ready = ready
            supervisor._look()
            supervisor._rotate_logs()
    finally:
        supervisor.stop()


def test_who_ends_before_the_orphans_have_leaves_them_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `up` that is told to end while it waits for them: the next one goes on with it."""
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: set())
    orphan = subprocess.Popen(launch.through(["sleep", "600"]))
    try:
        left = identify(orphan.pid)
        assert left is not None
        note(tmp_path / "children.json", {"sleeper": left})
        Supervisor(tmp_path, tmp_path, lambda _: None).stop()
        assert noted(tmp_path / "children.json") == {"sleeper": left}
    finally:
        orphan.kill()
        orphan.wait()


def test_ready_lines() -> None:
    """`ready` and `listening ...` at the start of a line count; a word in a log line does not."""
    assert said_ready("starting\nready\n")
    assert said_ready("listening mqtts://127.0.0.1:8883\n")
    assert not said_ready('{"message": "ready"}\nalready here\n')


@pytest.mark.parametrize(
    ("settings", "url", "broker", "advertised", "names"),
    [
        ({}, "http://127.0.0.1:8080", "mqtts://127.0.0.1:8883", "127.0.0.1:8883", ()),
        ({"host": "::1"}, "http://[::1]:8080", "mqtts://[::1]:8883", "[::1]:8883", ()),
        ({"host": "192.0.2.7"}, "https://192.0.2.7:8080", "mqtts://192.0.2.7:8883", "192.0.2.7:8883", ("192.0.2.7",)),
        (
            {"host": "0.0.0.0", "advertise": ("fleet.example",)},
            "https://fleet.example:8080",
            "mqtts://127.0.0.1:8883",
            "fleet.example:8883",
            ("fleet.example",),
        ),
        ({"broker": "mqtts://mq.example:1"}, "http://127.0.0.1:8080", "mqtts://mq.example:1", "mq.example:1", ()),
    ],
)
def test_addresses(settings: dict[str, str], url: str, broker: str, advertised: str, names: tuple[str, ...]) -> None:
    """Loopback is plain HTTP, anything else HTTPS; services, devices and people are each told an address that works for them."""
    up = Up(data_dir=Path("/d"), **settings)  # type: ignore[arg-type]
    assert (up.url, up.broker_url, up.mqtt_advertise, up.certificate_names) == (url, broker, advertised, names)


@pytest.mark.parametrize(
    ("settings", "url", "broker"),
    [
        ({}, "http://127.0.0.1:8080", "127.0.0.1:8883"),
        ({"host": "0.0.0.0", "advertise": ("fleet.example",)}, "https://127.0.0.1:8080", "127.0.0.1:8883"),
        ({"host": "::", "advertise": ("fleet.example",)}, "https://[::1]:8080", "[::1]:8883"),
        ({"host": "192.0.2.7", "advertise": ("fleet.example",)}, "https://192.0.2.7:8080", "192.0.2.7:8883"),
        ({"broker": "mqtts://mq.example"}, "http://127.0.0.1:8080", "mq.example:8883"),
    ],
)
def test_addresses_on_this_machine(settings: dict[str, str], url: str, broker: str) -> None:
    """What runs here needs no advertised name: this machine may not be able to resolve it."""
    up = Up(data_dir=Path("/d"), **settings)  # type: ignore[arg-type]
    assert (up.local_url, up.mqtt_local) == (url, broker)


def test_no_secret_is_an_argument() -> None:
    """The database's URL may hold a password: it is in the services' environment, never in their arguments, and never with the agent."""
    inherited = {"PATH": "/bin", "FLEETWARD_TOKEN": "t", "FLEETWARD_LOG": "debug", "FLEETWARD_OIDC_CLIENT_SECRET": "hidden"}
    table = Table(Up(data_dir=Path("/d"), host="0.0.0.0"), DataDir(Path("/d")), "postgresql://u:hidden@h/d", inherited)
    services = (*table.control_plane(lambda: True), table.agent())
    assert not any("hidden" in part for service in services for part in (*service.command, *table.bootstrap()))
    assert all(service.environment["FLEETWARD_DATABASE"] for service in services if service.name != "agent")
    assert all(set(service.environment) >= {"PATH", "FLEETWARD_LOG"} for service in services)
    assert not any("FLEETWARD_TOKEN" in service.environment for service in services)
    assert "FLEETWARD_DATABASE" not in table.agent().environment
    assert [service.name for service in services if "FLEETWARD_OIDC_CLIENT_SECRET" in service.environment] == ["web"]
    assert "--tls" in next(service.command for service in services if service.name == "web")


def test_web_is_told_all_of_a_provider_that_it_reads() -> None:
    """The front door and web know nothing of each other, so that each has the list of names."""
    assert set(OIDC_NAMES) == set(VARIABLES)


def test_wheels_for_other_platforms_have_a_place() -> None:
    """In the data directory, unless another one is named."""
    settings = Up(data_dir=Path("/d"), host="0.0.0.0")
    for inherited, wheels in (({}, "/d/wheels"), ({"FLEETWARD_WHEELS": "/w"}, "/w")):
        [web] = [
            s for s in Table(settings, DataDir(Path("/d")), "postgresql:///d", inherited).control_plane(lambda: True) if s.name == "web"
        ]
        assert web.environment["FLEETWARD_WHEELS"] == wheels


def test_database_urls_for_libpq() -> None:
    """Each part of a URL in its variable, percent-encoding undone."""
    assert libpq_environment("postgresql://u%40x:p%2Fw@h:5433/d?sslmode=require") == {
        "PGHOST": "h",
        "PGPORT": "5433",
        "PGUSER": "u@x",
        "PGPASSWORD": "p/w",
        "PGDATABASE": "d",
        "PGSSLMODE": "require",
    }
    assert libpq_environment("postgresql://fleetward@/d?host=/run/pg") == {"PGHOST": "/run/pg", "PGUSER": "fleetward", "PGDATABASE": "d"}


def test_hosts_that_are_not_here() -> None:
    """An address of another machine can't be listened on."""
    with pytest.raises(Unusable, match="--host"):
        check_port("192.0.2.1", 0, "--http-port")
    with pytest.raises(Unusable, match="no address"):
        check_port("no-such-name.invalid", 0, "--http-port")


def test_closed_directories_stay_closed(tmp_path: Path) -> None:
    """A data directory below a closed one: the cluster is made all the same, and no mode of any parent has changed."""
    closed = tmp_path / "closed"
    data = DataDir(closed / "d")
    who = owner.owner()
    data.make(who)
    closed.chmod(0o700)
    before = [(path, path.stat().st_mode) for path in (closed, tmp_path)]
    cluster = postgres.prepare(data.postgres, postgres.throwaway())
    try:
        assert (cluster.data / "PG_VERSION").exists()
        assert data.postgres.is_symlink() == who.other
        assert postgres.prepare(data.postgres, postgres.throwaway()).home == cluster.home
        assert [(path, path.stat().st_mode) for path, _ in before] == before
        assert cluster.home.stat().st_uid == os.geteuid()
        assert cluster.data.stat().st_uid == cluster.sockets.stat().st_uid == who.uid
    finally:
        shutil.rmtree(cluster.home)


def test_programs_behind_a_closed_door_are_copied() -> None:
    """A clone below /root: its PostgreSQL is copied to where the database's user may go, whole or not at all, and runs there."""
    home = Path(tempfile.mkdtemp(prefix="fleetward-tests-", dir="/tmp"))
    try:
        [newest, *_] = postgres.installed()
        copy = home / "programs" / "18" / newest.root.parent.name / newest.root.name
        postgres._copy_programs(newest, copy)
        assert postgres.Programs(copy).major() == newest.major()
        said = subprocess.run([postgres.Programs(copy).path("initdb"), "--version"], capture_output=True, text=True, check=True)
        assert newest.major() in said.stdout
        assert not list(home.rglob("*.partial"))
    finally:
        shutil.rmtree(home)


def test_long_paths_get_a_short_socket() -> None:
    """A socket's path has a limit that data directories do not; the same one is used again at the next start."""
    home = Path(tempfile.mkdtemp(prefix="x" * 100, dir="/tmp"))
    try:
        sockets = postgres._socket_directory(home, owner.owner())
        assert len(str(sockets)) < 60
        assert sockets.stat().st_uid == owner.owner().uid
        assert postgres._socket_directory(home, owner.owner()) == sockets
        os.rmdir(sockets)
        assert postgres._socket_directory(home, owner.owner()) != sockets
        os.rmdir(postgres._socket_directory(home, owner.owner()))
    finally:
        shutil.rmtree(home)


def test_odd_characters_in_paths_survive_the_url() -> None:
    """A data directory may have a name with blanks and percent signs."""
    cluster = postgres.Cluster(Path("/x"), postgres.Programs(Path("/p")), owner.owner(), Path("/d x/100%/postgres/socket"))
    assert libpq_environment(cluster.url())["PGHOST"] == "/d x/100%/postgres/socket"
