"""Flow 2, policy from above, and flow 3, discovery from below, through the real store, change log and managers."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from inventory.actor import Actor
from inventory.explain import explain
from inventory.resource import Resource
from inventory.view import View
from managers.kinds import notification
from tests.managers.fleet import Fleet, eventually, managed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notifications gather for a shorter time."""
    monkeypatch.setattr(notification, "GATHER", timedelta(milliseconds=400))
    monkeypatch.setattr(notification, "PAUSE_S", 0.1)
    monkeypatch.setattr(notification, "GATHER_HALTS", timedelta(milliseconds=400))


async def placed(fleet: Fleet, host: str) -> set[str]:
    """Names of the configs that are settled on a host."""
    names = {config["id"]: config["name"] for config in await fleet.all("config")}
    found = await fleet.all("host-config", f'host = "{host}" AND status.indicator = idle')
    return {names[each["config"]] for each in found}


async def test_a_label_above_changes_what_depends_on_it_and_nothing_else(fleet: Fleet) -> None:
    """A region's label moves its hosts from one config to the other; hosts elsewhere get no command."""
    async with managed(fleet):
        await fleet.create("region", name="north", labels={"tier": "a"})
        await fleet.create("region", name="south", labels={"tier": "a"})
        await fleet.create("site", name="kiel", region="north")
        await fleet.create("site", name="ulm", region="south")
        kiel, ulm = await fleet.host("k", site="kiel"), await fleet.host("u", site="ulm")
        await fleet.config("for-a", "labels.tier = a")
        await fleet.config("for-b", "labels.tier = b")
        await eventually(lambda: _placed(fleet, kiel, {"for-a"}))
        await eventually(lambda: _placed(fleet, ulm, {"for-a"}))
        before = len(fleet.wire.orders)
        await fleet.patch("region", "north", labels={"tier": "b"})
        await eventually(lambda: _placed(fleet, kiel, {"for-b"}))
        await fleet.quiet()
        assert {order.device for order in fleet.wire.orders[before:]} == {kiel}
        assert await placed(fleet, ulm) == {"for-a"}


async def test_moving_a_host_to_another_site(fleet: Fleet) -> None:
    """Its labels are inherited from there now."""
    async with managed(fleet):
        for name, tier in (("kiel", "a"), ("ulm", "b")):
            await fleet.create("site", name=name, labels={"tier": tier})
        host, other = await fleet.host("x", site="kiel"), await fleet.host("y", site="kiel")
        await fleet.config("for-a", "labels.tier = a")
        await fleet.config("for-b", "labels.tier = b")
        await eventually(lambda: _placed(fleet, host, {"for-a"}))
        await eventually(lambda: _placed(fleet, other, {"for-a"}))
        before = len(fleet.wire.orders)
        await fleet.patch("host", "x", site="ulm")
        await eventually(lambda: _placed(fleet, host, {"for-b"}))
        await fleet.quiet()
        assert sorted(order.verb for order in fleet.wire.orders[before:]) == ["config.apply", "config.remove"]
        assert {order.device for order in fleet.wire.orders[before:]} == {host}


async def test_a_label_that_a_nearer_one_hides_changes_nothing(fleet: Fleet) -> None:
    """The site's own label wins; its hosts are not touched."""
    async with managed(fleet):
        await fleet.create("region", name="north", labels={"tier": "a"})
        await fleet.create("site", name="kiel", region="north", labels={"tier": "b"})
        host = await fleet.host("k", site="kiel")
        await fleet.quiet()
        version = (await fleet.store.get("host", host))["version"]
        await fleet.patch("region", "north", labels={"tier": "c"})
        await fleet.quiet()
        assert (await fleet.store.get("host", host))["version"] == version


async def test_what_is_found_is_told_once(fleet: Fleet) -> None:
    """A new host with its components is one notification; a disk that comes, goes and returns is one each."""
    async with managed(fleet):
        host = await fleet.host("press-4")
        await fleet.facts(host, [f"s{n}" for n in range(5)])
        await eventually(lambda: _told(fleet, ["press-4 was found, with 5 components"]))
        disk = await fleet.component(host, "disk", "s9", name="sdx", model="USB")
        found = "disk sdx (USB) was found on press-4"
        await eventually(lambda: _told(fleet, ["press-4 was found, with 5 components", found]))
        for present, word in ((False, "has vanished from"), (True, "is back on")):
            await fleet.store.write("component", disk, {"present": present}, Actor.device(host))
            await eventually(partial(_last_told, fleet, f"disk sdx (USB) {word} press-4"))
        await fleet.patch("host", "press-4", title="Press 4")
        await fleet.presence(host, "offline")
        await eventually(lambda: _last_told(fleet, "Press 4 is offline"))
        assert len(await fleet.all("notification")) == 5


async def test_a_halted_config_is_told(fleet: Fleet) -> None:
    """What went wrong, where; and again if it halts again after a retry."""
    async with managed(fleet):
        host = await fleet.host("a")
        fleet.failing[host] = {"code": "PathOutsideRoots", "message": "outside", "recoverable": False}
        await fleet.config("motd", "")
        await eventually(lambda: _last_told(fleet, "motd halted on a: PathOutsideRoots: outside"))


async def test_a_locked_host_is_left_alone_until_it_is_free(fleet: Fleet) -> None:
    """No command is made while its owner keeps it locked, and no attempt counted; the lock's end lets everything go on."""
    async with managed(fleet):
        host = await fleet.host("a")
        await fleet.quiet()
        await fleet.device(host, policy=policy("rewiring"))
        config = await fleet.config("motd", "")
        found = await eventually(lambda: _waits(fleet, host, config["id"], "PolicyRefused"))
        assert (found["status"]["indicator"], found["status"]["halted"]) == ("in_progress", False)
        assert "rewiring" in found["status"]["message"] and fleet.wire.orders == []
        assert "locked for maintenance by its owner: rewiring" in (await explain(View(fleet.db), "host", "a"))["summary"]
        await fleet.device(host, policy=policy(None))
        await fleet.settled(host, config["id"])
        assert (await explain(View(fleet.db), "host", "a"))["causes"] == []


async def test_what_an_owner_refused_is_tried_again_when_he_allows_more(fleet: Fleet) -> None:
    """It had halted, as PolicyRefused is not recoverable: the owner has stepped in, and nobody has to retry fifty configs by hand."""
    async with managed(fleet):
        host = await fleet.host("a")
        fleet.failing[host] = {"code": "PolicyRefused", "message": "this device's owner does not allow config.apply", "recoverable": False}
        config = await fleet.config("motd", "")
        found = await eventually(lambda: _waits(fleet, host, config["id"], "PolicyRefused"))
        assert found["status"]["halted"]
        fleet.failing.clear()
        await fleet.device(host, policy=policy(None))
        await fleet.settled(host, config["id"])


def policy(maintenance: str | None) -> dict[str, Any]:
    return {"verbs": ["config.apply"], "roots": ["/etc/fleet"], "on_change": True, "maintenance": maintenance}


async def _waits(fleet: Fleet, host: str, config: str, reason: str) -> Resource | None:
    found = await fleet.host_config(host, config)
    return found if found is not None and (found["status"] or {}).get("reason") == reason else None


async def test_a_host_lives_as_its_owner_says(fleet: Fleet) -> None:
    """Registered, onboarded, untrusted: current follows desired; one without a device waits for it."""
    async with managed(fleet):
        host = await fleet.host("a", onboard=False)
        for state in ("registered", "onboarded", "untrusted"):
            if state != "registered":
                await fleet.patch("host", host, desired_state=state)
            found = await eventually(partial(_current, fleet, host, state))
            assert found["status"]["reason"] == "Reconciled"
        early = await fleet.create("host", name="early", desired_state="onboarded")
        found = await eventually(lambda: _current(fleet, early["id"], "registered"))
        assert found["status"]["reason"] == "WaitingForDevice"


async def _placed(fleet: Fleet, host: str, names: set[str]) -> bool:
    return await placed(fleet, host) == names and len(await fleet.all("host-config", f'host = "{host}"')) == len(names)


async def _told(fleet: Fleet, messages: list[str]) -> bool:
    return [each["message"] for each in await fleet.all("notification")] == messages


async def _last_told(fleet: Fleet, message: str) -> bool:
    return [each["message"] for each in await fleet.all("notification")][-1:] == [message]


async def _current(fleet: Fleet, host: str, state: str) -> Resource | None:
    found = await fleet.store.get("host", host)
    return found if found["current_state"] == state else None
