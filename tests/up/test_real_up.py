"""`fleetward up` with the real services, as other machines would meet it: every address, HTTPS, Mosquitto, simulated devices."""

import json
import subprocess
import sys
from typing import Any

from tests.up.runs import Ups, gone
from tests.waiting import Stopwatch, until


def test_all_addresses_with_mosquitto_and_simulated_devices(ups: Ups) -> None:
    """HTTPS and MQTT over TLS with the installation's own CA; the local agent and the simulated devices come online; all ends in time."""
    run = ups.start_real("--host", "0.0.0.0", "--advertise", "127.0.0.1", "--broker", "mosquitto", "--simulate", "3").until_ready()
    server = json.loads((run.data / "server.json").read_text())
    assert server["url"] == f"https://127.0.0.1:{ups.settings['http_port']}"

    def online() -> list[Any]:
        command = [sys.executable, "-m", "fleetward", "get", "hosts", "--filter", "presence = online", "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=ups.environment())
        return list(json.loads(done.stdout)["items"])

    until(lambda: len(online()) == 4, 60, "not all devices came online")
    children = run.children()
    assert set(children) == {"postgres", "broker", "inventory", "managers", "web", "agent", "simulator"}
    watch = Stopwatch()
    assert run.end() == 0
    assert watch.seconds() < 15
    assert all(gone(pid) for pid in children.values())
    assert not run.complaints
