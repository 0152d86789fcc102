"""Which host a machine is that asks to be let in: what tells machines apart, made comparable, and the verdict. Pure.

A serial number or an SMBIOS UUID that its maker never filled in ("To Be Filled By O.E.M.") is shared by thousands of machines, so it is no
key here: it matches nothing, whoever says it. Nothing of this is proof. It decides who waits, and for whom, never who is let in past
a person: only what a person has written down beforehand (a pre-registration) does.

Called by `inventory.enrollment` with the rows of `recognised_hosts`, and by the host kind to refuse placeholders.
"""

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_PLACEHOLDER = re.compile(
    r"""
        to\ be\ filled.* | fill(ed)?\ by.* | default(\ string)? | standard | o\.?e\.?m\.?(\ string)?
      | not?[ ]?(specified|applicable|available|provided|settable|present|set|asset\ tag|serial.*) | no\ (dimm|asset|module).*
      | \(?none\)? | null | nil | n/?a | unknow | unknown | undefined | unspecified | invalid | empty | tbd | test | sample | xxx.*
      | .*\b(system|chassis|base\ ?board|board|product|mainboard)[ ]?
        (serial([ ]number)?|manufacturer|product\ name|name|version|asset\ tag)\b.*
      | (serial|asset|part)[ _-]?(number|num|no|tag) | (chassis|board)\ (vendor|version)
      | bsn[0-9]+ | <?bad\ index>? | [.\s_*/-]+
      | (manufacturer|sernum|serno|partnum|assettagnum|serialnumber)\d*
    """,
    re.VERBOSE,
)
"""What makers leave where a serial number belongs, in lower case."""

_COUNTING = "01234567890123456789", "98765432109876543210", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz"
_SHORTEST = 3
"""Characters that a serial number must have to tell anything."""

_SAME_FOR_MANY = frozenset(
    {
        UUID("03000200-0400-0500-0006-000700080009"),  # firmware of AMI, as it is delivered
        UUID("00020003-0004-0005-0006-000700080009"),  # the same with its first fields turned around
        UUID("12345678-1234-5678-90ab-cddeefaabbcc"),
        UUID("12345678-1234-1234-1234-123456789abc"),
        UUID("01234567-89ab-cdef-0123-456789abcdef"),
    }
)
_FEW_DIGITS = 2
"""A UUID of so few different digits is all zeros, all ones, or somebody's pattern."""


def serial_key(text: str | None) -> str | None:
    """What a serial number is compared by, None where it tells nothing."""
    key = " ".join((text or "").split()).translate(_LOWER)
    bare = re.sub(r"[\s._:/-]", "", key)
    if len(bare) < _SHORTEST or len(set(bare)) == 1 or any(bare in counting for counting in _COUNTING):
        return None
    return None if _PLACEHOLDER.fullmatch(key) else key


def uuid_key(text: str | None) -> str | None:
    """What an SMBIOS UUID is compared by, None where it tells nothing or is none."""
    try:
        found = UUID((text or "").strip())
    except ValueError:
        return None
    return None if found in _SAME_FOR_MANY or len(set(found.hex)) <= _FEW_DIGITS else str(found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host whose machine it may be. `taken`: a device has it, or has asked for it, or a person has refused it; the keys are those that a
    person expects of its machine, None where they said nothing of that."""

    host: str
    taken: bool
    expected_serial: str | None
    expected_uuid: str | None


@dataclass(frozen=True, slots=True)
class Stranger:
    """No host that we know of."""


@dataclass(frozen=True, slots=True)
class Known:
    """The machine of these hosts, the likeliest first, or one that says so: a person decides."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """The machine that a person wrote down this host for, and nobody has claimed yet."""

    host: str


Verdict = Stranger | Known | Expected


def recognise(serial: str | None, uuid: str | None, candidates: Iterable[Candidate]) -> Verdict:
    """The verdict over the hosts that share one of these keys. A host that is taken wins over an expectation: whoever comes second under
    one serial number waits, however they were announced. All that was written down for a host must fit, and fit one host alone."""
    there = list(candidates)
    taken = tuple(each.host for each in there if each.taken)
    if taken:
        return Known(taken)
    fitting = [each.host for each in there if _fits(each, serial, uuid)]
    return Expected(fitting[0]) if len(fitting) == 1 else Stranger()


def _fits(host: Candidate, serial: str | None, uuid: str | None) -> bool:
    wanted = [(host.expected_serial, serial), (host.expected_uuid, uuid)]
    return any(expected for expected, _ in wanted) and all(expected is None or expected == found for expected, found in wanted)
