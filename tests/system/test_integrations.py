"""Other programs: events over MQTT with a certificate of their own, intents signed or plain, and what is refused."""

import base64
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from paho.mqtt.enums import CallbackAPIVersion

from tests.system.conftest import Installation, until


@dataclass(slots=True)
class Program:
    """An integration at work: its certificate, and what it has received."""

    name: str
    directory: Path
    client: mqtt.Client
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def jws(self, payload: dict[str, Any]) -> str:
        key = serialization.load_pem_private_key((self.directory / "client.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        text = f"{_b64(json.dumps({'alg': 'ES256'}).encode())}.{_b64(json.dumps(payload).encode())}"
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def ask(self, kind: str, id: str, payload: str) -> None:
        self.client.publish(f"fleet/v1/intents/{self.name}/{kind}/{id}", payload, qos=1).wait_for_publish(5)

    def reply(self, correlation: str, seconds: float = 10) -> dict[str, Any]:
        topic = f"fleet/v1/replies/{self.name}/{correlation}"
        found: dict[str, Any] = until(
            lambda: next((body for at, body in self.received if at == topic), None), seconds, f"a reply to {correlation}"
        )
        return found


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def program(installation: Installation, name: str, where: Path, *flags: str) -> Program:
    directory = where / name
    installation.fleetward("integration", "create", name, *flags, "--out", str(directory))
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.tls_set(
        str(directory / "ca.crt"), str(directory / "client.crt"), str(directory / "client.key"), tls_version=ssl.PROTOCOL_TLS_CLIENT
    )
    it = Program(name, directory, client)
    subscribed: list[bool] = []
    client.on_message = lambda _c, _u, message: it.received.append((message.topic, json.loads(message.payload)))
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_connect = lambda c, *_: c.subscribe(
        [("fleet/v1/events/#", 1), (f"fleet/v1/replies/{name}/+", 1), ("fleet/v1/notifications/+", 1)]
    )
    client.connect("127.0.0.1", installation.mqtt)
    client.loop_start()
    until(lambda: subscribed, 10, f"{name} to be subscribed")
    return it


@pytest.fixture
def erp(installation: Installation, tmp_path: Path) -> Iterator[Program]:
    it = program(installation, f"erp-{time.time_ns()}", tmp_path, "--write")
    yield it
    it.client.disconnect()
    it.client.loop_stop()


@pytest.fixture
def plain(installation: Installation, tmp_path: Path) -> Iterator[Program]:
    it = program(installation, f"plc-{time.time_ns()}", tmp_path, "--write-unsigned")
    yield it
    it.client.disconnect()
    it.client.loop_stop()


def test_mosquitto_sub_sees_events(installation: Installation, tmp_path: Path) -> None:
    """The field's own tool, with an integration's certificate, receives a change as the contract shapes it."""
    directory = tmp_path / "watcher"
    name = f"watcher-{time.time_ns()}"
    installation.fleetward("integration", "create", name, "--out", str(directory))
    tls = ("--cafile", f"{directory}/ca.crt", "--cert", f"{directory}/client.crt", "--key", f"{directory}/client.key")
    where = ("-h", "127.0.0.1", "-p", str(installation.mqtt), "-i", name, "-W", "100", "-C", "1", "-d")
    watcher = subprocess.Popen(
        ["stdbuf", "-oL", "mosquitto_sub", *where, *tls, "-t", "fleet/v1/events/region/#"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert watcher.stdout is not None
    lines: list[str] = []
    for line in watcher.stdout:
        lines.append(line)
        if "SUBACK" in line or "Subscribed" in line:
            break
    made = installation.call("POST", "/api/v1/regions", json={"name": f"region-{time.time_ns()}"}).json()
    rest, _ = watcher.communicate(timeout=110)
    assert watcher.returncode == 0, "".join(lines) + rest
    body = json.loads(next(line for line in rest.splitlines() if line.startswith("{")))
    assert (body["kind"], body["id"], body["op"], body["version"]) == ("region", made["id"], "created", made["version"])
    assert set(body) >= {"position", "generation", "changed", "resource", "host", "actor", "at"}


def test_a_signed_intent_gets_its_reply(installation: Installation, erp: Program) -> None:
    """The patch is applied once however often it is sent, the reply carries the resource, and the event names the integration."""
    region = installation.call("POST", "/api/v1/regions", json={"name": f"region-{time.time_ns()}"}).json()
    signed = erp.jws({"patch": {"title": "From ERP"}, "correlation": "c-1", "not_after": "2099-01-01T00:00:00.000Z"})
    for _ in range(3):
        erp.ask("region", region["id"], signed)
    reply = erp.reply("c-1")
    assert reply["status"] == 200, reply
    assert reply["resource"]["title"] == "From ERP"
    event = until(
        lambda: next((b for t, b in erp.received if b.get("id") == region["id"] and b.get("op") == "updated"), None), 10, "the event"
    )
    assert event["actor"]["type"] == "integration" and event["actor"]["name"] == erp.name
    assert installation.get(f"regions/{region['id']}")["version"] == reply["resource"]["version"]


def test_bad_intents_are_answered_with_a_problem(installation: Installation, erp: Program) -> None:
    """A wrong field, a resource that is not there, one too late: a problem, and nothing written."""
    region = installation.call("POST", "/api/v1/regions", json={"name": f"region-{time.time_ns()}"}).json()
    cases = {
        "bad-field": (region["id"], {"colour": "red"}, "2099-01-01T00:00:00.000Z", 422),
        "other-owner": (region["id"], {"version": 1}, "2099-01-01T00:00:00.000Z", 403),
        "missing": ("reg-00000000000000000000000000", {"title": "x"}, "2099-01-01T00:00:00.000Z", 404),
        "late": (region["id"], {"title": "x"}, "2001-01-01T00:00:00.000Z", None),
    }
    for correlation, (id, patch, not_after, status) in cases.items():
        erp.ask("region", id, erp.jws({"patch": patch, "correlation": correlation, "not_after": not_after}))
        reply = erp.reply(correlation)
        assert reply["status"] >= 400 and (status is None or reply["status"] == status), reply
        assert reply["detail"] and reply["title"]
    assert installation.get(f"regions/{region['id']}")["version"] == region["version"]


def test_unsigned_intents_only_where_allowed(installation: Installation, erp: Program, plain: Program) -> None:
    """Plain JSON works for who was created with --write-unsigned, and for nobody else."""
    region = installation.call("POST", "/api/v1/regions", json={"name": f"region-{time.time_ns()}"}).json()
    body = {"patch": {"title": "Plain"}, "correlation": "p-1", "not_after": "2099-01-01T00:00:00.000Z"}
    erp.ask("region", region["id"], json.dumps(body))
    plain.ask("region", region["id"], json.dumps(body))
    assert plain.reply("p-1")["resource"]["title"] == "Plain"
    assert until(lambda: _updated_by(installation, region["id"]), 10, "the change in the log") == [plain.name]


def _updated_by(installation: Installation, region: str) -> list[str]:
    """Who has changed it, as the log says: that comes after the reply."""
    return [c["actor"]["name"] for c in installation.get(f"regions/{region}/changes")["items"] if c["op"] == "updated"]


def test_nobody_hears_another_s_replies(installation: Installation, erp: Program, plain: Program) -> None:
    """An integration asking for another's replies, or for devices' topics, receives none of them."""
    plain.client.subscribe([(f"fleet/v1/replies/{erp.name}/+", 1), ("fleet/v1/devices/#", 1), ("#", 1)])
    region = installation.call("POST", "/api/v1/regions", json={"name": f"region-{time.time_ns()}"}).json()
    erp.ask("region", region["id"], erp.jws({"patch": {"title": "x"}, "correlation": "secret", "not_after": "2099-01-01T00:00:00.000Z"}))
    erp.reply("secret")
    until(lambda: any(b.get("id") == region["id"] and b.get("op") == "updated" for _, b in plain.received), 10, "what it may see")
    assert not [topic for topic, _ in plain.received if "/replies/" in topic or "/devices/" in topic]
