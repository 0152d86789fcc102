"""Fixtures: the ground on a database of its own, with the waiting times of minutes made short."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent import uplink, withheld
from inventory import ingest
from inventory.authority import Authority
from inventory.db import Database
from managers import dispatch
from tests.hostile.ground import Ground, ground


@pytest.fixture
async def site(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    """Server and broker run; no device yet. What is sent again after 10 s is so after a third of one, and devices report as
    often."""
    monkeypatch.setattr(dispatch, "RESEND", timedelta(seconds=0.3))
    monkeypatch.setattr(dispatch, "POLL_S", 0.1)
    monkeypatch.setattr(uplink, "REPORT_FIRST_S", 0.1)
    monkeypatch.setattr(uplink, "REPORT_S", 0.3)
    monkeypatch.setattr(ingest, "LOOK_S", 0.2)
    monkeypatch.setattr(withheld, "GRACE_S", 2.0)
    monkeypatch.setattr(withheld, "RECHECK_S", 1.0)
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    async with ground(tmp_path, db, authority) as made:
        yield made
