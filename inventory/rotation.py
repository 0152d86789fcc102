"""Another CA and another command root, in three steps under a running fleet: announced, taking over, standing alone.

Each step is one more list in `keys.json`, written in one piece: that is the moment at which it has happened. Everything else (which key
stands in which file, the CAs that brokers and services trust, the delegation, the certificates of services and servers) follows from the
list and is brought in line by `Authority.ensure`, now or, after a crash, at the next start.

Who is told, and who would be left behind by the next step, is `inventory.trusting`'s. Called by `python -m inventory authority`.
Decision: docs/adr/0016-rotation.md.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nacl.signing import SigningKey

from broker.messages import KeyList, now_text
from inventory import certificates
from inventory.arranging import command_roots
from inventory.authority import SERVERS, Authority
from inventory.keychain import Keychain, Phase
from inventory.secret_files import AuthorityError, alone, write_secret

PARTS = ("ca", "command-root")
"""What can be rotated."""


def begin(authority: Authority, parts: Sequence[str] = PARTS) -> Keychain:
    """Announce a new CA, a new command root, or both. Raises AuthorityError where a rotation is under way."""
    with alone(authority.directory):
        chain = _settled(authority)
        if chain.phase is not Phase.RESTING:
            raise AuthorityError(f"a rotation is under way ({chain.phase.value}): finish it first, with `fleetward authority advance`")
        wanted = chain.latest
        if "ca" in parts:
            wanted = replace(wanted, authorities=(*wanted.authorities, _new_ca(authority)))
        if "command-root" in parts:
            wanted = replace(wanted, command_roots=(*wanted.command_roots, _new_root(authority.directory)))
        return _commit(authority, chain, wanted)


def advance(authority: Authority) -> Keychain:
    """The next step: the new ones take over, or stand alone. Raises AuthorityError where no rotation is under way."""
    with alone(authority.directory):
        chain = _settled(authority)
        return _commit(authority, chain, _next(chain))


def _next(chain: Keychain) -> KeyList:
    latest = chain.latest
    match chain.phase:
        case Phase.RESTING:
            raise AuthorityError("no rotation is under way: begin one with `fleetward authority rotate`")
        case Phase.ANNOUNCED:
            return replace(latest, authorities=latest.authorities[::-1], command_roots=latest.command_roots[::-1])
        case Phase.TAKEN_OVER:
            return replace(latest, authorities=latest.authorities[:1], command_roots=latest.command_roots[:1])


def _settled(authority: Authority) -> Keychain:
    """What there is, after whatever an earlier step had left to do."""
    if not (authority.directory / "keys.json").exists():
        raise AuthorityError(f"{authority.directory} has no keys.json: run `fleetward migrate` first, or restart `fleetward up`")
    authority.ensure({name: authority.names_of(name) for name in SERVERS})
    return authority.keychain


def _commit(authority: Authority, chain: Keychain, wanted: KeyList) -> Keychain:
    """Signed by the roots of the list before and by those of this one: all of them have their keys here until it is settled."""
    wanted = replace(wanted, issued_at=now_text(authority.now()))
    extended = chain.extended(wanted, command_roots(authority.directory))
    write_secret(authority.directory / "keys.json", extended.encoded())
    _settled(authority)
    return extended


def _new_ca(authority: Authority) -> str:
    """Its certificate; the key is on disk. What an interrupted attempt has left is made anew."""
    key = certificates.new_key()
    write_secret(authority.directory / "ca-next.key", certificates.key_pem(key))
    name = f"{certificates.ORGANIZATION} CA {secrets.token_hex(4)}"
    return certificates.certificate_pem(certificates.self_signed(key, name, authority.now()))


def _new_root(directory: Path) -> str:
    """Its public key; the key is on disk."""
    key = SigningKey.generate()
    write_secret(directory / "command-root-next.key", base64.b64encode(bytes(key)) + b"\n")
    return base64.b64encode(bytes(key.verify_key)).decode()
