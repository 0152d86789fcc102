"""Config: files that belong on every host its selector matches. Declarative; the config manager makes host-configs of it."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Bounds
from tortoise import fields

from inventory.errors import Problem
from inventory.kind import USER, Field, Kind, Nature, Scalar, Text
from inventory.rows import ResourceRow
from inventory.secret_field import secrets_field
from inventory.templating import parsed, secrets_used

MAX_CONTENT_BYTES = 128 * 1024
"""Of all files of a config together."""


class ConfigRow(ResourceRow):
    selector = fields.TextField()
    priority = fields.IntField(default=0)
    files: Any = fields.JSONField(default=list)
    on_change: Any = fields.JSONField(null=True)

    class Meta:
        table = "config"


def _absolute(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or "//" in path or any(part in (".", "..") for part in path.split("/")):
        raise ValueError("must be an absolute path of a file, without . or .. or doubled slashes")
    if any(ord(c) < 32 for c in path):
        raise ValueError("must not hold control characters")
    return path


def _parses(template: str) -> str:
    parsed(template)
    return template


MODE = re.compile(r"[0-7]{3,4}")
ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?|[0-9]{1,10}")


def _check_account(value: Any) -> Any:
    if isinstance(value, str) and not ACCOUNT.fullmatch(value):
        raise ValueError("must be the name of a user or group, or its number as a string")
    return value


def _check_mode(value: Any) -> Any:
    if not isinstance(value, str) or not MODE.fullmatch(value):
        raise ValueError('must be an octal string, such as "0644"')
    return value


Account = Annotated[str, BeforeValidator(_check_account), StringConstraints(pattern=f"^({ACCOUNT.pattern})$")]


class FileSpec(BaseModel):
    """A file: `path`, either `content` or `template`, and how it is to be kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: Annotated[Text, Bounds(min_length=2, max_length=1024), AfterValidator(_absolute)]
    content: Text | None = None
    template: Annotated[Text, AfterValidator(_parses)] | None = None
    mode: Annotated[str, BeforeValidator(_check_mode), StringConstraints(pattern=f"^({MODE.pattern})$")] = "0644"
    owner: Account | None = None
    group: Account | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "FileSpec":
        if (self.content is None) == (self.template is None):
            raise ValueError("needs either content or template, and not both")
        return self


class OnChange(BaseModel):
    """A command to run after any file changed; it must be safe to repeat. `command` is run by /bin/sh, or directly where it is a list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: Annotated[Text, Bounds(min_length=1, max_length=4096)] | Annotated[list[Text], Bounds(min_length=1, max_length=64)]
    timeout_s: Annotated[int, Bounds(ge=1, le=3600)] = 60


def _check_files(files: list[FileSpec]) -> list[FileSpec]:
    paths = [file.path for file in files]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is there twice")
    size = sum(len((file.content or file.template or "").encode()) for file in files)
    if size > MAX_CONTENT_BYTES:
        raise ValueError(f"the contents are {size} bytes, more than {MAX_CONTENT_BYTES}")
    return files


def _secrets_are_there(config: Mapping[str, Any]) -> Iterator[Problem]:
    """A template that names a secret which the config does not have could be rendered nowhere."""
    known = config.get("secrets") or {}
    for number, file in enumerate(config.get("files") or ()):
        for name in sorted(secrets_used(file.get("template") or "") - known.keys()):
            yield Problem(f"/files/{number}/template", f"uses secrets.{name}, which this config does not have: set it in secrets")


Files = Annotated[list[FileSpec], Bounds(max_length=256), AfterValidator(_check_files)]

CONFIG = Kind(
    name="config",
    collection="configs",
    prefix="conf",
    nature=Nature.DECLARATIVE,
    doc="Files that belong on every host that the selector matches.",
    creators=frozenset({USER}),
    manager="config",
    own_fields=(
        Field(
            name="selector",
            annotation=Annotated[Text, Bounds(max_length=8192)],
            scalar=Scalar.TEXT,
            owner=USER,
            required=True,
            nullable=False,
            intent=True,
            doc="A filter over hosts; the empty one matches all.",
            selects="host",
        ),
        Field(
            name="priority",
            annotation=Annotated[int, Bounds(ge=-1000, le=1000)],
            scalar=Scalar.INTEGER,
            owner=USER,
            default=0,
            nullable=False,
            intent=True,
            doc="Where two configs claim a path, the higher one wins; of equal ones, the older.",
        ),
        Field(
            name="files", annotation=Files, scalar=Scalar.JSON, owner=USER, default=[], nullable=False, intent=True, doc="What to place."
        ),
        Field(
            name="on_change",
            annotation=Annotated[Text, Bounds(min_length=1, max_length=4096)] | OnChange,
            scalar=Scalar.JSON,
            owner=USER,
            intent=True,
            doc="A command to run on the device after any of the files changed.",
        ),
        secrets_field(
            "Values that templates use as `secrets.NAME`: written, kept sealed and never shown. In their place stands {set, changed_at}; "
            "sent back, that keeps the value, a text replaces it, null removes it."
        ),
    ),
    columns=("name", "title", "selector", "priority"),
    wide_columns=("id", "labels", "generation", "updated_at"),
    verbs=("retry",),
    fits=_secrets_are_there,
)
