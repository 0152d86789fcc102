"""`fleetward audit` against the real API and the real database: export, head, verify, and what is said when something is wrong."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import Result

from tests.front.conftest import Api
from tests.waiting import until

Fleet = Callable[..., Result]


@pytest.fixture
def place(api: Api) -> list[str]:
    """The options that say where the installation is."""
    return ["--database", api.database, "--secrets", str(api.secrets)]


def entries(fleet: Fleet, *more: str) -> list[Any]:
    answer = fleet("audit", "export", *more)
    assert answer.exit_code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def made(fleet: Fleet, name: str) -> Any:
    """Make a region; its entry, once it has its place."""
    assert fleet("create", "region", name).exit_code == 0
    found: list[Any] = []

    def placed() -> bool:
        found.extend(each for each in entries(fleet, "--kind", "region") if (each["after"] or {}).get("name") == name)
        return bool(found)

    until(placed, 10, "the entry")
    return found[0]


def head(fleet: Fleet, position: int, file: Path) -> Path:
    """A signed head of at least that position, in the file."""

    def there() -> bool:
        answer = fleet("audit", "head")
        file.write_text(answer.stdout)
        return answer.exit_code == 0 and json.loads(answer.stdout)["position"] >= position

    until(there, 30, "the head")
    return file


def change(api: Api, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(api.database)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_the_export_is_filtered(fleet: Fleet) -> None:
    """By what was done and by whom; an entry a line; a word that is none is said."""
    entry = made(fleet, "export-me")
    assert (entry["op"], entry["actor"]["name"], entry["actor"]["address"]) == ("created", "local command line", "127.0.0.1")
    assert entries(fleet, "--id", entry["id"], "--type", "people") == [entry]
    assert entries(fleet, "--id", entry["id"], "--op", "deleted") == []
    assert entries(fleet, "--after", str(entry["position"] - 1))[0] == entry
    wrong = fleet("audit", "export", "--kind", "nothing")
    assert wrong.exit_code == 2 and "kind" in wrong.stderr


def test_an_untouched_log_is_intact(fleet: Fleet, place: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Beside the running services, with a head of it; exit 0, and how many rows it were."""
    kept = head(fleet, made(fleet, "intact")["position"], tmp_path / "head.json")
    done = fleet("audit", "verify", *place, "--head", str(kept))
    said = capfd.readouterr().out
    assert (done.exit_code, said.splitlines()[-1]) == (0, "intact"), said
    assert "rows/s" in said


def test_a_tampered_log_is_told_with_where(
    api: Api, fleet: Fleet, place: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, the position and what is wrong there, in words and as JSON; undone it is intact again."""
    entry = made(fleet, "tampered")
    head(fleet, entry["position"], tmp_path / "head.json")
    at = f"WHERE position = {entry['position']}"
    change(api, f'UPDATE changes SET actor = actor || \'{{"address": "203.0.113.9"}}\' {at}')
    try:
        assert fleet("audit", "verify", *place).exit_code == 1
        assert f"BAD position {entry['position']}, edited" in capfd.readouterr().out
        assert fleet("audit", "verify", *place, "--json").exit_code == 1
        report = json.loads(capfd.readouterr().out)
        assert (report["intact"], report["findings"][0]["position"]) == (False, entry["position"])
    finally:
        change(api, f'UPDATE changes SET actor = actor || \'{{"address": "127.0.0.1"}}\' {at}')
    assert fleet("audit", "verify", *place).exit_code == 0


def test_what_is_missing_is_said_in_a_line(fleet: Fleet, place: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is no head, a directory without the key, a database that is none, half of a place: exit 2."""
    file = tmp_path / "not-a-head"
    file.write_text("{}")
    assert fleet("audit", "verify", *place, "--head", str(file)).exit_code == 2
    assert f"{file} holds no head" in capfd.readouterr().err
    assert fleet("audit", "verify", *place[:2], "--secrets", str(tmp_path)).exit_code == 2
    assert "has no audit.key" in capfd.readouterr().err
    assert fleet("audit", "verify", "--database", "postgresql://nobody@127.0.0.1:1/none", *place[2:]).exit_code == 2
    assert "can't be reached" in capfd.readouterr().err
    half = fleet("audit", "verify", *place[:2])
    assert half.exit_code == 2 and "belong together" in half.stderr
