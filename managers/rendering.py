"""A config's files as they should be on a host: templates rendered, and the digest over the result.

Rendering happens in a child process (`managers.template_worker`) with a time limit a template, so that no template can stop or swell the
managers. Files without a template never go there. Called by the placement and host-config managers.

Source: contract.md section 4 (`template`, `digest`).
"""

import asyncio
import base64
import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inventory.applying import Config, Host
from inventory.templating import uses_secrets

log = logging.getLogger(__name__)

LIMIT_S = 1.0
"""For one template and host. An honest one takes less than a millisecond."""
START_S = 20.0
"""For the first answer of a new child, which has to import Jinja2 first."""
MAX_BYTES = 128 * 1024
"""Of all contents of a config (contract)."""
LINE_BYTES = 16 * MAX_BYTES
"""Longest answer: JSON may write a byte as six characters."""

_WORKER = Path(__file__).with_name("template_worker.py")


@dataclass(frozen=True, slots=True)
class RenderedFile:
    path: str
    content: bytes = field(repr=False)
    mode: str
    owner: str | None
    group: str | None
    secret: bool = False
    """Its template uses secrets."""

    def argument(self) -> dict[str, Any]:
        """As `config.apply` carries it; of one with secrets in it not what is in it (`managers.sealed_args`)."""
        content = {"secret": True} if self.secret else {"content": base64.b64encode(self.content).decode()}
        return {"path": self.path, **content, "mode": self.mode, "owner": self.owner, "group": self.group}


@dataclass(frozen=True, slots=True)
class Rendered:
    """`error`: why it could not be rendered; there are no files then, and the digest stands for that error."""

    files: tuple[RenderedFile, ...]
    digest: str
    error: str = ""
    salt: str = field(default="", repr=False)
    """Of the digest; empty where no file has secrets in it."""


def unrendered(error: str) -> Rendered:
    """Another error is another digest, so that it is told."""
    return Rendered((), "unrendered:" + hashlib.sha256(error.encode()).hexdigest()[:16], error)


@dataclass(frozen=True, slots=True)
class Job:
    """A config as it is to be on a host: of its files only those at `paths`."""

    config: Config
    host: Host
    paths: tuple[str, ...]


def digest_of(files: Iterable[RenderedFile], salt: str = "") -> str:
    """`sha256:` over the salt, if there is one, with a line end, and the sorted lines `path\\0mode\\0owner\\0group\\0sha256(content)\\n`:
    everybody may read the digest and most of the file, and would find a short secret by trying."""
    lines = sorted(
        f"{f.path}\0{f.mode}\0{f.owner or ''}\0{f.group or ''}\0{hashlib.sha256(f.content).hexdigest()}\n".encode() for f in files
    )
    return "sha256:" + hashlib.sha256(b"".join([f"{salt}\n".encode()] * bool(salt) + lines)).hexdigest()


class Renderer:
    """Renders configs; the child is started when the first template comes."""

    def __init__(self) -> None:
        self._sandbox = _Sandbox()
        self._fixed: dict[tuple[str, int, tuple[str, ...]], Rendered] = {}

    async def render(self, jobs: Sequence[Job]) -> list[Rendered]:
        """An answer a job, in their order."""
        found: list[Rendered | None] = [self._without_templates(job) for job in jobs]
        open_jobs = [job for job, known in zip(jobs, found, strict=True) if known is None]
        rendered = iter(await self._with_templates(open_jobs))
        return [known if known is not None else next(rendered) for known in found]

    async def close(self) -> None:
        await self._sandbox.close()

    def _without_templates(self, job: Job) -> Rendered | None:
        """Is the same on each host, and remembered. None where there is a template."""
        key = (job.config.id, job.config.version, job.paths)
        if key not in self._fixed:
            files = _files(job)
            if any(file.get("template") is not None for file in files):
                return None
            if len(self._fixed) >= 1000:
                self._fixed.clear()
            self._fixed[key] = _rendered([(file, file.get("content") or "") for file in files], "")
        return self._fixed[key]

    async def _with_templates(self, jobs: Sequence[Job]) -> list[Rendered]:
        asked = [_question(job, file["template"]) for job in jobs for file in _files(job) if file.get("template") is not None]
        answers = iter(await self._sandbox.ask(asked))
        return [_assemble(job, answers) for job in jobs]


def _files(job: Job) -> list[Mapping[str, Any]]:
    return [file for file in job.config.files if file["path"] in job.paths]


def _question(job: Job, template: str) -> Mapping[str, Any]:
    """To the worker. Only a template that names secrets is given them, and only such a one's errors are kept to their place."""
    context = {"host": job.host.fields, "labels": job.host.labels}
    secrets = {"secrets": job.config.secrets} if uses_secrets(template) else {}
    return {"template": template, "context": context, "limit": MAX_BYTES, **secrets}


def _assemble(job: Job, answers: Iterable[Mapping[str, str]]) -> Rendered:
    files, remaining = _files(job), iter(answers)
    contents: list[tuple[Mapping[str, Any], str]] = []
    error = ""
    for file in files:
        answer = {"text": file.get("content") or ""} if file.get("template") is None else next(remaining)
        error = error or (f"{file['path']}: {answer['error']}" if "error" in answer else "")
        contents.append((file, answer.get("text", "")))
    return unrendered(error) if error else _rendered(contents, job.config.salt)


def _rendered(contents: Sequence[tuple[Mapping[str, Any], str]], salt: str) -> Rendered:
    files = tuple(_file(file, text) for file, text in contents)
    size = sum(len(file.content) for file in files)
    if size > MAX_BYTES:
        return unrendered(f"the contents are {size} bytes, more than {MAX_BYTES}")
    salt = salt if any(file.secret for file in files) else ""
    return Rendered(files, digest_of(files, salt), salt=salt)


def _file(file: Mapping[str, Any], text: str) -> RenderedFile:
    secret = uses_secrets(file.get("template") or "")
    return RenderedFile(file["path"], text.encode(), file.get("mode") or "0644", file.get("owner"), file.get("group"), secret)


class _Sandbox:
    """The child process. One conversation at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def ask(self, jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, str]]:
        """An answer a job. A job that takes too long, or brings the child down, is answered with that."""
        async with self._lock:
            try:
                return [await self._one(job) for job in jobs]
            except asyncio.CancelledError:
                await self._kill()  # an answer on its way would be taken for the next one's
                raise

    async def _one(self, job: Mapping[str, Any]) -> Mapping[str, str]:
        process = self._process or await self._start()
        try:
            return await _converse(process, job, LIMIT_S)
        except TimeoutError:
            reason = f"it takes longer than {LIMIT_S:g} s"
        except (OSError, ValueError) as error:
            reason = f"it broke the renderer: {error}"
        await self._kill()
        return {"error": reason}

    async def _start(self) -> asyncio.subprocess.Process:
        """Ready once it has answered: the first answer waits for the import of Jinja2."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env={},
        )
        try:
            await _converse(self._process, {"template": "", "context": {}, "limit": 0}, START_S)
        except BaseException:
            await self._kill()
            raise
        log.info("template renderer started", extra={"pid": self._process.pid})
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        async with self._lock:
            await self._kill()


async def _converse(process: asyncio.subprocess.Process, job: Mapping[str, Any], limit_s: float) -> Mapping[str, str]:
    """One question, one answer. Raises TimeoutError, OSError, or ValueError for an answer that is none."""
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    async with asyncio.timeout(limit_s):
        process.stdin.write(json.dumps(job).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
    if not line:
        raise OSError("it ended")
    answer: Mapping[str, str] = json.loads(line)
    return answer
