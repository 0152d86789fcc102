"""`explain`: why it is not as I asked, at each turn of a story."""

import json
from typing import Any

import pytest

from inventory.errors import NotFound
from inventory.explain import explain
from inventory.view import View
from tests.managers.fleet import Fleet, eventually, managed


def reasons(explanation: dict[str, Any]) -> list[str]:
    return [cause["reason"] for cause in explanation["causes"]]


async def test_it_tells_the_story_of_a_config_on_a_host(fleet: Fleet) -> None:
    """Offline since; retried, with the error and the next attempt; halted; and as wanted in the end."""
    async with managed(fleet):
        host = await fleet.host("press-4", presence="offline")
        config = await fleet.config("motd", "")
        found = await eventually(lambda: fleet.host_config(host, config["id"]))

        async def until(reason: str) -> dict[str, Any]:
            async def look() -> dict[str, Any] | None:
                told = await explain(View(fleet.db), "host-config", found["id"])
                return told if reason in reasons(told) else None

            told: dict[str, Any] = await eventually(look)
            return told

        offline = await until("WaitingForDevice")
        assert "press-4" in offline["summary"] and "wanted present" in offline["summary"]

        fleet.failing[host] = {"code": "ReadOnly", "message": "read-only file system", "recoverable": True}
        await fleet.presence(host, "online")
        retrying = await until("Retrying")
        [cause] = [cause for cause in retrying["causes"] if cause["reason"] == "Retrying"]
        assert "ReadOnly: read-only file system" in cause["message"] and cause["next_attempt_at"] is not None

        fleet.failing[host] = {"code": "PathOutsideRoots", "message": "/etc is outside", "recoverable": False}
        halted = await until("Halted")
        assert "PathOutsideRoots: /etc is outside" in halted["summary"]
        assert halted["causes"][0]["next_attempt_at"] is None
        for kind, ref in (("host", "press-4"), ("config", "motd")):
            told = await explain(View(fleet.db), kind, ref)
            assert "Halted" in reasons(told)

        fleet.failing.clear()
        await fleet.patch("config", "motd", files=[{"path": "/etc/fleet/motd", "content": "again"}])
        await fleet.settled(host, config["id"])
        assert (await explain(View(fleet.db), "host-config", found["id"]))["causes"] == []
        assert (await explain(View(fleet.db), "config", "motd"))["summary"] == "motd is as it was asked for on 1 of 1 host"
        assert (await explain(View(fleet.db), "host", "press-4"))["summary"] == "press-4 is onboarded and online, as it was asked for"


async def test_a_command_under_way_and_a_host_to_be_approved(fleet: Fleet) -> None:
    """A silent device's command is named; a registered host says what is missing."""
    fleet.wire.answer = None
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        await eventually(lambda: _sent(fleet))
        found = await fleet.host_config(host, config["id"])
        assert found is not None
        told = await explain(View(fleet.db), "host-config", found["id"])
        assert any("the command config.apply is sent" in cause["message"] for cause in told["causes"])
        command = await explain(View(fleet.db), "command", found["command"])
        assert command["summary"] == "config.apply is sent"
        await fleet.host("b", onboard=False)
        await fleet.quiet()
        assert reasons(await explain(View(fleet.db), "host", "b")) == ["WaitingForApproval"]


async def test_a_command_that_does_not_arrive_is_named(fleet: Fleet) -> None:
    """By the server, which sent it often to a device that is online; and by the device, which knows of it from a checkpoint. What a
    device says has to have the right shape."""
    fleet.wire.answer = None
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        await eventually(lambda: _sent(fleet))
        found = await fleet.host_config(host, config["id"])
        assert found is not None
        await sql(fleet, "UPDATE command SET sends = 4 WHERE id = $1", found["command"])
        for kind, ref in (("host-config", found["id"]), ("command", found["command"])):
            told = await explain(View(fleet.db), kind, ref)
            assert any("a is online and does not answer: the broker may withhold it" in cause["message"] for cause in told["causes"]), told
        section = {"missing": [found["command"], 5], "missing_since": "2026-11-26T18:00:00.000Z"}
        add = "INSERT INTO host_facts (host, section, hash, data, updated_at) VALUES ($1, 'agent', 'h', $2, now())"
        await sql(fleet, add, host, json.dumps(section))
        for kind, ref in (("host", "a"), ("command", found["command"])):
            told = await explain(View(fleet.db), kind, ref)
            [cause] = [cause for cause in told["causes"] if cause["reason"] == "CommandsWithheld"]
            assert cause["since"] == "2026-11-26T18:00:00.000Z"
        for odd in ("[]", '{"missing": "x"}', '{"missing": [], "missing_since": 5}', '{"missing": {}}'):
            await sql(fleet, "UPDATE host_facts SET data = $2 WHERE host = $1 AND section = 'agent'", host, odd)
            assert "CommandsWithheld" not in reasons(await explain(View(fleet.db), "host", "a"))


async def sql(fleet: Fleet, statement: str, *values: Any) -> None:
    async with fleet.db.acquire() as connection:
        await connection.execute(statement, *values)


async def test_a_shadowed_path_names_the_winner(fleet: Fleet) -> None:
    """It is no error, and still the reason why a file is not this config's."""
    async with managed(fleet):
        host = await fleet.host("a")
        await fleet.config("winner", "", path="/etc/x", priority=5)
        loser = await fleet.config("loser", "", path="/etc/x")
        found = await fleet.settled(host, loser["id"])
        told = await explain(View(fleet.db), "host-config", found["id"])
        assert [cause["message"] for cause in told["causes"]] == ["/etc/x is held by winner, which has priority"]


async def test_kinds_with_nothing_to_bring_about(fleet: Fleet) -> None:
    """They are as they are; what there is not is not found."""
    await fleet.create("region", name="north")
    assert await explain(View(fleet.db), "region", "north") == {"summary": "north is as it was asked for", "causes": []}
    with pytest.raises(NotFound):
        await explain(View(fleet.db), "region", "south")


async def _sent(fleet: Fleet) -> bool:
    return bool(fleet.wire.orders)
