"""No operation of the API breaks a promise of its OpenAPI document, whatever it is asked and whoever asks: no 5xx, no answer that is not
as described, nothing taken that the schema forbids. A short, seeded round as each role; `make fuzz` runs long ones, others each time."""

import asyncio
from pathlib import Path

import pytest

from inventory.authority import Authority
from tests.web.schemathesis_run import FULL, ROLES, SHORT, furnish, run
from tests.web.site_under_test import running, vaulted


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation's, as bootstrap leaves them."""
    made = tmp_path_factory.mktemp("fuzz") / "secrets"
    Authority(made).bootstrap()
    (made / "session.key").write_bytes(b"k" * 32)
    return made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ROLES, ids=str)
def test_the_api_is_as_it_is_described(web_url: str, secrets: Path, tmp_path: Path, role: str | None, full: bool) -> None:
    """All checks of Schemathesis hold, and whoever asked is still let in at the end."""
    asyncio.run(vaulted(web_url, secrets))
    with running(web_url, secrets=secrets) as site, site.client() as admin:
        furnish(admin)
        done = run(tmp_path, site.url, role, FULL if full else SHORT)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
        with site.client(role) as client:
            assert client.get("/api/v1/whoami").status_code == (401 if role is None else 200)
