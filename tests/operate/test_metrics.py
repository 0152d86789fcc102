"""What `/metrics` says: the format, the list in the documentation, and numbers of every process in one scrape."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inventory import metrics, telemetry
from inventory.authority import SERVICE_LIFETIME, Authority
from inventory.db import Database
from inventory.metrics import FAMILIES, Family, Meter, render
from inventory.replica import certificate_name, replica_number
from tests.web.site_under_test import people, running

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def row(family: Family) -> str:
    """A metric as the documentation has it."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.type} | {labels} | {family.doc} |"


def test_every_metric_is_documented() -> None:
    """The table of docs/operating.md has a row a family, in their order, and no other; on failure, what it should be."""
    found = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `fleetward_\w+` \| (counter|gauge|histogram) ", line)]
    assert found == [row(family) for family in FAMILIES], "\n".join(row(family) for family in FAMILIES)


def test_names_follow_the_conventions() -> None:
    """Counters end in _total, and nothing else does; durations say their unit; no label can name a device."""
    for family in FAMILIES:
        assert re.fullmatch(r"fleetward_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.type == metrics.COUNTER)
        assert family.type != metrics.HISTOGRAM or family.name.endswith("_seconds")
        assert not {"device", "host", "id", "key", "name"} & set(family.labels)


def test_the_text_is_what_prometheus_reads() -> None:
    """Counters, gauges and histograms of two processes, an odd label value among them, through Prometheus's own parser."""
    first, second = Meter(), Meter()
    first.count(metrics.REQUESTS, 'a"\\\n', "GET", "200", n=3)
    first.observe(metrics.WAITED, 0.02, "host", n=2)
    first.observe(metrics.WAITED, 99.0, "host")
    second.count(metrics.REQUESTS, "b", "GET", "200")
    second.set(metrics.CONNECTED, True)
    text = render(
        {"fleetward_relay_lag_seconds": [((), 0.25)], "fleetward_unknown": [((), 1.0)]}, {"x": first.samples(), "y": second.samples()}
    )
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(parsed) == {
        "fleetward_http_requests",
        "fleetward_work_wait_seconds",
        "fleetward_broker_connected",
        "fleetward_relay_lag_seconds",
    }
    requests = {(s.labels["process"], s.labels["route"]): s.value for s in parsed["fleetward_http_requests"].samples}
    assert requests == {("x", 'a"\\\n'): 3.0, ("y", "b"): 1.0}
    waited = {(s.name, s.labels.get("le")): s.value for s in parsed["fleetward_work_wait_seconds"].samples}
    assert waited["fleetward_work_wait_seconds_bucket", "0.01"] == 0
    assert waited["fleetward_work_wait_seconds_bucket", "0.025"] == 2
    assert waited["fleetward_work_wait_seconds_bucket", "60.0"] == 2
    assert waited["fleetward_work_wait_seconds_bucket", "+Inf"] == waited["fleetward_work_wait_seconds_count", None] == 3
    assert waited["fleetward_work_wait_seconds_sum", None] == pytest.approx(99.04)
    assert all(family.documentation for family in parsed.values())


async def test_a_scrape_shows_all_processes(databases: Any, migrated: str, tmp_path: Path) -> None:
    """Of the installation once, of each process by its name; valid for Prometheus; a process that has gone silent is left out."""
    name = databases.create(migrated)
    url = databases.url(name)
    await people(url)
    Authority(tmp_path / "secrets").bootstrap()
    db = await Database.open(url, application="test", pool_size=2)
    try:
        meter = Meter()
        meter.count(metrics.INGESTED, "taken", n=7)
        await telemetry.Publisher(db, "inventory@there/1", meter=meter).step()
        await telemetry.Publisher(db, "inventory@gone/1", meter=meter).step()
        async with db.acquire() as connection:
            await connection.execute("UPDATE process_metrics SET at = at - interval '2 min' WHERE process = 'inventory@gone/1'")
            await connection.execute(
                "INSERT INTO work (manager, key, due_at, attempts, halted, fence, queued_at, again, backoff)"
                " VALUES ('host', 'h1', now() - interval '9 s', 0, false, 0, now(), 0, false)"
            )
        heard = await telemetry.heard(db)
        text = await asyncio.to_thread(_scraped, url, tmp_path / "secrets")
    finally:
        await db.close()
        databases.drop(name)
    found = {(s.name, *sorted(s.labels.values())): s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert found["fleetward_ingest_messages_total", "inventory@there/1", "taken"] == 7
    assert not [key for key in found if "inventory@gone/1" in key]
    assert list(heard) == [("inventory", 1)] and 0 <= heard["inventory", 1] < 60
    assert found["fleetward_database_up",] == 1
    assert found["fleetward_work", "due", "host"] == 1
    assert found["fleetward_work_lag_seconds", "host"] >= 9
    assert abs(found["fleetward_database_clock_skew_seconds",]) < 2
    lifetime = SERVICE_LIFETIME.total_seconds()
    assert lifetime - 120 < found["fleetward_certificate_expires_seconds", "svc-inventory"] <= lifetime
    assert found["fleetward_stream_followers", telemetry.process_name("web")] == 0


def _scraped(url: str, secrets: Path) -> str:
    with running(url, secrets=secrets) as site, site.client() as client:
        answer = client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.text


def test_a_certificate_that_is_none_counts_as_ended(tmp_path: Path) -> None:
    """So that it is noticed, and does not take the whole scrape with it."""
    (tmp_path / "broker.crt").write_text("no certificate")
    found = telemetry.certificates(tmp_path, datetime.now(UTC) + timedelta(days=1))
    assert found == {"fleetward_certificate_expires_seconds": [(("broker",), 0.0)]}


def test_replica_numbers() -> None:
    """From 1 to 8, as many as the broker's rules know; anything else says which variable is wrong."""
    assert [certificate_name("svc-inventory", n) for n in (1, 2)] == ["svc-inventory", "svc-inventory.2"]
    assert replica_number({}) == 1
    assert replica_number({"FLEETWARD_REPLICA": "8"}) == 8
    for wrong in ("0", "9", "two", "", "²"):
        with pytest.raises(ValueError, match="FLEETWARD_REPLICA"):
            replica_number({"FLEETWARD_REPLICA": wrong})
