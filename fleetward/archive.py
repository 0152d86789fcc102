"""The file of a backup: a tar of manifest, dump and secrets, followed by a line with the digest of every byte before it.

It is written whole (0600) and used only when the digest is right, so that a file that was cut short or changed anywhere is refused before
anything is done with it. It is no signature: whoever has the file has the installation's keys. `tar` reads it too, and passes the last
line by.
Members: `manifest.json`, `database.sql.gz`, `secrets/NAME`. Called by `fleetward.backup`.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FORMAT = 1
MANIFEST, DATABASE, SECRETS = "manifest.json", "database.sql.gz", "secrets/"
_TRAILER = b"fleetward-backup-sha256:%s\n"
_TRAILER_BYTES = len(_TRAILER % (b"0" * 64))
_CHUNK = 1024 * 1024


class Damaged(Exception):
    """The file is no backup, or not as it was written; the text says which."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that has been checked. `schema`: the migrations of its database; `members`: names of all files in it but the manifest."""

    path: Path
    made_at: str
    release: str
    schema: tuple[str, ...]
    hosts: int
    members: tuple[str, ...]

    def extract(self, member: str, to: Path) -> None:
        """One file of it, new, with mode 0600."""
        with tarfile.open(self.path) as tar, _private(to) as out:
            found = tar.extractfile(member)
            assert found is not None, "check() has seen it"
            while chunk := found.read(_CHUNK):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())

    def secrets(self) -> tuple[str, ...]:
        """The names of the files of the secrets directory."""
        return tuple(name.removeprefix(SECRETS) for name in self.members if name.startswith(SECRETS))


def write(to: Path, described: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Put files (by member name) into a new archive, which appears as a whole. `described` becomes the manifest. Raises OSError."""
    partial = to.with_name(to.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with _private(partial) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            manifest = json.dumps({"format": FORMAT, **described}, indent=1).encode()
            _add(tar, MANIFEST, io.BytesIO(manifest), len(manifest))
            for name, path in files.items():
                with path.open("rb") as file:
                    _add(tar, name, file, path.stat().st_size)
        digest = _digest(partial, partial.stat().st_size)
        with partial.open("ab") as out:
            out.write(_TRAILER % digest)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(to.parent)


def check(path: Path) -> Backup:
    """Read all of it. Raises Damaged, OSError."""
    _check_digest(path)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        file = tar.extractfile(MANIFEST)
        assert file is not None, "what was written has a manifest"
        manifest = json.loads(file.read())
    if manifest["format"] != FORMAT:
        raise Damaged(f"{path} has format {manifest['format']}, and this release reads {FORMAT}: use the release that made it")
    members = tuple(name for name in names if name != MANIFEST)
    return Backup(path, manifest["made_at"], manifest["release"], tuple(manifest["schema"]), manifest["hosts"], members)


def _check_digest(path: Path) -> None:
    size = path.stat().st_size - _TRAILER_BYTES
    with path.open("rb") as file:
        file.seek(max(0, size))
        said = file.read()
    if size <= 0 or not said.startswith(_TRAILER[:24]):
        raise Damaged(f"{path} is no backup of Fleetward, or it is cut short: its last line is not there")
    if said != _TRAILER % _digest(path, size):
        raise Damaged(f"{path} is not as it was written: its content does not fit its last line")


def _digest(path: Path, size: int) -> bytes:
    """Of the first `size` bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest().encode()


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, file)


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
