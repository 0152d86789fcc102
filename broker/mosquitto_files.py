"""The files that a Mosquitto is run with: configuration, ACL, CRL; where they are, what stands in them, and what they are made of.

No process and no signal: `broker.mosquitto` runs one with them, `broker.beside` keeps them up to date for one that runs already, and
`broker.configuration` prints them. Source: mosquitto.conf(5) of Mosquitto 2.0.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from broker.acl import Acl, Class, Identity, mosquitto_acl
from broker.messages import MAX_BYTES
from broker.stamps import Stamps, stamps


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are: what we read (`secrets`), what we write for Mosquitto (`run`), and the list of integrations."""

    secrets: Path
    run: Path

    @property
    def acl(self) -> Path:
        return self.run / "mosquitto.acl"

    @property
    def config(self) -> Path:
        return self.run / "mosquitto.conf"

    @property
    def crl(self) -> Path:
        """The one that Mosquitto reads: the newest that Inventory has told, or the secrets' own, which takes nothing back."""
        return self.run / "mosquitto.crl"

    @property
    def plugin(self) -> Path:
        """What the dynamic-security plugin keeps: nothing, but it wants a file."""
        return self.run / "mosquitto-clients.json"

    @property
    def revoked(self) -> Path:
        return self.run / "revoked.json"

    @property
    def uncut(self) -> Path:
        """Names of those who are revoked and may still be connected."""
        return self.run / "uncut.json"

    @property
    def integrations(self) -> Path:
        """Written by Inventory: a JSON list of {"name", "scoped"}."""
        return self.secrets.parent / "broker" / "integrations.json"

    def write_rules(self, acl: Acl, crl: str) -> None:
        """Both that Mosquitto reads again when it is told to. Raises ValueError, OSError."""
        self.write_acl(acl)
        self.write_crl(crl)

    def write_acl(self, acl: Acl) -> None:
        """With the integrations that are listed now. Raises ValueError for a list that is none, OSError."""
        write(self.acl, mosquitto_acl(acl, read_integrations(self.integrations)))

    def write_crl(self, crl: str) -> None:
        """Beside the secrets' own: a CA that has no list there yet would be believed nothing. Of two of one CA the newer counts."""
        write(self.crl, crl + (self.secrets / "ca.crl").read_text())

    def seen(self) -> Stamps:
        """Differs where something has changed that Mosquitto has to read again; the last of it where it has to be started again."""
        return stamps((self.integrations, *(self.secrets / name for name in ("broker.crt", "ca.crl", "ca.crt"))))


PLUGIN_CLIENTS = {
    "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": False},
    "clients": [],
    "groups": [],
    "roles": [],
}
"""For the plugin: nobody is known to it and nothing granted, so that it leaves every decision to the ACL file."""


def render(files: Files, host: str, port: int, user: str, plugin: str) -> str:
    """The configuration; `plugin` is the path of the dynamic-security plugin. Paths must hold no line break: Mosquitto takes the rest of a
    line as it is."""
    return f"""\
# Rendered by broker/mosquitto_files.py.
user {user}
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false

# A service is sent the whole fleet's messages, and the fleet a service's. Without a bound in bytes, a client that does not acknowledge is
# kept everything for: what is in flight does not count as queued.
max_inflight_messages 0
max_inflight_bytes 33554432
max_queued_messages 100000
max_queued_bytes 67108864
max_packet_size {MAX_BYTES + 4096}
retain_available false

# It cuts the connections of certificates that are revoked; who may do what is in the ACL file.
plugin {plugin}
plugin_opt_config_file {files.plugin}

listener {port} {host}
allow_anonymous false
cafile {files.secrets / "ca.crt"}
crlfile {files.crl}
certfile {files.secrets / "broker.crt"}
keyfile {files.secrets / "broker.key"}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
# Without it a certificate could take over the connection of another by using its client id.
use_username_as_clientid true
acl_file {files.acl}
"""


def read_integrations(path: Path) -> list[Identity]:
    """The listed integrations; none where there is no list. Raises ValueError for a list that is none, or a name unfit for an ACL."""
    try:
        listed = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    found = []
    for each in listed:
        match each:
            case {"name": str(name), "scoped": bool(scoped)} if name.isprintable() and not set(name) & set(" #+/"):
                found.append(Identity(name, Class.INTEGRATION_SCOPED if scoped else Class.INTEGRATION))
            case _:
                raise ValueError(f"{path}: an entry is not an integration: {each!r}")
    return found


def write(path: Path, text: str) -> None:
    """Replaced as a whole: Mosquitto never reads half a file."""
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(path)
