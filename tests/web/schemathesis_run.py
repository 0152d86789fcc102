"""Schemathesis against a web process: every operation of the OpenAPI document, all of its checks, as one of those who may come.

Schemathesis runs as a process of its own, told by a `schemathesis.toml` that is written for the run. So that it gets further than "there is
no such resource", the site has one of everything that a user makes, and the names of these are among what it tries. What a check can't
know about this API is said here, each exception with its reason. `test_fuzz.py` runs it.

Source: https://schemathesis.readthedocs.io, configuration reference.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from web.openapi import document

ROLES: tuple[str | None, ...] = ("viewer", "operator", "admin", None)
"""None: nobody in particular."""

MADE: dict[str, dict[str, object]] = {
    "regions": {"name": "north"},
    "sites": {"name": "plant", "region": "north", "timezone": "Europe/Berlin"},
    "hosts": {"name": "press", "site": "plant", "labels": {"line": "4"}},
    "configs": {
        "name": "motd",
        "selector": "labels.line = 4",
        "files": [{"path": "/etc/motd", "content": "hi"}],
        "secrets": {"key": "hidden"},
    },
    "enrollment-tokens": {"name": "line-4"},
    "users": {"name": "ann", "role": "viewer"},
    "api-tokens": {"name": "ci", "role": "viewer"},
}
"""One of each, by collection, in the order in which they can be made."""

OFTEN = 0.7
"""How often one of them is what a path names, and not something made up."""


@dataclass(frozen=True, slots=True)
class Size:
    """examples: of each operation. phases: as Schemathesis calls them. seed: None for another one each time. longest_s: it goes on until
    then, with further examples; None: one pass. every: it is one operation of so many, other ones for each role."""

    examples: int
    phases: tuple[str, ...]
    seed: int | None = None
    longest_s: int | None = None
    every: int = 1


SHORT = Size(examples=2, phases=("fuzzing",), seed=1, every=8)
FULL = Size(examples=50, phases=("examples", "coverage", "fuzzing", "stateful"), longest_s=240)


def furnish(client: httpx.Client) -> None:
    """Make one of everything."""
    for collection, body in MADE.items():
        answer = client.post(f"/api/v1/{collection}", json=body)
        assert answer.status_code == 201, answer.text


def configuration(url: str, role: str | None) -> str:
    """The text of `schemathesis.toml`."""
    lines = [f'base-url = "{url}"', "continue-on-failure = true", "warnings = false", "request-timeout = 20", "max-stream-events = 2"]
    lines += [] if role is None else ["[headers]", f'Authorization = "Bearer {role}"']
    for collection, body in MADE.items():
        lines += [f"[dictionaries.{collection}]", f'values = ["{body["name"]}"]']
    lines += EXCEPTIONS
    for collection in MADE:
        binding = f'{{ dictionary = "{collection}", probability = {OFTEN} }}'
        lines += ["[[operations]]", f'include-path-regex = "^/api/v1/{collection}/"', f'parameters = {{ "path.ref" = {binding} }}']
    return "\n".join(lines) + "\n"


EXCEPTIONS = [
    "[checks.positive_data_acceptance]",
    # What the schema allows may still be refused for what there is: names that are taken, references to nothing, states that forbid it.
    'expected-statuses = ["2xx", "303", "400", "401", "403", "404", "409", "410", "412", "413", "415", "422", "429"]',
    "[checks.negative_data_rejection]",
    # Past 1 MiB a body is refused unread, whatever is in it.
    'expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]',
    # DELETE of `hosts/press:retry` is DELETE of a host of that name, which there can't be: refused as that, and not for its method. And
    # GET of `/login` is the page with the form, which is no part of the API.
    "[[operations]]",
    'include-path-regex = "/{ref}:|^/login$"',
    "checks.unsupported_method.enabled = false",
    "checks.allow_header_conformance.enabled = false",
]


def operations() -> list[str]:
    """The ids of all, in the document's order."""
    return [each["operationId"] for item in document()["paths"].values() for each in item.values() if "operationId" in each]


def command(directory: Path, url: str, role: str | None, size: Size) -> list[str]:
    """With the configuration written below `directory`."""
    file = directory / "schemathesis.toml"
    file.write_text(configuration(url, role))
    words = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(file), "run", f"{url}/api/v1/openapi.json"]
    words += ["--no-color", "--generation-database", "none", "--phases", ",".join(size.phases), "--max-examples", str(size.examples)]
    words += [] if size.seed is None else ["--seed", str(size.seed)]
    words += (
        [] if size.every == 1 else [part for id in operations()[ROLES.index(role) :: size.every] for part in ("--include-operation-id", id)]
    )
    return words + ([] if size.longest_s is None else ["--max-time", str(size.longest_s)])


def run(directory: Path, url: str, role: str | None, size: Size) -> "subprocess.CompletedProcess[str]":
    """Its exit code is 0 where every check held; its output says what did not, with the seed and a curl command for each."""
    words = command(directory, url, role, size)
    return subprocess.run(words, capture_output=True, text=True, cwd=directory, timeout=(size.longest_s or 60) + 300, check=False)
