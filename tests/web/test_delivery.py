"""What the server hands out: wheels that are whole and always the same, and a script that nothing from outside gets into."""

import hashlib
import re
import subprocess
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from inventory.authority import Authority
from tests.web.site_under_test import Site, running
from web.delivery import wheels
from web.delivery.platforms import platforms
from web.delivery.script import Server, build, render
from web.delivery.wheels import NEEDED, Tag, Wheel, is_wheel, pack_all, tag_of


@pytest.fixture(scope="module")
def packed() -> tuple[Wheel, ...]:
    return pack_all()


def _closure(name: str) -> set[str]:
    found: set[str] = set()
    for need in map(Requirement, distribution(name).requires or []):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            found |= {need.name.lower(), *_closure(need.name)}
    return found


def test_all_that_the_agent_needs_goes_along() -> None:
    """The list is what the distributions say themselves, and what they need in turn."""
    assert set(NEEDED) == _closure("fleetward")


def test_wheels_are_whole(packed: tuple[Wheel, ...]) -> None:
    """Each file has the hash that its RECORD says, all files are listed, and the name says what stands in WHEEL."""
    for wheel in packed:
        archive = zipfile.ZipFile(BytesIO(wheel.content))
        [record] = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        listed = {line.split(",")[0]: line.split(",")[1] for line in archive.read(record).decode().splitlines()}
        assert listed.keys() == set(archive.namelist()) and is_wheel(wheel.name)
        for name, digest in listed.items():
            assert name == record or digest == f"sha256={wheels._digest(archive.read(name))}"
        assert not [name for name in archive.namelist() if name.endswith(".pyc") or name.startswith(("/", ".."))]


def test_the_agents_wheel_has_nothing_of_the_server(packed: tuple[Wheel, ...]) -> None:
    """The agent, and the wire contract that it stands on."""
    names = zipfile.ZipFile(BytesIO(packed[0].content)).namelist()
    assert {name for name in names if name.startswith("broker/")} == {"broker/__init__.py", "broker/messages.py", "broker/topics.py"}
    assert {name.split("/")[0] for name in names} == {
        "broker",
        "edge_agent",
        f"fleetward_agent-{distribution('fleetward').version}.dist-info",
    }
    assert "edge_agent/appliers/registry.py" in names


def test_the_same_files_make_the_same_bytes(packed: tuple[Wheel, ...]) -> None:
    """Another replica may answer the next request."""
    assert [wheel.sha256 for wheel in pack_all()] == [wheel.sha256 for wheel in packed]


def test_platforms_in_words() -> None:
    """By machine; the Python that the most particular wheel needs; the oldest glibc that will do for all."""
    names = (
        "a-1-py3-none-any.whl",
        "b-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "c-1-cp311-abi3-manylinux_2_34_x86_64.whl",
        "d-1-cp39-abi3-manylinux_2_28_aarch64.whl",
        "b-1-cp313-cp313-manylinux2014_aarch64.manylinux_2_17_aarch64.whl",
        "e-1-cp312-cp312-musllinux_1_2_x86_64.whl",
    )
    tags = [tag_of(name) for name in names]
    assert platforms(tags) == [
        "CPython 3.13 on Linux aarch64 with glibc 2.28 or newer",
        "CPython 3.11 on Linux x86_64 with glibc 2.34 or newer",
        "CPython 3.12 on Linux x86_64 (musl)",
    ]
    assert Tag("py3", "none", "any").anywhere


@pytest.fixture
def site_with_ca(web_url: str, tmp_path: Path) -> Iterator[Site]:
    Authority(tmp_path / "secrets").bootstrap()
    (tmp_path / "wheels").mkdir()
    with running(web_url, secrets=tmp_path / "secrets", wheels=tmp_path / "wheels") as site:
        yield site


def test_what_is_listed_is_served(site_with_ca: Site, tmp_path: Path) -> None:
    """Each link has the hash of what it leads to; wheels for other platforms are there as soon as they lie in the directory."""
    other = "psutil-7.2.2-cp36-abi3-manylinux_2_28_aarch64.whl"
    (tmp_path / "wheels" / other).write_bytes(b"of another platform")
    (tmp_path / "wheels" / "notes.whl").write_bytes(b"no wheel")
    with site_with_ca.client(None) as client:
        links = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', client.get("/install/wheels/").text)
        assert other in dict(links) and "notes.whl" not in dict(links) and len(links) >= len(NEEDED) + 2
        for name, digest in links:
            assert hashlib.sha256(client.get(f"/install/wheels/{name}").content).hexdigest() == digest
        assert client.get("/install/wheels/..%2f..%2finstall.sh").status_code == 404
        assert client.get("/install/wheels/psutil-9-py3-none-any.whl").status_code == 404


def test_the_script_pins_the_ca(site_with_ca: Site, tmp_path: Path) -> None:
    """Its fingerprint and itself stand in it; a shell can read it; it carries no token."""
    authority = Authority(tmp_path / "secrets")
    with site_with_ca.client(None) as client:
        answer = client.get("/install.sh")
    assert answer.headers["Content-Type"].startswith("text/x-shellscript") and answer.text.startswith("#!/bin/sh\n")
    assert f"CA_FINGERPRINT={authority.ca_fingerprint}\n" in answer.text and authority.ca_pem in answer.text
    assert f"SERVER={site_with_ca.url}\n" in answer.text
    assert subprocess.run(["sh", "-n"], input=answer.text, text=True).returncode == 0
    shown = subprocess.run(["sh", "-s", "--", "--help"], input=answer.text, text=True, capture_output=True)
    assert shown.returncode == 0 and f"{site_with_ca.url}/enroll has it to copy" in shown.stdout, "a bare curl would not trust this server"


@pytest.mark.parametrize("host", ["x;reboot", "$(reboot)", "a b", "evil.example/`id`", "x'", 'x"', "a\\b", "user@x", "x?y"])
def test_a_host_header_gets_into_no_script(site_with_ca: Site, host: str) -> None:
    """What can be no name is refused; nothing of it is sent back as code."""
    with site_with_ca.client(None) as client:
        answer = client.get("/install.sh", headers={"Host": host})
    assert answer.status_code == 400


def test_whatever_it_is_filled_with_is_one_word() -> None:
    """Even where nobody has checked it before."""
    hostile = "x'; touch /tmp/owned; echo '"
    wheel = Wheel("fleetward_agent-0.1.0-py3-none-any.whl", b"x")
    text = render(Server("https://fleet.example", hostile, hostile), [wheel])
    head = text.split("# Everything is in functions")[0]
    shown = subprocess.run(["sh", "-c", head + 'printf %s "$CA_PEM"'], capture_output=True, text=True, check=True).stdout
    assert shown == hostile and not Path("/tmp/owned").exists()
    assert build([wheel]) != build([Wheel(wheel.name, b"y")])


def test_what_comes_for_another_machine_is_no_other_build() -> None:
    """A device installs anew what is another build, and only wheels that may go onto it make one."""
    mine = [Wheel(name, b"1") for name in ("a-1-py3-none-any.whl", "b-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")]
    others = [
        Wheel(f"b-1-cp311-cp311-{platform}.whl", b"2") for platform in ("manylinux2014_aarch64", "musllinux_1_2_aarch64", "linux_armv7l")
    ]
    assert [wheel.tag.machine for wheel in mine + others] == ["", "x86_64", "aarch64", "aarch64", "armv7l"]
    assert build([*mine, *others], "x86_64") == build(mine, "x86_64") != build([*mine, Wheel(mine[1].name, b"3")], "x86_64")
    assert build([*mine, *others], "aarch64") != build([*mine, others[0]], "aarch64") and build([*mine, *others]) != build(mine)


def test_an_unknown_query_is_refused(site_with_ca: Site) -> None:
    """A token in the address would be in somebody's log."""
    with site_with_ca.client(None) as client:
        assert client.get("/install.sh?token=fwt_x").status_code == 400
