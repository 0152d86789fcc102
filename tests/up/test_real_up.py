"""`fleetward up` with the real services, as other machines would meet it: every address, HTTPS, Mosquitto, simulated devices."""

import json
import subprocess
import sys
from typing import Any

from tests.up.runs import Ups, gone
from tests.waiting import Stopwatch, until


def test_all_addresses_with_mosquitto_and_simulated_devices(ups: Ups) -> None:
    """HTTPS and MQTT over TLS with the installation's own CA, advertised by a name that this machine does not know; the local agent and the
    simulated devices come online; all ends in time."""
    flags = ("--host", "0.0.0.0", "--advertise", "fleet.invalid", "--broker", "mosquitto", "--simulate", "3")
    run = ups.start_real(*flags).until_ready()
    server = json.loads((run.data / "server.json").read_text())
    port = ups.settings["http_port"]
    assert (server["url"], server["advertised"]) == (f"https://127.0.0.1:{port}", f"https://fleet.invalid:{port}")
    assert f"ready: https://fleet.invalid:{port}" in run.lines
    hint = [sys.executable, "-m", "fleetward", "token", "create"]
    told = subprocess.run(hint, capture_output=True, text=True, check=True, env=ups.environment())
    assert f"--server https://fleet.invalid:{port} " in told.stderr

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
