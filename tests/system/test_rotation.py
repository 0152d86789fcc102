"""A rotation of the CA and the command root as its owner does it: `fleetward authority` beside a running `up`."""

import json
from pathlib import Path
from typing import Any

from tests.system.conftest import Installation, until


def standing(installation: Installation, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(installation.fleetward("authority", *words, "-o", "json"))
    return found


def _trusted(state: Path) -> int:
    """The generation of the list of keys that an agent has adopted."""
    path = state / "trust.json"
    return int(json.loads(path.read_text())["generation"]) if path.exists() else 0


def test_the_owner_rotates_ca_and_command_root(installation: Installation, host: dict[str, Any]) -> None:
    """Three commands; nothing is restarted, nobody is left behind, and what is asked for afterwards is done by the new keys' word."""
    before = standing(installation, "show")
    processes = {name: installation.pid(name) for name in ("broker", "inventory", "managers", "web", "agent")}
    assert (before["phase"], before["left_behind"], len(before["authorities"])) == ("resting", "", 1)
    announced = standing(installation, "rotate")
    assert announced["phase"] == "announced" and announced["devices"] >= 1
    assert installation.fleetward("authority", "rotate", expect=2) == ""
    agent = installation.data / "agent"
    until(lambda: _trusted(agent) == announced["generation"], 60, "the agent to trust the new keys")
    certificate = (agent / "device.crt").read_text()
    # Machines that other tests have enrolled are away.
    assert standing(installation, "advance", "--force")["phase"] == "taken over"
    until(lambda: (agent / "device.crt").read_text() != certificate, 60, "a certificate of the new CA")
    until(lambda: standing(installation, "show")["renewed"] >= 1, 60, "the server to count it")
    after = standing(installation, "advance", "--force")
    assert after["phase"] == "resting"
    assert after["authorities"][0]["fingerprint"] != before["authorities"][0]["fingerprint"]
    assert after["command_roots"] != before["command_roots"]

    path = installation.data / "agent" / "files" / "rotated"
    selector = f"name = '{host['name']}'"
    files = [{"path": str(path), "content": "by the new root\n"}]
    installation.apply({"kind": "config", "name": "rotated", "selector": selector, "files": files})
    until(path.exists, 60, "a command that the new root stands for")
    installation.fleetward("delete", "config", "rotated")
    until(lambda: not path.exists(), 60, "its removal")
    assert {name: installation.pid(name) for name in processes} == processes
    assert "CA  " in installation.fleetward("authority", "show")
