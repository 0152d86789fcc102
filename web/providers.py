"""The identity provider that people may sign in by: OpenID Connect, code flow with PKCE, state and nonce.

`Provider` is what the installation says of it (environment or fleetward.toml; docs/people.md has the settings). `ProviderClient` speaks
with it: what it says of itself and its keys are asked for and kept an hour, and keys are asked for again where a token names one that is
not known. Who somebody is, is the pair of issuer and subject; name, title and role are read from claims at each sign-in, and whoever has
no role by the mapping does not get in. It opens no sessions: `web.provider_sign_in` does.

Source: OpenID Connect Core 1.0 section 3.1, Discovery 1.0; RFC 7636 (PKCE); RFC 9207 (issuer in the answer); RFC 9700 (OAuth security).
"""

import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from inventory.access import ROLES, checked_scope
from inventory.errors import Forbidden, Invalid, Unavailable
from inventory.users import NAME, Known
from web import outbound
from web.outbound import Network

KEPT_S: float = 3600.0
"""How long what a provider says of itself is kept, in seconds."""
TIMEOUT_S: float = 10.0
LEEWAY_S: int = 60
"""By how much its clock may be off, in seconds."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with the provider's own key; never `none`, nor one made with what we know ourselves (HS256)."""
ANYBODY = "*"
"""In the mapping of roles: whoever the provider signs in."""
VARIABLES = (
    "issuer",
    "client_id",
    "client_secret",
    "scopes",
    "name_claim",
    "role_claim",
    "roles",
    "title",
    "redirect",
    "networks",
    "first_scope",
)
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
"""What a provider has to say of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """issuer: its URL. roles: pairs of a value of `role_claim` and the role that it gives. title: what its button says. redirect: the
    URL that it sends people back to, where that is not this server's as people's browsers name it. networks: where it may stand besides
    the internet. first_scope: the filter of hosts that whoever comes for the first time may see, but for administrators; empty: all."""

    issuer: str
    client_id: str
    client_secret: str
    roles: tuple[tuple[str, str], ...]
    scopes: str = "openid profile email"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    title: str = "single sign-on"
    redirect: str | None = None
    networks: tuple[Network, ...] = ()
    first_scope: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Provider | None":
        """From FLEETWARD_OIDC_…; None without an issuer. Raises ValueError naming the variable."""
        given = {name: environment.get(f"FLEETWARD_OIDC_{name.upper()}", "").strip() for name in VARIABLES}
        given = {name: value for name, value in given.items() if value}
        if not given:
            return None
        for name in ("issuer", "client_id", "client_secret", "roles"):
            if name not in given:
                raise ValueError(f"FLEETWARD_OIDC_{name.upper()} is missing: signing in by an identity provider needs it")
        allowed = _networks(given.pop("networks", ""))
        _check_url("FLEETWARD_OIDC_ISSUER", given["issuer"])
        _check_reach(given["issuer"], allowed)
        _check_scope(given.get("first_scope", ""))
        return cls(roles=_roles(given.pop("roles")), networks=allowed, **given)

    def role_of(self, claims: Mapping[str, Any]) -> str | None:
        """The highest role that the claim gives; None: they may not sign in."""
        found = claim(claims, self.role_claim)
        values = {str(each) for each in (found if isinstance(found, list) else [found]) if each is not None} | {ANYBODY}
        given = [role for value, role in self.roles if value in values]
        return max(given, key=ROLES.index, default=None)

    def known(self, claims: Mapping[str, Any]) -> Known:
        """Raises Unwelcome where there is no role, or no name that can be one."""
        role, subject = self.role_of(claims), str(claims["sub"])
        if role is None:
            raise Unwelcome(f"the identity provider gives you no role here: nothing in {self.role_claim} is mapped to one", subject)
        name = str(claim(claims, self.name_claim) or claims.get("email") or claims["sub"]).lower()
        if not re.fullmatch(NAME, name):
            raise Unwelcome(f"the identity provider's {self.name_claim} can be no name here: {name[:64]!r}", subject)
        title = "".join(each for each in str(claims.get("name") or "") if each.isprintable())[:256]
        return Known(self.issuer, subject, name, title, role, "" if role == ROLES[-1] else self.first_scope)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """By its name, or, with dots, inside another one, such as `realm_access.roles`."""
    if path in claims:
        return claims[path]
    head, _, rest = path.partition(".")
    inner = claims.get(head)
    return claim(inner, rest) if rest and isinstance(inner, Mapping) else None


def _roles(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        value, equals, role = (each.strip() for each in part.rpartition("="))
        if not equals or not value or role not in ROLES:
            raise ValueError(
                f"FLEETWARD_OIDC_ROLES: must be VALUE=ROLE with commas between, a role being one of {', '.join(ROLES)}; not {part!r}"
            )
        found.append((value, role))
    return tuple(found)


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return outbound.networks(text)
    except ValueError as error:
        raise ValueError(
            f"FLEETWARD_OIDC_NETWORKS: must be addresses or networks such as 10.1.0.0/16, with commas between: {error}"
        ) from None


def _check_url(name: str, url: str) -> None:
    """HTTPS, but for this machine itself. Raises ValueError."""
    parts = urlsplit(url)
    address = _literal(url)
    local = address is not None and address.is_loopback
    if not parts.hostname or parts.scheme not in (("https", "http") if local else ("https",)):
        raise ValueError(f"{name}: must be an https:// URL, not {url!r}")


def _check_reach(issuer: str, allowed: tuple[Network, ...]) -> None:
    """What can be seen at the start already: a name is looked up when it is needed. Raises ValueError."""
    address = _literal(issuer)
    if address is not None and not outbound.may_reach(address, allowed):
        raise ValueError(
            f"FLEETWARD_OIDC_ISSUER: {address} is not a public address: allow it, or the network that it is in, by FLEETWARD_OIDC_NETWORKS"
        )


def _check_scope(scope: str) -> None:
    """Raises ValueError."""
    try:
        checked_scope(scope)
    except Invalid as error:
        raise ValueError(f"FLEETWARD_OIDC_FIRST_SCOPE: must be a filter of hosts: {error.errors[0].detail}") from None


def _literal(url: str) -> outbound.Address | None:
    """The address that a URL names; None where it has a name."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Sent:
    """Somebody on their way to the provider: where to, and what has to be remembered until they come back."""

    url: str
    state: str
    nonce: str
    verifier: str
    redirect: str


class Refused(Forbidden):
    """The provider's answer is not one that may be believed; the text is for the log."""


class Unwelcome(Forbidden):
    """The provider vouches for somebody, `subject`, who may not come in all the same."""

    def __init__(self, detail: str, subject: str) -> None:
        super().__init__(detail)
        self.subject = subject


class ProviderClient:
    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, Any] | None = None
        self._trust = outbound.trusted()

    async def begin(self, redirect: str) -> Sent:
        """Raises Unavailable."""
        metadata = await self._metadata_now()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        async with self._oauth(redirect) as client:
            url, _ = client.create_authorization_url(metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier)
        return Sent(url, state, nonce, verifier, redirect)

    async def finish(self, sent: Mapping[str, Any], answered: Mapping[str, str]) -> Known:
        """Who has come back. sent: what was remembered (`Sent`). answered: the query that they came back with. Raises Refused, Unwelcome,
        Unavailable."""
        if not hmac.compare_digest(answered.get("state", "").encode(), str(sent.get("state", "")).encode()) or not answered.get("state"):
            raise Refused("the state is not the one that this browser was sent away with")
        if "error" in answered:
            raise Refused(f"the provider says {answered['error'][:64]}: {answered.get('error_description', '')[:256]}")
        if answered.get("iss", self.provider.issuer) != self.provider.issuer:
            raise Refused("the answer is another provider's")
        token = await self._redeem(sent, answered.get("code", ""))
        return self.provider.known(await self._claims(token, str(sent["nonce"])))

    def _oauth(self, redirect: str) -> Any:
        # Most processes and most sign-ins never need it, and it takes a tenth of a second to load.
        from authlib.integrations.httpx_client import AsyncOAuth2Client

        provider = self.provider
        return AsyncOAuth2Client(
            provider.client_id,
            provider.client_secret,
            scope=provider.scopes,
            redirect_uri=redirect,
            code_challenge_method="S256",
            timeout=TIMEOUT_S,
            transport=self._transport(),
            trust_env=False,
        )

    def _transport(self) -> outbound.Transport:
        return outbound.Transport(self.provider.networks, self._trust)

    async def _redeem(self, sent: Mapping[str, Any], code: str) -> dict[str, Any]:
        from authlib.integrations.base_client import OAuthError

        metadata = await self._metadata_now()
        try:
            async with self._oauth(sent["redirect"]) as client:
                token = await client.fetch_token(metadata["token_endpoint"], code=code, code_verifier=sent["verifier"])
        except OAuthError as error:
            raise Refused(f"the provider did not take the code: {error}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise _away(error) from error
        return dict(token)

    async def _claims(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """What the ID token says, after all checks of OpenID Connect Core section 3.1.3.7."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        if not isinstance(token.get("id_token"), str):
            raise Refused("the provider sent no ID token")
        provider = self.provider
        options = {
            "iss": {"essential": True, "value": provider.issuer},
            "aud": {"essential": True, "value": provider.client_id},
            "sub": {"essential": True},
        }
        params = {"nonce": nonce, "client_id": provider.client_id, "access_token": token.get("access_token")}
        try:
            decoded = await self._decoded(jwt.decode, token["id_token"])
            CodeIDToken(decoded.claims, decoded.header, options, params).validate(leeway=LEEWAY_S)
        except (JoseError, ValueError) as error:
            raise Refused(f"the ID token is not to be believed: {type(error).__name__}: {error}") from error
        return dict(decoded.claims)

    async def _decoded(self, decode: Any, token: str) -> Any:
        """Once more with fresh keys where no known one fits: providers change them."""
        from joserfc.errors import JoseError

        try:
            return decode(token, await self._keys_now(), algorithms=list(ALGORITHMS))
        except (JoseError, ValueError):
            self._keys = None
            return decode(token, await self._keys_now(), algorithms=list(ALGORITHMS))

    async def _metadata_now(self) -> dict[str, Any]:
        if self._metadata is None or time.monotonic() - self._metadata[0] > KEPT_S:
            found = await self._fetch(self.provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
            missing = [name for name in ENDPOINTS if not isinstance(found.get(name), str)]
            if found.get("issuer") != self.provider.issuer or missing:
                raise Unavailable(f"{self.provider.issuer} does not describe itself as that provider: check FLEETWARD_OIDC_ISSUER")
            try:
                for name in ENDPOINTS:
                    _check_url(name, found[name])
            except ValueError as error:
                raise Unavailable(f"what {self.provider.issuer} says of itself is not to be used: {error}") from error
            self._metadata = (time.monotonic(), found)
        return self._metadata[1]

    async def _keys_now(self) -> Any:
        from joserfc.jwk import KeySet

        if self._keys is None or time.monotonic() - self._keys[0] > KEPT_S:
            metadata = await self._metadata_now()
            self._keys = (time.monotonic(), KeySet.import_key_set(await self._fetch(metadata["jwks_uri"])))  # type: ignore[arg-type]
        return self._keys[1]

    async def _fetch(self, url: str) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport(), trust_env=False) as client:
                answer = await client.get(url, headers={"Accept": "application/json"})
                answer.raise_for_status()
                found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise _away(error) from error
        if not isinstance(found, dict):
            raise Unavailable("the identity provider does not answer with JSON objects")
        return found


def _away(error: Exception) -> Unavailable:
    """What to do about a refusal of our own is said; what else a provider's errors say is not for us to repeat."""
    if isinstance(error, outbound.Refused):
        return Unavailable(
            f"the identity provider may not be asked: {error}: allow its network by FLEETWARD_OIDC_NETWORKS (docs/people.md)"
        )
    return Unavailable(f"the identity provider does not answer: {type(error).__name__}")
