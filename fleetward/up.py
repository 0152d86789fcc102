"""`fleetward up`: everything on this machine, in the right order, until somebody asks to end.

PostgreSQL, the bootstrap step, then broker, inventory, managers and web side by side, then this machine's agent. The order and the words
are here; keeping children alive is `fleetward.supervisor`'s, what they are `fleetward.services`'. `fleetward.cli.run` calls `up`.

Standard output: a line a service, `ready: URL`, and how to sign in. Errors are one line on standard error. Exit codes: 0 ended on
request, 1 something did not start, 2 something outside is in the way.

Source: contract.md section 1.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fleetward import local_agent, postgres, preflight
from fleetward.client import ApiError, Client, ClientError, Unreachable
from fleetward.layout import DataDir, InUse
from fleetward.local_agent import Standing
from fleetward.owner import owner
from fleetward.preflight import Unusable
from fleetward.process import write_pid
from fleetward.services import Programs, Table, modules, postgres_service
from fleetward.settings import Up
from fleetward.supervisor import NotReady, Stopped, Supervisor

_START_SECONDS = 120.0
"""For each stage of the start; slow disks and first migrations included."""
_AWAY_SECONDS = 20.0
"""For an API that was ready and does not answer: it is started again within 5."""
T = TypeVar("T")


def up(settings: Up, inherited: Mapping[str, str], programs: Programs = modules) -> int:
    """Run until asked to end; the exit code."""
    data = DataDir(settings.data_dir.resolve())
    try:
        data.make(owner() if settings.database is None else None)
        # Held, though never read again, until this process ends.
        data.lock()
    except InUse as error:
        return _complain(f"another `fleetward up` ({error}) runs on {data.root}: stop it, or choose another --data-dir", 2)
    except OSError as error:
        return _complain(f"{error.filename or data.root}: {error.strerror}: choose another --data-dir", 2)
    except LookupError as error:
        return _complain(str(error), 2)
    if data.unfinished.exists():
        return _complain(f"a restore into {data.root} was cut short: run `fleetward restore FILE --force` again", 2)
    return _supervised(settings, data, inherited, programs)


def _supervised(settings: Up, data: DataDir, inherited: Mapping[str, str], programs: Programs) -> int:
    supervisor = Supervisor(data.run, data.log, _say)
    data.server_json.unlink(missing_ok=True)
    write_pid(data.pid_file("supervisor"), os.getpid())
    try:
        # First, because what is left of an earlier run may hold the ports.
        supervisor.end_orphans()
        preflight.check(settings)
        _Start(settings, data, supervisor, inherited, programs).everything()
        supervisor.watch()
        code = 0
    except Stopped:
        code = 0
    except Unusable as error:
        code = _complain(str(error), 2)
    except (NotReady, postgres.PostgresError, ClientError, OSError) as error:
        code = _complain(str(error), 1)
    finally:
        supervisor.stop()
        data.server_json.unlink(missing_ok=True)
        data.pid_file("supervisor").unlink(missing_ok=True)
    return code


@dataclass(frozen=True, slots=True)
class _Start:
    settings: Up
    data: DataDir
    supervisor: Supervisor
    inherited: Mapping[str, str]
    programs: Programs

    def everything(self) -> None:
        database = self._database()
        table = Table(self.settings, self.data, database, self.inherited, self.programs)
        self._bootstrap(table)
        # Open for as long as web may have to be asked again whether it is ready.
        client = self._client()
        self._control_plane(table, client)
        self._devices(table, client)
        self.data.write_server(self.settings.local_url, self.settings.broker_url, self.settings.url)
        _say(f"ready: {self.settings.url}")
        self._sign_in()

    def _database(self) -> str:
        """Its URL; started and made first, where it is ours."""
        if self.settings.database is not None:
            _say("postgres: the one at --database")
            return self.settings.database
        cluster = postgres.prepare(self.data.postgres, postgres.production(_memory_bytes()))
        self.supervisor.start(postgres_service(cluster, {"PATH": self.inherited.get("PATH", os.defpath), "LC_ALL": "C"}))
        self.supervisor.until_ready("postgres", seconds=_START_SECONDS)
        cluster.ensure_database()
        _say(f"postgres: ready (socket in {cluster.sockets})")
        return cluster.url()

    def _bootstrap(self, table: Table) -> None:
        said = self.supervisor.run("bootstrap", table.bootstrap(), table.service_environment(), _START_SECONDS)
        try:
            password = json.loads(said.strip().splitlines()[-1]).get("admin_password")
        except (ValueError, IndexError, AttributeError):
            raise NotReady(f"bootstrap gave no answer in JSON (see {self.data.log})") from None
        if password:
            # Kept until it has been shown: a crash between here and there must not lock everyone out.
            handle = os.open(self.data.first_password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "w") as file:
                file.write(password)

    def _client(self) -> Client:
        ca = self.data.secrets / "ca.crt" if self.settings.tls else None
        return Client(self.settings.local_url, self.data.admin_token.read_text().strip(), ca=ca)

    def _control_plane(self, table: Table, client: Client) -> None:
        services = table.control_plane(client.ready)
        for service in services:
            self.supervisor.start(service)
        if not self.settings.own_broker:
            _say(f"broker: the one at {self.settings.broker}")
        for service in services:
            self.supervisor.until_ready(service.name, seconds=_START_SECONDS)
            _say(f"{service.name}: {self._where(service.name)}")

    def _where(self, name: str) -> str:
        match name:
            case "broker":
                return f"ready ({self.settings.broker}, {self.settings.broker_url})"
            case "web":
                return f"ready ({self.settings.url})"
            case _:
                return "ready"

    def _devices(self, table: Table, client: Client) -> None:
        if self.settings.agent:
            local_agent.configure(self.data)
            self._patiently(lambda: self._join(table, client))
            self.supervisor.start(table.agent())
            _say(f"agent: {local_agent.enrolled_as(self.data)}")
        if self.settings.simulate:
            self.data.simulator.mkdir(mode=0o700, exist_ok=True)
            secret = self._patiently(lambda: local_agent.token(client, self.settings.simulate, approve=True))
            self.supervisor.start(table.simulator(secret.secret))
            _say(f"simulator: {self.settings.simulate} devices")

    def _join(self, table: Table, client: Client) -> None:
        """Enroll this machine, where the fleet does not have it (any more)."""
        standing = local_agent.standing(self.data, client, self.settings.mqtt_local)
        if standing is not Standing.MEMBER:
            # What a person has made of a host that there is stays: only a new one is approved.
            token = local_agent.token(client, 1, approve=standing is Standing.STRANGER)
            try:
                self._enroll(table, token)
            except NotReady:
                if not local_agent.approved(client, token):
                    raise
                self._enroll(table, token)

    def _enroll(self, table: Table, token: local_agent.Token) -> None:
        """Raises NotReady."""
        environment = table.joining_environment(token.secret)
        self.supervisor.run("agent", local_agent.enroll_command(table), environment, _START_SECONDS)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Again while the API is away for a moment (killed, and started again); at last, what went wrong."""
        deadline = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                return ask()
            except (Unreachable, NotReady, ApiError) as error:
                refused = isinstance(error, ApiError) and error.status < 500
                if refused or time.monotonic() > deadline:
                    raise
            self.supervisor.pause(1.0)

    def _sign_in(self) -> None:
        if self.data.first_password.exists():
            _say(f"sign-in: admin {self.data.first_password.read_text()}")
            self.data.first_password.unlink()
        else:
            _say("sign-in: admin")


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _say(line: str) -> None:
    """A reader that has gone away (`up | head`) is no reason to end."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str, code: int) -> int:
    print(f"fleetward: {line}", file=sys.stderr)
    return code
