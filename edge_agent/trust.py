"""Whom the agent believes: the command root alone, through delegations, checkpoints and signed orders. Pure.

The root's key came with enrollment. It certifies, for a while, the key that signs commands (a delegation). A checkpoint, signed by such a
key over a nonce of ours, tells the time and which delegations are void; without one no command is judged, so that a wrong clock neither
blocks nor revives anything. What fails here is counted and reported by `agent`, never executed.

Source: design.md section 4 (Time, Commands); RFC 8032 (Ed25519).
"""

import base64
import binascii
import hashlib
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from broker.messages import Checkpoint, Command, ContractError, Delegation, Mandate, Moment, Order, decode_text

S = TypeVar("S", Mandate, Moment, Order)


class Untrusted(Exception):
    """A signed message is not to be believed; the text says what was wrong with it."""


def seconds(text: str) -> float:
    """Unix seconds of an RFC 3339 time in UTC (as `messages` has checked it). Raises ContractError for one that is no date."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ContractError(f"{text!r} is not a time") from None


def read_checkpoint(root: bytes, checkpoint: Checkpoint, nonce: str, generation: int) -> tuple[Moment, float, int]:
    """The moment, its Unix seconds, and the delegation's generation. The delegation must hold at that very moment. Raises Untrusted."""
    mandate = _mandate(root, checkpoint.delegation, checkpoint.key)
    _check(checkpoint.signed, checkpoint.signature, mandate)
    moment = _decoded(Moment, checkpoint.signed)
    if moment.nonce != nonce:
        raise Untrusted("the checkpoint answers another nonce")
    at = _seconds(moment.time)
    _in_force(mandate, at, max(generation, moment.generation))
    return moment, at, mandate.generation


def read_order(root: bytes, command: Command, device: str, now: float, generation: int) -> tuple[Order, int]:
    """The order, and its delegation's generation. `now`: trusted Unix seconds. Raises Untrusted."""
    mandate = _mandate(root, command.delegation, command.key)
    _in_force(mandate, now, generation)
    _check(command.signed, command.signature, mandate)
    order = _decoded(Order, command.signed)
    if order.device != device:
        raise Untrusted("the order is for another device")
    _seconds(order.not_after), _seconds(order.issued_at)
    return order, mandate.generation


def _in_force(mandate: Mandate, now: float, generation: int) -> None:
    if mandate.generation < generation:
        raise Untrusted("the delegation is void: there is a later one")
    if not _seconds(mandate.not_before) <= now <= _seconds(mandate.not_after):
        raise Untrusted("the delegation is not valid at this time")


@lru_cache(maxsize=8)
def _mandate(root: bytes, delegation: Delegation, key: str) -> Mandate:
    _verify(root, delegation.signed, delegation.signature, "delegation")
    mandate = _decoded(Mandate, delegation.signed)
    if hashlib.sha256(_raw(mandate.public_key)).hexdigest()[:16] != key:
        raise Untrusted("the delegation is for another key")
    return mandate


def _check(signed: str, signature: str, mandate: Mandate) -> None:
    _verify(_raw(mandate.public_key), signed, signature, "signature")


def _verify(key: bytes, signed: str, signature: str, what: str) -> None:
    try:
        VerifyKey(key).verify(signed.encode(), _raw(signature))
    except (BadSignatureError, ValueError):
        raise Untrusted(f"the {what} is not good") from None


def _raw(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Untrusted("a key or signature is not base64") from None


def _decoded(kind: type[S], text: str) -> S:
    try:
        return decode_text(kind, text)
    except ContractError as error:
        raise Untrusted(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ContractError as error:
        raise Untrusted(str(error)) from None
