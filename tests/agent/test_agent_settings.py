"""agent.toml: every field is checked, and each refusal names file, field and what it has to be."""

from dataclasses import fields
from pathlib import Path

import pytest

from edge_agent import install, settings
from edge_agent.lock import Lock
from edge_agent.settings import Settings, SettingsError, parse

DOCS = Path(__file__).parents[2] / "docs" / "agent.md"


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """An agent without agent.toml runs."""
    assert settings.load(tmp_path / "agent.toml") == Settings()


def test_the_file_that_enrollment_writes_gives_the_defaults() -> None:
    """It says what is so anyway, for people to change."""
    assert parse(settings.render(Settings())) == Settings()


def test_metered_slows_the_rhythm_unless_told_otherwise() -> None:
    """A paid uplink is spared; explicit values win."""
    assert (parse("metered = true").keepalive_s, parse("metered = true").heartbeat_s) == (900, 900)
    assert parse("metered = true\nheartbeat_s = 60").heartbeat_s == 60


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("root = []", "root"),
        ('roots = "/etc"', "roots"),
        ('roots = ["etc"]', "roots"),
        ('roots = ["/"]', "roots"),
        ('roots = ["/etc/../root"]', "roots"),
        ("keepalive_s = 1", "keepalive_s"),
        ("keepalive_s = 30.5", "keepalive_s"),
        ("keepalive_s = true", "keepalive_s"),
        ('heartbeat_s = "30"', "heartbeat_s"),
        ("drift_interval_s = 0", "drift_interval_s"),
        ("discovery_interval_s = -1", "discovery_interval_s"),
        ("metered = 1", "metered"),
        ('on_change = "yes"', "on_change"),
        ('log = "loud"', "log"),
        ('verbs = ["config.wipe"]', "verbs"),
        ('verbs = "config.apply"', "verbs"),
        ("maintenance = true", "maintenance"),
        ('maintenance = "a\\nb"', "maintenance"),
        (f'maintenance = "{"x" * 201}"', "maintenance"),
        ("roots = [", "TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, field: str) -> None:
    """With the file."""
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"agent\.toml.*{field}"):
        settings.load(path)


def test_a_lock_counts_from_the_moment_that_the_file_is_saved(tmp_path: Path) -> None:
    """The reason is what is reported; the other settings stay as they were at the start."""
    path = tmp_path / "agent.toml"
    lock = Lock(path, parse('verbs = ["config.apply"]'))
    assert lock.look() is None and lock.policy.maintenance == ""
    path.write_text('maintenance = " rewiring; Ana "\nverbs = []')
    locked = lock.look()
    assert locked is not None and (locked.maintenance, locked.verbs) == ("rewiring; Ana", ("config.apply",))
    assert lock.look() is None
    path.unlink()
    freed = lock.look()
    assert freed is not None and freed.maintenance == ""


def test_a_file_that_cant_be_used_locks(tmp_path: Path) -> None:
    """Its owner was about to say something."""
    path = tmp_path / "agent.toml"
    lock = Lock(path, Settings())
    path.write_text("maintenance = rewiring")
    locked = lock.look()
    assert locked is not None and "can't be used" in locked.maintenance and len(locked.maintenance) <= settings.MAX_REASON


def test_every_setting_is_documented() -> None:
    """docs/agent.md names each with its default."""
    text = DOCS.read_text()
    for field in fields(Settings):
        assert f"`{field.name}`" in text, field.name


def test_the_unit_starts_the_agent_on_its_state_directory() -> None:
    """systemd's specifiers and variables in a path are escaped; a command that runs out of memory does not end the agent."""
    text = install.unit(Path("/var/lib/100%/agent"), "/opt/venv/bin/python")
    assert "ExecStart=/opt/venv/bin/python -m edge_agent run --state-dir /var/lib/100%%/agent\n" in text
    assert "Restart=always" in text and "OOMPolicy=continue" in text
    assert "--state-dir '/srv/$$HOME'\n" in install.unit(Path("/srv/$HOME"), "/opt/venv/bin/python")
