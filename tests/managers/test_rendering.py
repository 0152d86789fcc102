"""Templates in their sandboxed process, and the digest that server and device must agree on."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from edge_agent.appliers.config import digest_of as device_digest
from inventory.applying import Config, Host
from managers import rendering
from managers.rendering import LIMIT_S, Job, RenderedFile, Renderer, digest_of

HOST = Host("host-1", "press-4", True, {"name": "press-4", "cpu_cores": 8, "vendor": None}, {"line": "4", "country": "de"})


def job(*files: dict[str, Any], host: Host = HOST, version: int = 1) -> Job:
    config = Config("conf-1", "motd", version, 1, "", 0, files, None, datetime(2026, 1, 1, tzinfo=UTC), False)
    return Job(config, host, tuple(file["path"] for file in files))


def template(text: str) -> dict[str, Any]:
    return {"path": "/etc/x", "template": text, "mode": "0644", "owner": None, "group": None}


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    renderer = Renderer()
    yield renderer
    await renderer.close()


async def render(renderer: Renderer, text: str) -> str:
    """The content, or the error after `!`."""
    [found] = await renderer.render([job(template(text))])
    return f"!{found.error}" if found.error else found.files[0].content.decode()


async def test_templates_have_the_host_and_its_labels(renderer: Renderer) -> None:
    """And Jinja2 as it is known: conditions, loops, filters; the last newline stays."""
    text = "{% if host.cpu_cores > 4 %}big{% endif %} {{ labels.line }} {{ labels | dictsort | join(',', attribute='0') }}\n"
    assert await render(renderer, text) == "big 4 country,line\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ labels.nowhere }}", "no attribute 'nowhere'"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{% if %}", "line 1"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ host.update({'a': 1}) }}", "'update' of 'dict' object is unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ 'a' * 200000 }}", "more than 131072 bytes"),
        ("{{ 'a' * 10 ** 10 }}", "memory"),
    ],
)
async def test_what_goes_wrong_is_said(renderer: Renderer, text: str, said: str) -> None:
    """Each with a reason; and the next template renders all the same."""
    assert said in await render(renderer, text)
    assert await render(renderer, "{{ host.name }}") == "press-4"


async def test_one_that_takes_too_long_is_ended(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second; and the next template renders all the same."""
    with monkeypatch.context() as patched:
        patched.setattr(rendering, "LIMIT_S", LIMIT_S)
        said = await render(renderer, "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert "longer than 1 s" in said
    assert await render(renderer, "{{ host.name }}") == "press-4"


async def test_another_error_is_another_digest(renderer: Renderer) -> None:
    """So that a template that is still wrong after an edit says what is wrong now."""
    first, second = await renderer.render([job(template("{{ a }}")), job(template("{{ b }}"), version=2)])
    assert first.digest != second.digest
    assert first.digest.startswith("unrendered:")


async def test_files_without_templates_need_no_process(renderer: Renderer) -> None:
    """Their content goes as it is, braces included, and is the same on all hosts."""
    content = "{{ not a template }}\r\n"
    [found] = await renderer.render([job({"path": "/etc/x", "content": content, "mode": "0600", "owner": "root", "group": None})])
    assert found.files == (RenderedFile("/etc/x", content.encode(), "0600", "root", None),)


async def test_only_the_paths_asked_for_are_rendered(renderer: Renderer) -> None:
    """A path that another config holds is left out, and its template is not even looked at."""
    full = job(template("{{ nothing }}"), {"path": "/etc/y", "content": "y"})
    [found] = await renderer.render([Job(full.config, HOST, ("/etc/y",))])
    assert [file.path for file in found.files] == ["/etc/y"]


def test_server_and_device_agree_on_the_digest() -> None:
    """Two implementations of contract.md section 4, on purpose: the agent checks what it gets."""
    files = [
        RenderedFile("/etc/b", b"two\n", "0644", "root", None),
        RenderedFile("/etc/a", b"\x00\xff", "0600", None, "adm"),
        RenderedFile("/etc/ä", "ü".encode(), "755", None, None),
    ]
    assert digest_of(files) == device_digest([(f.path, f.mode, f.owner, f.group, f.content) for f in files])
    assert digest_of(files) == digest_of(reversed(files))
    assert digest_of([]) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
