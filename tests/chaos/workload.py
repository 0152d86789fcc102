"""What goes on all the while: people who ask, disks that are plugged in, commands that must not run twice, and readers who watch.

Each records what it did and what it was told, in the history. It is paused after each nemesis, so that there is a last word to converge on.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx

from inventory import changes
from inventory.actor import Actor
from inventory.errors import Unavailable
from inventory.ids import new_id
from tests.chaos.checks import LEDGER_VERB
from tests.chaos.device import machine
from tests.chaos.ground import SIMULATED, Device, Ground, plugged_of
from tests.chaos.history import Discovery, Event, History, Intent, Outcome, Sighting

ASK_S = (0.4, 1.0)
"""Between two intents for the same config."""
PLUG_S = (0.7, 1.5)
ORDER_S = (0.5, 1.2)
RUN_S = (0.05, 1.5)
"""How long the test-only verb takes."""
LOOK_S = 0.2
START_WITHIN = timedelta(minutes=10)


@dataclass(slots=True)
class Workload:
    ground: Ground
    history: History
    _random: random.Random = field(default_factory=random.Random)
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: int = 0
    _asked: int = 0
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    @property
    def configs(self) -> dict[str, str]:
        """Config → the group of hosts that it is for."""
        ours = {name: name for name in self.ground.devices}
        return {**ours, "simulated-a": SIMULATED, "simulated-b": SIMULATED}

    async def begin(self) -> None:
        """Make the configs, then start everybody."""
        for name, group in self.configs.items():
            body = {"name": name, "selector": f"labels.group = {group}", "files": [{"path": self._path(name), "content": "0"}]}
            (await self.ground.ask("POST", "configs", json=body)).raise_for_status()
        loops = [self._every(ASK_S, partial(self._ask, name)) for name in self.configs]
        loops += [self._every(PLUG_S, self._plug), self._every(ORDER_S, self._order)]
        watchers = [self._watch_positions(), self._read_events()]
        self._tasks = [asyncio.create_task(loop) for loop in (*loops, *watchers)]
        self.resume()

    def resume(self) -> None:
        self._going.set()

    async def pause(self) -> None:
        """Nothing new; returns when what is under way has its answer."""
        self._going.clear()
        while self._busy:
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Stop everybody. Raises what broke one of them."""
        broken = [task.exception() for task in self._tasks if task.done() and not task.cancelled()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in broken:
            if error is not None:
                raise error

    async def _every(self, seconds: tuple[float, float], act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(*seconds))
            await self._going.wait()
            self._busy += 1
            try:
                await act()
            finally:
                self._busy -= 1

    # --- people who ask -------------------------------------------------------------------------------------------------------

    def _path(self, config: str) -> str:
        device = self.ground.devices.get(config)
        return str(device.file) if device is not None else f"/etc/fleetward.d/{config}"

    async def _ask(self, config: str) -> None:
        self._asked += 1
        content, at = str(self._asked), self.ground.story.now()
        body = {"files": [{"path": self._path(config), "content": content}]}
        try:
            answer = await self.ground.ask("PATCH", f"configs/{config}", json=body)
        except httpx.HTTPError:
            self.history.intents.append(Intent(at, config, content, Outcome.UNKNOWN))
            return
        match answer.status_code:
            case status if status < 300:
                intent = Intent(at, config, content, Outcome.OK, answer.json()["version"])
            case status if status < 500:
                intent = Intent(at, config, content, Outcome.REFUSED)
            case _:
                intent = Intent(at, config, content, Outcome.UNKNOWN)
        self.history.intents.append(intent)

    # --- disks ----------------------------------------------------------------------------------------------------------------

    async def _plug(self) -> None:
        chosen = self._random.choice([d for d in self.ground.devices.values() if d.ledger] * 2 + [None] * 3)
        if chosen is None:
            await self._plug_simulated()
        else:
            self._plug_real(chosen)

    def _plug_real(self, device: Device) -> None:
        device.plugged += 1
        path = plugged_of(device)
        partial = path.with_suffix(".partial")
        partial.write_text(str(device.plugged))
        partial.replace(path)
        seed = int(device.part.command[-1])
        key = str(machine(seed, device.plugged).added_disks[-1]["key"])
        self.history.discoveries.append(Discovery(self.ground.story.now(), device.host, key))

    async def _plug_simulated(self) -> None:
        host = self._random.choice(sorted(self.ground.simulated_hosts()))
        try:
            async with asyncio.timeout(5):
                answer = await self.ground.tell_simulator(op="add-disk", device=host)
        except (OSError, TimeoutError):
            return  # stopped just now: nobody knows of a disk
        self.history.discoveries.append(Discovery(self.ground.story.now(), host, answer["results"][0]["key"]))

    # --- commands that must not run twice -------------------------------------------------------------------------------------

    async def _order(self) -> None:
        """A manager would make it in its transaction; whether it was made, the commands at the end tell."""
        device = self._random.choice([d for d in self.ground.devices.values() if d.ledger])
        now = datetime.now(UTC)
        values = {
            "id": new_id("cmd"),
            "host": device.host,
            "verb": LEDGER_VERB,
            "args": {"seconds": self._random.uniform(*RUN_S)},
            "attempt": 1,
            "timeout_s": 60,
            "not_after": now + START_WITHIN,
            "due_at": now,
        }
        try:
            async with asyncio.timeout(8):
                await self.ground.store.make("command", values, Actor.manager("config"))
        except (Unavailable, TimeoutError):
            pass

    # --- readers --------------------------------------------------------------------------------------------------------------

    async def _watch_positions(self) -> None:
        """Which position the log had when: what dates a change without any clock of the installation."""
        while True:
            try:
                async with asyncio.timeout(5):
                    position = await changes.position(self.ground.pool)
            except (Unavailable, TimeoutError):
                pass
            else:
                seen = self.history.sightings
                if not seen or seen[-1].position != position:
                    seen.append(Sighting(self.ground.story.now(), position))
            await asyncio.sleep(LOOK_S)

    async def _read_events(self) -> None:
        """A reader of the API that goes on from where it was, whatever happens."""
        after = 0
        while True:
            try:
                answer = await self.ground.ask("GET", "events", params={"after": after})
                answer.raise_for_status()
                told = answer.json()
                after = told["next"]
                self.history.events += [Event(e["position"], e["id"], e["op"], e["version"]) for e in told["items"]]
            except httpx.HTTPError:
                pass
            await asyncio.sleep(LOOK_S)
