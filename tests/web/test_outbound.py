"""What the server fetches: from public addresses and named networks alone, wherever a name, a redirect or a later answer of DNS leads."""

import ast
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.broker.certificates import CertFactory
from web import outbound
from web.outbound import Refused, Transport, is_public, may_reach, networks

ROOT = Path(__file__).parents[2]
HERE = networks("127.0.0.1")
"""The one address of these tests that the server may reach; 127.0.0.2 is somebody else's."""

REFUSED = {
    "loopback": "127.0.0.1 127.8.9.10 ::1",
    "private": "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1",
    "unique local": "fc00::1 fd12:3456::1",
    "link-local, where clouds keep credentials": "169.254.169.254 fe80::1 fe80::1%1 fec0::1 fd00:ec2::254",
    "shared (CGNAT)": "100.64.0.1 100.127.255.255",
    "multicast": "224.0.0.1 239.255.255.250 ff02::1 ff0e::1",
    "unspecified, broadcast": "0.0.0.0 0.1.2.3 :: 255.255.255.255",
    "reserved, documentation, benchmarks": "192.0.0.8 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 240.0.0.1 2001:db8::1 3fff::1 100::1",
    "IPv4 inside IPv6": "::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1::",
    "relays and tunnels": "192.88.99.1 2001:0:4136:e378:8000:63bf:3fff:fdd2",
}
PUBLIC = "8.8.8.8 93.184.216.34 172.32.0.1 100.128.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::"


@pytest.mark.parametrize("kind", REFUSED)
def test_no_special_address_is_public(kind: str) -> None:
    """Of each kind, the first, the last or one that somebody would try."""
    assert [each for each in REFUSED[kind].split() if is_public(ipaddress.ip_address(each))] == []


def test_public_addresses_are() -> None:
    """In either protocol, and where a network translates."""
    assert [each for each in PUBLIC.split() if not is_public(ipaddress.ip_address(each))] == []


def test_a_named_network_opens_itself_and_nothing_beside_it() -> None:
    """Also for its addresses written as IPv6; an address alone is a network of one."""
    allowed = networks("10.1.2.0/24, fd00:12::/32,192.168.7.7")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:12::9", "192.168.7.7", "8.8.8.8"):
        assert may_reach(ipaddress.ip_address(address), allowed), address
    for address in ("10.1.3.1", "fd00:13::1", "192.168.7.8", "169.254.169.254", "::1"):
        assert not may_reach(ipaddress.ip_address(address), allowed), address
    for wrong in ("10.1.2.3/24", "example.org", "10.1.2.0/33"):
        with pytest.raises(ValueError, match=wrong.partition("/")[0]):
            networks(wrong)


# --- over a real connection ---------------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """A server that notes who was asked for what, and answers `status` with `headers`."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    heard: Heard

    def do_GET(self) -> None:
        self.heard.asked.append((self.headers["Host"], self.path))
        self.send_response(self.heard.status)
        for name, value in {**self.heard.headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _served(address: str, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Heard]:
    heard = Heard()
    server = ThreadingHTTPServer((address, port), type("Handler", (_Handler,), {"heard": heard}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    heard.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name=f"server at {address}")
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def ours() -> Iterator[Heard]:
    """Where the server may go: 127.0.0.1."""
    yield from _served("127.0.0.1")


@pytest.fixture
def theirs(ours: Heard) -> Iterator[Heard]:
    """Where it may not: 127.0.0.2, at the same port."""
    yield from _served("127.0.0.2", ours.port)


Names = Callable[..., list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """`names("id.test", "127.0.0.1", …)` makes DNS say that; several answers in turn are lists, none is no such name. Gives the list of
    what was looked up."""
    real, said, asked = socket.getaddrinfo, dict[str, list[list[str]]](), list[str]()

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        if host not in said:
            return real(host, *args, **more)
        asked.append(host)
        if not said[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answer = said[host].pop(0) if len(said[host]) > 1 else said[host][0]
        return [entry for address in answer for entry in real(address, *args, **more)]

    def say(name: str, *answers: str) -> list[str]:
        said[name] = [each.split() for each in answers]
        return asked

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return say


async def _get(url: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=Transport(HERE, outbound.trusted()), trust_env=False, timeout=10, **more) as client:
        return await client.get(url)


async def test_the_address_that_was_judged_is_the_one_that_is_asked(ours: Heard, theirs: Heard, names: Names) -> None:
    """A name that leads elsewhere at its next look-up is looked up once a request, and refused at the next."""
    looked_up = names("id.test", "127.0.0.1", "127.0.0.2")
    assert (await _get(f"http://id.test:{ours.port}/keys")).status_code == 200
    assert (looked_up, ours.asked) == (["id.test"], [(f"id.test:{ours.port}", "/keys")])
    with pytest.raises(Refused, match=r"id\.test leads to 127\.0\.0\.2, which is not a public address"):
        await _get(f"http://id.test:{ours.port}/keys")
    assert theirs.asked == []


async def test_of_several_addresses_only_what_may_be_reached_is_tried(ours: Heard, theirs: Heard, names: Names) -> None:
    """In the resolver's order; one that does not answer is passed over."""
    names("id.test", "127.0.0.2 ::1 127.0.0.1")
    assert (await _get(f"http://id.test:{ours.port}/")).status_code == 200
    assert (len(ours.asked), theirs.asked) == (1, [])
    names("two.test", "127.0.0.3 127.0.0.1")
    async with httpx.AsyncClient(transport=Transport(networks("127.0.0.1, 127.0.0.3"), outbound.trusted()), trust_env=False) as client:
        assert (await client.get(f"http://two.test:{ours.port}/")).status_code == 200
    names("nowhere.test")
    with pytest.raises(httpx.ConnectError):
        await _get("http://nowhere.test/")


async def test_however_an_address_is_written(theirs: Heard) -> None:
    """As one number, in hex, short, or inside IPv6: it is the address that counts. What is in octal is taken for no URL."""
    for host in ("127.0.0.2", "2130706434", "0x7f000002", "127.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "0"):
        with pytest.raises(Refused):
            await _get(f"http://{host}:{theirs.port}/")
    with pytest.raises(httpx.InvalidURL):
        await _get(f"http://0177.0.0.2:{theirs.port}/")
    assert theirs.asked == []


async def test_a_redirect_is_not_followed_or_judged_again(ours: Heard, theirs: Heard) -> None:
    """By default it is an answer like another; a client that follows is stopped at the next address."""
    ours.status, ours.headers = 302, {"Location": f"http://127.0.0.2:{theirs.port}/metadata"}
    assert (await _get(f"http://127.0.0.1:{ours.port}/")).status_code == 302
    with pytest.raises(Refused):
        await _get(f"http://127.0.0.1:{ours.port}/", follow_redirects=True)
    assert theirs.asked == []


async def test_a_proxy_of_the_environment_is_not_used(ours: Heard, theirs: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look the name up itself."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{theirs.port}")
    assert (await _get(f"http://127.0.0.1:{ours.port}/")).status_code == 200
    assert theirs.asked == []


async def test_tls_proves_the_name_and_not_the_address(tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of `localhost` is good for that name at its pinned address, and for no other name there."""
    CertFactory(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "broker.crt", tmp_path / "broker.key")
    for heard in _served("127.0.0.1", context=context):
        names("localhost", "127.0.0.1")
        names("id.test", "127.0.0.1")
        assert (await _get(f"https://localhost:{heard.port}/")).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await _get(f"https://id.test:{heard.port}/")


def test_nothing_else_of_the_server_fetches() -> None:
    """Whoever speaks HTTP to somebody does it here, or through here."""
    clients = {"httpx", "requests", "aiohttp", "urllib.request", "http.client", "urllib3", "authlib.integrations.httpx_client"}
    found = set()
    for package in ("broker", "inventory", "managers", "web"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                imported = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                imported += (
                    [node.module or "", *(f"{node.module}.{each.name}" for each in node.names)] if isinstance(node, ast.ImportFrom) else []
                )
                found |= {str(file.relative_to(ROOT)) for name in imported if name in clients}
    assert found == {"web/outbound.py", "web/providers.py"}
