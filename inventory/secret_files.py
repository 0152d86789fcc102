"""Files of the secrets directory: written whole or not at all, one process at a time, and read anew when somebody has replaced them.

What stands in them is the business of `inventory.authority` and `inventory.keychain`, which call this; nothing here knows a key from a
certificate.
"""

import base64
import binascii
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from broker.stamps import Stamps, stamps

T = TypeVar("T")


class AuthorityError(Exception):
    """The secrets directory can't be used; the text says what to do."""


def write_secret(path: Path, content: bytes) -> None:
    """The file appears whole, or not at all, with mode 0600, and is on disk when this returns."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove(*paths: Path) -> None:
    """Gone, and on disk, when this returns."""
    there = [path for path in paths if path.exists()]
    for path in there:
        path.unlink()
    for directory in {path.parent for path in there}:
        _sync(directory)


def _sync(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which ends with the process, however it ends."""
    handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_raw_key(path: Path) -> bytes:
    """32 bytes out of a line of base64. Raises AuthorityError, OSError."""
    return raw_key(path.read_text(errors="replace"), path)


def raw_key(text: str, path: Path) -> bytes:
    """Likewise, of a text that stands in `path`."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise AuthorityError(f"{path} is damaged: restore it from a backup")
    return raw


class Fresh(Generic[T]):
    """What is made of files, and made again once one of them has been replaced. A replacement that can't be used (of two files that belong
    together the second one is not there yet) leaves the value before it."""

    def __init__(self, load: Callable[[], T], *paths: Path) -> None:
        self._load, self._paths = load, paths
        self._read_at: Stamps | None = None
        self._value: list[T] = []

    def get(self) -> T:
        """Raises AuthorityError or OSError where there has never been one that could be used."""
        changed_at = stamps(self._paths)
        if self._value and changed_at == self._read_at:
            return self._value[0]
        try:
            self._value = [self._load()]
            self._read_at = changed_at
        except (AuthorityError, OSError):
            if not self._value:
                raise
        return self._value[0]
