"""Times as people and programs write them: RFC 3339, and nothing that Python reads besides (week dates, dates alone, no offset).

Pure. Called wherever a time comes from outside: fields, filters, intents. What goes out is `inventory.resource.time_text`.
"""

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def is_time(text: str) -> bool:
    """Whether it is written as a time; it may still be one that does not exist, as the 30th of February."""
    return _RFC3339.fullmatch(text) is not None


def parse_time(text: str) -> datetime:
    """In UTC. Raises ValueError with words for who wrote it."""
    if not is_time(text):
        raise ValueError("must be an RFC 3339 time with its offset, such as 2026-11-22T18:00:00.000Z")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a time that exists") from None
