"""Configs: files placed, kept and taken back, with a command after a change. Verbs `config.apply` and `config.remove`.

Everything about a command is checked before the first write; then all files are written beside their places, and only when that has worked
are they renamed into them. A path's content before the first config is kept and comes back when no config has the path any more. A file
changed by somebody else is reported as drift, and put right only when the server asks again. Content comes rendered: templates are the
server's business.

Source: contract.md section 4 (Config).
"""

import base64
import binascii
import contextlib
import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker.messages import ErrorCode, Item, ResourceRef, Verb
from edge_agent.appliers import Control, Refusal, drift, owners, rooted
from edge_agent.appliers import on_change as hook
from edge_agent.appliers.ledger import Applied, AppliedFile, Ledger, Original
from edge_agent.appliers.rooted import Found, Place
from edge_agent.signals import Outcome, Run, Succeeded

log = logging.getLogger(__name__)

KIND = drift.KIND
MAX_CONTENT = 128 * 1024
"""Bytes of all files of a config (contract)."""
MAX_CONFIGS = 200
"""On one device; so that a full status stays within one message."""


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file to be placed. `sha256` of its content; `uid`, `gid`: None leaves the agent's own."""

    place: Place
    content: bytes
    sha256: str
    mode: int
    mode_text: str
    owner: str | None
    group: str | None
    uid: int
    gid: int

    @property
    def applied(self) -> AppliedFile:
        return AppliedFile(self.place.path, self.sha256, self.mode, self.uid, self.gid)

    def fits(self, found: Found | None) -> bool:
        return found is not None and (found.sha256, found.mode, found.uid, found.gid) == (self.sha256, self.mode, self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked `config.apply`."""

    id: str
    generation: int
    config: str
    digest: str
    files: tuple[WantedFile, ...]
    on_change: hook.OnChange | None
    on_change_args: Any


class ConfigApplier:
    """The applier of kind host-config. `roots`: where files may be; `commands`: whether on_change may run."""

    verbs: tuple[str, ...] = (Verb.CONFIG_APPLY, Verb.CONFIG_REMOVE)

    def __init__(self, state_dir: Path, roots: tuple[Path, ...], commands: bool = True) -> None:
        self._state_dir = state_dir
        self._ledger = Ledger(state_dir)
        self._roots = roots
        self._commands = commands
        self._lock = threading.Lock()
        self._watch = drift.Watch()

    def run(self, command: Run, control: Control) -> Outcome:
        resource = command.resource
        if resource is None or resource.kind != KIND:
            raise Refusal(ErrorCode.POLICY_REFUSED, f"resource: must be a {KIND}")
        with self._lock:
            try:
                if command.verb == Verb.CONFIG_APPLY:
                    return self._apply(_parse(command.args, resource, self._roots), control)
                return self._remove(command.args, resource, control)
            finally:
                self._watch.forget(resource.id)

    def look(self) -> tuple[Item, ...] | None:
        """Not while a command is under way: what it is doing is no drift."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._watch.look(self._ledger, self._roots)
        finally:
            self._lock.release()

    # --- apply ---

    def _apply(self, wanted: Wanted, control: Control) -> Outcome:
        before = self._ledger.applied.get(wanted.id)
        if wanted.on_change is not None and not self._commands:
            raise Refusal(ErrorCode.POLICY_REFUSED, "on_change: the owner of this device allows no commands (agent.toml)")
        if before is None and len(self._ledger.applied) >= MAX_CONFIGS:
            raise Refusal(ErrorCode.POLICY_REFUSED, f"there are {MAX_CONFIGS} configs on this device already")
        for file in wanted.files:
            rooted.keep_out(file.place, self._state_dir)
        found = {file.place.path: _read(file.place) for file in wanted.files}
        made = {file.place.path: rooted.missing_parents(file.place) for file in wanted.files}
        changed = tuple(file for file in wanted.files if not file.fits(found[file.place.path]))
        dropped = self._dropped(before, wanted)
        due = bool(changed or dropped or (before is not None and before.due))
        entry = Applied(
            id=wanted.id,
            config=wanted.config,
            generation=wanted.generation,
            digest=wanted.digest,
            files=tuple(file.applied for file in wanted.files),
            dropped=dropped,
            on_change=wanted.on_change_args,
            dirty=bool(changed or dropped),
            due=due and wanted.on_change is not None,
        )
        control.check()
        self._ledger.put(entry)
        for file in wanted.files:
            self._ledger.claim(file.place.path, wanted.id, found[file.place.path], made[file.place.path])
        _write(changed)
        self._restore(dropped, wanted.id)
        entry = replace(entry, dirty=False, dropped=())
        self._ledger.put(entry)
        output = self._finish(entry, wanted.on_change, control)
        return Succeeded(output or _summary(changed, dropped), (drift.item_of(entry, "present"),))

    def _dropped(self, before: Applied | None, wanted: Wanted) -> tuple[str, ...]:
        """Paths of the version before that this one no longer has, and that nobody else has taken over."""
        if before is None:
            return ()
        now = {file.place.path for file in wanted.files}
        earlier = dict.fromkeys((*(file.path for file in before.files), *before.dropped))
        return tuple(path for path in earlier if path not in now and self._ledger.owner(path) == wanted.id)

    def _finish(self, entry: Applied, on_change: hook.OnChange | None, control: Control) -> str:
        """Run what is due; it stays due until it has worked."""
        if on_change is None or not entry.due:
            return ""
        output = hook.run(on_change, entry.config, control)
        self._ledger.put(replace(entry, due=False))
        return output

    # --- remove ---

    def _remove(self, args: dict[str, Any], resource: ResourceRef, control: Control) -> Outcome:
        entry = self._ledger.applied.get(resource.id)
        absent = Item(kind=KIND, id=resource.id, generation=resource.generation, state="absent")
        if entry is None:
            return Succeeded("there was nothing of it", (absent,))
        paths = tuple(dict.fromkeys((*(file.path for file in entry.files), *entry.dropped)))
        mine = tuple(path for path in paths if self._ledger.owner(path) == entry.id)
        control.check()
        self._ledger.put(replace(entry, files=(), dropped=mine, dirty=True, due=entry.due or bool(mine)))
        self._restore(mine, entry.id)
        warnings = self._after_removal(entry, control) if mine or entry.due else ()
        self._ledger.drop(entry.id)
        return Succeeded(_summary((), mine), (absent,), warnings)

    def _after_removal(self, entry: Applied, control: Control) -> tuple[str, ...]:
        """The files are gone, and that is what was asked; a command that can't live without them must not hold the removal up for ever."""
        try:
            on_change = hook.parse(entry.on_change) if self._commands else None
            if on_change is not None:
                hook.run(on_change, entry.config, control)
        except Refusal as error:
            return (f"{entry.config} is removed, but: {error}",)
        return ()

    def _restore(self, paths: Sequence[str], id: str) -> None:
        for path in paths:
            known = self._ledger.original(path)
            if known is None or known[0].owner != id:
                continue
            original, content = known
            place = rooted.locate(path, self._roots)
            with rooted.about(place):
                _put_back(place, original, content)
            self._ledger.forget(path)


def digest_of(files: Sequence[tuple[str, str, str | None, str | None, bytes]], salt: str = "") -> str:
    """The contract's digest over (path, mode, owner, group, content), and over the salt before them where secrets are in them."""
    lines = [
        f"{path}\0{mode}\0{owner or ''}\0{group or ''}\0{hashlib.sha256(content).hexdigest()}\n".encode()
        for path, mode, owner, group, content in files
    ]
    return "sha256:" + hashlib.sha256(b"".join([f"{salt}\n".encode()] * bool(salt) + sorted(lines))).hexdigest()


def _read(place: Place) -> Found | None:
    with rooted.about(place):
        return rooted.read(place)


def _put_back(place: Place, original: Original, content: bytes) -> None:
    """What was there before any config, or nothing."""
    if not original.exists:
        rooted.remove(place, original.made)
        return
    with rooted.parent(place) as directory:
        rooted.stage(directory, place, content, original.mode, original.uid, original.gid)
        rooted.commit(directory, place)


def _write(changed: Sequence[WantedFile]) -> None:
    """All beside their places first, so that a full disk is found before any file has been replaced."""
    with contextlib.ExitStack() as stack:
        staged = []
        for file in changed:
            with rooted.about(file.place):
                directory = stack.enter_context(rooted.parent(file.place))
                rooted.stage(directory, file.place, file.content, file.mode, file.uid, file.gid)
            stack.callback(rooted.discard, directory, file.place)
            staged.append((directory, file.place))
        for directory, place in staged:
            with rooted.about(place):
                rooted.commit(directory, place)


def _summary(changed: Sequence[WantedFile], restored: Sequence[str]) -> str:
    if not changed and not restored:
        return "nothing to change"
    parts = [f"written: {', '.join(file.place.path for file in changed)}"] if changed else []
    return "; ".join(parts + ([f"restored: {', '.join(restored)}"] if restored else []))


# --- arguments --------------------------------------------------------------------------------------------------------------


def _parse(args: dict[str, Any], resource: ResourceRef, roots: tuple[Path, ...]) -> Wanted:
    files = parse_files(args, roots)
    command, hidden = args.get("on_change"), args.get("hidden", [])
    if not isinstance(hidden, list) or not all(isinstance(text, str) and text for text in hidden):
        raise _bad("hidden: must be a list of texts")
    return Wanted(resource.id, resource.generation, args["config"], args["digest"], files, hook.parse(command, tuple(hidden)), command)


def parse_files(args: dict[str, Any], roots: tuple[Path, ...]) -> tuple[WantedFile, ...]:
    """The files of a `config.apply`: everything that can be known without touching them. Raises Refusal."""
    files, config, digest, salt = args.get("files"), args.get("config"), args.get("digest"), args.get("salt", "")
    if not all(isinstance(text, str) for text in (config, digest, salt)) or not isinstance(files, list):
        raise _bad("config, digest and salt must be texts, files a list")
    wanted = tuple(_file(value, roots) for value in files)
    paths = [file.place.path for file in wanted]
    if len(set(paths)) < len(paths):
        raise _bad("files: two have the same path")
    if sum(len(file.content) for file in wanted) > MAX_CONTENT:
        raise _bad(f"files: more than {MAX_CONTENT} bytes")
    if digest_of([(f.place.path, f.mode_text, f.owner, f.group, f.content) for f in wanted], salt) != digest:
        raise _bad("digest: does not fit the files")
    return wanted


def _file(value: Any, roots: tuple[Path, ...]) -> WantedFile:
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise _bad("files: each must be an object with a path")
    path, mode, owner, group = value["path"], value.get("mode", "0644"), value.get("owner"), value.get("group")
    content = _content(path, value.get("content"))
    return WantedFile(
        place=rooted.locate(path, roots),
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        mode=_mode(path, mode),
        mode_text=mode,
        owner=owner,
        group=group,
        uid=owners.user(path, owner),
        gid=owners.group(path, group),
    )


def _content(path: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _bad(f"{path}: content must be base64") from None


def _mode(path: str, value: Any) -> int:
    if not isinstance(value, str) or not 3 <= len(value) <= 5 or not set(value) <= set("01234567") or int(value, 8) > 0o7777:
        raise _bad(f"{path}: mode must be octal digits, such as 0644")
    return int(value, 8)


def _bad(message: str) -> Refusal:
    return Refusal(ErrorCode.POLICY_REFUSED, message)
