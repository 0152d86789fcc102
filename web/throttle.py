"""How often a sign-in may fail before the next must wait. Pure: the clock is handed in; what it knows, it forgets by itself.

After `FREE_ADDRESS` failures from one address, each further one doubles the wait of that address, up to `LONGEST_S`; failures for one name
count likewise, with more leave, so that guessing from many addresses is slow too and yet nobody is locked out by a stranger at once. Codes
of a second factor have little leave, as only whoever knows the password gets as far as that. An address is the socket's, which nobody
can choose; what a header says it is, counts for nothing. It is kept in this process only: with N web processes an attacker has N times
the leave, still next to nothing. Called by the sign-in routes and where people show their password again.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

FREE_ADDRESS: int = 5
"""Failures that an address has free: people mistype."""
FREE_NAME: int = 50
"""Failures that a name has free, from wherever they come."""
FREE_CODE: int = 5
"""Wrong codes of a second factor that a name has free: then some 290 guesses a day at a million codes, three of them good at a time."""
FIRST_S: float = 1.0
"""The first wait, in seconds."""
LONGEST_S: float = 300.0
"""The longest wait, in seconds."""
FORGET_S: float = 900.0
"""Without a failure for so long, in seconds, an address or a name starts anew."""
_FREE = {"address": FREE_ADDRESS, "name": FREE_NAME, "code": FREE_CODE}
MOST: int = 10_000
"""Addresses and names kept; the ones that failed longest ago go first."""


@dataclass(slots=True)
class _Record:
    failures: int
    last: float
    noted: bool = False
    """Whether somebody came too early since."""


@dataclass(slots=True)
class Throttle:
    _records: OrderedDict[tuple[str, str], _Record] = field(default_factory=OrderedDict)

    def wait(self, address: str, name: str, now: float, *, code: bool = False) -> float:
        """Seconds until this address may try this name; 0: now. `now` is in seconds, of a clock that never goes back. name: empty where
        none was given, as on the way back from an identity provider. code: not its password, but a code of its second factor."""
        return max(*(self._wait(key, now) for key in _keys(address, name, code)), 0.0)

    def first_too_early(self, address: str, name: str, now: float, *, code: bool = False) -> bool:
        """Of attempts that have to wait, one a wait is worth writing down. True for that one."""
        waiting = [record for key in _keys(address, name, code) if self._wait(key, now) > 0 and (record := self._live(key, now))]
        first = any(not record.noted for record in waiting)
        for record in waiting:
            record.noted = True
        return first

    def failed(self, address: str, name: str, now: float, *, code: bool = False) -> None:
        for key in _keys(address, name, code):
            record = self._live(key, now) or _Record(0, now)
            record.failures += 1
            record.last, record.noted = now, False
            self._records[key] = record
            self._records.move_to_end(key)
        while len(self._records) > MOST:
            self._records.popitem(last=False)

    def told(self, address: str, name: str, now: float, *, code: bool = False) -> None:
        """The failure has been told only now: a check takes time, which must not be taken off the wait."""
        for key in _keys(address, name, code):
            if record := self._live(key, now):
                record.last = max(record.last, now)

    def pardoned(self, address: str, name: str) -> None:
        """The password was right, but that is not all that is asked for: this attempt does not count, those before still do."""
        for key in _keys(address, name, False):
            if record := self._records.get(key):
                record.failures -= 1

    def succeeded(self, address: str, name: str) -> None:
        for key in (*_keys(address, name, False), *_keys(address, name, True)):
            self._records.pop(key, None)

    def _live(self, key: tuple[str, str], now: float) -> _Record | None:
        record = self._records.get(key)
        return record if record is not None and now - record.last < FORGET_S else None

    def _wait(self, key: tuple[str, str], now: float) -> float:
        record, free = self._live(key, now), _FREE[key[0]]
        if record is None or record.failures < free:
            return 0.0
        return record.last + min(FIRST_S * 2.0 ** (record.failures - free), LONGEST_S) - now


def _keys(address: str, name: str, code: bool) -> tuple[tuple[str, str], ...]:
    return ("address", address), *((("code" if code else "name", name),) if name else ())
