"""What the server asks for over HTTP by itself: only from public addresses, and from networks that the owner has named.

A URL may come from somebody else, as those in an identity provider's description of itself do, and a name may lead anywhere, elsewhere at
each look-up. So the name is looked up here, once a request, each address is judged, and the connection goes to an address that was judged;
TLS still proves the name. Redirects are not followed, and proxies of the environment are not used: they would look names up themselves.
What a browser is sent to is not for here. `web.providers` uses it; nothing else of the server fetches URLs (tests/web/test_outbound.py).

Source: OWASP Server-Side Request Forgery Prevention; RFC 6890 (special addresses), RFC 4291 and 6052 (IPv4 inside IPv6).
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")
"""What of IPv6 is given out at all."""
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""Behind it, where a network has only IPv6, is IPv4 (RFC 6052)."""
_SPECIAL: tuple[Network, ...] = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))
"""Of the registries of special addresses, what Python 3.11 takes for public."""


class Refused(httpx.RequestError):
    """Nothing was sent: the name leads to no address that the server may reach."""


def unwrapped(address: Address) -> Address:
    """The IPv4 address that a packet to an IPv6 one ends at, where it is such a one (mapped, translated, 6to4)."""
    if isinstance(address, IPv4Address):
        return address
    translated = IPv4Address(int(address) & 0xFFFF_FFFF) if address in _TRANSLATED else None
    return address.ipv4_mapped or translated or address.sixtofour or address


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may have it: no loopback, private, link-local, shared, multicast or reserved one."""
    at = unwrapped(address)
    if not at.is_global or at.is_multicast or any(at in network for network in _SPECIAL):
        return False
    return isinstance(at, IPv4Address) or (at in _UNICAST and at.teredo is None)


def may_reach(address: Address, allowed: Sequence[Network]) -> bool:
    at = unwrapped(address)
    return is_public(at) or any(at in network for network in allowed)


def networks(text: str) -> tuple[Network, ...]:
    """From addresses and networks with commas between, such as `10.1.2.3, fd00:12::/32`. Raises ValueError naming the part."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def trusted() -> ssl.SSLContext:
    """Whose certificates are believed: the usual authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR."""
    return httpx.create_ssl_context()


class Transport(httpx.AsyncBaseTransport):
    """For an `httpx.AsyncClient(transport=…)`. allowed: networks that need not be public. trust: as `trusted` makes it; making one takes
    some 30 ms."""

    def __init__(self, allowed: Sequence[Network], trust: ssl.SSLContext) -> None:
        self._allowed = tuple(allowed)
        # A connection belongs to one request: kept ones are found again by their address, which two names may have.
        self._inner = httpx.AsyncHTTPTransport(verify=trust, limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises Refused, or what httpx raises; the addresses are tried in the resolver's order."""
        name = request.url.host
        found = await _look_up(name, request)
        reachable = [each for each in found if may_reach(each, self._allowed)]
        if not reachable:
            raise Refused(f"{name} leads to {', '.join(map(str, found))}, which is not a public address", request=request)
        for address in reachable[:-1]:
            try:
                return await self._ask(request, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._ask(request, reachable[-1])

    async def _ask(self, request: httpx.Request, address: Address) -> httpx.Response:
        """At that address, and nowhere else. The Host header says the name already."""
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": request.url.host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _look_up(name: str, request: httpx.Request) -> list[Address]:
    """The addresses of a name, or of what is one already however it is written. Raises httpx.ConnectError or ConnectTimeout."""
    limit = request.extensions.get("timeout", {}).get("connect")
    try:
        async with asyncio.timeout(limit):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"looking up {name} took too long", request=request) from error
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{name} can't be looked up: {error}", request=request) from error
    return list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found))
