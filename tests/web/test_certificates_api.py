"""Certificates over the API: listed, and taken back."""

from pathlib import Path

from inventory.authority import Authority
from tests.web.site_under_test import running
from tests.web.test_integrations_api import _csr


def test_an_administrator_takes_certificates_back(web_url: str, tmp_path: Path) -> None:
    """All that were issued in pages, those of services included; revoked ones say why; a deleted integration is gone; others may not."""
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap(())
    at = "/api/v1/certificates"
    with running(web_url, secrets=secrets, mqtt=("broker.example", 8883)) as site, site.client() as client:
        assert client.post("/api/v1/integrations", json={"name": "mes", "csr": _csr()}).status_code == 201
        first = client.get(at, params={"page_size": 3}).json()
        second = client.get(at, params={"page_size": 3, "page_token": first["next_page_token"]}).json()
        found = {item["name"]: item for item in first["items"] + second["items"]}
        assert set(found) == {"svc-inventory", "svc-managers", "svc-web", "svc-broker", "mes"}
        assert (found["mes"]["class"], found["mes"]["revoked"], second["next_page_token"]) == ("integration", None, None)
        assert [item["name"] for item in client.get(at, params={"class": "integration"}).json()["items"]] == ["mes"]
        assert len(client.get(at, params={"class": "service"}).json()["items"]) == 4
        assert client.get(at, params={"class": "person"}).status_code == 400
        [listed] = client.get("/api/v1/integrations").json()["items"]
        assert {name: listed[name] for name in ("serial", "expires_at")} == {name: found["mes"][name] for name in ("serial", "expires_at")}
        [revoked] = client.post(f"{at}/{found['svc-web']['serial']}:revoke").json()["items"]
        assert (revoked["name"], revoked["revoked"]) == ("svc-web", "revoked")
        refused = client.post(f"{at}/mes:revoke")
        assert refused.status_code == 409 and "delete the integration" in refused.json()["detail"]
        assert client.post(f"{at}/nobody:revoke").status_code == 404
        assert client.delete("/api/v1/integrations/mes").status_code == 204
        assert client.delete("/api/v1/integrations/mes").status_code == 404
        assert {item["name"] for item in client.get(at).json()["items"] if item["revoked"]} == {"svc-web", "mes"}
        assert client.get("/api/v1/integrations").json()["items"] == []
        with site.client("operator") as operator:
            assert operator.get(at).status_code == 403
            assert operator.post(f"{at}/svc-web:revoke").status_code == 403
            assert operator.delete("/api/v1/integrations/mes").status_code == 403
