"""The roles one by one: settings from flag, environment and fleetward.toml, and what is said where they are missing."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.waiting import until

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
COMMAND = (sys.executable, "-m", "fleetward")


def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], env=PLAIN | more, capture_output=True, text=True, check=False, timeout=60)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_migrate_may_be_repeated(postgres_url: str) -> None:
    """By flag and by environment; without either, what to give, exit 2."""
    assert run("migrate", "--database", postgres_url).returncode == 0
    assert run("migrate", FLEETWARD_DATABASE=postgres_url).returncode == 0
    lost = run("migrate", FLEETWARD_DATA_DIR="/nowhere")
    assert lost.returncode == 2
    [line] = lost.stderr.splitlines()
    assert "FLEETWARD_DATABASE" in line


def test_a_flag_that_there_is_not_is_refused() -> None:
    """By each role that is handed more flags than the command knows, before it does anything."""
    for role in (("broker", "--data", "/nowhere"), ("inventory",), ("managers",), ("web",), ("migrate",)):
        refused = run(*role, "--bogus", FLEETWARD_SECRETS="/nowhere", FLEETWARD_DATABASE="postgresql://nobody@127.0.0.1:9/none")
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), refused.stderr
        assert "--bogus" in refused.stderr


def test_a_role_takes_its_settings_from_the_file(postgres_url: str, tmp_path: Path) -> None:
    """`fleetward web` with nothing but $FLEETWARD_CONFIG listens; a flag of its own goes through."""
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    config = tmp_path / "fleetward.toml"
    config.write_text(f'database = "{postgres_url}"\nsecrets = "{secrets}"\nbroker = "mqtts://127.0.0.1:8883"\n')
    bootstrap = [sys.executable, "-m", "inventory", "bootstrap"]
    subprocess.run(bootstrap, env=PLAIN | {"FLEETWARD_DATABASE": postgres_url, "FLEETWARD_SECRETS": str(secrets)}, check=True)
    assert listens(("web", "--port", "0"), {"FLEETWARD_CONFIG": str(config)}, tmp_path / "web").startswith("listening http://127.0.0.1:")
    broker = ("broker", "--port", "0", "--data", str(tmp_path))
    assert listens(broker, {"FLEETWARD_CONFIG": str(config)}, tmp_path / "broker").startswith("listening mqtts://127.0.0.1:")


def listens(arguments: tuple[str, ...], environment: Mapping[str, str], out: Path) -> str:
    """The first line of a role that runs; it is ended then, and ends well."""
    with out.open("wb") as to:
        role = subprocess.Popen([*COMMAND, *arguments], env=PLAIN | dict(environment), stdout=to)
    try:
        until(lambda: out.read_text().endswith("\n") or role.poll() is not None, 30, "it says nothing")
        role.terminate()
        assert role.wait(60) == 0
    finally:
        role.kill()
        role.wait()
    return out.read_text()
