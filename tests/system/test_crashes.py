"""kill -9 of each process in turn, the supervisor last, while devices discover and intents are set: nothing is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.system.conftest import Installation, one_more, until

SERVICES = ("agent", "web", "managers", "inventory", "broker", "postgres")
CONVERGED_SECONDS = 60.0
GIVES_UP_SECONDS = 8.0
"""Who asks gives up then and asks again: what was asked of a database as it died may stay without an answer for long."""


@pytest.fixture
def fragile() -> Iterator[Installation]:
    """An installation of this test's own, with this machine's agent."""
    with one_more() as made:
        yield made


class Intents(threading.Thread):
    """Somebody who keeps asking: a config a time, its content changed again and again, remembering what was promised (2xx)."""

    def __init__(self, installation: Installation, files: Path) -> None:
        super().__init__(daemon=True)
        self.installation, self.files = installation, files
        self.promised: dict[str, str] = {}
        self.asked = 0
        self.failures: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.1):
            self.ask()

    def ask(self) -> None:
        self.asked += 1
        name, content = f"intent-{self.asked % 7}", f"{self.asked}\n"
        body = {"selector": "", "files": [{"path": str(self.files / name), "content": content}]}
        try:
            answer = self.installation.call("PATCH", f"/api/v1/configs/{name}", GIVES_UP_SECONDS, json=body)
            if answer.status_code == 404:
                answer = self.installation.call("POST", "/api/v1/configs", GIVES_UP_SECONDS, json=body | {"name": name})
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            self.promised.pop(name, None)  # unknown whether it was taken: neither content can be demanded
            return
        if answer.is_success:
            self.promised[name] = content
        elif answer.status_code >= 500:
            self.promised.pop(name, None)


def all_current(installation: Installation, intents: Intents) -> Any:
    """Whether every promise stands on the device, and everything is as wanted."""
    try:
        unsettled = installation.items("host-configs", 'NOT status.indicator = "idle"')
        configs = installation.items("configs")
    except (httpx.HTTPError, AssertionError):
        return False
    wanted = {config["name"]: config["files"][0]["content"] for config in configs}
    assert all(wanted.get(name) == content for name, content in intents.promised.items()), "a 2xx was lost"
    return (
        not unsettled
        and wanted
        and all((intents.files / name).exists() and (intents.files / name).read_text() == text for name, text in wanted.items())
    )


def kill_and_await(installation: Installation, service: str) -> None:
    """kill -9, then wait for the supervisor to have started it again."""
    pid = installation.pid(service)
    os.kill(pid, signal.SIGKILL)
    until(lambda: installation.pid(service) != pid and psutil.pid_exists(installation.pid(service)), 15, f"{service} to be back")


def all_running(installation: Installation) -> list[psutil.Process]:
    """The services' processes; none as long as one of them is not there."""
    assert installation.process is not None
    children = psutil.Process(installation.process.pid).children(recursive=True)
    there = {child.pid for child in children}
    return children if all(installation.pid(service) in there for service in SERVICES) else []


def ask_on(intents: Intents, times: int) -> None:
    before = intents.asked
    until(lambda: intents.asked > before + times, 40, f"somebody to ask on; so far {intents.failures}")


@pytest.mark.timeout(300)
def test_nothing_is_lost_when_anything_is_killed(fragile: Installation) -> None:
    """Each service comes back by itself; after the supervisor, the next `up` finds no orphan; all is current within 60 s."""
    files = fragile.data / "agent" / "files"
    intents = Intents(fragile, files)
    intents.start()
    until(lambda: len(intents.promised) >= 3, 30, "the first promises")
    for service in SERVICES:
        kill_and_await(fragile, service)
        ask_on(intents, 3)
    children = until(lambda: all_running(fragile), 15, "all of them to run")
    os.kill(fragile.pid("supervisor"), signal.SIGKILL)
    until(lambda: psutil.wait_procs(children, 0)[1] == [], 15, "all to end with it: no orphan may be left")
    fragile.start()
    ask_on(intents, 10)
    intents.enough.set()
    intents.join(30)
    until(lambda: all_current(fragile, intents), CONVERGED_SECONDS, "everything to be current")
    assert intents.promised
    [host] = fragile.items("hosts")
    assert host["presence"] == "online" and host["cpu_cores"]
