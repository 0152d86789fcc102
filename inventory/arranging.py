"""Which key stands in which file of the secrets directory, brought in line with the newest list in `keys.json`.

`ca.key` and `command-root.key` issue and delegate; the `-second` ones are trusted beside them while a rotation is under way; a `-next` one
has been made and is in no list yet. A key goes only once the newest list does not need it, and may be moved under running services: they
read `ca.crt` and `ca.key` as a pair. Called by `inventory.authority` and `inventory.rotation`, with the directory's lock held.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.signing import SigningKey

from inventory import certificates, keychain
from inventory.secret_files import AuthorityError, raw_key, remove, write_secret

_PEM_KEY = re.compile(r"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----\n?", re.DOTALL)


def settle(directory: Path) -> None:
    """Bring the files in line with the newest list. The lock is held. Idempotent. Raises AuthorityError, OSError."""
    path = directory / "keys.json"
    latest = keychain.decoded(path.read_bytes(), path).latest
    authorities = [_public(x509.load_pem_x509_certificate(pem.encode())) for pem in latest.authorities]
    _arrange(directory, "ca", authorities, _ec_keys)
    _arrange(directory, "command-root", [base64.b64decode(root) for root in latest.command_roots], _raw_keys)
    bundle = "".join(latest.authorities).encode()
    if not (directory / "ca.crt").exists() or (directory / "ca.crt").read_bytes() != bundle:
        write_secret(directory / "ca.crt", bundle)


def command_roots(directory: Path) -> list[SigningKey]:
    """Those whose keys are here, the one that delegates first."""
    found = [directory / f"command-root{which}.key" for which in ("", "-second", "-next")]
    return [SigningKey(raw_key(path.read_text(), path)) for path in found if path.exists()]


def _arrange(directory: Path, stem: str, wanted: Sequence[bytes], keys_in: Callable[[Path], Mapping[bytes, str]]) -> None:
    """The keys whose public halves are `wanted`, in this order, into `STEM.key` and `STEM-second.key`; others go. All of them are written
    into one file first, so that exchanging two of them loses neither."""
    slots = (directory / f"{stem}.key", directory / f"{stem}-second.key")
    spare, moving = directory / f"{stem}-next.key", directory / f"{stem}-moving.key"
    held: dict[bytes, str] = {}
    for path in (*slots, spare, moving):
        held |= keys_in(path) if path.exists() else {}
    _refuse_missing(slots[0], stem, [each for each in wanted if each not in held])
    targets = dict(zip(slots, (held[each] for each in wanted), strict=False))
    if any(not path.exists() or path.read_text() != content for path, content in targets.items()):
        write_secret(moving, "".join(targets.values()).encode())
        for path, content in targets.items():
            write_secret(path, content.encode())
    remove(*(path for path in (*slots, spare, moving) if path not in targets))


def _refuse_missing(first: Path, stem: str, missing: Sequence[bytes]) -> None:
    if missing and not first.exists():
        raise AuthorityError(f"{first} is gone, but keys.json was made with it: restore it from a backup")
    if missing and stem == "ca":
        raise AuthorityError(f"{first.parent}: ca.crt was not made with ca.key: restore both from the same backup")
    if missing:
        raise AuthorityError(f"{first.parent}: keys.json was not made with {first.name}: restore both from the same backup")


def _ec_keys(path: Path) -> Mapping[bytes, str]:
    """Of a file of PEM blocks: each key as it stands there, by its public half."""
    found = {}
    text = path.read_text(errors="replace")
    for pem in _PEM_KEY.findall(text) or [text]:
        try:
            found[_public(certificates.read_key(pem.encode()))] = pem
        except ValueError as error:
            raise AuthorityError(f"{path} is damaged ({error}): restore it from a backup") from None
    return found


def _public(of: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return of.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _raw_keys(path: Path) -> Mapping[bytes, str]:
    """Likewise, of lines in base64."""
    lines = path.read_text(errors="replace").splitlines(keepends=True) or [""]
    return {bytes(SigningKey(raw_key(line, path)).verify_key): line for line in lines}
