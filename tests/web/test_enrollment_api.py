"""Enrollment as devices and people meet it over HTTP: waiting, being let in, and sheets of machines that are to come."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from inventory.authority import Authority
from tests.web.site_under_test import Site, running


@pytest.fixture
def enrolling(web_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site with an authority."""
    Authority(tmp_path / "secrets").bootstrap()
    with running(web_url, secrets=tmp_path / "secrets") as site:
        yield site


def request(token: str, **evidence: Any) -> dict[str, Any]:
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return {"token": token, "csr": csr.public_bytes(serialization.Encoding.PEM).decode(), "evidence": evidence, "agent_version": "1"}


def test_a_device_waits_until_a_person_lets_it_in(enrolling: Site) -> None:
    """202 with when to ask again, which the header says too; PATCH by a person; then 200 with an identity for that host."""
    with enrolling.client() as admin, enrolling.client(None) as device, enrolling.client("viewer") as viewer:
        token = admin.post("/api/v1/enrollment-tokens", json={}).json()["token"]
        asked = request(token, serial="5CG1234ABC", macs=["52:54:00:12:34:56"])
        waits = device.post("/api/v1/enroll", json=asked)
        assert waits.status_code == 202 and set(waits.json()) == {"request", "retry_after"}
        assert waits.headers["Retry-After"] == str(waits.json()["retry_after"]) == "5"
        [host] = viewer.get("/api/v1/hosts", params={"filter": "enrollment.waiting = true"}).json()["items"]
        assert host["id"] == waits.json()["request"]
        assert host["enrollment"]["evidence"] == {
            "serial": "5CG1234ABC",
            "macs": ["52:54:00:12:34:56"],
            "agent_version": "1",
            "address": "127.0.0.1",
        }
        path = f"/api/v1/hosts/{host['id']}"
        assert viewer.patch(path, json={"desired_state": "onboarded"}).status_code == 403
        assert admin.patch(path, json={"desired_state": "onboarded"}).status_code == 200
        assert device.post("/api/v1/enroll", json=asked).json()["device"] == host["id"]
        forged = admin.patch(path, json={"enrollment": {"waiting": False}})
        assert (forged.status_code, forged.json()["errors"][0]["pointer"]) == (403, "/enrollment")


def test_a_refusal_says_so(enrolling: Site) -> None:
    """403 as problem+json, with words for who stands at the device."""
    with enrolling.client() as admin, enrolling.client(None) as device:
        asked = request(admin.post("/api/v1/enrollment-tokens", json={}).json()["token"])
        waits = device.post("/api/v1/enroll", json=asked).json()
        admin.patch(f"/api/v1/hosts/{waits['request']}", json={"desired_state": "untrusted"})
        refused = device.post("/api/v1/enroll", json=asked)
        assert (refused.status_code, refused.headers["Content-Type"]) == (403, "application/problem+json")
        assert "a person has refused this device" in refused.json()["detail"]


def test_a_sheet_over_the_api(client: httpx.Client, site: Site) -> None:
    """A dry run writes nothing; a sheet makes hosts; the same again changes nothing; a viewer may not."""
    sheet = "serial,name\n5CG1234ABC,press-9\n5CG1234ABD,press-10\n"

    def post(who: httpx.Client = client, **query: str) -> httpx.Response:
        return who.post("/api/v1/hosts:preregister", content=sheet, params=query, headers={"Content-Type": "text/csv; charset=utf-8"})

    for dry_run in ("true", "true", "false"):
        answer = post(dry_run=dry_run)
        assert answer.status_code == 200, answer.text
        assert [each["name"] for each in answer.json()["created"]] == ["press-9", "press-10"]
    assert [each["line"] for each in post().json()["known"]] == [2, 3]
    assert client.get("/api/v1/hosts/press-9").json()["expected_serial"] == "5CG1234ABC"
    with site.client("viewer") as viewer:
        assert post(viewer).status_code == 403
    wrong = client.post("/api/v1/hosts:preregister", content="serial\n0\n", headers={"Content-Type": "text/csv"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/lines/2/serial")
