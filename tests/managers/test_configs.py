"""Configs, from what a user asks for to what a device has: flow 1, on the real store, change log and managers."""

from inventory.changes import position
from managers.kinds.host_config import QUEUE
from tests.managers.fleet import Fleet, contents, eventually, managed


async def test_a_config_reaches_the_hosts_that_it_selects(fleet: Fleet) -> None:
    """Desired becomes current on the host that matches, with one command, and nothing happens to the other."""
    async with managed(fleet):
        chosen = await fleet.host("chosen", labels={"line": "4"})
        other = await fleet.host("other", labels={"line": "5"})
        config = await fleet.config("motd", "labels.line = 4", "welcome\n")
        found = await fleet.settled(chosen, config["id"])
        assert (found["desired_state"], found["current_state"], found["paths"]) == ("present", "present", ["/etc/fleet/motd"])
        [order] = fleet.wire.orders
        assert contents(order) == {"/etc/fleet/motd": "welcome\n"}
        assert order.args["digest"] == found["digest"]
        assert await fleet.host_config(other, config["id"]) is None


async def test_further_scans_send_nothing(fleet: Fleet) -> None:
    """Once all is as wanted, a full look at everything makes no command and no change."""
    async with managed(fleet) as running:
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        await fleet.settled(host, config["id"])
        await fleet.quiet()
        before = await position(fleet.db)
        for manager in running.managers:
            for scan in manager.scans:
                await running.feed.scan_once(manager, scan)
        await fleet.quiet()
        assert await position(fleet.db) == before
        assert len(fleet.wire.orders) == 1
    assert QUEUE == "host-config"


async def test_an_edit_is_sent_and_an_edit_that_changes_no_file_is_not(fleet: Fleet) -> None:
    """The digest decides: another content is another command, another priority is none."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "", "one\n")
        await fleet.settled(host, config["id"])
        await fleet.patch("config", "motd", priority=7)
        await fleet.patch("config", "motd", files=[{"path": "/etc/fleet/motd", "content": "two\n"}])

        async def applied() -> bool:
            return [contents(order)["/etc/fleet/motd"] for order in fleet.wire.orders] == ["one\n", "two\n"]

        await eventually(applied)
        found = await fleet.settled(host, config["id"])
        assert found["generation"] == 2
        assert len(fleet.wire.orders) == 2
