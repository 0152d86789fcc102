"""agent.toml: every field is checked, and each refusal names file, field and what it has to be."""

from dataclasses import fields
from pathlib import Path

import pytest

from edge_agent import install, settings
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
        ("roots = [", "TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, field: str) -> None:
    """With the file."""
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"agent\.toml.*{field}"):
        settings.load(path)


def test_every_setting_is_documented() -> None:
    """docs/agent.md names each with its default."""
    text = DOCS.read_text()
    for field in fields(Settings):
        assert f"`{field.name}`" in text, field.name


def test_the_unit_starts_the_agent_on_its_state_directory() -> None:
    """systemd's specifiers in a path are escaped."""
    text = install.unit(Path("/var/lib/100%/agent"), "/opt/venv/bin/python")
    assert "ExecStart=/opt/venv/bin/python -m edge_agent run --state-dir /var/lib/100%%/agent\n" in text
    assert "Restart=always" in text
