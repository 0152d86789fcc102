"""A small fleet around real agents: a CA, Mosquitto with client certificates, enrollment over HTTP, and `rig.Server` behind a paho client.

It stands in for broker, inventory and web where the agent is tested alone; what those really do is tested beside them.
"""

import base64
import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from broker.messages import Order
from broker.topics import DeviceTopic, Topics
from tests.agent.rig import Authority, Server
from tests.ports import free_port
from tests.waiting import Deadline

DEADLINE_S = 20.0

_ACL = """user svc-inventory
topic readwrite fleet/v1/#
pattern write fleet/v1/devices/+/%u/up/#
pattern read fleet/v1/devices/+/%u/down/#
"""


def eventually(predicate: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """What the predicate gives once it is true. Fails after the deadline."""
    deadline = Deadline(deadline_s)
    while True:
        value = predicate()
        if value:
            return value
        assert not deadline.over(), f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


class Ca:
    """An EC P-256 CA that signs what it is asked to."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._builder(self.name, self.key.public_key()).add_extension(constraints, True).sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def sign(self, public_key: Any, cn: str, server: bool = False) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
        builder = self._builder(name, public_key)
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, folder: Path, stem: str, cn: str, server: bool = False) -> tuple[Path, Path]:
        """A new key and certificate as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        paths = folder / f"{stem}.crt", folder / f"{stem}.key"
        paths[0].write_text(self.sign(key.public_key(), cn, server) + self.pem)
        paths[1].write_bytes(pem)
        return paths

    def _builder(self, subject: x509.Name, public_key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=30))
        )


class Mosquitto:
    """The broker as `--broker mosquitto` would run it; can be killed and started again on the same port."""

    def __init__(self, folder: Path, ca: Ca) -> None:
        self.port = free_port()
        self.folder = folder
        (folder / "ca.crt").write_text(ca.pem)
        certificate, key = ca.issue(folder, "broker", "broker", server=True)
        (folder / "acl").write_text(_ACL)
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"cafile {folder / 'ca.crt'}",
            f"certfile {certificate}",
            f"keyfile {key}",
            f"acl_file {folder / 'acl'}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            "max_queued_messages 100000",
            "max_inflight_messages 1000",
            "persistence false",
            "user root",
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log)
        eventually(self._listens, "mosquitto listens")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@dataclass
class Fleet:
    """One CA, one broker, one server; as many devices as enroll. `silent`: channels that the server does not answer on."""

    folder: Path
    ca: Ca = field(default_factory=Ca)
    authority: Authority = field(default_factory=Authority)
    devices: dict[str, Server] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    approve: bool = True
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    lose_answers: int = 0
    skew_s: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.authority.valid = (now - 86400, now + 86400)
        self.broker = Mosquitto(self.folder, self.ca)
        self._lock = threading.RLock()
        self._fences = 0
        self._client: Client | None = None

    # --- life ---

    def start(self) -> None:
        self.broker.start()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.connect()

    def connect(self) -> None:
        certificate, key = self.ca.issue(self.folder, "svc-inventory", "svc-inventory")
        client = Client(CallbackAPIVersion.VERSION2, client_id="svc-inventory", protocol=MQTTv311)
        client.tls_set(str(self.folder / "ca.crt"), str(certificate), str(key))
        ready = threading.Event()
        client.on_connect = lambda c, u, f, r, p: c.subscribe(Topics().uplinks(), 1)
        client.on_subscribe = lambda c, u, m, r, p: ready.set()
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 1)
        client.max_inflight_messages_set(1000)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        assert ready.wait(DEADLINE_S), "the server could not subscribe"
        self._client = client

    def stop(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
        self.http.shutdown()
        self.http.server_close()
        self.broker.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    # --- the wire ---

    def now(self) -> float:
        return time.time() + self.skew_s

    def server(self, device: str) -> Server:
        with self._lock:
            return self.devices[device]

    def fence(self) -> int:
        with self._lock:
            self._fences += 1
            return self._fences

    def order(self, device: str, id: str, verb: str = "config.apply", **changes: Any) -> None:
        """Sign and send a command."""
        authority = self.devices[device].authority
        order = authority.order(id, self.fence(), verb, at=self.now(), **changes)
        self.send_order(device, order)

    def send_order(self, device: str, order: Order) -> None:
        self.send(device, "down/command", self.devices[device].authority.command(order, self.now()))

    def send(self, device: str, suffix: str, payload: bytes) -> None:
        assert self._client is not None
        self._client.publish(Topics().build(DeviceTopic(device, suffix)), payload, 1)

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        topic = Topics().parse(message.topic)
        assert isinstance(topic, DeviceTopic)
        if topic.channel in self.silent:
            return
        with self._lock:
            answers = self.devices[topic.device].receive(topic.channel, bytes(message.payload), self.now())
        for suffix, payload in answers:
            self.send(topic.device, suffix, payload)

    # --- enrollment ---

    def enroll(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append(request)
            csr = x509.load_pem_x509_csr(request["csr"].encode())
            public = csr.public_key()
            der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            name = base64.b32encode(hashes_of(der))[:26].decode().lower()
            if not self.approve:
                return 202, {"request": f"req-{name}", "retry_after": 1}
            if request["token"] != "good-token":
                return 403, {"title": "Forbidden", "detail": "the token is not valid"}
            device = f"host-{name}"
            if device not in self.devices:
                authority = Authority(device, self.authority.root, self.authority.key, os.urandom(32), valid=self.authority.valid)
                self.devices[device] = Server(authority)
                self.answers[device] = self._answer(device, public, authority)
            return 200, self.answers[device]

    def _answer(self, device: str, public: Any, authority: Authority) -> dict[str, Any]:
        return {
            "device": device,
            "prefix": Topics().device_prefix(device),
            "certificate": self.ca.sign(public, device),
            "ca": self.ca.pem,
            "command_root": base64.b64encode(bytes(authority.root.verify_key)).decode(),
            "channel_key": authority.channel_key.hex(),
            "broker": {"host": "127.0.0.1", "port": self.broker.port},
        }


def hashes_of(raw: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(raw)
    return digest.finalize()


def _handler(fleet: Fleet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = fleet.enroll(body) if self.path == "/api/v1/enroll" else (404, {"title": "Not Found"})
            if fleet.lose_answers:
                fleet.lose_answers -= 1
                self.close_connection = True
                return
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler
