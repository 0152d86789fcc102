"""Configs, from what a user asks for to what a device has: flow 1, on the real store, change log and managers."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from inventory.changes import position
from inventory.work import waiting
from managers.kinds.placement import PlacementReconciler
from tests.managers.fleet import ADMIN, Fleet, contents, eventually, managed


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


async def test_leaving_the_selector_undoes_it(fleet: Fleet) -> None:
    """A host that no longer matches is told to give the files up, and then nothing is left of the host-config."""
    async with managed(fleet):
        host = await fleet.host("a", labels={"line": "4"})
        config = await fleet.config("motd", "labels.line = 4")
        await fleet.settled(host, config["id"])
        await fleet.patch("host", "a", labels={"line": None})
        await eventually(lambda: _gone(fleet, host, config["id"]))
        assert fleet.files == {}
        [order] = fleet.wire.of("config.remove")
        assert order.args == {"config": "motd", "files": ["/etc/fleet/motd"]}


async def test_a_deleted_config_waits_for_its_hosts(fleet: Fleet) -> None:
    """The row stays, marked as deleted, until the last host has given it up; an offline one holds it."""
    async with managed(fleet):
        online, offline = await fleet.host("a"), await fleet.host("b")
        config = await fleet.config("motd", "")
        await fleet.settled(online, config["id"])
        await fleet.settled(offline, config["id"])
        await fleet.presence(offline, "offline")
        kept = await fleet.store.delete("config", "motd", ADMIN)
        assert kept is not None and kept["deleted_at"] is not None
        await eventually(lambda: _gone(fleet, online, config["id"]))
        found = await eventually(lambda: _with_reason(fleet, offline, config["id"], "WaitingForDevice"))
        assert found["desired_state"] == "absent"
        assert await fleet.all("config")
        await fleet.presence(offline, "online")
        await eventually(lambda: _none(fleet, "config"))


async def test_drift_is_put_right(fleet: Fleet) -> None:
    """What the device reports as changed is applied again, and says so meanwhile."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        found = await fleet.settled(host, config["id"])
        fleet.wire.answer = None
        await fleet.report(found["id"], host, found["generation"], "drifted", found["digest"], "/etc/fleet/motd has other content")
        drifted = await eventually(lambda: _with_reason(fleet, host, config["id"], "Drifted"))
        assert drifted["current_state"] == "drifted"
        assert drifted["status"]["message"] == "being put right: /etc/fleet/motd has other content"
        await eventually(lambda: _sent(fleet, 2))
        await fleet.obey(fleet.wire.orders[1])
        assert (await fleet.settled(host, config["id"]))["current_state"] == "present"
        await fleet.quiet()
        assert len(fleet.wire.orders) == 2


async def test_an_unrecoverable_error_halts_until_the_user_steps_in(fleet: Fleet) -> None:
    """It is tried once; a scan does not try it again; retry does, and so does an edit."""
    async with managed(fleet):
        host = await fleet.host("a")
        fleet.failing[host] = {"code": "PathOutsideRoots", "message": "/opt/x is outside the roots", "recoverable": False}
        config = await fleet.config("motd", "", path="/opt/x")
        halted = await eventually(lambda: _with_reason(fleet, host, config["id"], "PathOutsideRoots"))
        assert (halted["status"]["halted"], halted["status"]["indicator"], halted["current_state"]) == (True, "error", "failed")
        await fleet.presence(host, "offline")
        await fleet.presence(host, "online")
        await fleet.quiet()
        assert len(fleet.wire.orders) == 1
        await fleet.store.retry("host-config", halted["id"], ADMIN)
        await eventually(lambda: _sent(fleet, 2))
        await fleet.quiet()
        assert [order.attempt for order in fleet.wire.orders] == [1, 1]
        del fleet.failing[host]
        await fleet.patch("config", "motd", files=[{"path": "/etc/x", "content": "now inside"}])
        assert (await fleet.settled(host, config["id"]))["current_state"] == "present"


async def test_a_recoverable_error_is_tried_again(fleet: Fleet) -> None:
    """It backs off, says so, and succeeds on its own once the cause has gone."""
    async with managed(fleet):
        host = await fleet.host("a")
        fleet.failing[host] = {"code": "ReadOnly", "message": "read-only file system", "recoverable": True}
        config = await fleet.config("motd", "")
        retrying = await eventually(lambda: _with_reason(fleet, host, config["id"], "Retrying"))
        assert retrying["status"]["halted"] is False
        assert "ReadOnly: read-only file system (attempt 1 of 8)" in retrying["status"]["message"]
        async with fleet.db.acquire() as connection:
            [row] = await waiting(connection, [retrying["id"]])
        assert (row.attempts, row.halted) == (1, False) and row.due_at is not None
        del fleet.failing[host]
        await fleet.settled(host, config["id"])
        assert [order.attempt for order in fleet.wire.orders][:2] == [1, 2]


async def test_nothing_is_sent_to_an_offline_host_until_it_is_back(fleet: Fleet) -> None:
    """It waits, counts no attempt, and goes on at once when the device is online."""
    async with managed(fleet):
        host = await fleet.host("a", presence="offline")
        config = await fleet.config("motd", "")
        found = await eventually(lambda: _with_reason(fleet, host, config["id"], "WaitingForDevice"))
        assert found["status"]["indicator"] == "in_progress"
        assert fleet.wire.orders == []
        await fleet.presence(host, "online")
        await fleet.settled(host, config["id"])


async def test_only_onboarded_hosts_get_configs(fleet: Fleet) -> None:
    """A registered host matches and gets nothing; approved, it gets it."""
    async with managed(fleet):
        host = await fleet.host("a", onboard=False)
        config = await fleet.config("motd", "")
        await fleet.quiet()
        assert await fleet.host_config(host, config["id"]) is None
        await fleet.patch("host", "a", desired_state="onboarded")
        await fleet.settled(host, config["id"])


async def test_the_higher_priority_wins_a_path(fleet: Fleet) -> None:
    """Of equal ones the older config wins; the loser says who has its path, and gets it when the winner goes."""
    async with managed(fleet):
        host = await fleet.host("a")
        older = await fleet.config("older", "", "older", path="/etc/x")
        younger = await fleet.config("younger", "", "younger", path="/etc/x")
        await fleet.settled(host, older["id"])
        lost = await fleet.settled(host, younger["id"])
        assert (lost["paths"], lost["shadowed"]) == ([], [{"path": "/etc/x", "by": older["id"]}])
        await fleet.patch("config", "younger", priority=1)
        await eventually(lambda: _holds(fleet, host, younger["id"], ["/etc/x"]))
        assert (await fleet.settled(host, older["id"]))["shadowed"] == [{"path": "/etc/x", "by": younger["id"]}]
        await fleet.store.delete("config", "younger", ADMIN)
        await eventually(lambda: _holds(fleet, host, older["id"], ["/etc/x"]))
        await fleet.settled(host, older["id"])


async def test_templates_see_the_host_and_its_labels(fleet: Fleet) -> None:
    """Each host gets its own content, and another label is another content."""
    async with managed(fleet):
        host = await fleet.host("a", labels={"line": "4"})
        template = "line {{ labels.line }} of {{ host.name }}\n"
        config = await fleet.config("motd", "", files=[{"path": "/etc/motd", "template": template}])
        await fleet.settled(host, config["id"])
        assert contents(fleet.wire.orders[0]) == {"/etc/motd": "line 4 of a\n"}
        await fleet.patch("host", "a", labels={"line": "5"})
        await eventually(lambda: _sent(fleet, 2))
        assert contents(fleet.wire.orders[1]) == {"/etc/motd": "line 5 of a\n"}


async def test_a_bad_template_halts_and_says_why(fleet: Fleet) -> None:
    """No command is sent for it; putting it right goes on."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "", files=[{"path": "/etc/motd", "template": "{{ labels.nowhere }}"}])
        halted = await eventually(lambda: _with_reason(fleet, host, config["id"], "BadTemplate"))
        assert halted["status"]["halted"] is True
        assert "nowhere" in halted["status"]["message"]
        assert fleet.wire.orders == []
        await fleet.patch("config", "motd", files=[{"path": "/etc/motd", "template": "{{ host.name }}"}])
        await fleet.settled(host, config["id"])


async def test_an_intent_that_changes_under_a_command_is_caught_up_with(fleet: Fleet) -> None:
    """While a command is under way there is no second one; when it has ended, what is wanted by then is sent."""
    async with managed(fleet):
        host = await fleet.host("a")
        fleet.wire.answer = None
        config = await fleet.config("motd", "", "one")
        await eventually(lambda: _sent(fleet, 1))
        for text in ("two", "three"):
            await fleet.patch("config", "motd", files=[{"path": "/etc/fleet/motd", "content": text}])
        await fleet.quiet()
        # By id: one that is not answered is sent again after 10 s.
        assert len({order.id for order in fleet.wire.orders}) == 1
        fleet.wire.answer = fleet.obey
        await fleet.obey(fleet.wire.orders[0])
        await fleet.settled(host, config["id"])
        sent = {order.id: contents(order)["/etc/fleet/motd"] for order in fleet.wire.orders}
        assert list(sent.values()) == ["one", "three"]


async def test_a_deleted_host_goes_at_once(fleet: Fleet) -> None:
    """With its host-configs and commands, without asking its device."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        await fleet.settled(host, config["id"])
        await fleet.presence(host, "offline")
        await fleet.store.delete("host", "a", ADMIN)
        await eventually(lambda: _none(fleet, "host"))
        assert await fleet.all("host-config") == []
        assert await fleet.all("command") == []


async def test_a_host_config_dropped_by_force_comes_back(fleet: Fleet) -> None:
    """As long as the selector matches: only the row was dropped, and what is wanted still is."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        first = await fleet.settled(host, config["id"])
        await fleet.store.delete("host-config", first["id"], ADMIN, force=True)
        await eventually(lambda: _sent(fleet, 2))
        assert (await fleet.settled(host, config["id"]))["id"] != first["id"]


async def test_two_replicas_make_one_command_a_host(fleet: Fleet) -> None:
    """Whichever of them reads, decides and sends."""
    async with managed(fleet), managed(fleet):
        hosts = [await fleet.host(f"h{n}") for n in range(12)]
        config = await fleet.config("motd", "", "one")
        for host in hosts:
            await fleet.settled(host, config["id"])
        await fleet.patch("config", "motd", files=[{"path": "/etc/fleet/motd", "content": "two"}])
        await eventually(lambda: _sent(fleet, 24))
        await fleet.quiet()
        assert sorted(order.device for order in fleet.wire.orders) == sorted(hosts * 2)
        assert len({order.id for order in fleet.wire.orders}) == 24


@dataclass
class Stalled:
    """The first placement that wants anything has read, and is held up before it writes until `go`."""

    read: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Stalled:
    held, render = Stalled(), PlacementReconciler._render

    async def slow(reconciler: PlacementReconciler, *args: Any) -> Any:
        wanted = await render(reconciler, *args)
        if any(wanted.values()) and not held.read.is_set():
            held.read.set()
            await held.go.wait()
        return wanted

    monkeypatch.setattr(PlacementReconciler, "_render", slow)
    return held


async def test_a_config_that_leaves_a_host_just_being_decided_on(fleet: Fleet, stalled: Stalled) -> None:
    """Nothing says yet that the host has it, and its selector no longer matches the host: it is looked at again all the same."""
    async with managed(fleet):
        host = await fleet.host("a", labels={"line": "4"})
        config = await fleet.config("motd", "")
        await stalled.read.wait()
        await fleet.patch("config", "motd", selector="labels.line = 5")
        await eventually(lambda: _once_more(fleet, host))
        stalled.go.set()
        await fleet.quiet()
        await eventually(lambda: _gone(fleet, host, config["id"]))
        assert fleet.files == {}


async def test_a_config_deleted_while_it_is_decided_on(fleet: Fleet, stalled: Stalled, caplog: pytest.LogCaptureFixture) -> None:
    """It has gone before its host-config can be made: that is decided again, and is nobody's failure."""
    async with managed(fleet):
        host = await fleet.host("a")
        config = await fleet.config("motd", "")
        await stalled.read.wait()
        await fleet.store.delete("config", "motd", ADMIN)
        await eventually(lambda: _none(fleet, "config"))
        stalled.go.set()
        await fleet.quiet()
        assert await fleet.host_config(host, config["id"]) is None
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def _once_more(fleet: Fleet, host: str) -> bool:
    async with fleet.db.acquire() as connection:
        return bool(await connection.fetchval("SELECT again > 0 FROM work WHERE manager = 'placement' AND key = $1", host))


async def _gone(fleet: Fleet, host: str, config: str) -> bool:
    return await fleet.host_config(host, config) is None


async def _none(fleet: Fleet, kind: str) -> bool:
    return await fleet.all(kind) == []


async def _sent(fleet: Fleet, count: int) -> bool:
    return len(fleet.wire.orders) >= count


async def _with_reason(fleet: Fleet, host: str, config: str, reason: str) -> Any:
    found = await fleet.host_config(host, config)
    return found if found and found["status"]["reason"] == reason else None


async def _holds(fleet: Fleet, host: str, config: str, paths: list[str]) -> bool:
    found = await fleet.host_config(host, config)
    return found is not None and found["paths"] == paths
