"""Watches: what happens is printed as it happens, without a hole after the list, in the format asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result

from tests.waiting import until

Fleet = Callable[..., Result]


@contextmanager
def watching(api: Any, out: Path, *arguments: str) -> Iterator[Callable[[], list[str]]]:
    """A command that does not end by itself; gives a function that reads the lines it has printed so far."""
    environment = os.environ | {"FLEETWARD_SERVER": api.url, "FLEETWARD_TOKEN": api.token, "NO_COLOR": "1"}
    with out.open("wb") as to:
        running = subprocess.Popen([sys.executable, "-m", "fleetward", *arguments], stdout=to, env=environment)
    try:
        yield lambda: out.read_text().splitlines()
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


def test_a_watched_list_goes_on_where_it_ended(api: Any, fleet: Fleet, tmp_path: Path) -> None:
    """First what is there, then each change that matches the filter, below the same columns; others do not show."""
    fleet("create", "site", "seen-first", "--label", "watch=yes")
    with watching(api, tmp_path / "out", "get", "sites", "--watch", "--filter", 'labels.watch = "yes"') as lines:
        until(lambda: len(lines()) > 1, 20, "the list did not come")
        fleet("create", "site", "not-watched")
        fleet("create", "site", "seen-later", "--label", "watch=yes", "--set", "timezone=UTC")
        until(lambda: lines()[-1].startswith("seen-later"), 20, "the change did not come")
        head, *told, later = lines()
    assert head.split() == ["NAME", "TITLE", "REGION", "TIMEZONE"]
    assert {line.split()[0] for line in told} == {"seen-first"}, "whose change may be told after the list as well"
    assert later[head.index("TIMEZONE") :] == "UTC"


def test_events_as_they_happen(api: Any, fleet: Fleet, tmp_path: Path) -> None:
    """One JSON object a line, those of the kind asked for, from creation to deletion."""
    position = json.loads(fleet("get", "regions", "-o", "json").stdout)["position"]
    arguments = ("events", "--watch", "--kind", "region", "--after", str(position), "-o", "jsonl")
    with watching(api, tmp_path / "out", *arguments) as lines:
        for command in (("create", "region", "passing"), ("create", "site", "unseen-site"), ("delete", "region", "passing")):
            assert fleet(*command).exit_code == 0
        until(lambda: sum("passing" in line for line in lines()) == 2, 20, "the events did not come")
        events = [json.loads(line) for line in lines() if "passing" in line]
    assert [(event["kind"], event["op"]) for event in events] == [("region", "created"), ("region", "deleted")]
    assert not any(json.loads(line)["kind"] == "site" for line in lines())
