"""Letting other programs in, over the API."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from inventory.authority import Authority
from tests.web.site_under_test import running


def _csr() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mes")])
    signed = x509.CertificateSigningRequestBuilder().subject_name(name).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_an_administrator_lets_a_program_in(web_url: str, tmp_path: Path) -> None:
    """A certificate by its name; again with the same key the same, with another key a conflict, under a used key 422; others may not."""
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap(())
    asked = {"name": "mes", "write": "signed", "csr": _csr()}
    key = {"Idempotency-Key": "once"}
    at = "/api/v1/integrations"
    with running(web_url, secrets=secrets, mqtt=("broker.example", 8883)) as site, site.client() as client:
        checked = client.post(at, json=asked, params={"dry_run": "true"})
        assert (checked.status_code, checked.json()) == (200, {"name": "mes", "write": "signed", "scope": ""})
        assert client.get(at).json()["items"] == []
        made = client.post(at, json=asked, headers=key)
        assert made.status_code == 201, made.text
        body = made.json()
        assert x509.load_pem_x509_certificate(body["certificate"].encode()).subject.rfc4514_string().find("CN=mes") >= 0
        assert body["broker"] == {"host": "broker.example", "port": 8883}
        assert client.post(at, json=asked, headers=key).json() == body
        assert client.post(at, json=asked).json() == body
        assert client.post(at, json={**asked, "write": "none"}, headers=key).status_code == 422
        for dry_run in ("false", "true"):
            assert client.post(at, json={**asked, "csr": _csr()}, params={"dry_run": dry_run}).status_code == 409
        assert client.post(at, json={**asked, "name": "svc-web"}).json()["errors"][0]["pointer"] == "/name"
        [listed] = client.get(at).json()["items"]
        assert (listed["name"], listed["write"]) == ("mes", "signed")
        within, another = {"scope": 'labels.line = "4"'}, {"serial": "", "expires_at": ""}
        assert client.patch(f"{at}/mes", json=within, params={"dry_run": "true"}).json() | another == listed | within | another
        assert client.get(at).json()["items"] == [listed]
        changed = client.patch(f"{at}/mes", json=within)
        assert (changed.status_code, changed.json()["scope"]) == (200, within["scope"])
        assert changed.json()["serial"] != listed["serial"], "another class of certificate"
        assert client.get(at).json()["items"] == [changed.json()]
        assert client.patch(f"{at}/mes", json={"scope": "nothing = 1"}).json()["errors"][0]["pointer"] == "/scope"
        assert client.patch(f"{at}/nobody", json=within).status_code == 404
        with site.client("operator") as operator:
            assert operator.get(at).status_code == 403
            assert operator.patch(f"{at}/mes", json=within).status_code == 403
            assert operator.post(at, json=asked).status_code == 403
