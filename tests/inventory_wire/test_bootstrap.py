"""The bootstrap step as `fleetward up` runs it: a process, its one line of JSON, and kill -9 at any point."""

import asyncio
import json
import os
import random
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from inventory import accounts
from inventory.bootstrap import Wanted, admin_token, bootstrap, first_password, forget_first_password
from inventory.db import Database
from inventory.passwords import random_password

ROOT = Path(__file__).parents[2]


def run_bootstrap(url: str, directory: Path, *, flags: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "inventory", "bootstrap", "--secrets", str(directory / "secrets"), "--database", url]
    command += ["--admin-token-file", str(directory / "admin-token"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


async def test_an_empty_database_becomes_an_installation(postgres_url: str, tmp_path: Path, now: datetime) -> None:
    """One line of JSON; the password signs in, the token in the file is an administrator's, and a second run changes nothing."""
    done = run_bootstrap(postgres_url, tmp_path, flags=("--advertise", "fleet.example"))
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    password = json.loads(line)["admin_password"]
    db = await Database.open(postgres_url, application="tests")
    account = await accounts.check_password(db, "admin", password, now)
    assert account is not None and account.account.role == "admin"
    file = tmp_path / "admin-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = await accounts.find_token(db, file.read_text().strip(), now)
    assert token is not None and token.role == "admin"
    before = file.read_text()
    forget_first_password(tmp_path / "secrets")
    again = run_bootstrap(postgres_url, tmp_path)
    assert json.loads(again.stdout) == {"admin_password": None}
    assert file.read_text() == before
    assert await accounts.check_password(db, "admin", password, now) is not None
    await db.close()


async def test_the_password_is_told_until_it_has_been_heard(db: Database, tmp_path: Path, now: datetime) -> None:
    """A run that was killed before its answer arrived is repeated with the same password; the service's start ends that."""
    first = await first_password(db, tmp_path, now)
    assert first is not None
    assert await first_password(db, tmp_path, now) == first
    forget_first_password(tmp_path)
    assert await first_password(db, tmp_path, now) is None


async def test_a_password_written_down_without_its_account_is_used(db: Database, tmp_path: Path, now: datetime) -> None:
    """Killed between the note and the account."""
    (tmp_path / "admin-password").write_text("correct-horse")
    assert await first_password(db, tmp_path, now) == "correct-horse"
    assert await accounts.check_password(db, "admin", "correct-horse", now) is not None


async def test_a_password_that_no_longer_signs_in_is_not_told(db: Database, tmp_path: Path, now: datetime) -> None:
    """It has been changed meanwhile, so it was known; the note goes."""
    await accounts.add_user(db, "admin", "another", "admin", now)
    (tmp_path / "admin-password").write_text("correct-horse")
    assert await first_password(db, tmp_path, now) is None
    assert not (tmp_path / "admin-password").exists()


async def test_a_lost_token_file_is_made_again(db: Database, tmp_path: Path, now: datetime) -> None:
    """With another token; the lost one is worth nothing any more."""
    file = tmp_path / "admin-token"
    await admin_token(db, file, now)
    lost = file.read_text().strip()
    file.unlink()
    await admin_token(db, file, now)
    assert await accounts.find_token(db, lost, now) is None
    assert await accounts.find_token(db, file.read_text().strip(), now) is not None


async def test_a_database_that_lacks_the_token_gets_it(db: Database, tmp_path: Path, now: datetime) -> None:
    """Killed between file and row, or another database under the same data directory."""
    file = tmp_path / "admin-token"
    file.write_text("a-token\n")
    await admin_token(db, file, now)
    assert await accounts.find_token(db, "a-token", now) is not None


async def test_killed_in_the_middle_the_next_run_finishes(postgres_url: str, tmp_path: Path) -> None:
    """kill -9 of the process somewhere along its way; the moment is another one each time."""
    command = [sys.executable, "-m", "inventory", "bootstrap", "--secrets", str(tmp_path / "secrets"), "--database", postgres_url]
    command += ["--admin-token-file", str(tmp_path / "admin-token")]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        await asyncio.wait_for(process.wait(), random.uniform(0.5, 2.0))
    except TimeoutError:
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    done = run_bootstrap(postgres_url, tmp_path)
    assert done.returncode == 0, done.stderr
    password = json.loads(done.stdout)["admin_password"]
    db = await Database.open(postgres_url, application="tests")
    assert await accounts.check_password(db, "admin", password, datetime.now(UTC)) is not None
    await db.close()


async def test_two_at_once_agree(inventory_url: str, tmp_path: Path, now: datetime) -> None:
    """Two replicas that start together make one installation."""
    wanted = Wanted(tmp_path / "secrets", inventory_url, (), tmp_path / "admin-token")
    one, two = await asyncio.gather(bootstrap(wanted, now), bootstrap(wanted, now))
    db = await Database.open(inventory_url, application="tests")
    assert one == two
    assert await accounts.check_password(db, "admin", one or "", now) is not None
    await db.close()


def test_a_database_out_of_reach_is_one_line_and_exit_2(tmp_path: Path) -> None:
    """What to do about it is for the one who reads it; no traceback."""
    done = run_bootstrap("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    assert done.returncode == 2
    assert "can't be reached" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_database_is_said(tmp_path: Path) -> None:
    """Which flag and which variable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}
    done = subprocess.run(
        [sys.executable, "-m", "inventory", "migrate"], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 2 and "FLEETWARD_DATABASE" in done.stderr


def test_passwords_are_never_the_same() -> None:
    """And of characters that can be told apart."""
    made = {random_password() for _ in range(100)}
    assert len(made) == 100 and not any(c in text for text in made for c in "01lio")
