"""Policy from above and discovery from below, with simulated devices and a real browser (design.md section 1, flows 2 and 3)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.system.conftest import Installation, until

COUNT = 4
BROWSER_MS = 100_000
"""For a step of the browser, in wall time: it only ends what will never come."""


@dataclass(slots=True)
class Fleet:
    """Simulated devices of the installation, and a way to change them while they run."""

    installation: Installation
    directory: Path
    hosts: list[dict[str, Any]]

    def tell(self, **request: Any) -> Any:
        command = [sys.executable, "-m", "edge_agent.simulator", "--state-dir", str(self.directory), "--tell", json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout)

    def configs_of(self, host: dict[str, Any]) -> set[str]:
        """Names of the configs that are on a host, as wanted."""
        names = {config["id"]: config["name"] for config in self.installation.items("configs")}
        found = self.installation.items("host-configs", f'host = "{host["id"]}" AND current_state = present')
        return {names[item["config"]] for item in found if item["config"] in names}

    def commands_to(self, host: dict[str, Any]) -> int:
        return len(self.installation.items("commands", f'host = "{host["id"]}"'))


@pytest.fixture(scope="module")
def fleet(installation: Installation, host: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four simulated devices, onboarded, at no site."""
    directory = tmp_path_factory.mktemp("simulator")
    token = installation.fleetward("token", "create", "--uses", str(COUNT), "--approve", "--label", "simulated=yes").strip()
    command = [sys.executable, "-m", "edge_agent.simulator", "--count", str(COUNT), "--server", installation.url, "--token", token]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--state-dir", str(directory)], stdout=log, stderr=log)

    def all_there() -> Any:
        found = installation.items("hosts", "labels.simulated = yes AND presence = online AND current_state = onboarded")
        return found if len(found) == COUNT and all(h["cpu_cores"] for h in found) else None

    try:
        hosts = until(all_there, 40, "the simulated devices")
        yield Fleet(installation, directory, sorted(hosts, key=lambda h: str(h["id"])))
    finally:
        process.terminate()
        process.wait(60)


def test_moving_and_relabelling_change_what_applies(fleet: Fleet) -> None:
    """Another site, or another label of the region above: only hosts whose labels change get commands."""
    there = fleet.installation
    there.apply(
        {"kind": "region", "name": "south", "labels": {"wants": "none"}},
        {"kind": "region", "name": "north", "labels": {"wants": "motd"}},
        {"kind": "site", "name": "munich", "region": "south"},
        {"kind": "site", "name": "kiel", "region": "north"},
        {
            "kind": "config",
            "name": "north-only",
            "selector": "labels.wants = motd AND labels.simulated = yes",
            "files": [{"path": "/etc/fleetward.d/motd", "content": "north\n"}],
        },
    )
    first, second, third, fourth = fleet.hosts
    for host, site in ((first, "munich"), (second, "kiel"), (third, "munich")):
        there.apply({"kind": "host", "name": host["name"], "site": site})
    until(lambda: fleet.configs_of(second) == {"north-only"}, 15, "the host in the north to have it")
    others = {host["id"]: fleet.commands_to(host) for host in (second, third, fourth)}
    there.apply({"kind": "host", "name": first["name"], "site": "kiel"})
    until(lambda: fleet.configs_of(first) == {"north-only"}, 15, "the moved host to have it")
    assert {host["id"]: fleet.commands_to(host) for host in (second, third, fourth)} == others

    before = fleet.commands_to(fourth)
    there.apply(
        {"kind": "region", "name": "north", "labels": {"wants": "none"}}, {"kind": "region", "name": "south", "labels": {"wants": "motd"}}
    )
    until(
        lambda: fleet.configs_of(third) == {"north-only"} and not fleet.configs_of(first) | fleet.configs_of(second),
        20,
        "the regions to swap",
    )
    assert fleet.commands_to(fourth) == before
    shown = there.get(f"hosts/{third['id']}")
    assert shown["effective_labels"]["wants"] == "motd" and shown["labels"] == {"simulated": "yes"}


@pytest.fixture
def page(installation: Installation) -> Iterator[Page]:
    """A browser, signed in as the first administrator."""
    said = installation.output().decode()
    password = said[said.index("sign-in: admin ") + len("sign-in: admin ") :].split()[0]
    arguments = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments, timeout=BROWSER_MS)
        page = browser.new_page()
        page.set_default_timeout(BROWSER_MS)
        page.goto(installation.url + "/login")
        page.fill("[name=username]", "admin")
        page.fill("[name=password]", password)
        page.press("[name=password]", "Enter")
        page.wait_for_url(installation.url + "/")
        yield page
        browser.close()


def found(there: Installation, host: dict[str, Any], type_: str, key: str) -> Any:
    return next(iter(there.items("components", f'host = "{host["id"]}" AND type = {type_} AND key = "{key}"')), None)


def vanished(there: Installation, id: str) -> Any:
    component = there.get(f"components/{id}")
    return component if not component["present"] else None


def told_of(there: Installation, position: int, id: str) -> list[str]:
    """What events there are of a component; each comes after its row."""
    return [event["op"] for event in there.get("events", after=position, kind="component")["items"] if event["id"] == id]


def told(there: Installation, host: dict[str, Any]) -> set[str]:
    return {note["type"] for note in there.items("notifications", f'host = "{host["id"]}"')}


def test_a_new_disk_becomes_an_event_and_a_toast(fleet: Fleet, page: Page) -> None:
    """Seen in an open browser without a reload; a vanished one stays, not present, with when it was last seen."""
    there, host = fleet.installation, fleet.hosts[0]
    page.goto(f"{there.url}/hosts")
    page.wait_for_selector(f"text={host['name']}")
    page.evaluate("() => { window.loadedOnce = true; }")
    position = there.get("events")["next"]
    for type_ in ("disk", "nic"):
        key = fleet.tell(op=f"add-{type_}", device=host["id"])["results"][0]["key"]
        component = until(partial(found, there, host, type_, key), 15, "the component")
        assert component["present"]
        page.wait_for_selector(f"[role=status] >> text={host['name']}")
        assert until(partial(told_of, there, position, component["id"]), 15, "the event") == ["created"]
        fleet.tell(op=f"remove-{type_}", device=host["id"], key=key)
        gone = until(partial(vanished, there, component["id"]), 15, "it to be reported gone")
        assert gone["last_seen"] >= gone["first_seen"]
    assert page.evaluate("() => window.loadedOnce") is True
    until(lambda: {"ComponentFound", "ComponentVanished"} <= told(there, host), 15, "people to be told of both")


def test_a_host_that_goes_is_shown_and_comes_back(fleet: Fleet) -> None:
    """Cut off without a word, it is offline by its Will; back again, it is online, and what was wanted meanwhile is brought about."""
    there, host = fleet.installation, fleet.hosts[1]
    fleet.tell(op="offline", device=host["id"])
    until(lambda: there.get(f"hosts/{host['id']}")["presence"] == "offline", 60, "it to be offline")
    there.apply(
        {
            "kind": "config",
            "name": "while-away",
            "selector": f'id = "{host["id"]}"',
            "files": [{"path": "/etc/fleetward.d/away", "content": "x"}],
        }
    )
    item = until(lambda: there.items("host-configs", 'config = "while-away"'), 15, "its host-config")[0]
    until(lambda: "offline" in json.dumps(there.get(f"host-configs/{item['id']}/explain")).lower(), 10, "the reason to be told")
    assert not there.items("commands", f'resource.id = "{item["id"]}"'), "no command is made for a device that is not there"
    fleet.tell(op="online", device=host["id"])
    until(lambda: "while-away" in fleet.configs_of(host), 20, "it to catch up")


def test_components_of_this_machine_have_stable_keys(installation: Installation, host: dict[str, Any]) -> None:
    """A second scan finds the same components: none is made anew, none vanishes."""
    before = {(c["type"], c["key"]): c["id"] for c in installation.items("components", f'host = "{host["id"]}"')}
    agent, log = installation.pid("agent"), installation.data / "log" / "agent.log"
    position, said = installation.get("events")["next"], log.stat().st_size
    os.kill(agent, 9)
    until(lambda: installation.pid("agent") != agent, 15, "the agent to be back")
    until(lambda: b'"connected"' in log.read_bytes()[said:], 30, "it to be connected")
    until(lambda: installation.get(f"hosts/{host['id']}")["presence"] == "online", 15, "it to be online")
    until(lambda: installation.get("events")["next"] > position, 15, "something to be reported")
    after = {(c["type"], c["key"]): c["id"] for c in installation.items("components", f'host = "{host["id"]}" AND present = true')}
    assert before == after
