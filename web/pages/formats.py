"""Values as people read them: sizes, times, states, durations. Pure; the templates use them as filters."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Moment = datetime | str | None

_STEPS: tuple[tuple[int, str], ...] = ((86400 * 365, "y"), (86400 * 30, "mo"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

TONES: Mapping[str, str] = {
    "online": "good",
    "stale": "warn",
    "offline": "bad",
    "never": "mute",
    "onboarded": "good",
    "registered": "info",
    "discovered": "info",
    "untrusted": "bad",
    "deleted": "mute",
    "present": "good",
    "absent": "mute",
    "drifted": "warn",
    "failed": "bad",
    "idle": "good",
    "in_progress": "info",
    "error": "bad",
    "unknown": "mute",
    "succeeded": "good",
    "rejected": "bad",
    "timed_out": "bad",
    "cancelled": "mute",
    "queued": "info",
    "sent": "info",
    "accepted": "info",
    "running": "info",
    "info": "info",
    "warning": "warn",
    "critical": "bad",
    "created": "good",
    "updated": "info",
}
"""How a state is coloured. What is not here is neutral; the word always stands beside the colour."""


def parse(moment: Moment) -> datetime | None:
    if isinstance(moment, str):
        return datetime.fromisoformat(moment)
    return moment


def ago(moment: Moment, now: datetime | None = None) -> str:
    """`5 min ago`, `in 3 d`, `just now`; a dash for none."""
    at = parse(moment)
    if at is None:
        return "—"
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    size, unit = next((size, unit) for size, unit in _STEPS if abs(seconds) >= size)
    count = f"{int(abs(seconds) // size)} {unit}"
    return f"{count} ago" if seconds > 0 else f"in {count}"


def past(moment: Moment, now: datetime | None = None) -> bool:
    """Whether it is over; none never is."""
    at = parse(moment)
    return at is not None and at < (now or datetime.now(UTC))


def iso(moment: Moment) -> str:
    at = parse(moment)
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(moment: Moment) -> str:
    """The absolute time, for those without scripts; scripts put it into the viewer's zone."""
    at = parse(moment)
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(count: int | float | None) -> str:
    """Bytes in binary units: `15.6 GiB`."""
    if count is None:
        return "—"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def tone(state: str | None) -> str:
    return TONES.get(state or "", "mute")


def words(state: str | None) -> str:
    """`in_progress` → `in progress`, `WaitingForDevice` → `waiting for device`."""
    if not state:
        return "—"
    spaced = "".join(f" {c.lower()}" if c.isupper() and index else c for index, c in enumerate(state))
    return spaced.replace("_", " ") if spaced.islower() else spaced[0].lower() + spaced[1:].replace("_", " ")


def short_digest(digest: str | None) -> str:
    return (digest or "").removeprefix("sha256:")[:12] or "—"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 host`, `1,204 hosts`."""
    return f"{count:,} {one if count == 1 else (many or one + 's')}"


def plain(value: Any) -> str:
    """A member of a resource as one line of text."""
    match value:
        case None | "":
            return "—"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{key}={plain(each)}" for key, each in value.items()) or "—"
        case list():
            return ", ".join(map(plain, value)) or "—"
    return told(value)


_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Embeddings, overrides and isolates (Unicode Standard Annex 9): languages that are written from the right need none of them."""


def told(value: Any) -> str:
    """A text that a device may have chosen, among others: what turns the direction of whatever is behind it is shown as what it is."""
    return _TURNING.sub(lambda found: f"\\u{ord(found[0]):04x}", str(value))


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "past": past,
    "iso": iso,
    "utc": utc,
    "size": size,
    "tone": tone,
    "words": words,
    "short_digest": short_digest,
    "plural": plural,
    "plain": plain,
    "told": told,
}
