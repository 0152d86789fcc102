"""Taking away, as a user does it, on an installation of processes with either broker: within 5 s nothing of it works any more.

The devices are raw clients, enrolled over the API, online, and with a command under way that they do not answer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest

from broker.mosquitto import find_mosquitto
from broker.topics import DeviceTopic, Topics
from inventory.authority import Authority
from inventory.bootstrap import Wanted, bootstrap
from tests.broker.wire import Wire
from tests.inventory_wire.device import Device
from tests.inventory_wire.installation import Installation, installation, new_key, request, until
from tests.waiting import Stopwatch

T = Topics()
WITHIN_S = 5.0
ROLES = ("inventory", "managers", "web")


@dataclass(slots=True)
class Site:
    """The installation, its API, and who is connected."""

    place: Installation
    api: httpx.AsyncClient
    wires: list[Wire] = field(default_factory=list)

    async def call(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self.api.request(method, path, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def wire(self, name: str) -> Wire:
        """With that name's certificate, not connected yet."""
        self.wires.append(Wire("127.0.0.1", self.place.port, self.place.context(name)))
        return self.wires[-1]

    async def code(self, name: str) -> int | None:
        """Of CONNACK; None where there is none."""
        wire = self.wire(name)
        try:
            return await wire.connect(name)
        except (EOFError, OSError):
            return None
        finally:
            await wire.abort()

    async def enrolled(self, name: str) -> Device:
        """A machine with a token of its own, its files written."""
        token = (await self.call("POST", "/enrollment-tokens", 201, json={"approve": True}))["token"]
        key = new_key()
        body = {"token": token, "csr": request(key), "evidence": {"hostname": name}, "agent_version": "0.1.0"}
        answer = await self.call("POST", "/enroll", json=body)
        self.place.write_identity(answer["device"], answer["certificate"], key)
        return Device(answer["device"], bytes.fromhex(answer["channel_key"]))

    async def online(self, device: Device) -> Wire:
        """Connected, said so, and sent a command."""
        wire = self.wire(device.id)
        assert await wire.connect(device.id) == 0
        await wire.subscribe(T.downlinks(device.id))
        await wire.publish(T.build(DeviceTopic(device.id, "up/presence")), device.payload(device.presence()))
        await until(lambda: self.commands(device, "sent"), "a command to be sent")
        return wire

    async def commands(self, device: Device, state: str) -> list[Any]:
        filter_ = f'host = "{device.id}" AND state = "{state}"'
        return list((await self.call("GET", "/commands", params={"filter": filter_}))["items"])


@pytest.fixture(params=["embedded", "mosquitto"])
async def site(request: pytest.FixtureRequest, inventory_url: str) -> AsyncIterator[Site]:
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("no mosquitto on PATH")
    async with installation(inventory_url) as place:
        place.kind = request.param
        await bootstrap(Wanted(place.secrets, inventory_url, admin_token_file=place.directory / "admin-token"), datetime.now(UTC))
        await place.start("broker")
        await asyncio.gather(*(place.start(role) for role in ROLES))
        token = (place.directory / "admin-token").read_text().strip()
        url = place.said["web"].removeprefix("listening ") + "/api/v1"
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False) as api:
            made = Site(place, api)
            await made.call(
                "POST", "/configs", 201, json={"name": "motd", "selector": "", "files": [{"path": "/etc/motd", "content": "x"}]}
            )
            yield made
            for wire in made.wires:
                await wire.abort()


async def _gone(site: Site, name: str, wire: Wire, act: Callable[[], Awaitable[Any]]) -> float:
    """Act, and see the connection end and no other begin; the seconds until then."""
    watch = Stopwatch()
    await act()
    assert await wire.closed(WITHIN_S), f"{name} is still connected: {site.place.log('inventory')[-3000:]}"
    took = watch.wall()
    assert watch.seconds() < WITHIN_S
    for _ in range(20):
        assert await site.code(name) in (None, 5), f"{name} is let in again"
        await asyncio.sleep(0.05)
    return took


async def test_what_is_taken_away_ends_within_five_seconds(site: Site) -> None:
    """A host that is untrusted, one that is deleted, one whose certificate is revoked: cut, kept out, their commands cancelled; a
    fourth one stays. Trusted again, the first is let in."""
    devices = [await site.enrolled(f"edge-{n}") for n in range(4)]
    wires = [await site.online(device) for device in devices]
    untrusted, deleted, revoked, other = devices
    watch = Stopwatch()
    took = await asyncio.gather(
        _gone(site, untrusted.id, wires[0], lambda: site.call("PATCH", f"/hosts/{untrusted.id}", json={"desired_state": "untrusted"})),
        _gone(site, deleted.id, wires[1], lambda: site.call("DELETE", f"/hosts/{deleted.id}", 202)),
        _gone(site, revoked.id, wires[2], lambda: site.call("POST", f"/certificates/{revoked.id}:revoke")),
    )
    for device in (untrusted, revoked):
        await until(partial(_all_cancelled, site, device), "the cancellation", WITHIN_S)
    await until(lambda: _is_404(site, deleted), "the host to go", WITHIN_S)
    assert watch.seconds() < WITHIN_S
    print(f"{site.place.kind}: connections ended after {', '.join(f'{each:.2f}' for each in sorted(took))} s")
    await wires[3].ping()
    assert await site.commands(other, "sent")
    await until(lambda: _is_offline(site, untrusted), "the sweep that sees it gone", WITHIN_S)
    await site.call("PATCH", f"/hosts/{untrusted.id}", json={"desired_state": "onboarded"})
    await until(lambda: _is_in(site, untrusted.id), "it to be let in again", WITHIN_S)


async def _all_cancelled(site: Site, device: Device) -> bool:
    """Until its host is known to be away, a command that is withdrawn may be made anew, and is withdrawn as well."""
    ends = [bool(await site.commands(device, state)) for state in ("cancelled", "sent", "queued")]
    return ends == [True, False, False]


async def _is_offline(site: Site, device: Device) -> bool:
    return bool((await site.call("GET", f"/hosts/{device.id}"))["presence"] == "offline")


async def _is_404(site: Site, device: Device) -> bool:
    return (await site.api.get(f"/hosts/{device.id}")).status_code == 404


async def _is_in(site: Site, name: str) -> bool:
    return await site.code(name) == 0


async def test_integrations_and_services_are_taken_away_too(site: Site) -> None:
    """An integration that is deleted, and a service whose certificate is revoked: cut and kept out. One with another certificate in its
    place goes on, here the managers: a command comes to a device that was enrolled afterwards."""
    key = new_key()
    asked = {"name": "mes", "write": "signed", "csr": request(key, "mes")}
    site.place.write_identity("mes", (await site.call("POST", "/integrations", 201, json=asked))["certificate"], key)
    await until(lambda: _is_in(site, "mes"), "the integration to be let in")
    wire = site.wire("mes")
    assert await wire.connect("mes") == 0
    took = await _gone(site, "mes", wire, lambda: site.call("DELETE", "/integrations/mes", 204))

    authority = Authority(site.place.secrets)
    for name in ("svc-managers", "svc-web"):
        _steal(site, name)
    wire = site.wire("svc-web")
    assert await wire.connect("svc-web") == 0
    later = await _gone(site, "svc-web", wire, lambda: site.call("POST", "/certificates/svc-web:revoke"))
    print(f"{site.place.kind}: an integration was cut after {took:.2f} s, a service after {later:.2f} s")

    before = dict(authority.services_issued())["svc-managers"]
    authority.equip("svc-managers", anew=True)
    await site.call("POST", f"/certificates/{before.serial}:revoke")
    await until(lambda: _is_out(site, "svc-managers"), "the stolen certificate to be refused", WITHIN_S)
    device = await site.enrolled("edge")
    await site.online(device)
    rows = [row for row in (await site.call("GET", "/certificates"))["items"] if row["name"] == "svc-managers"]
    assert {row["serial"]: row["revoked"] for row in rows}[before.serial] == "revoked" and len(rows) == 2


def _steal(site: Site, name: str) -> None:
    """A copy of a service's certificate and key."""
    for end in ("crt", "key"):
        (site.place.directory / f"{name}.{end}").write_bytes((site.place.secrets / f"{name}.{end}").read_bytes())


async def _is_out(site: Site, name: str) -> bool:
    return await site.code(name) != 0
