"""What the entry point is told and how it speaks: settings from the environment, log lines in JSON."""

import json
import logging
import sys
from pathlib import Path

import pytest

from broker.logs import Lines
from broker.topics import TopicError
from inventory.settings import DEFAULT_BROKER, Settings


def test_settings_come_from_the_environment_and_flags_go_before() -> None:
    """With what is not said left at its default."""
    environment = {"FLEETWARD_DATABASE": "postgresql://a/b", "FLEETWARD_SECRETS": "/s", "FLEETWARD_TOPIC_ROOT": "plant"}
    settings = Settings.read(environment)
    assert (settings.database, settings.secrets, settings.broker) == ("postgresql://a/b", Path("/s"), DEFAULT_BROKER)
    assert settings.topics.root == "plant"
    assert Settings.read(environment, database="postgresql://c/d", broker="mqtts://e").database == "postgresql://c/d"


def test_a_missing_or_bad_setting_is_named() -> None:
    """Before anything is started."""
    with pytest.raises(ValueError, match="FLEETWARD_DATABASE"):
        Settings.read({})
    with pytest.raises(TopicError):
        Settings.read({"FLEETWARD_DATABASE": "postgresql://a/b", "FLEETWARD_TOPIC_ROOT": "a/b"})


def test_a_log_line_is_one_json_object() -> None:
    """A constant message, the fields beside it, the traceback as a member; never more than one line."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("inventory.x", logging.ERROR, "f.py", 1, "message set aside", None, sys.exc_info())
    record.device = "host-1"
    line = Lines().format(record)
    said = json.loads(line)
    assert "\n" not in line
    assert (said["message"], said["level"], said["device"]) == ("message set aside", "error", "host-1")
    assert "ValueError: two" in said["traceback"] and said["at"].endswith("Z")
