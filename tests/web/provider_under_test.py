"""An OpenID provider for one test: it listens on loopback, lets everybody in as the test says, and checks what a provider has to check.

It verifies the client's secret, the redirect URI, PKCE (S256) and that a code is used once; a test may have it lie in any claim, sign with
another key, or not sign at all. Source: OpenID Connect Core 1.0 section 3.1, RFC 7636.
"""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from web.outbound import networks
from web.providers import Provider

CLIENT_ID, CLIENT_SECRET = "fleetward", "a secret of the client & with %signs"


@dataclass
class Op:
    """claims: what the next ID token says beside the usual. sign_with: another key than the published one; unsigned: none at all."""

    issuer: str = ""
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sub": "42", "preferred_username": "ann", "name": "Ann Example", "groups": ["ops"]}
    )
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "1", "alg": "ES256", "use": "sig"}))
    sign_with: ECKey | None = None
    unsigned: bool = False
    answer: dict[str, str] = field(default_factory=dict)
    """Added to what the browser comes back with."""
    described: dict[str, str] = field(default_factory=dict)
    """Added to what it says of itself."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    """Why it did not redeem a code."""

    def settings(self, **more: Any) -> Provider:
        """How the installation knows it; it may be reached although it is not public."""
        usual = {"roles": (("fleet-admins", "admin"), ("ops", "operator")), "networks": networks("127.0.0.1")}
        return Provider(issuer=self.issuer, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, **(usual | more))

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"], "iss": self.issuer} | self.answer)

    def redeem(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        asked = self.codes.pop(form.get("code", ""), None)
        wanted = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).decode().rstrip("=")
        checks = {
            "code": asked is not None,
            "client": authorization == wanted,
            "redirect": asked is not None and asked["redirect_uri"] == form.get("redirect_uri"),
            "pkce": asked is not None and asked.get("code_challenge_method") == "S256" and asked["code_challenge"] == challenge,
        }
        self.refused += [name for name, passed in checks.items() if not passed]
        if asked is None or not all(checks.values()):
            return None
        return {"access_token": "opaque", "token_type": "Bearer", "expires_in": 60, "id_token": self.id_token(asked.get("nonce", ""))}

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 60, "nonce": nonce} | self.claims
        if self.unsigned:
            parts = ({"alg": "none"}, claims)
            return ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts) + "."
        return jwt.encode({"alg": "ES256", "kid": "1"}, claims, self.sign_with or self.key)


class _Handler(BaseHTTPRequestHandler):
    op: Op

    def do_GET(self) -> None:
        parts, op = urlsplit(self.path), self.op
        match parts.path:
            case "/.well-known/openid-configuration":
                at = {name: f"{op.issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
                self._json({"issuer": op.issuer, **at, **op.described})
            case "/jwks_uri":
                self._json(dict(KeySet([op.key]).as_dict(private=False)))
            case "/authorization_endpoint":
                self.send_response(302)
                self.send_header("Location", op.authorize({name: values[0] for name, values in parse_qs(parts.query).items()}))
                self.send_header("Content-Length", "0")
                self.end_headers()
            case _:
                self._json({"error": "not_found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        found = self.op.redeem({name: values[0] for name, values in parse_qs(body).items()}, self.headers.get("Authorization", ""))
        self._json(found or {"error": "invalid_grant"}, 200 if found else 400)

    def _json(self, body: dict[str, Any], status: int = 200) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test says what went wrong."""


@contextmanager
def provider() -> Iterator[Op]:
    """A provider that runs."""
    op = Op()
    handler = type("Handler", (_Handler,), {"op": op})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    op.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, name="provider")
    thread.start()
    try:
        yield op
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
