"""`python -m broker config`: a complete configuration of a broker of somebody's own. Mosquitto's is started; EMQX's can only be read."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker import beside, configuration, emqx
from broker.acl import Acl, Class
from broker.client import Settings
from broker.mosquitto import find_mosquitto
from broker.mosquitto_files import Files
from broker.packets import Will
from broker.revocations import RevocationList, Revoked, parts_of
from broker.topics import DeviceTopic, Topics
from tests.broker.certificates import CertFactory
from tests.broker.wire import Wire, until
from tests.ports import free_port
from tests.waiting import Stopwatch

T = Topics()
GOLDEN = Path(__file__).parents[1] / "golden" / "broker"


def test_emqx_s_is_the_golden_one() -> None:
    """Certificates only, name and client id from them, nothing but what the ACL file grants, nothing kept, no shared subscriptions."""
    text = emqx.render(Path("/d/secrets"), Path("/d/broker/acl.conf"), "0.0.0.0", 8883)
    assert text == (GOLDEN / "emqx.conf").read_text()
    for promise in (
        "verify = verify_peer",
        "fail_if_no_peer_cert = true",
        "peer_cert_as_username = cn",
        "peer_cert_as_clientid = cn",
        "no_match = deny",
        "listeners.tcp.default.enable = false",
        "shared_subscription = false",
        "retain_available = false",
    ):
        assert promise in text
    assert text.count("{") == text.count("}") and text.count('"') % 2 == 0


def test_both_files_of_emqx_are_printed(certs: CertFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, each under its name; the ACL knows devices, services and this installation's integrations."""
    assert configuration.main(["emqx", "--secrets", str(certs.directory), "--topic-root", "plant"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^#### (\S+)$", said, re.MULTILINE) == ["emqx.conf", "acl.conf"]
    assert '"plant/v1/devices/+/${username}/up/#"' in said and '"svc-inventory"' in said
    assert said.rstrip().endswith("{deny, all}.")


def test_what_it_can_not_make_it_says(tmp_path: Path, certs: CertFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and a line: a topic root that is none, secrets that are not there, an --out that can't be written."""
    secrets = str(certs.directory)
    (tmp_path / "file").write_text("")
    for arguments in (
        ["mosquitto", "--secrets", secrets, "--topic-root", "a/b"],
        ["mosquitto", "--secrets", str(tmp_path / "nowhere")],
        ["emqx", "--secrets", secrets, "--out", str(tmp_path / "file" / "out")],
    ):
        assert configuration.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("broker: ") and len(err.splitlines()) == 1


@pytest.mark.mosquitto
async def test_a_mosquitto_runs_with_it(certs: CertFactory, tmp_path: Path) -> None:
    """With nothing but these files: devices are themselves and nobody else, and one without a certificate is nobody. And with `follow`
    beside it nobody whose certificate is revoked."""
    out, port = tmp_path / "etc", free_port()
    command = [sys.executable, "-m", "broker", "config", "mosquitto", "--secrets", str(certs.directory), "--data", str(out)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--user", "root", "--out", str(out)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(str(path) for path in out.iterdir())
    binary = find_mosquitto()
    assert binary is not None
    process = await asyncio.create_subprocess_exec(binary, "-c", str(out / "mosquitto.conf"))
    try:
        device, other = [Wire("127.0.0.1", port, certs.client_context(name, Class.DEVICE)) for name in ("host-a", "host-b")]
        await until(lambda: _answers(port))
        assert await device.connect("host-a") == 0
        assert await other.connect("host-b", will=Will(T.build(DeviceTopic("host-a", "up/log")), b"forged", 1, False)) == 0
        inventory = Wire("127.0.0.1", port, certs.client_context("svc-inventory", Class.SERVICE))
        assert await inventory.connect("svc-inventory") == 0
        await inventory.subscribe(T.uplinks())
        await other.publish(T.build(DeviceTopic("host-a", "up/facts")), b"forged")
        await device.publish(T.build(DeviceTopic("host-a", "up/facts")), b"own")
        assert (await inventory.message()).payload == b"own"
        await _followed(certs, out, port, process.pid, device, inventory)
        for wire in (device, other, inventory):
            await wire.abort()
    finally:
        process.terminate()
        await process.wait()


async def _followed(certs: CertFactory, out: Path, port: int, mosquitto: int, device: Wire, inventory: Wire) -> None:
    """With `python -m broker follow` beside it, a certificate that is revoked is cut and kept out within 5 s, others are not."""
    command = [sys.executable, "-m", "broker", "follow", "--secrets", str(certs.directory), "--data", str(out)]
    command += ["--broker", f"mqtts://127.0.0.1:{port}", "--reload", f"kill -HUP {mosquitto}"]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        await inventory.subscribe(T.broker("ask"))
        assert json.loads((await inventory.message(10)).payload)["number"] == 0
        told = RevocationList(10, (Revoked(certs.serial("host-a"), "host-a"),), certs.crl(10, "host-a"))
        watch = Stopwatch()
        for part in parts_of(told):
            await inventory.publish(T.broker("revoked"), part)
        assert await device.closed(5.0)
        assert watch.seconds() < 5.0
        for _ in range(10):
            with pytest.raises((EOFError, OSError)):
                await Wire("127.0.0.1", port, certs.client_context("host-a", Class.DEVICE)).connect("host-a")
        assert await Wire("127.0.0.1", port, certs.client_context("host-c", Class.DEVICE)).connect("host-c") == 0
    finally:
        process.terminate()
        assert await process.wait() == 0


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_mosquitto_s_first_list_takes_nobody_back(certs: CertFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the installation's own, whose CA the broker would otherwise refuse to believe anything of."""
    secrets = Path(shutil.copytree(certs.directory, tmp_path / "secrets"))
    assert configuration.main(["mosquitto", "--secrets", str(secrets)]) == 0
    assert (secrets / "ca.crl").read_text() in capsys.readouterr().out


def test_following_says_what_it_lacks(certs: CertFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and a line: no URL of MQTT, secrets that are not there, nothing to have the broker read its files with."""
    given = {"--broker": "mqtts://127.0.0.1:1", "--secrets": str(certs.directory), "--data": str(tmp_path), "--reload": "true"}
    for wrong in ({"--broker": "http://x"}, {"--secrets": str(tmp_path / "nowhere")}, {"--reload": " "}, {"--topic-root": "a/b"}):
        assert beside.main([word for pair in (given | wrong).items() for word in pair]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("broker: ") and len(err.splitlines()) == 1


async def test_a_mosquitto_that_can_not_be_told_is_told_again(
    certs: CertFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that fails is said and repeated; new integrations are told too, and new CAs are something that it can't do."""
    monkeypatch.setattr(beside, "_WATCH_S", 0.05)
    secrets, told = Path(shutil.copytree(certs.directory, tmp_path / "secrets")), tmp_path / "told"
    files = Files(secrets, tmp_path)
    settings = Settings.from_url(f"mqtts://127.0.0.1:{free_port()}", "svc-broker", secrets, T)
    command = ["sh", "-c", f"test -e {told} && echo >> {told}"]
    made = beside.Beside(settings, Acl(T), files, command)
    await made.prepare()
    assert "mosquitto can't be told" in caplog.text
    following = asyncio.create_task(made.run())
    told.touch()
    await until(lambda: told.stat().st_size == 1)
    assert "user svc-inventory" in files.acl.read_text() and files.crl.read_text() == (secrets / "ca.crl").read_text()
    files.integrations.parent.mkdir()
    fresh = tmp_path / "integrations.new"
    fresh.write_text('[{"name": "mes", "scoped": false}]')
    fresh.replace(files.integrations)
    await until(lambda: told.stat().st_size == 2)
    assert "user mes" in files.acl.read_text()
    (secrets / "ca.crt").write_text((secrets / "ca.crt").read_text() + "\n")
    await until(lambda: "start it again" in caplog.text)
    following.cancel()
    await asyncio.wait([following])
    assert following.cancelled()
