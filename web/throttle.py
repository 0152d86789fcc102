"""How often a sign-in may fail before the next must wait. Pure: the clock is handed in; what it knows, it forgets by itself.

After `FREE` failures from one address, each further one doubles the wait of that address, up to `LONGEST_S`; failures for one name
count likewise, with more leave, so that guessing from many addresses is slow too and yet nobody is locked out by a stranger at once. It
is kept in this process only: with N web processes an attacker has N times the leave, still next to nothing. Called by the sign-in
route.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

FREE_ADDRESS: int = 5
"""Failures that an address has free: people mistype."""
FREE_NAME: int = 50
"""Failures that a name has free, from wherever they come."""
LONGEST_S: float = 300.0
"""The longest wait, in seconds."""
FORGET_S: float = 900.0
"""Without a failure for so long, in seconds, an address or a name starts anew."""
MOST: int = 10_000
"""Addresses and names kept; the ones that failed longest ago go first."""


@dataclass(slots=True)
class _Record:
    failures: int
    last: float


@dataclass(slots=True)
class Throttle:
    _records: OrderedDict[tuple[str, str], _Record] = field(default_factory=OrderedDict)

    def wait(self, address: str, name: str, now: float) -> float:
        """Seconds until this address may try this name; 0: now. `now` is in seconds, of a clock that never goes back."""
        return max(self._wait(("address", address), FREE_ADDRESS, now), self._wait(("name", name), FREE_NAME, now), 0.0)

    def failed(self, address: str, name: str, now: float) -> None:
        for key in (("address", address), ("name", name)):
            record = self._live(key, now) or _Record(0, now)
            record.failures += 1
            record.last = now
            self._records[key] = record
            self._records.move_to_end(key)
        while len(self._records) > MOST:
            self._records.popitem(last=False)

    def told(self, address: str, name: str, now: float) -> None:
        """The failure has been told only now: a check takes time, which must not be taken off the wait."""
        for key in (("address", address), ("name", name)):
            if record := self._live(key, now):
                record.last = max(record.last, now)

    def succeeded(self, address: str, name: str) -> None:
        self._records.pop(("address", address), None)
        self._records.pop(("name", name), None)

    def _live(self, key: tuple[str, str], now: float) -> _Record | None:
        record = self._records.get(key)
        return record if record is not None and now - record.last < FORGET_S else None

    def _wait(self, key: tuple[str, str], free: int, now: float) -> float:
        record = self._live(key, now)
        if record is None or record.failures < free:
            return 0.0
        return record.last + min(2.0 ** (record.failures - free), LONGEST_S) - now
