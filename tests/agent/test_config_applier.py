"""The config applier on real file systems: placed, kept, restored, and never outside the roots, whatever somebody else does meanwhile."""

import base64
import os
import pwd
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.messages import ErrorCode, Item, ResourceRef
from edge_agent.appliers import Control, drift, ledger, on_change, rooted
from edge_agent.appliers.config import ConfigApplier, digest_of
from edge_agent.executor import execute
from edge_agent.signals import Failed, Outcome, Run, Stopped, StopReason, Succeeded
from tests.waiting import Stopwatch, until


def file(
    path: Path | str, content: str = "hello\n", mode: str = "0644", owner: str | None = None, group: str | None = None
) -> dict[str, Any]:
    return {"path": str(path), "content": base64.b64encode(content.encode()).decode(), "mode": mode, "owner": owner, "group": group}


def arguments(*files: dict[str, Any], on_change: Any = None, salt: str = "", **more: Any) -> dict[str, Any]:
    parts = [(f["path"], f["mode"], f["owner"], f["group"], base64.b64decode(f["content"])) for f in files]
    salted = {"salt": salt} if salt else {}
    return {"config": "motd", "digest": digest_of(parts, salt), "files": list(files), "on_change": on_change, **salted, **more}


class Bench:
    """An applier with one root and a state directory of its own."""

    def __init__(self, tmp_path: Path, root: Path | None = None) -> None:
        self.state = tmp_path / "state"
        self.state.mkdir(exist_ok=True)
        self.root = root or tmp_path / "root"
        self.again()

    def again(self) -> None:
        """As after a restart of the agent."""
        self.applier = ConfigApplier(self.state, (self.root,))

    def apply(self, *files: dict[str, Any], on_change: Any = None, id: str = "hcfg-1", generation: int = 1, limit: float = 30) -> Outcome:
        return self.run("config.apply", arguments(*files, on_change=on_change), id, generation, limit)

    def remove(self, id: str = "hcfg-1", generation: int = 2) -> Outcome:
        return self.run("config.remove", {"config": "motd"}, id, generation)

    def run(self, verb: str, args: dict[str, Any], id: str = "hcfg-1", generation: int = 1, limit: float = 30) -> Outcome:
        command = Run("cmd-1", verb, args, ResourceRef(kind="host-config", id=id, generation=generation), 30)
        return execute(self.applier, command, Control(time.monotonic() + limit))

    def items(self) -> dict[str, Item]:
        return {item.id: item for item in self.applier.look() or ()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A root on a file system of 64 KiB of its own."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def code(outcome: Outcome) -> ErrorCode:
    assert isinstance(outcome, Failed), outcome
    return outcome.code


# --- placing and taking back ---


def test_a_file_is_placed_with_parents_mode_and_owner(bench: Bench) -> None:
    """Missing directories are made; mode and owner are as asked for; nothing temporary stays."""
    nobody = pwd.getpwnam("nobody")
    path = bench.root / "a" / "b" / "motd"
    outcome = bench.apply(file(path, "hi\n", "0640", "nobody", str(nobody.pw_gid)))
    assert isinstance(outcome, Succeeded)
    found = path.stat()
    assert (path.read_text(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == ("hi\n", 0o640, nobody.pw_uid, nobody.pw_gid)
    assert os.listdir(path.parent) == ["motd"]
    assert outcome.items == (Item(kind="host-config", id="hcfg-1", generation=1, state="present", digest=outcome.items[0].digest),)


@pytest.fixture
def umask_of_the_unit() -> Iterator[None]:
    """As systemd starts the agent."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.usefixtures("umask_of_the_unit")
def test_the_agents_umask_is_not_that_of_what_it_places(bench: Bench, tmp_path: Path) -> None:
    """Directories and roots that it makes can be entered by whom the files are for, and so can be read what on_change writes; directories
    that were there stay as they were."""
    private, bench.root = tmp_path / "private", tmp_path / "private" / "new" / "root"
    private.mkdir(mode=0o700)
    bench.again()
    assert isinstance(bench.apply(file(bench.root / "a" / "motd"), on_change=f"echo done > {bench.root}/said"), Succeeded)
    made = (bench.root.parent, bench.root, bench.root / "a")
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in (private, *made)] == ["0o700", *["0o755"] * 3]
    assert [oct(stat.S_IMODE((bench.root / name).stat().st_mode)) for name in ("a/motd", "said")] == ["0o644", "0o644"]


def test_applying_the_same_again_touches_nothing(bench: Bench) -> None:
    """Same inode, same time, and no on_change."""
    path = bench.root / "motd"
    hook = {"command": ["/bin/sh", "-c", f"echo x >> {bench.root}/log"], "timeout_s": 5}
    bench.apply(file(path), on_change=hook)
    before = path.stat()
    assert isinstance(bench.apply(file(path), on_change=hook, generation=2), Succeeded)
    after = path.stat()  # it is read, which its time of access shows
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (before.st_ino, before.st_mtime_ns, before.st_ctime_ns)
    assert (bench.root / "log").read_text() == "x\n"
    assert bench.items()["hcfg-1"].generation == 2


def test_what_was_there_before_comes_back_when_the_config_goes(bench: Bench) -> None:
    """Content, mode and owner of the file that was replaced; a file that was not there goes, with the directories made for it."""
    bench.root.mkdir()
    old = bench.root / "old"
    old.write_text("mine\n")
    old.chmod(0o604)
    os.chown(old, 65534, 65534)
    bench.apply(file(old, "theirs\n"), file(bench.root / "x" / "y" / "new"))
    bench.again()
    outcome = bench.remove()
    assert isinstance(outcome, Succeeded) and outcome.items[0].state == "absent"
    found = old.stat()
    assert (old.read_text(), stat.S_IMODE(found.st_mode), found.st_uid) == ("mine\n", 0o604, 65534)
    assert os.listdir(bench.root) == ["old"]
    assert list((bench.state / "configs").iterdir()) == [] == list((bench.state / "originals").iterdir())


def test_the_original_is_kept_through_many_versions(bench: Bench) -> None:
    """Only what was there before any config counts, not our own earlier versions."""
    bench.root.mkdir()
    path = bench.root / "f"
    path.write_text("mine\n")
    for n in range(3):
        bench.apply(file(path, f"version {n}\n"), generation=n + 1)
    bench.remove()
    assert path.read_text() == "mine\n"


def test_a_file_dropped_from_a_newer_version_is_restored(bench: Bench) -> None:
    """What the config no longer has is as it was before."""
    bench.root.mkdir()
    (bench.root / "a").write_text("mine\n")
    bench.apply(file(bench.root / "a"), file(bench.root / "b"))
    bench.apply(file(bench.root / "b"), generation=2)
    assert (bench.root / "a").read_text() == "mine\n"
    assert (bench.root / "b").read_text() == "hello\n"


@pytest.mark.parametrize("winner_first", [True, False])
def test_a_path_that_changes_hands_keeps_its_original(bench: Bench, winner_first: bool) -> None:
    """Another config takes the path over; in whatever order the commands come, the end is the same."""
    bench.root.mkdir()
    path = bench.root / "f"
    path.write_text("mine\n")
    bench.apply(file(path, "low\n"), id="hcfg-low")
    steps: list[Callable[[], Outcome]] = [
        lambda: bench.apply(file(path, "high\n"), id="hcfg-high"),
        lambda: bench.apply(id="hcfg-low", generation=2),
    ]
    for step in steps if winner_first else steps[::-1]:
        assert isinstance(step(), Succeeded)
    assert path.read_text() == "high\n"
    bench.remove("hcfg-low")
    assert path.read_text() == "high\n"
    bench.remove("hcfg-high")
    assert path.read_text() == "mine\n"


def test_removing_what_was_never_there_succeeds(bench: Bench) -> None:
    """The device is as asked: absent."""
    outcome = bench.remove()
    assert isinstance(outcome, Succeeded) and outcome.items[0].state == "absent"


# --- refusals, each before the first write ---


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "relative", "{root}/../escape", "{root}/./x", "{root}//x", "{root}", "{root}/", "{root}x/f", "{root}/a\0b", "/"],
)
def test_paths_outside_the_roots_are_refused(bench: Bench, path: str) -> None:
    """By the text alone, and the good file beside it isn't written either."""
    bench.root.mkdir()
    outcome = bench.apply(file(bench.root / "good"), file(path.format(root=bench.root)))
    assert code(outcome) is ErrorCode.PATH_OUTSIDE_ROOTS
    assert os.listdir(bench.root) == [] and list(bench.state.iterdir()) == []


def test_a_link_on_the_way_is_refused(bench: Bench, tmp_path: Path) -> None:
    """Whether it leads outside or back inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.root / "real").mkdir(parents=True)
    (bench.root / "out").symlink_to(outside)
    (bench.root / "in").symlink_to(bench.root / "real")
    for name in ("out", "in"):
        outcome = bench.apply(file(bench.root / "good"), file(bench.root / name / "f"))
        assert code(outcome) is ErrorCode.SYMLINK_ESCAPE
    assert os.listdir(outside) == [] == os.listdir(bench.root / "real")
    assert not (bench.root / "good").exists()


def test_a_link_in_the_files_place_is_refused(bench: Bench, tmp_path: Path) -> None:
    """Neither its target nor the link is touched."""
    target = tmp_path / "shadow"
    target.write_text("secret\n")
    bench.root.mkdir()
    (bench.root / "f").symlink_to(target)
    assert code(bench.apply(file(bench.root / "f"))) is ErrorCode.SYMLINK_ESCAPE
    assert target.read_text() == "secret\n" and (bench.root / "f").is_symlink()


def test_links_swapped_in_while_it_runs_lead_nowhere(bench: Bench, tmp_path: Path) -> None:
    """Somebody exchanges a directory for a link to the outside as fast as they can: no file ever lands there, or is read from there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret\n")
    (bench.root / "d").mkdir(parents=True)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (bench.root / "d").rename(bench.root / "kept")
            while (bench.root / "kept").exists():
                try:
                    (bench.root / "d").symlink_to(outside)
                    (bench.root / "d").unlink()
                    (bench.root / "kept").rename(bench.root / "d")
                except OSError:
                    # The applier has just made a directory of that name.
                    shutil.rmtree(bench.root / "d", ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    for n in range(100):
        outcome = bench.apply(file(bench.root / "d" / "f", f"{n}\n"), generation=n + 1)
        outcomes.add(type(outcome))
    done.set()
    thread.join()
    assert (outside / "f").read_text() == "secret\n" and os.listdir(outside) == ["f"]
    assert all("secret" not in kept.read_text() for kept in (bench.state / "originals").glob("*.data"))
    assert Succeeded in outcomes
    bench.apply(file(bench.root / "d" / "f", "last\n"), generation=400)
    assert (bench.root / "d" / "f").read_text() == "last\n"


def test_an_unknown_owner_is_refused_before_anything_is_written(bench: Bench) -> None:
    """User and group are looked up first."""
    for wrong in ({"owner": "no-such-user"}, {"group": "no-such-group"}, {"owner": "99999999999"}):
        assert code(bench.apply(file(bench.root / "a"), file(bench.root / "b", **wrong))) is ErrorCode.UNKNOWN_OWNER
    assert not bench.root.exists()


@pytest.mark.parametrize(
    "flaw",
    [
        {"digest": "sha256:00"},
        {"files": "x"},
        {"files": [1]},
        {"config": None},
        {"files": [{"path": "{root}/f", "content": "%%%", "mode": "0644"}]},
        {"files": [{"path": "{root}/f", "content": "", "mode": "0999"}]},
        {"files": [{"path": "{root}/f", "content": "", "mode": 644}]},
        {"on_change": {"command": []}},
        {"on_change": {"command": "x", "timeout_s": 0}},
        {"on_change": 7},
    ],
)
def test_malformed_arguments_are_refused(bench: Bench, flaw: dict[str, Any]) -> None:
    """PolicyRefused, which is not tried again, with a text that names the member."""
    for each in flaw.get("files", []) if isinstance(flaw.get("files"), list) else []:
        if isinstance(each, dict):
            each["path"] = each["path"].format(root=bench.root)
    outcome = bench.run("config.apply", arguments(file(bench.root / "f")) | flaw)
    assert code(outcome) is ErrorCode.POLICY_REFUSED
    assert not bench.root.exists()


def test_too_much_content_is_refused(bench: Bench) -> None:
    """128 KiB a config."""
    assert code(bench.apply(file(bench.root / "a", "x" * 70_000), file(bench.root / "b", "x" * 70_000))) is ErrorCode.POLICY_REFUSED


def test_an_owner_who_allows_no_commands_gets_none(tmp_path: Path) -> None:
    """agent.toml: on_change = false."""
    bench = Bench(tmp_path)
    bench.applier = ConfigApplier(bench.state, (bench.root,), commands=False)
    assert code(bench.apply(file(bench.root / "f"), on_change="true")) is ErrorCode.POLICY_REFUSED
    assert isinstance(bench.apply(file(bench.root / "f")), Succeeded)


@pytest.mark.parametrize("way", ["the root holds it", "the root is it", "the root is a link to it"])
def test_the_agents_own_directory_is_no_place_for_configs(tmp_path: Path, way: str) -> None:
    """`agent.toml` is the owner's word: no root lets the server write it, whichever way it leads there."""
    root = {"the root holds it": tmp_path, "the root is it": tmp_path / "state", "the root is a link to it": tmp_path / "link"}[way]
    bench = Bench(tmp_path, root)
    if way == "the root is a link to it":
        root.symlink_to(bench.state)
    path = root / "state" / "agent.toml" if way == "the root holds it" else root / "agent.toml"
    outcome = bench.apply(file(path))
    assert code(outcome) is ErrorCode.PATH_OUTSIDE_ROOTS and isinstance(outcome, Failed) and "own directory" in outcome.message
    assert not (bench.state / "agent.toml").exists()


def test_a_root_that_the_owner_has_put_inside_of_it_is_one(tmp_path: Path) -> None:
    """As the agent of `fleetward up` has it."""
    bench = Bench(tmp_path, tmp_path / "state" / "files")
    assert isinstance(bench.apply(file(bench.root / "f")), Succeeded)


# --- what the file system refuses ---


def test_a_read_only_root_is_recoverable_and_works_once_writable(tmp_path: Path, mounted: Path) -> None:
    """ReadOnly; after a remount the same command succeeds."""
    bench = Bench(tmp_path, mounted)
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    outcome = bench.apply(file(mounted / "f"))
    assert outcome == Failed(ErrorCode.READ_ONLY, f"Read-only file system: {mounted / 'f'}") and ErrorCode.READ_ONLY.recoverable
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    assert isinstance(bench.apply(file(mounted / "f")), Succeeded)
    assert (mounted / "f").read_text() == "hello\n"


def test_a_full_disk_leaves_all_files_as_they_were(tmp_path: Path, mounted: Path) -> None:
    """Everything is written beside its place before anything is replaced; nothing temporary stays."""
    bench = Bench(tmp_path, mounted)
    bench.apply(file(mounted / "a", "old\n"))
    outcome = bench.apply(file(mounted / "a", "new\n"), file(mounted / "b", "x" * 100_000), generation=2)
    assert outcome == Failed(ErrorCode.NO_SPACE, f"No space left on device: {mounted / 'b'}")
    assert (mounted / "a").read_text() == "old\n" and os.listdir(mounted) == ["a"]
    assert bench.items()["hcfg-1"].state == "failed"
    assert isinstance(bench.apply(file(mounted / "a", "new\n"), generation=3), Succeeded)
    assert bench.items()["hcfg-1"].state == "present"


def test_what_may_not_be_written_is_permission_denied(tmp_path: Path) -> None:
    """An agent without root, on a directory that isn't its own: recoverable, for somebody may put that right."""
    bench = Bench(tmp_path)
    bench.root.mkdir(mode=0o755)
    for folder in (bench.state, *tmp_path.parents):
        if folder == bench.state or str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o777)

    def unprivileged() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        assert code(bench.apply(file(bench.root / "f"))) is ErrorCode.PERMISSION_DENIED

    assert _in_child(unprivileged) == 0
    assert os.listdir(bench.root) == []


def test_a_full_state_directory_changes_no_file(tmp_path: Path, mounted: Path) -> None:
    """What can't be remembered can't be undone, so it isn't begun."""
    bench = Bench(tmp_path)
    bench.state = mounted
    bench.again()
    bench.root.mkdir()
    (bench.root / "f").write_text("mine\n")
    with pytest.raises(OSError), (mounted / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    assert code(bench.apply(file(bench.root / "f", "theirs\n"))) is ErrorCode.NO_SPACE
    assert (bench.root / "f").read_text() == "mine\n"


# --- on_change ---


def test_on_change_runs_once_after_all_files_are_in_place(bench: Bench) -> None:
    """A text goes to /bin/sh; it sees every new file, and its output is the command's."""
    outcome = bench.apply(file(bench.root / "a", "1"), file(bench.root / "b", "2"), on_change=f"cat {bench.root}/a {bench.root}/b; echo")
    assert isinstance(outcome, Succeeded) and outcome.output == "12\n"


def test_a_failing_on_change_halts_and_runs_again_on_the_next_apply(bench: Bench) -> None:
    """OnChangeFailed with its output; the files stay; though nothing changes any more, it stays due until it works."""
    hook = f"test -e {bench.root}/ready || {{ echo not ready; exit 3; }}"
    outcome = bench.apply(file(bench.root / "f"), on_change=hook)
    assert code(outcome) is ErrorCode.ON_CHANGE_FAILED
    assert isinstance(outcome, Failed) and "exit status 3" in outcome.message and "not ready" in outcome.message
    assert (bench.root / "f").exists() and bench.items()["hcfg-1"].state == "failed"
    (bench.root / "ready").touch()
    bench.again()
    assert isinstance(bench.apply(file(bench.root / "f"), on_change=hook, generation=2), Succeeded)
    assert bench.items()["hcfg-1"].state == "present"


def test_on_change_that_hangs_is_killed_with_all_its_children(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole process group, also what ignores SIGTERM. Its time is over as soon as it has come so far as to have a child."""
    child, asked = bench.root / "child", count()

    def monotonic() -> float:
        begun = next(asked) > 0  # the first time is when it begins, which may be after the child has
        return time.monotonic() + (30 if begun and child.exists() and child.read_text().endswith("\n") else 0)

    monkeypatch.setattr(on_change, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    hook = {"command": f"trap '' TERM; sleep 300 & echo $! > {child}; wait; sleep 300", "timeout_s": 25}
    watch = Stopwatch()
    assert bench.apply(file(bench.root / "f"), on_change=hook) == Failed(ErrorCode.TIMED_OUT, "on_change took longer than 25 s")
    assert watch.seconds() < 10
    until(lambda: not _alive(int(child.read_text())), 10, "the end of the child, which nobody but init can wait for")


def test_a_daemon_left_behind_is_not_waited_for(bench: Bench) -> None:
    """A grandchild that keeps the pipe open does not hold the command up."""
    hook = {"command": f"setsid sleep 30 & echo $! > {bench.root}/child; exit 0", "timeout_s": 20}
    watch = Stopwatch()
    assert isinstance(bench.apply(file(bench.root / "f"), on_change=hook), Succeeded)
    assert watch.seconds() < 5
    os.kill(int((bench.root / "child").read_text()), signal.SIGKILL)


def test_a_stop_ends_on_change(bench: Bench) -> None:
    """The command's own limit, or a cancel, ends it as well, and says which."""
    outcome = bench.apply(file(bench.root / "f"), on_change="sleep 300", limit=0.5)
    assert isinstance(outcome, Stopped) and outcome.reason is StopReason.TIMED_OUT


def test_a_removal_is_not_held_up_by_its_on_change(bench: Bench) -> None:
    """The command that can't live without its file is told of as a warning."""
    bench.apply(file(bench.root / "f"), on_change=f"cat {bench.root}/f")
    outcome = bench.remove()
    assert isinstance(outcome, Succeeded) and len(outcome.warnings) == 1
    assert not (bench.root / "f").exists()


# --- drift ---


def test_drift_is_seen_whatever_was_changed(bench: Bench) -> None:
    """Content of the same size, mode, owner, a missing file, a link in its place; and that it is right again."""
    path = bench.root / "f"
    bench.apply(file(path))
    assert bench.items()["hcfg-1"].state == "present"
    assert bench.applier.look() is None

    def changed(how: str) -> Item:
        subprocess.run(["/bin/sh", "-c", how.format(f=path)], check=True)
        item = bench.items()["hcfg-1"]
        bench.apply(file(path))
        assert bench.items()["hcfg-1"].state == "present"
        return item

    expected = {
        "printf 'jello\\n' > {f}": "other content",
        "chmod 600 {f}": "mode 0600",
        "chown nobody {f}": "another owner",
        "rm {f}": "is missing",
    }
    for how, what in expected.items():
        item = changed(how)
        assert (item.state, item.reason) == ("drifted", "Drifted") and what in item.message and str(path) in item.message
    subprocess.run(["/bin/sh", "-c", f"rm {path}; ln -s /etc/passwd {path}"], check=True)
    assert "symbolic link" in bench.items()["hcfg-1"].message


@pytest.mark.parametrize(("age_s", "seen"), [(0.0, ["drifted"]), (3600.0, [])])
def test_what_was_changed_just_now_is_looked_into_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, age_s: float, seen: list[str]
) -> None:
    """A file's times go by ticks of the kernel: changed once more within one, at the same size, its stat is what it was."""
    path, looks_like = bench.root / "f", (1, 2, 6, 0, int((time.time() - age_s) * 1e9), 0o100644, 0, 0)
    monkeypatch.setattr(drift, "_fingerprint", lambda _: looks_like)
    monkeypatch.setattr(drift, "_TICK_S", 600.0)  # longer than the disk of any machine takes
    bench.apply(file(path))
    assert bench.items()["hcfg-1"].state == "present"
    path.write_text("jello\n")
    assert [item.state for item in bench.applier.look() or ()] == seen


def test_a_touched_file_is_no_drift(bench: Bench) -> None:
    """Same content, other times: looked at once, and found right."""
    bench.apply(file(bench.root / "f"))
    assert bench.items()["hcfg-1"].state == "present"
    os.utime(bench.root / "f", (1, 1))
    assert bench.applier.look() is None


# --- kill -9 at each point ---

POINTS: dict[str, tuple[Any, str]] = {
    "the ledger's record of a config": (ledger.Ledger, "put"),
    "the ledger's record of a path": (ledger.Ledger, "claim"),
    "writing beside the place": (rooted, "stage"),
    "the rename": (rooted, "commit"),
    "forgetting an original": (ledger.Ledger, "forget"),
    "on_change": (on_change, "run"),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [False, True])
def test_kill_9_at_each_point_and_the_same_command_again_ends_right(tmp_path: Path, point: str, after: bool) -> None:
    """Killed before or after the n-th time that it gets there; run again until it is through; then undone without a trace."""
    bench = Bench(tmp_path)
    root = bench.root
    root.mkdir()
    (root / "a").write_text("mine a\n")
    (root / "gone").write_text("mine gone\n")
    bench.apply(file(root / "gone", "ours\n"), file(root / "a", "ours\n"), on_change=f"echo 1 >> {tmp_path}/hooks")
    wanted = file(root / "a", "ours 2\n"), file(root / "n" / "new", "new\n")

    def apply() -> Outcome:
        bench.again()
        return bench.apply(*wanted, on_change=f"echo 2 >> {tmp_path}/hooks", generation=2)

    deaths = [_in_child(partial(_deadly, POINTS[point], nth, after, apply)) for nth in range(1, 4)]
    assert deaths[0] == signal.SIGKILL
    assert isinstance(apply(), Succeeded)
    assert (root / "a").read_text() == "ours 2\n" and (root / "n" / "new").read_text() == "new\n"
    assert (root / "gone").read_text() == "mine gone\n"
    assert (tmp_path / "hooks").read_text().split()[-1] == "2"
    assert bench.items()["hcfg-1"].state == "present"
    bench.remove()
    assert (root / "a").read_text() == "mine a\n" and sorted(os.listdir(root)) == ["a", "gone"]


def _deadly(where: tuple[Any, str], nth: int, after: bool, act: Callable[[], object]) -> None:
    """Act in a process that kills itself when it gets there."""
    place, name = where
    real, calls = getattr(place, name), count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == nth
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, call)
    act()


def _in_child(act: Callable[[], object]) -> int:
    """Run in a forked process: 0, 1 for an exception, or the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    return os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)


def _alive(pid: int) -> bool:
    """Running; a zombie that init has still to collect is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- secrets ----------------------------------------------------------------------------------------------------------------


def test_a_digest_is_salted_where_secrets_are(bench: Bench) -> None:
    """It fits with its salt, and with no other one; what is reported is the salted one."""
    secret = file(bench.root / "key", "password=1234\n", mode="0600")
    args = arguments(secret, salt="5f1c")
    assert args["digest"] != arguments(secret)["digest"]
    for wrong in ({**args, "salt": "5f1d"}, {name: value for name, value in args.items() if name != "salt"}, {**args, "salt": 7}):
        outcome = bench.run("config.apply", wrong)
        assert isinstance(outcome, Failed) and outcome.code == ErrorCode.POLICY_REFUSED
    assert isinstance(bench.run("config.apply", args), Succeeded)
    assert bench.items()["hcfg-1"].digest == args["digest"]
    assert "1234" not in "".join(path.read_text() for path in bench.state.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cat {key}; echo end", "password=••••\nend\n"),
        ("cat {key} {key}; exit 3", "on_change ended with exit status 3: password=••••\npassword=••••"),
        ("head -c 3000 {key} >&2; cat {key}", "password=••••\npassword=••••\n"),
    ],
)
def test_secrets_stay_out_of_what_on_change_says(bench: Bench, command: str, said: str) -> None:
    """In its output as in its error."""
    secret = file(bench.root / "key", "password=hunter2-é\n")
    args = arguments(secret, on_change=command.format(key=bench.root / "key"), salt="s", hidden=["hunter2-é"])
    outcome = bench.run("config.apply", args)
    assert said == (outcome.output if isinstance(outcome, Succeeded) else outcome.message if isinstance(outcome, Failed) else "")


@pytest.mark.parametrize("before", range(0, 40, 3))
def test_no_part_of_a_secret_stays_where_output_is_cut(bench: Bench, before: int) -> None:
    """Wherever the cut falls: before, in or behind it."""
    hidden = "0123456789abcdefghijklmnopqrstuv"
    hook = on_change.OnChange(("true",), 1, (hidden,))
    said = hidden + "x" * (on_change.KEPT_OUTPUT + before)
    found = on_change._text(said.encode()[-(on_change.KEPT_OUTPUT + hook.longest) :], hook)
    assert set(found) <= {"x", "•"} and len(found) <= on_change.KEPT_OUTPUT


@pytest.mark.parametrize("hidden", ["text", [7], [""], {"a": "b"}])
def test_what_is_to_be_hidden_is_a_list_of_texts(bench: Bench, hidden: Any) -> None:
    """Anything else is refused before a file is touched."""
    outcome = bench.run("config.apply", arguments(file(bench.root / "key"), salt="s", hidden=hidden))
    assert isinstance(outcome, Failed) and outcome.message.startswith("hidden: must be")
    assert not bench.root.exists()
