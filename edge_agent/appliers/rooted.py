"""Files below the owner's roots, and never outside: each directory on the way is opened by descriptor, without following symbolic links.

Whoever else may write below a root can swap names while this runs; all it works on are descriptors of directories already walked, and the
last step is a rename, which follows no link. Links below a root are refused, also those that would lead back inside: what they point to
can change. A root itself is the owner's word and may be reached through links.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.messages import ErrorCode
from edge_agent.appliers import Refusal

MAX_KEPT = 16 * 1024 * 1024
"""Bytes of a file that is to be replaced; a larger one is not kept, and so not replaced."""
DIRECTORY_MODE = 0o755
"""Of the directories that are made, whatever the agent's umask: its own files are nobody else's business, those of configs are."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """A path that lies below `root`; `parts` is the way from there."""

    root: Path
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        return str(self.root.joinpath(*self.parts))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def temporary(self) -> str:
        """Always the same for a path, so that one left by a crash is found again."""
        return f".fleetward-{hashlib.sha256(self.path.encode()).hexdigest()[:24]}.tmp"


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file as it is."""

    content: bytes
    mode: int
    uid: int
    gid: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def locate(path: str, roots: tuple[Path, ...]) -> Place:
    """Where a path lies, by its text alone. Raises Refusal (PathOutsideRoots)."""
    parts = path.split("/")
    plain = path.startswith("/") and all(part not in ("", ".", "..") and len(part.encode()) < 256 for part in parts[1:])
    if plain and "\0" not in path and len(path.encode()) < 4000:
        for root in sorted(roots, key=lambda r: -len(r.parts)):
            above = len(root.parts)
            if ("/", *parts[1:])[:above] == root.parts and len(parts) > above:
                return Place(root, tuple(parts[above:]))
    listed = ", ".join(str(root) for root in roots) or "there are none"
    raise Refusal(ErrorCode.PATH_OUTSIDE_ROOTS, f"{path}: not below the roots of this device ({listed})")


def keep_out(place: Place, own: Path) -> None:
    """The agent's own directory is no place for configs, though a root may hold it: its `agent.toml` is the owner's word, which the server
    must not write. A root that the owner has put inside of it is. Raises Refusal."""
    mine, root = Path(os.path.realpath(own)), Path(os.path.realpath(place.root))
    if mine not in root.parents and mine in root.joinpath(*place.parts, "_").parents:
        raise Refusal(ErrorCode.PATH_OUTSIDE_ROOTS, f"{place.path}: is in the agent's own directory")


def missing_parents(place: Place) -> tuple[str, ...]:
    """The directories that would have to be made, outermost first. Raises Refusal (SymlinkEscape) for a link on the way."""
    with _walk(place) as (_, depth):
        return tuple(str(place.root.joinpath(*place.parts[:n])) for n in range(max(depth, 0) + 1, len(place.parts)))


@contextmanager
def about(place: Place) -> Iterator[None]:
    """What the operating system refuses in here names the file that it is about, not a part of its path or what it is called while it is
    written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, place.path) from error


@contextmanager
def parent(place: Place) -> Iterator[int]:
    """A descriptor of the directory that holds the file; directories that lack are made. Raises Refusal, OSError."""
    _make_root(place.root)
    with _walk(place, make=True) as (directory, _):
        if directory is None:
            raise FileNotFoundError(2, "the directory has vanished", str(place.root))
        yield directory


def read(place: Place, limit: int = MAX_KEPT) -> Found | None:
    """The file, None where there is none. Raises Refusal for what is no regular file or larger than `limit`, and OSError."""
    with _walk(place) as (directory, depth):
        if directory is None or depth < len(place.parts) - 1:
            return None
        try:
            _refuse_other_types(directory, place)
            descriptor = os.open(place.name, _FILE, dir_fd=directory)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refusal(ErrorCode.POLICY_REFUSED, f"{place.path}: there is something that is no regular file")
            content = file.read(limit + 1)
        if len(content) > limit:
            raise Refusal(ErrorCode.POLICY_REFUSED, f"{place.path}: the file there is too large to be kept ({limit} bytes)")
        return Found(content, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def stage(directory: int, place: Place, content: bytes, mode: int, uid: int, gid: int) -> None:
    """Write and fsync the content beside its place, with its mode and owner. Raises OSError, leaving nothing behind."""
    discard(directory, place)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            found = os.fstat(descriptor)
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        discard(directory, place)
        raise


def commit(directory: int, place: Place) -> None:
    """Put what was staged in its place, durably."""
    os.rename(place.temporary, place.name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def discard(directory: int, place: Place) -> None:
    try:
        os.unlink(place.temporary, dir_fd=directory)
    except FileNotFoundError:
        pass  # there was none


def remove(place: Place, made: tuple[str, ...]) -> None:
    """Unlink the file, and the directories `made` for it that are empty now. Raises Refusal, OSError."""
    with _walk(place) as (directory, depth):
        if directory is not None and depth == len(place.parts) - 1:
            _refuse_other_types(directory, place)
            try:
                os.unlink(place.name, dir_fd=directory)
                os.fsync(directory)
            except FileNotFoundError:
                pass  # somebody was faster
    for path in reversed(made):
        _remove_empty(Place(place.root, Path(path).relative_to(place.root).parts))


def _remove_empty(place: Place) -> None:
    with _walk(place) as (directory, depth):
        if directory is not None and depth == len(place.parts) - 1:
            try:
                os.rmdir(place.name, dir_fd=directory)
            except OSError:
                pass  # it is not empty, or gone: either way it is not ours to remove


def _refuse_other_types(directory: int, place: Place) -> None:
    """Raises Refusal for a link, a directory or a device in the file's place; nothing there is fine."""
    try:
        mode = os.stat(place.name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise Refusal(ErrorCode.SYMLINK_ESCAPE, f"{place.path}: is a symbolic link")
    if not stat.S_ISREG(mode):
        raise Refusal(ErrorCode.POLICY_REFUSED, f"{place.path}: there is something that is no regular file")


@contextmanager
def _walk(place: Place, make: bool = False) -> Iterator[tuple[int | None, int]]:
    """A descriptor of the deepest directory that there is on the way to the file, and how many steps below the root it is."""
    try:
        directory = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None, -1
        return
    depth = 0
    try:
        for part in place.parts[:-1]:
            following = _enter(directory, part, place, make)
            if following is None:
                break
            os.close(directory)
            directory, depth = following, depth + 1
        yield directory, depth
    finally:
        os.close(directory)


def _enter(directory: int, name: str, place: Place, make: bool) -> int | None:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        if not make:
            return None
    except NotADirectoryError:
        raise _not_a_directory(directory, name, place) from None
    except OSError as error:
        if error.errno == errno.ELOOP:  # how some kernels answer O_NOFOLLOW
            raise _not_a_directory(directory, name, place) from None
        raise
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=directory)
    except FileExistsError:
        return _enter(directory, name, place, make=False)  # somebody was faster; opening it again checks what it is
    os.fsync(directory)
    made = _enter(directory, name, place, make=False)
    if made is not None:
        os.fchmod(made, DIRECTORY_MODE)
    return made


def _make_root(root: Path) -> None:
    """With the directories that it lacks."""
    for folder in reversed([each for each in (root, *root.parents) if not each.exists()]):
        folder.mkdir(exist_ok=True)
        folder.chmod(DIRECTORY_MODE)


def _not_a_directory(directory: int, name: str, place: Place) -> Refusal:
    try:
        link = stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        link = True  # it changes under our hands: not to be trusted either
    if link:
        return Refusal(ErrorCode.SYMLINK_ESCAPE, f"{place.path}: {name} on the way is a symbolic link")
    return Refusal(ErrorCode.POLICY_REFUSED, f"{place.path}: {name} on the way is no directory")
