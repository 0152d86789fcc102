"""Whom the agent believes: the command roots alone, through delegations, checkpoints, signed orders and lists of keys. Pure.

A root's key came with enrollment, others by lists that one of them has signed. A root certifies, for a while, the key that signs commands
(a delegation). A checkpoint, signed by such a key over a nonce of ours, tells the time and which delegations are void; without one no
command is judged, so that a wrong clock neither blocks nor revives anything. What fails here is counted and reported by `agent`, never
executed.

Source: design.md section 4 (Time, Commands); RFC 8032 (Ed25519); for lists of keys docs/adr/0016-rotation.md.
"""

import base64
import binascii
import hashlib
import re
import ssl
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from broker.messages import (
    Checkpoint,
    Command,
    ContractError,
    Delegation,
    KeyList,
    Keys,
    Mandate,
    Moment,
    Order,
    SignedKeys,
    decode_text,
)

S = TypeVar("S", Mandate, Moment, Order, KeyList)

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

Roots = tuple[bytes, ...]
"""Command roots: raw Ed25519 public keys."""


class Fault(StrEnum):
    """What is wrong with a signed message; with its kind it makes a `messages.Doubt`."""

    FORGED = "forged"
    """No key made it that the root has certified, or no server would have made it so."""
    MISDELIVERED = "misdelivered"
    """It is for another device."""
    VOID = "void"
    """The key that made it was certified, and is not any more, or not at this time."""
    LATE = "late"
    """It answers another question than the last one."""


class Untrusted(Exception):
    """A signed message is not to be believed; the text says what was wrong with it."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Ring:
    """Whom this device trusts. `authorities`: CAs in PEM, the one that issues first; none where only enrollment has said, which wrote them
    into ca.crt. `generation`: of the list that said so; 0 before any."""

    generation: int
    roots: Roots
    authorities: tuple[str, ...] = ()

    @property
    def issuer(self) -> str:
        """The SHA-256 of the CA that issues now, in hex; empty where that is not known."""
        return fingerprint(self.authorities[0]) if self.authorities else ""


def fingerprint(pem: str) -> str:
    """Of a certificate: the SHA-256 of its DER, in hex. Raises ValueError."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def fingerprints(bundle: str) -> list[str]:
    """Of all certificates in a PEM text. Raises ValueError."""
    return [fingerprint(pem) for pem in _CERTIFICATE.findall(bundle)]


def follow(ring: Ring, keys: Keys) -> Ring:
    """What is to be trusted after these lists, each of which counts if it is newer and one of the roots trusted until then has signed it.
    The same ring where there is nothing new. Raises Untrusted where there is, and it can't be believed."""
    now, newest = ring, ring.generation
    for each in keys.lists:
        listed = _decoded(KeyList, each.signed)
        newest = max(newest, listed.generation)
        if listed.generation > now.generation and _signed(now.roots, each):
            now = _ring(listed)
    if now is ring and newest > ring.generation:
        raise Untrusted(Fault.FORGED, "no root that is trusted here has signed the list of keys")
    return now


def _ring(listed: KeyList) -> Ring:
    try:
        roots = tuple(_raw(root) for root in listed.command_roots)
        if not roots or not listed.authorities or any(len(root) != 32 for root in roots):
            raise ValueError("it lacks a CA or a command root")
        ring = Ring(listed.generation, roots, listed.authorities)
        for pem in listed.authorities:
            fingerprint(pem)
        return ring
    except ValueError as error:
        raise Untrusted(Fault.FORGED, f"the list of keys can't be used: {error}") from None


def _signed(roots: Roots, each: SignedKeys) -> bool:
    return any(_good(root, each.signed, one.signature) for root in roots for one in each.signatures)


def seconds(text: str) -> float:
    """Unix seconds of an RFC 3339 time in UTC (as `messages` has checked it). Raises ContractError for one that is no date."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ContractError(f"{text!r} is not a time") from None


def read_checkpoint(roots: Roots, checkpoint: Checkpoint, device: str, nonce: str, generation: int) -> tuple[Moment, float, int]:
    """The moment, its Unix seconds, and the delegation's generation. The delegation must hold at that very moment. Raises Untrusted."""
    mandate = _mandate(roots, checkpoint.delegation, checkpoint.key)
    _check(checkpoint.signed, checkpoint.signature, mandate)
    moment = _decoded(Moment, checkpoint.signed)
    if moment.device is not None and moment.device != device:
        raise Untrusted(Fault.MISDELIVERED, "the checkpoint is for another device")
    if moment.nonce != nonce:
        raise Untrusted(Fault.LATE, "the checkpoint answers another nonce")
    at = _seconds(moment.time)
    _in_force(mandate, at, max(generation, moment.generation))
    return moment, at, mandate.generation


def read_order(roots: Roots, command: Command, device: str, now: float | None, generation: int) -> tuple[Order, int]:
    """The order, and its delegation's generation. `now`: trusted Unix seconds; without, whatever can be told without a clock. Raises
    Untrusted."""
    mandate = _mandate(roots, command.delegation, command.key)
    _check(command.signed, command.signature, mandate)
    order = _decoded(Order, command.signed)
    if order.device != device:
        raise Untrusted(Fault.MISDELIVERED, "the order is for another device")
    _seconds(order.not_after), _seconds(order.issued_at)
    _in_force(mandate, now, generation)
    return order, mandate.generation


def _in_force(mandate: Mandate, now: float | None, generation: int) -> None:
    if mandate.generation < generation:
        raise Untrusted(Fault.VOID, "the delegation is void: there is a later one")
    if now is not None and not _seconds(mandate.not_before) <= now <= _seconds(mandate.not_after):
        raise Untrusted(Fault.VOID, "the delegation is not valid at this time")


@lru_cache(maxsize=8)
def _mandate(roots: Roots, delegation: Delegation, key: str) -> Mandate:
    if not any(_good(root, delegation.signed, delegation.signature) for root in roots):
        raise Untrusted(Fault.FORGED, "the delegation is not good")
    mandate = _decoded(Mandate, delegation.signed)
    if hashlib.sha256(_raw(mandate.public_key)).hexdigest()[:16] != key:
        raise Untrusted(Fault.FORGED, "the delegation is for another key")
    return mandate


def _check(signed: str, signature: str, mandate: Mandate) -> None:
    if not _good(_raw(mandate.public_key), signed, signature):
        raise Untrusted(Fault.FORGED, "the signature is not good")


def _good(key: bytes, signed: str, signature: str) -> bool:
    try:
        VerifyKey(key).verify(signed.encode(), _raw(signature))
        return True
    except (BadSignatureError, ValueError):
        return False


def _raw(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Untrusted(Fault.FORGED, "a key or signature is not base64") from None


def _decoded(kind: type[S], text: str) -> S:
    try:
        return decode_text(kind, text)
    except ContractError as error:
        raise Untrusted(Fault.FORGED, str(error)) from None


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ContractError as error:
        raise Untrusted(Fault.FORGED, str(error)) from None
