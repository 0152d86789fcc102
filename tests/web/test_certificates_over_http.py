"""Certificates and the web process: a device that the broker refuses gets one here, and the process's own is exchanged while it serves."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.messages import CertificateAnswer, decode, encode, now_text
from broker.topics import DeviceTopic, Topics
from edge_agent import certificates
from edge_agent.enroll import Evidence, _request
from inventory import rotation
from inventory.authority import Authority
from inventory.certificates import issued_by
from tests.web.site_under_test import running, until
from web import serving
from web.serving import Address


def test_a_device_that_the_broker_refuses_renews_here(web_url: str, tmp_path: Path) -> None:
    """From enrollment on: the request of `up/csr` against the payloads of `down/certificate` and `down/keys`; a stranger gets 403."""
    Authority(tmp_path / "secrets").bootstrap()
    with running(web_url, secrets=tmp_path / "secrets") as site, site.client() as client, site.client(None) as device:
        token = client.post("/api/v1/enrollment-tokens", json={"approve": True}).json()["token"]
        key, next_key = certificates.new_key(), certificates.new_key()
        me = device.post("/api/v1/enroll", json={"token": token, "csr": _csr(key), "evidence": {}}).json()
        assert me["command_roots"] == [me["command_root"]] and me["keys"] == 1
        rotation.begin(Authority(tmp_path / "secrets"))
        rotation.advance(Authority(tmp_path / "secrets"))
        body = _handed_in(me, certificates.request(key, me["certificate"].encode(), next_key), bytes.fromhex(me["channel_key"]))
        said = device.post("/api/v1/renew", json=body)
        assert said.status_code == 200, said.text
        channel = bytes.fromhex(me["channel_key"])
        answer = decode("down/certificate", said.json()["answer"].encode(), topic=_topic(me, "down/certificate"), key=channel)
        assert isinstance(answer, CertificateAnswer) and answer.certificate is not None
        certificates.check(answer.certificate, next_key, me["device"], Authority(tmp_path / "secrets").ca_pem.encode())
        assert len(decode("down/keys", said.json()["keys"].encode()).lists) == 3  # type: ignore[union-attr]
        host = client.get(f"/api/v1/hosts/{me['device']}").json()
        assert host["certificate_expires_at"] > now_text()
        assert device.post("/api/v1/renew", json=body | {"device": "host-x"}).status_code == 403
        assert device.post("/api/v1/renew", json={"device": me["device"]}).json()["errors"][0]["pointer"] == "/request"


def test_without_secrets_it_says_so(web_url: str) -> None:
    """503: another process may have them."""
    with running(web_url) as site, site.client(None) as device:
        assert device.post("/api/v1/renew", json={"device": "x", "request": "y"}).status_code == 503


def test_another_certificate_is_shown_without_a_restart(web_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an exchange is passed over; then new connections see it, and streams that are open go on."""
    monkeypatch.setattr(serving, "FOLLOW_S", 0.05)
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    files = (authority.directory / "web.crt", authority.directory / "web.key")
    with running(web_url, Address("127.0.0.1", 0, files), secrets=authority.directory, tls=True) as site:
        port = int(site.url.rpartition(":")[2])

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port))

        first = shown()
        (tmp_path / "half").write_text("no certificate")
        (tmp_path / "half").replace(files[0])
        assert shown() == first
        rotation.begin(authority)
        rotation.advance(authority)
        until(lambda: issued_by(authority.issuer, shown()))


def _csr(key: ec.EllipticCurvePrivateKey) -> str:
    return str(_request(key, "t", Evidence("", "", (), ""))["csr"])


def _topic(me: dict[str, Any], suffix: str) -> str:
    return Topics().build(DeviceTopic(me["device"], suffix))


def _handed_in(me: dict[str, Any], request: Any, key: bytes) -> dict[str, str]:
    payload = encode(request, sent_at=now_text(), topic=_topic(me, "up/csr"), key=key)
    return {"device": me["device"], "request": payload.decode()}
