"""What `fleetward up` was asked for, frozen, and what follows from it: addresses, URLs, names on certificates. Pure.

`fleetward.cli.run` reads the flags and the environment into it; `fleetward.services` and `fleetward.up` read it.

Source: contract.md section 1.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_HTTP_PORT = 8080
DEFAULT_MQTT_PORT = 8883
"""MQTT over TLS, as registered with IANA."""
KEPT_NAMES = ("changes", "commands", "notifications", "logs", "poison")
"""What Inventory's retention is set for: FLEETWARD_KEEP_COMMANDS and so on (docs/operating.md)."""
OIDC_NAMES = (
    *("issuer", "client_id", "client_secret", "scopes", "name_claim", "role_claim", "roles", "title", "redirect", "networks"),
    "first_scope",
)
"""What the web process is told of an identity provider: FLEETWARD_OIDC_ISSUER and so on (docs/people.md)."""

_HOST_NAME = re.compile(r"(?=.{1,253}$)\w([\w-]{0,62})(\.\w([\w-]{0,62}))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Up:
    """`database` None means a PostgreSQL of our own; `broker` is `embedded`, `mosquitto`, or the URL of one that stands."""

    data_dir: Path
    host: str = "127.0.0.1"
    http_port: int = DEFAULT_HTTP_PORT
    mqtt_port: int = DEFAULT_MQTT_PORT
    database: str | None = None
    broker: str = "embedded"
    advertise: tuple[str, ...] = ()
    agent: bool = True
    simulate: int = 0

    @property
    def tls(self) -> bool:
        """HTTPS, unless only this machine can see it."""
        return not is_loopback(self.host)

    @property
    def url(self) -> str:
        """Of API and dashboard, as others reach them."""
        return self._http(self._shown_host())

    @property
    def local_url(self) -> str:
        """The same as this machine reaches it: nothing here depends on whether an advertised name means this machine here too."""
        return self._http(self._local_host())

    @property
    def own_broker(self) -> bool:
        return "://" not in self.broker

    @property
    def broker_url(self) -> str:
        """Where the services find the broker."""
        if not self.own_broker:
            return self.broker
        return f"mqtts://{bracketed(self._local_host())}:{self.mqtt_port}"

    @property
    def mqtt_advertise(self) -> str:
        """host:port, where devices are told to find the broker."""
        return f"{bracketed(self._shown_host())}:{self.mqtt_port}" if self.own_broker else self.mqtt_local

    @property
    def mqtt_local(self) -> str:
        """host:port, where devices on this machine find the broker."""
        parts = urlsplit(self.broker_url)
        return f"{bracketed(parts.hostname or '')}:{parts.port or DEFAULT_MQTT_PORT}"

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """Names on the server certificates beyond the local ones."""
        bound = () if is_loopback(self.host) or is_wildcard(self.host) else (self.host,)
        return tuple(dict.fromkeys((*self.advertise, *bound)))

    def _http(self, host: str) -> str:
        return f"{'https' if self.tls else 'http'}://{bracketed(host)}:{self.http_port}"

    def _local_host(self) -> str:
        if not is_wildcard(self.host):
            return self.host
        return "::1" if ":" in self.host else "127.0.0.1"

    def _shown_host(self) -> str:
        if is_loopback(self.host):
            return self.host
        if self.advertise:
            return self.advertise[0]
        return socket.gethostname() if is_wildcard(self.host) else self.host


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def can_be_advertised(name: str) -> bool:
    """Whether it may stand on a certificate: a host name (RFC 1123, underscores tolerated) or an IP address that is one machine's."""
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return _HOST_NAME.fullmatch(name) is not None


def bracketed(host: str) -> str:
    """A host as URLs want it (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host
