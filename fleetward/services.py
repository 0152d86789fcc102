"""The table of what `fleetward up` runs: each service's command and environment, from the settings. Pure but for paths.

The services are reached as `python -m NAME`; what each takes is in the environment, so that neither a database password nor a token
is seen in a process list. `fleetward.up` calls it; tests pass another `Programs` to run stand-ins.
"""

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleetward.layout import DataDir
from fleetward.postgres import Cluster
from fleetward.settings import KEPT_NAMES, OIDC_NAMES, Up
from fleetward.supervisor import Service, said_ready
from fleetward.trust import fingerprint

Programs = Callable[[str], tuple[str, ...]]
"""The command for one of our packages, by its name."""

_KEPT = (
    *("FLEETWARD_LOG", "FLEETWARD_TOPIC_ROOT", "FLEETWARD_CERTIFICATE_GRACE", "FLEETWARD_WHEELS"),
    *(f"FLEETWARD_KEEP_{name.upper()}" for name in KEPT_NAMES),
)
_CONTROL_PLANE = ("broker", "inventory", "managers", "web")


def modules(name: str) -> tuple[str, ...]:
    """The real ones. `-P`: the working directory holds no code of ours."""
    return (sys.executable, "-P", "-m", name)


@dataclass(frozen=True, slots=True)
class Table:
    """Builds the services of one run. `inherited` is this process's environment."""

    settings: Up
    data: DataDir
    database: str
    inherited: Mapping[str, str]
    programs: Programs = modules

    def base_environment(self) -> dict[str, str]:
        """What every child gets: ours without the variables meant for the `fleetward` command. Unbuffered, because the line that says
        ready goes to a file."""
        kept = {name: value for name, value in self.inherited.items() if not name.startswith("FLEETWARD_") or name in _KEPT}
        return kept | {"PYTHONUNBUFFERED": "1", "FLEETWARD_LOG_FORMAT": "json"}

    def service_environment(self) -> dict[str, str]:
        return self.base_environment() | {
            "FLEETWARD_DATABASE": self.database,
            "FLEETWARD_BROKER": self.settings.broker_url,
            "FLEETWARD_SECRETS": str(self.data.secrets),
            "FLEETWARD_MQTT_ADVERTISE": self.settings.mqtt_advertise,
            "FLEETWARD_WHEELS": self.inherited.get("FLEETWARD_WHEELS") or str(self.data.wheels),
        }

    def _environment(self, name: str) -> dict[str, str]:
        """The identity provider's secret is for web alone."""
        variables = [f"FLEETWARD_OIDC_{each.upper()}" for each in OIDC_NAMES] if name == "web" else []
        return self.service_environment() | {each: self.inherited[each] for each in variables if each in self.inherited}

    def bootstrap(self) -> tuple[str, ...]:
        """The step that migrates and makes the CA, the certificates and the first administrator."""
        names = [part for name in self.settings.certificate_names for part in ("--advertise", name)]
        where = ("--secrets", str(self.data.secrets), "--admin-token-file", str(self.data.admin_token))
        return (*self.programs("inventory"), "bootstrap", *where, *names)

    def control_plane(self, web_answers: Callable[[], bool]) -> tuple[Service, ...]:
        """Broker (where it is ours), inventory, managers, web; in the order they are shown."""
        return tuple(
            Service(name, self._command(name), self._environment(name), self._readiness(name, web_answers))
            for name in _CONTROL_PLANE
            if name != "broker" or self.settings.own_broker
        )

    def agent(self) -> Service:
        """This machine's own agent: it gets nothing of the server's environment, and is ready by running, connected or not."""
        command = (*self.programs("edge_agent"), "run", "--state-dir", str(self.data.agent))
        return Service("agent", command, self.base_environment(), ready=lambda _: True)

    def simulator(self, token: str) -> Service:
        count = ("--count", str(self.settings.simulate))
        command = (*self.programs("edge_agent.simulator"), *count, *self.joining(self.data.simulator))
        return Service("simulator", command, self.joining_environment(token), ready=lambda _: True)

    def joining_environment(self, token: str) -> dict[str, str]:
        """For what enrolls."""
        return self.base_environment() | {"FLEETWARD_ENROLLMENT_TOKEN": token}

    def joining(self, state: Path) -> tuple[str, ...]:
        """What devices on this machine are told: both addresses as they are from here, and, over HTTPS, which CA to trust. Reads its
        certificate."""
        pin = ("--ca-fingerprint", fingerprint(self.data.secrets / "ca.crt")) if self.settings.tls else ()
        where = ("--server", self.settings.local_url, "--broker", self.settings.mqtt_local)
        return (*where, "--state-dir", str(state), *pin)

    def _command(self, name: str) -> tuple[str, ...]:
        match name:
            case "broker":
                address = ("--host", self.settings.host, "--port", str(self.settings.mqtt_port))
                files = ("--secrets", str(self.data.secrets), "--data", str(self.data.broker))
                root = ("--topic-root", self.inherited["FLEETWARD_TOPIC_ROOT"]) if "FLEETWARD_TOPIC_ROOT" in self.inherited else ()
                return (*self.programs("broker"), "--kind", self.settings.broker, *address, *files, *root)
            case "web":
                address = ("--host", self.settings.host, "--port", str(self.settings.http_port))
                return (*self.programs("web"), *address, *(("--tls",) if self.settings.tls else ()))
            case _:
                return self.programs(name)

    @staticmethod
    def _readiness(name: str, web_answers: Callable[[], bool]) -> Callable[[str], bool]:
        return (lambda said: said_ready(said) and web_answers()) if name == "web" else said_ready


def postgres_service(cluster: Cluster, environment: Mapping[str, str]) -> Service:
    """Fast shutdown (SIGINT) when asked to end; at once (SIGQUIT, recovering at the next start) when the supervisor dies."""
    return Service(
        "postgres",
        tuple(cluster.command()),
        environment,
        ready=lambda _: cluster.ready(),
        user=cluster.owner.user,
        stop=signal.SIGINT,
        death=signal.SIGQUIT,
        stage=1,
        before=cluster.clear_stale,
    )
