"""`fleetward up` keeps its promises towards people and scripts, whatever is killed (contract.md section 1)."""

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fleetward import launch, postgres
from fleetward.owner import owner
from tests.up.runs import Run, Ups, gone
from tests.waiting import Stopwatch, until

EVERYONE = {"postgres", "broker", "inventory", "managers", "web", "agent"}


def database_marker(run: Run) -> str:
    """What a table in the run's own database holds; the table is made when missing."""
    socket_directory = run.data / "postgres" / "socket"
    psql = postgres.installed()[0].path("psql")
    sql = "CREATE TABLE IF NOT EXISTS marker (at timestamptz DEFAULT now()); SELECT count(*) FROM marker; INSERT INTO marker DEFAULT VALUES"
    url = f"postgresql://fleetward@/fleetward?host={socket_directory}"
    return subprocess.run([psql, "-XAtq", url, "-c", sql], capture_output=True, text=True, check=True).stdout.strip()


def test_first_and_second_start(ups: Ups) -> None:
    """The first start says each service, the address and the password; the second one resumes, and says no password."""
    first = ups.start().until_ready()
    names = [line.split(":")[0] for line in first.lines]
    assert names == ["postgres", "broker", "inventory", "managers", "web", "agent", "ready", "sign-in"]
    assert first.lines[-2:] == [f"ready: http://127.0.0.1:{ups.settings['http_port']}", "sign-in: admin correct-horse"]
    server = json.loads((first.data / "server.json").read_text())
    assert server == {
        "url": first.lines[-2].split(" ")[1],
        "mqtt": f"mqtts://127.0.0.1:{ups.settings['mqtt_port']}",
        "pid": first.process.pid,
    }
    assert first.pid("supervisor") == first.process.pid
    assert set(first.children()) == EVERYONE
    assert json.loads((first.data / "agent" / "identity.json").read_text())["token"] == "once-only"
    assert database_marker(first) == "0"
    assert first.end() == 0

    watch = Stopwatch()
    second = ups.start().until_ready()
    assert watch.seconds() < 15
    assert second.lines[-1] == "sign-in: admin"
    assert database_marker(second) == "1"
    assert not second.complaints


def test_the_local_agent_is_enrolled_whenever_the_fleet_lacks_it(ups: Ups) -> None:
    """Once for as long as its host is there and the broker is where it was; again when its host is gone, or the broker has moved: then
    without approving what a person may have decided against."""

    def identity(run: Run) -> dict[str, Any]:
        """What enrollment left; the token is taken out of it, so that the next look shows whether there was another enrollment."""
        path = run.data / "agent" / "identity.json"
        found: dict[str, Any] = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "token": None}))
        assert run.end() == 0
        return found

    assert identity(ups.start().until_ready())["token"] == "once-only"
    assert identity(ups.start().until_ready())["token"] is None
    moved = identity(ups.start(mqtt_port=(port := ups.ports())).until_ready())
    assert (moved["token"], moved["broker"]) == ("unapproved", {"host": "127.0.0.1", "port": port})
    assert identity(ups.start({"STAND_IN_FORGETFUL": "yes"}, mqtt_port=port).until_ready())["token"] == "once-only"


def test_a_machine_that_the_fleet_knows_is_approved(ups: Ups, tmp_path: Path) -> None:
    """Its state was lost, so that it waits like any other whose serial number is known; it belongs to whoever starts `up`."""
    known = tmp_path / "known"
    known.touch()
    run = ups.start({"STAND_IN_KNOWN": str(known)}).until_ready()
    assert json.loads((run.data / "agent" / "identity.json").read_text())["device"] == "host-01"
    assert not known.exists() and run.end() == 0


def test_ctrl_c_and_sigterm_end_everything(ups: Ups) -> None:
    """Either signal ends all processes within 15 s, even one that is deaf to it, with exit code 0 and no pid file left."""
    for signum, deaf in ((signal.SIGINT, "nobody"), (signal.SIGTERM, "managers")):
        run = ups.start({"STAND_IN_DEAF": deaf}).until_ready()
        children = run.children()
        watch = Stopwatch()
        assert run.end(signum) == 0
        assert watch.seconds() < 15
        assert all(gone(pid) for pid in children.values())
        assert not list((run.data / "run").glob("*.pid"))
        assert not (run.data / "server.json").exists()


def test_a_child_that_dies_is_started_again(ups: Ups) -> None:
    """kill -9 of each child in turn: within 5 s another one runs, and that is said."""
    run = ups.start().until_ready()
    for name in sorted(EVERYONE):
        before = run.pid(name)
        os.kill(before, signal.SIGKILL)
        until(lambda name=name, before=before: run.pid(name) != before and not gone(run.pid(name)), 5, f"{name} is not back")  # type: ignore[misc]
        until(lambda name=name: f"{name}: ready again" in run.lines, 10, f"{name} is not ready")  # type: ignore[misc]
        assert any(line.startswith(f"{name}: died (killed by SIGKILL)") for line in run.lines)
    assert database_marker(run) == "0"


def test_nothing_outlives_a_killed_supervisor(ups: Ups) -> None:
    """kill -9 of the supervisor ends its children too, and the next `up` starts over the pid files it left."""
    run = ups.start().until_ready()
    database_marker(run)
    children = run.children()
    run.process.kill()
    run.process.wait()
    until(lambda: all(gone(pid) for pid in children.values()), 10, "something outlived the supervisor")
    again = ups.start().until_ready()
    assert database_marker(again) == "1"


def test_next_up_right_after_everything_was_killed(ups: Ups) -> None:
    """kill -9 of all at once, and an `up` that does not wait for the dust to settle."""
    run = ups.start().until_ready()
    database_marker(run)
    for process in [run.process.pid, *run.children().values()]:
        with suppress(ProcessLookupError):  # it has ended with the supervisor
            os.kill(process, signal.SIGKILL)
    assert database_marker(ups.start().until_ready()) == "1"


def test_pid_files_that_name_strangers_harm_nobody(ups: Ups) -> None:
    """After a restart of the machine the noted pids may be anyone's: strangers are left alone, and are in nobody's way."""
    run = ups.start().until_ready()
    children = run.children()
    run.process.kill()
    run.process.wait()
    until(lambda: all(gone(pid) for pid in children.values()), 30, "the children to follow their supervisor")
    stranger = subprocess.Popen(launch.through(["sleep", "600"], user=owner().user))
    try:
        for pid_file in (run.data / "run").glob("*.pid"):
            pid_file.write_text(f"{stranger.pid}\n")
        noted = run.data / "run" / "children.json"
        noted.write_text(json.dumps({name: one | {"pid": stranger.pid} for name, one in json.loads(noted.read_text()).items()}))
        stale = run.data / "postgres" / "data" / "postmaster.pid"
        stale.write_text("\n".join([str(stranger.pid), str(stale.parent), "1", "5432", str(stale.parent.parent), "", "0 0", "ready"]))
        ups.start().until_ready()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def refused(run: Run) -> str:
    """The one line with which an `up` gave up, with exit code 2."""
    assert run.process.wait(100) == 2, run.complaints
    assert not run.lines
    [line] = run.complaints
    return line


def test_ports_in_use(ups: Ups) -> None:
    """A port that is taken: one line that names it and the flag, exit 2, nothing started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in (line := refused(ups.start(http_port=port)))
        assert "--http-port" in line
        assert "--mqtt-port" in refused(ups.start(mqtt_port=port))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"http_port": 18080, "mqtt_port": 18080}, "--http-port and --mqtt-port are both 18080"),
        ({"broker": "mqtts://127.0.0.1:many"}, "mqtts://HOST:PORT"),
        ({"broker": "mqtts://[::1"}, "mqtts://HOST:PORT"),
        ({"database": "postgresql://u:p@127.0.0.1:many/d"}, "postgresql://USER:PASSWORD@HOST/DATABASE"),
        ({"advertise": ["fleet example"]}, "--advertise 'fleet example'"),
        ({"advertise": [""]}, "--advertise ''"),
        ({"advertise": ["0.0.0.0"]}, "--advertise '0.0.0.0'"),
        ({"data_dir": "/proc/nowhere"}, "/proc/nowhere: No such file or directory: choose another --data-dir"),
    ],
)
def test_what_can_never_work(ups: Ups, settings: dict[str, Any], words: str) -> None:
    """Flags that make no sense: one line that names the flag, exit 2, before anything is started."""
    assert words in refused(ups.start(**settings))


def test_data_directory_in_use(ups: Ups) -> None:
    """A second `up` on the same data directory: one line that says what to do, exit 2, and the first goes on."""
    first = ups.start().until_ready()
    line = refused(ups.start(http_port=ups.ports(), mqtt_port=ups.ports()))
    assert f"pid {first.process.pid}" in line
    assert "--data-dir" in line
    assert first.process.poll() is None
    assert first.pid("supervisor") == first.process.pid


def test_database_and_broker_out_of_reach(ups: Ups) -> None:
    """A database or a broker that does not answer: one line, exit 2; a password given in the URL is not in it."""
    line = refused(ups.start(database=f"postgresql://someone:hidden-word@127.0.0.1:{ups.ports()}/nothing"))
    assert "--database" in line
    assert "hidden-word" not in line
    assert "--broker" in refused(ups.start(broker=f"mqtts://127.0.0.1:{ups.ports()}"))
    assert "mqtts://HOST:PORT" in refused(ups.start(broker="amqp://127.0.0.1"))


def test_a_given_database_is_used(ups: Ups, postgres_url: str) -> None:
    """With --database no PostgreSQL is started."""
    run = ups.start(database=postgres_url).until_ready()
    assert set(run.children()) == EVERYONE - {"postgres"}
    assert not (run.data / "postgres").exists()


def test_a_service_that_cannot_live_is_named(ups: Ups) -> None:
    """A service that keeps dying at the start: its name, its last words and its log; exit 1, and nothing is left running."""
    run = ups.start({"STAND_IN_BROKEN": "managers"})
    assert run.process.wait(150) == 1
    assert run.complaints == [f"fleetward: managers did not start: no such luck (more in {run.data / 'log' / 'managers.log'})"]
    assert not list((run.data / "run").glob("*.pid"))
