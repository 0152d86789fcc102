"""The config form: what was typed, as a resource and back, and which problem belongs to which input. Pure.

Inputs are named `name`, `selector`, …, and of file 3 `file-3-path`, `file-3-text`, …; likewise of secrets, whose values come from here
and are never shown here. Nothing typed is ever dropped: what can't be read stays in its input, with the reason beside it.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inventory.errors import Problem
from inventory.resource import Resource
from inventory.secret_field import NAME
from web.pages.labels import written_labels

MOST_FILES = 64
MOST_SECRETS = 64
SOURCES = ("content", "template")


@dataclass(frozen=True, slots=True)
class FileInputs:
    path: str = ""
    mode: str = "0644"
    owner: str = ""
    group: str = ""
    source: str = "content"
    text: str = ""


@dataclass(frozen=True, slots=True)
class SecretInputs:
    """value: empty keeps what is there. drop: it is to go. kept: its name is not a matter of typing, there is one already."""

    name: str = ""
    value: str = field(default="", repr=False)
    drop: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """What stands in the form, as text."""

    name: str = ""
    title: str = ""
    labels: str = ""
    selector: str = ""
    priority: str = "0"
    on_change: str = ""
    timeout_s: str = ""
    files: tuple[FileInputs, ...] = field(default_factory=lambda: (FileInputs(),))
    secrets: tuple[SecretInputs, ...] = ()
    version: str = ""
    """Of the config that is edited, when it was read."""


def read(form: Mapping[str, str]) -> Inputs:
    """Browsers send line ends as CRLF; files are kept with LF."""
    files = [_file(form, number) for number in _numbers(form, "file")[:MOST_FILES]]
    secrets = [_secret(form, number) for number in _numbers(form, "secret")[:MOST_SECRETS]]
    plain = {name: form.get(name, "") for name in ("name", "title", "labels", "selector", "priority", "on_change", "timeout_s", "version")}
    return Inputs(**{name: _lines(value) for name, value in plain.items()}, files=tuple(files), secrets=tuple(secrets))


def _numbers(form: Mapping[str, str], what: str) -> list[int]:
    return sorted({int(found[1]) for name in form if (found := re.fullmatch(rf"{what}-(\d{{1,3}})-\w+", name))})


def _file(form: Mapping[str, str], number: int) -> FileInputs:
    def given(name: str, default: str = "") -> str:
        return _lines(form.get(f"file-{number}-{name}", default))

    return FileInputs(given("path"), given("mode", "0644"), given("owner"), given("group"), given("source", "content"), given("text"))


def _secret(form: Mapping[str, str], number: int) -> SecretInputs:
    name, value, drop, kept = (form.get(f"secret-{number}-{part}", "") for part in ("name", "value", "drop", "kept"))
    return SecretInputs(name.strip(), value, bool(drop), bool(kept))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def of(config: Resource) -> Inputs:
    """The form that edits a config."""
    on_change = config["on_change"]
    command = on_change.get("command") if isinstance(on_change, dict) else on_change
    return Inputs(
        name=config["name"],
        title=config["title"],
        labels=written_labels(config["labels"]),
        selector=config["selector"],
        priority=str(config["priority"]),
        on_change=shlex.join(command) if isinstance(command, list) else command or "",
        timeout_s=str(on_change.get("timeout_s", "")) if isinstance(on_change, dict) else "",
        files=tuple(_inputs_of(file) for file in config["files"]),
        secrets=tuple(SecretInputs(name, kept=True) for name in sorted(config["secrets"])),
        version=str(config["version"]),
    )


def _inputs_of(file: Mapping[str, Any]) -> FileInputs:
    source = "template" if file.get("template") is not None else "content"
    return FileInputs(file["path"], file.get("mode", ""), file.get("owner") or "", file.get("group") or "", source, file.get(source) or "")


def with_file(inputs: Inputs) -> Inputs:
    return replace(inputs, files=(*inputs.files, FileInputs())) if len(inputs.files) < MOST_FILES else inputs


def with_secret(inputs: Inputs) -> Inputs:
    return replace(inputs, secrets=(*inputs.secrets, SecretInputs())) if len(inputs.secrets) < MOST_SECRETS else inputs


def without_secret(inputs: Inputs, index: int) -> Inputs:
    return replace(inputs, secrets=tuple(secret for number, secret in enumerate(inputs.secrets) if number != index))


def without_file(inputs: Inputs, index: int) -> Inputs:
    return replace(inputs, files=tuple(file for number, file in enumerate(inputs.files) if number != index))


def body(inputs: Inputs, labels: Mapping[str, str], before: Resource | None) -> tuple[dict[str, Any], list[Problem]]:
    """The resource that the form asks for, in full, and what can't even be read as one. `before`: what is edited."""
    problems: list[Problem] = []
    wanted: dict[str, Any] = {
        "name": inputs.name.strip(),
        "title": inputs.title.strip(),
        "labels": dict(labels),
        "selector": inputs.selector.strip(),
        "priority": _whole(inputs.priority, "/priority", problems) if inputs.priority.strip() else 0,
        "files": [_spec(file, before) for file in inputs.files],
        "on_change": _on_change(inputs, before, problems),
        "secrets": _secrets(inputs, problems),
    }
    return wanted, problems


def _secrets(inputs: Inputs, problems: list[Problem]) -> dict[str, str | None]:
    """What is typed, as a merge patch: those that are kept are not in it. A row in which nothing is typed at all is none."""
    wanted: dict[str, str | None] = {}
    for number, secret in enumerate(inputs.secrets):
        if secret.kept and (secret.drop or not secret.value):
            wanted |= {secret.name: None} if secret.drop else {}
        elif secret.name in wanted or any(secret.name == other.name for other in inputs.secrets[:number] if secret.name):
            problems.append(Problem(f"/secrets/{number}/name", "is there twice"))
        elif secret.name and secret.value:
            wanted[secret.name] = secret.value
        elif secret.name or secret.value:
            missing = "value" if secret.name else "name"
            problems.append(Problem(f"/secrets/{number}/{missing}", "is needed"))
    return wanted


def _spec(file: FileInputs, before: Resource | None) -> dict[str, Any]:
    source = file.source if file.source in SOURCES else "content"
    spec = {"path": file.path.strip(), source: _kept(file, source, before), "mode": file.mode.strip() or "0644"}
    return spec | {name: value.strip() for name, value in (("owner", file.owner), ("group", file.group)) if value.strip()}


def _kept(file: FileInputs, source: str, before: Resource | None) -> str:
    """The text as typed; where only line ends differ from what is saved, what is saved: browsers can't send it as it is."""
    for saved in before["files"] if before is not None else ():
        text = saved.get(source)
        if saved["path"] == file.path.strip() and text is not None and _lines(text) == file.text:
            return str(text)
    return file.text


def _on_change(inputs: Inputs, before: Resource | None, problems: list[Problem]) -> Any:
    """A command that was given as a list stays one as long as nobody edits it: the form shows it as one line."""
    text = inputs.on_change.strip()
    if not text:
        return None
    if before is not None and of(before).on_change == text and of(before).timeout_s == inputs.timeout_s:
        return before["on_change"]
    if not inputs.timeout_s.strip():
        return text
    return {"command": text, "timeout_s": _whole(inputs.timeout_s, "/on_change/timeout_s", problems)}


def _whole(text: str, pointer: str, problems: list[Problem]) -> int:
    if re.fullmatch(r"\s*-?\d{1,9}\s*", text):
        return int(text)
    problems.append(Problem(pointer, "must be a whole number"))
    return 0


def placed(problems: Iterable[Problem], inputs: Inputs) -> dict[str, str]:
    """Problems by the input they belong to; `""` for what belongs to none. /files/0/content → file-0-text, /secrets/NAME → that of its
    row."""
    found: dict[str, str] = {}
    rows = {secret.name: number for number, secret in enumerate(inputs.secrets)}
    for problem in problems:
        name = _input(problem.pointer, rows)
        found[name] = f"{found[name]}; {problem.detail}" if name in found else problem.detail
    return found


def _input(pointer: str, secrets: Mapping[str, int]) -> str:
    match pointer.strip("/").split("/"):
        case ["secrets", number, ("name" | "value") as member]:
            return f"secret-{number}-{member}"
        case ["secrets", name] if name in secrets:
            return f"secret-{secrets[name]}-{'name' if not NAME.fullmatch(name) else 'value'}"
        case ["files", number, member, *_]:
            return f"file-{number}-{'text' if member in SOURCES else member}"
        case ["files", number]:
            return f"file-{number}-path"
        case ["on_change", "timeout_s"]:
            return "timeout_s"
        case [("name" | "title" | "labels" | "selector" | "priority" | "on_change" | "files") as name, *_]:
            return name
    return ""
