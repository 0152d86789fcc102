"""The journal: what was saved comes back, after kill -9, on a full disk, on a read-only one, and when it is damaged."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from broker.messages import CommandState, ErrorCode, Item, Log, Result
from edge_agent import facts, journal
from edge_agent.journal import Journal, JournalError
from edge_agent.outbox import FactsPart, FullStatus, Manifest, Outbox, put, take
from edge_agent.state import Durable, Entry, Phase, fresh
from tests.agent.rig import Authority

ROOT = Path(__file__).parents[2]
ITEM = Item(kind="host-config", id="hcfg-1", generation=2, state="present", digest="sha256:00")
RESULT = Result(id="cmd-1-succeeded", command="cmd-1", state=CommandState.SUCCEEDED, progress=100)


def full() -> Durable:
    """One of everything."""
    box = Outbox("epoch-1")
    box = put(box, FactsPart("cpu", facts.section_of({"cores": 4})))
    box, _ = take(box, 0.0, "2026-11-22T18:00:00.000Z", {"cpu": "sha256:1"}, ())
    for part in (FactsPart("memory", facts.section_of({"bytes": 1})), ITEM, RESULT, Log(id="l", type="t", severity="info", message="m")):
        box = put(box, part)
    box = put(put(box, FullStatus()), Manifest())
    return Durable(
        outbox=replace(box, dropped=3),
        commands=(
            Entry("cmd-1", 4, Phase.DONE, None, 1, "2026-11-22T18:00:00.000Z", RESULT),
            Entry("cmd-2", 5, Phase.STARTED, Authority().order("cmd-2", 5), 1, "2026-11-22T18:00:00.000Z"),
            Entry("cmd-3", 6, Phase.RECEIVED, Authority().order("cmd-3", 6)),
        ),
        items={"hcfg-1": ITEM},
        manifest={"cpu": "sha256:1", "memory": "sha256:2"},
        fence=6,
        generation=2,
        born=17,
        logs=7,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a MiB that a test may fill or remount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_everything_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Sent, waiting, commands, items, manifest and numbers, in their order."""
    first = Journal(tmp_path / "journal.db")
    first.save(None, full())
    first.close()
    assert Journal(tmp_path / "journal.db").load() == full()


def test_only_differences_are_written_and_together_they_give_the_whole(tmp_path: Path) -> None:
    """Saving step by step ends in the same as saving once."""
    book = Journal(tmp_path / "journal.db")
    steps = [fresh("epoch-1"), full()]
    steps.append(replace(steps[1], commands=steps[1].commands[1:], items={}, fence=9))
    steps.append(replace(steps[2], outbox=replace(steps[2].outbox, sent=(), waiting=steps[2].outbox.waiting[1:])))
    saved = None
    for step in steps:
        book.save(saved, step)
        saved = step
        assert book.load() == step


def test_a_new_journal_holds_nothing(tmp_path: Path) -> None:
    """None, not an empty state: whoever opens it has to begin an epoch."""
    assert journal.open_journal(tmp_path / "journal.db", "host-1")[1:] == (None, "")


def test_a_full_disk_is_no_space_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    """The failed save leaves what was there; after making room the next one works."""
    book = Journal(small_disk / "journal.db")
    book.save(None, fresh("epoch-1"))
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    with pytest.raises(JournalError) as caught:
        book.save(fresh("epoch-1"), replace(full(), commands=tuple(replace(full().commands[1], id=f"cmd-{n}") for n in range(200))))
    assert caught.value.code is ErrorCode.NO_SPACE
    filler.unlink()
    book.save(None, full())
    assert book.load() == full()


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_read_only_journal_is_said_and_still_read(small_disk: Path, shared_memory: bool) -> None:
    """The write-ahead log included, with SQLite's own means where those suffice, else from a copy; writing is refused as ReadOnly."""
    path = small_disk / "journal.db"
    script = f"""
import sys, os
sys.path.insert(0, {str(ROOT)!r})
from tests.agent.test_journal import full
from edge_agent.journal import Journal
from pathlib import Path
Journal(Path({str(path)!r})).save(None, full())
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -signal.SIGKILL
    if not shared_memory:
        (small_disk / "journal.db-shm").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalError) as caught:
        book, found, _ = journal.open_journal(path, "host-1")
        assert shared_memory and found == full()
        book.save(found, fresh("epoch-2"))
    assert caught.value.code is ErrorCode.READ_ONLY
    assert journal.read_only(path) == full()


@pytest.mark.parametrize("damage", ["text", "torn", "foreign"])
def test_a_damaged_journal_is_set_aside(tmp_path: Path, damage: str) -> None:
    """No database, a torn page, or records that no agent wrote: a new one begins, the old one is kept beside it, and why is said."""
    path = tmp_path / "journal.db"
    book = Journal(path)
    book.save(None, full())
    if damage == "foreign":
        book._db.execute("UPDATE records SET body = '{}' WHERE space = 'command'")
    book.close()
    if damage == "text":
        path.write_text("this is no database, but it is long enough to be one" * 100)
    elif damage == "torn":
        raw = bytearray(path.read_bytes())
        raw[4096:8192] = Random(1).randbytes(4096)
        path.write_bytes(raw)
    opened, found, why = journal.open_journal(path, "host-1")
    assert found is None and why != ""
    opened.save(None, fresh("epoch-2"))
    assert opened.load() == fresh("epoch-2")
    assert (tmp_path / "journal.db.corrupt").exists()


def test_a_machine_that_is_another_device_now_begins_another_journal(tmp_path: Path) -> None:
    """Its former fences would have it refuse the new host's commands. What was there is kept beside it, and no loss is told of."""
    path = tmp_path / "journal.db"
    first, _, _ = journal.open_journal(path, "host-1")
    first.save(None, full())
    first.close()
    second, found, why = journal.open_journal(path, "host-2")
    assert (found, why) == (None, "")
    second.save(None, fresh("epoch-2"))
    second.close()
    assert journal.open_journal(path, "host-2")[1:] == (fresh("epoch-2"), "")
    assert journal.open_journal(tmp_path / "journal.db.former", "host-1")[1:] == (full(), "")


def test_whatever_was_saved_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    """A process saves ever higher fences and says so; killed at ten moments, the journal never lacks what was said."""
    path = tmp_path / "journal.db"
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from pathlib import Path
from edge_agent.journal import open_journal
from edge_agent.state import fresh
book, saved, why = open_journal(Path({str(path)!r}), "host-1")
assert not why, why
state = saved or fresh("epoch-1")
if saved is None:
    book.save(None, state)
while True:
    new = replace(state, fence=state.fence + 1)
    book.save(state, new)
    state = new
    print(state.fence, flush=True)
"""
    last = 0
    for round in range(10):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for _ in range(1 + round * 3):
                last = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        last = int(rest[-1]) if rest else last
        book, found, why = journal.open_journal(path, "host-1")
        assert why == "" and found is not None and found.fence >= last
        book.close()


def test_a_command_that_is_done_leaves_no_secret(tmp_path: Path) -> None:
    """While it is to be done the journal has it; once it is done no file beside the journal holds a byte of it, nor the journal's own."""
    path, before = tmp_path / "journal.db", fresh("epoch-1")
    order = Authority().order("cmd-1", 5, args={"salt": "s", "files": [{"path": "/x", "content": "aHVudGVyMi1pbi10aGUtY2xlYXI="}]})
    received = replace(before, commands=(Entry("cmd-1", 5, Phase.RECEIVED, order),))
    started = replace(before, commands=(replace(received.commands[0], phase=Phase.STARTED, starts=1),))
    done = replace(before, commands=(replace(started.commands[0], phase=Phase.DONE, order=None, result=RESULT),))
    opened = Journal(path)
    opened.save(None, received)
    opened.save(received, started)
    assert b"aHVudGVyMi1pbi10aGUt" in held(tmp_path)
    opened.save(started, done)
    assert b"aHVudGVyMi1pbi10aGUt" not in held(tmp_path)
    assert opened.load() == done
    opened.close()


def held(folder: Path) -> bytes:
    """All bytes of all files there."""
    return b"".join(path.read_bytes() for path in folder.iterdir())
