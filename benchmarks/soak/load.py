"""What goes on during a soak: every kind of change that an installation sees, at a steady and modest rate, for hours.

A table of things to do and how often (`Load.plan`); each is done by a task of its own, late rather than twice. What is answered is
counted, so that the verdict can say whether the installation still did its work. Everything that is added is also taken away, apart from
what is meant to be kept (history).
"""

import asyncio
import json
import random
import ssl
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import httpx

from benchmarks.soak.installation import Installation

GROUPS = 25
"""Configs, each for the hosts of one label's value: an edit reaches a twenty-fifth of the fleet."""
SITES = 10
FOLLOWERS = 8
AWAY_S = 10.0
"""A device taken offline is back after so many seconds."""
SETUP_A_SECOND = 25
LISTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("hosts", {"page_size": "100", "count": "true"}),
    ("hosts", {"filter": "presence = online AND labels.group = 7"}),
    ("hosts", {"filter": "cpu_cores > 4", "order_by": "name desc", "page_size": "50"}),
    ("components", {"filter": "type = disk AND present = true", "page_size": "200"}),
    ("host-configs", {"filter": "current_state != present", "count": "true"}),
    ("commands", {"order_by": "created_at desc", "page_size": "50"}),
    ("notifications", {"page_size": "50"}),
    ("configs", {}),
    ("events", {}),
)
PAGES = ("/", "/hosts", "/configs", "/notifications", "/places", "/events", "/hosts/rows")
WRONG = (
    ("GET", "/api/v1/hosts/nobody", None),
    ("GET", "/api/v1/hosts?filter=colour+%3D+red", None),
    ("POST", "/api/v1/configs", {"name": "NOT A NAME"}),
    ("PATCH", "/api/v1/hosts/nobody", {"cpu_cores": 3}),
)

Act = Callable[[], Awaitable[None]]


class Load:
    """Runs until cancelled. `done`: how often each thing was done; `failed`: what should have worked and did not, by thing and answer."""

    def __init__(self, installation: Installation, seed: int) -> None:
        self._it = installation
        self._random = random.Random(seed)
        self._api = httpx.AsyncClient(
            base_url=installation.url, headers={"Authorization": f"Bearer {installation.token}"}, timeout=60, trust_env=False
        )
        self._browser = httpx.AsyncClient(base_url=installation.url, timeout=60, trust_env=False)
        self._hosts: list[str] = []
        self._added: dict[tuple[int, str], str] = {}
        self._away: deque[tuple[float, int]] = deque()
        self._temporary = 0
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def prepare(self) -> None:
        """Wait until every device is there, then sites, configs and labels: 25 configs on a twenty-fifth of the hosts each."""
        while len(self._hosts) < self._it.devices:
            found = await self._items("hosts", filter="presence = online AND current_state = onboarded", page_size="1000")
            self._hosts = [host["id"] for host in found]
            await asyncio.sleep(1)
        await self._create("regions", name="soak", labels={"soak": "yes"})
        for number in range(SITES):
            await self._create("sites", name=f"soak-{number}", region="soak")
        for number in range(GROUPS):
            await self._create("configs", **self._config(f"soak-{number}", f"labels.group = {number}"))
        for number, host in enumerate(self._hosts):
            await self._patch(f"hosts/{host}", site=f"soak-{number % SITES}", labels={"group": str(number % GROUPS)})
            await asyncio.sleep(1 / SETUP_A_SECOND)
        await self._sign_in()

    async def run(self, name: str, certificates: Path) -> None:
        """Everything, until cancelled. `certificates`: of the integration `name`."""
        async with asyncio.TaskGroup() as tasks:
            for every_s, act in self.plan():
                tasks.create_task(self._again_and_again(every_s, act))
            for _ in range(FOLLOWERS):
                tasks.create_task(self._follow())
            tasks.create_task(self._integrate(name, certificates))

    async def close(self) -> None:
        await self._api.aclose()
        await self._browser.aclose()

    def plan(self) -> tuple[tuple[float, Act], ...]:
        """Seconds between two, and what."""
        return (
            (10, self._edit_config),
            (4, self._label),
            (6, self._move),
            (10, self._retitle),
            (4, self._change_hardware),
            (3, self._reconnect),
            (30, self._reboot),
            (20, self._drift),
            (30, self._fail_once),
            (30, self._retry),
            (60, self._come_and_go),
            (1.5, self._list),
            (5, self._look_closely),
            (4, self._page),
            (300, self._sign_in),
            (120, self._sign_in_wrongly),
            (10, self._ask_wrongly),
            (15, self._scrape),
        )

    async def _again_and_again(self, every_s: float, act: Act) -> None:
        name = act.__name__.strip("_")
        await asyncio.sleep(self._random.uniform(0, every_s))
        while True:
            began = time.monotonic()
            try:
                await act()
                self.done[name] += 1
            except (httpx.HTTPError, RuntimeError, OSError) as error:
                self.failed[f"{name}: {str(error)[:120] or type(error).__name__}"] += 1
            await asyncio.sleep(max(0.1, every_s - (time.monotonic() - began)))

    # --- intents --------------------------------------------------------------------------------------------------------------

    async def _edit_config(self) -> None:
        number = self._random.randrange(GROUPS)
        await self._patch(f"configs/soak-{number}", files=self._config("", "")["files"])

    async def _label(self) -> None:
        await self._patch(f"hosts/{self._host()}", labels={"group": str(self._random.randrange(GROUPS))})

    async def _move(self) -> None:
        await self._patch(f"hosts/{self._host()}", site=f"soak-{self._random.randrange(SITES)}")

    async def _retitle(self) -> None:
        await self._patch(f"hosts/{self._host()}", title=f"Number {self._random.randrange(1000)}")

    async def _retry(self) -> None:
        found = await self._items("host-configs", page_size="20", filter="current_state = present")
        if found:
            await self._send("POST", f"host-configs/{self._random.choice(found)['id']}:retry", {})

    async def _come_and_go(self) -> None:
        """A config and a token that live for a minute."""
        self._temporary += 1
        host = self._host()
        await self._create("configs", **self._config(f"temporary-{self._temporary}", f'id = "{host}"'))
        token = await self._create("enrollment-tokens", name=f"temporary-{self._temporary}", uses=1)
        await asyncio.sleep(30)
        await self._send("DELETE", f"configs/temporary-{self._temporary}", None)
        await self._send("DELETE", f"enrollment-tokens/{token['id']}", None)

    # --- devices --------------------------------------------------------------------------------------------------------------

    async def _change_hardware(self) -> None:
        """A disk or NIC more; next time the same device is met, that one is gone again."""
        device, what = self._random.randrange(self._it.devices), self._random.choice(("disk", "nic"))
        key = self._added.pop((device, what), None)
        if key is not None:
            self._it.tell(op=f"remove-{what}", device=device, key=key)
        else:
            self._added[device, what] = self._it.tell(op=f"add-{what}", device=device)["results"][0]["key"]
        if len(self._added) > 50:
            (device, what), key = self._added.popitem()
            self._it.tell(op=f"remove-{what}", device=device, key=key)

    async def _reconnect(self) -> None:
        device = self._random.randrange(self._it.devices)
        self._it.tell(op="offline", device=device)
        self._away.append((time.monotonic() + AWAY_S, device))
        while self._away[0][0] <= time.monotonic():
            self._it.tell(op="online", device=self._away.popleft()[1])

    async def _reboot(self) -> None:
        self._it.tell(op="reboot", device=self._random.randrange(self._it.devices))

    async def _drift(self) -> None:
        self._it.tell(op="drift", device=self._random.randrange(self._it.devices))

    async def _fail_once(self) -> None:
        self._it.tell(op="fail", device=self._random.randrange(self._it.devices), code="Busy", times=1)

    # --- readers --------------------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        collection, query = self._random.choice(LISTS)
        if collection == "events":
            await self._send("GET", "events", None, params={"after": str(max(0, await self._position() - 200))})
        else:
            await self._send("GET", collection, None, params=query)

    async def _look_closely(self) -> None:
        host = self._host()
        for path in (f"hosts/{host}", f"hosts/{host}/explain", f"hosts/{host}/changes"):
            await self._send("GET", path, None)

    async def _page(self) -> None:
        answer = await self._browser.get(self._random.choice((*PAGES, f"/hosts/{self._host()}")))
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.request.url.path}: {answer.status_code}")

    async def _scrape(self) -> None:
        for path in ("/metrics", "/readyz"):
            (await self._api.get(path)).raise_for_status()

    async def _sign_in(self) -> None:
        """Another browser in the place of the one before, which pages are read with until then."""
        async with httpx.AsyncClient(base_url=self._it.url, timeout=60, trust_env=False) as browser:
            answer = await browser.post("/login", json={"username": "admin", "password": self._it.password})
        answer.raise_for_status()
        self._browser.cookies = browser.cookies

    async def _sign_in_wrongly(self) -> None:
        answer = await self._api.post("/login", json={"username": f"nobody-{uuid.uuid4().hex[:8]}", "password": "wrong"})
        if answer.status_code not in (401, 429):
            raise RuntimeError(f"a wrong password: {answer.status_code}")

    async def _ask_wrongly(self) -> None:
        method, path, body = self._random.choice(WRONG)
        answer = await self._api.request(method, path, json=body)
        if not 400 <= answer.status_code < 500:
            raise RuntimeError(f"{method} {path}: {answer.status_code}")

    async def _follow(self) -> None:
        """A follower of the event stream that goes, and comes back where it was."""
        last = None
        while True:
            until = time.monotonic() + self._random.uniform(30, 180)
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                async with self._api.stream("GET", "/api/v1/events/stream", headers=headers) as answer:
                    answer.raise_for_status()
                    async for line in answer.aiter_lines():
                        if line.startswith("id:"):
                            last = line[3:].strip()
                        if time.monotonic() > until:
                            break
                self.done["follow"] += 1
            except httpx.HTTPError as error:
                self.failed[f"follow: {str(error) or type(error).__name__}"] += 1
                await asyncio.sleep(1)

    async def _integrate(self, name: str, certificates: Path) -> None:
        """A program on the broker: reads every event, and asks for a title now and then; a new connection each five minutes."""
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
        host, port = self._it.mqtt
        while True:
            until = time.monotonic() + 300
            try:
                async with aiomqtt.Client(host, port, identifier=name, tls_context=context) as client:
                    await client.subscribe("fleet/v1/events/#", qos=0)
                    await client.subscribe(f"fleet/v1/replies/{name}/+", qos=1)
                    asking = asyncio.create_task(self._ask_by_mqtt(client, name))
                    try:
                        async for message in client.messages:
                            self.done["replies" if "/replies/" in message.topic.value else "events over MQTT"] += 1
                            if time.monotonic() > until:
                                break
                    finally:
                        asking.cancel()
            except aiomqtt.MqttError as error:
                self.failed[f"integration: {error}"] += 1
                await asyncio.sleep(1)

    async def _ask_by_mqtt(self, client: aiomqtt.Client, name: str) -> None:
        while True:
            body = {
                "patch": {"title": f"By MQTT {self._random.randrange(1000)}"},
                "correlation": uuid.uuid4().hex,
                "not_after": (datetime.now(UTC) + timedelta(minutes=1)).isoformat(),
            }
            await client.publish(f"fleet/v1/intents/{name}/host/{self._host()}", json.dumps(body), qos=1)
            self.done["intents over MQTT"] += 1
            await asyncio.sleep(20)

    # --- the API --------------------------------------------------------------------------------------------------------------

    def _host(self) -> str:
        return self._random.choice(self._hosts)

    def _config(self, name: str, selector: str) -> dict[str, Any]:
        content = f"{uuid.uuid4()}\n" * self._random.randrange(10, 100)
        return {"name": name, "selector": selector, "files": [{"path": f"/etc/fleetward.d/{name or 'edited'}", "content": content}]}

    async def _position(self) -> int:
        return int((await self._send("GET", "hosts", None, params={"page_size": "1"}))["position"])

    async def _items(self, collection: str, **query: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self._send("GET", collection, None, params=query))["items"]
        return items

    async def _create(self, collection: str, **body: Any) -> dict[str, Any]:
        return await self._send("POST", collection, body)

    async def _patch(self, path: str, **patch: Any) -> None:
        await self._send("PATCH", path, patch)

    async def _send(self, method: str, path: str, body: Any, params: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self._api.request(method, f"/api/v1/{path}", json=body, params=params)
        if answer.is_error:
            raise RuntimeError(f"{method} {path.split('/')[0]}: {answer.status_code} {answer.text[:80]}")
        said: dict[str, Any] = answer.json() if answer.content else {}
        return said
