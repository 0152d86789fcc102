"""A filter's literals as typed values: numbers, booleans, times, durations.

Pure; called by `inventory.filter` alone. It refuses, with the column, whatever PostgreSQL could not take as that type, so that no
filter can fail later than at compile time. Sources: RFC 3339 (times), AIP-160 (durations).
"""

import math
import re
from datetime import datetime, timedelta

from inventory.filter_syntax import FilterError, Literal
from inventory.kind import Scalar
from inventory.times import is_time, parse_time

Value = str | int | float | bool | datetime

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DURATION = re.compile(r"([+-]?)((?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|[smhdw]))+)")
_PART = re.compile(r"([0-9.]+)(ms|[smhdw])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def typed(scalar: Scalar, literal: Literal, now: datetime) -> Value:
    """The literal as a value of this scalar: text, integer, number, boolean or (UTC) time. Raises FilterError."""
    match scalar:
        case Scalar.TEXT:
            return literal.text
        case Scalar.INTEGER:
            return _integer(literal)
        case Scalar.NUMBER:
            return _number(literal)
        case Scalar.BOOLEAN:
            return _boolean(literal)
        case Scalar.TIME:
            return _time(literal, now)
        case Scalar.LABELS | Scalar.JSON:
            raise FilterError(f"{scalar} has no values to compare with", literal.column)


def is_duration(literal: Literal) -> bool:
    return _DURATION.fullmatch(literal.text) is not None


def _refuse(literal: Literal, wanted: str) -> FilterError:
    return FilterError(f"{literal.text[:64]!r} is not {wanted}", literal.column)


def _integer(literal: Literal) -> int:
    value = int(literal.text) if _INTEGER.fullmatch(literal.text) else None
    if value is None or not -(2**63) <= value < 2**63:
        raise _refuse(literal, "a whole number of at most 64 bits")
    return value


def _number(literal: Literal) -> float:
    value = float(literal.text) if _NUMBER.fullmatch(literal.text) else math.inf
    if not math.isfinite(value):
        raise _refuse(literal, "a number")
    return value


def _boolean(literal: Literal) -> bool:
    if literal.text not in ("true", "false"):
        raise _refuse(literal, "true or false")
    return literal.text == "true"


def _time(literal: Literal, now: datetime) -> datetime:
    """A time as it stands, or `now` and a duration: `15m` and `-15m` are that long ago, `+15m` is that far ahead."""
    try:
        if is_time(literal.text):
            return parse_time(literal.text)
        if duration := _DURATION.fullmatch(literal.text):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(duration[2]))
            return now + timedelta(seconds=seconds if duration[1] == "+" else -seconds)
    except (ValueError, OverflowError):
        raise _refuse(literal, "a time that exists") from None
    raise _refuse(literal, "a time such as 2026-11-22T18:00:00Z, nor a duration such as 15m (ago) or +30d (ahead)")
