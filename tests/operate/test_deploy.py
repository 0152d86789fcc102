"""The files of deploy/: units that systemd takes, settings that the command takes, and nothing named that there is not."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fleetward.cli.configuration import KEYS, from_file
from fleetward.cli.entry import COMMANDS

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*"))


def test_the_settings_are_the_commands_own(tmp_path: Path) -> None:
    """As it stands, and with every line that is commented out: each key is one, none is left out but those of a client."""
    text = (DEPLOY / "fleetward.toml").read_text()
    assert set(from_file(DEPLOY / "fleetward.toml")) == {
        f"FLEETWARD_{k.upper()}" for k in ("database", "broker", "secrets", "mqtt_advertise")
    }
    everything = tmp_path / "all.toml"
    everything.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert {name.removeprefix("FLEETWARD_").lower() for name in from_file(everything)} == set(KEYS) - {"data_dir", "server", "token", "ca"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_a_unit_runs_a_command_that_there_is(unit: Path) -> None:
    """And is not root."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    assert parser["Unit"]["Description"].startswith("Fleetward: ")
    if unit.suffix == ".timer":
        assert unit.with_suffix(".service").exists()
        return
    service = parser["Service"]
    words = service["ExecStart"].split()
    assert words[0].endswith("/bin/fleetward") and words[1] in {str(command.name) for command in COMMANDS}
    assert service["User"] == "fleetward" and service["NoNewPrivileges"] == "yes"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """By its own check, where it is installed; the program stands in for ours, which is not in /opt here."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        return  # the test above has parsed them
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/fleetward/.venv/bin/fleetward", "/bin/true"))
    done = subprocess.run(
        [verify, "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert said == [], done.stderr


def test_everything_is_named_in_the_readme() -> None:
    """And every link leads somewhere."""
    text = (DEPLOY / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert all((DEPLOY / link).exists() for link in linked)
    assert {str(path.relative_to(DEPLOY)) for path in UNITS if path.suffix == ".service"} <= linked
