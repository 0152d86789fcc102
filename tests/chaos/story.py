"""The story of a run: timestamped lines on standard output, for a person; `history` is for the checkers."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Story:
    """`now()` is the run's clock: seconds since it began, monotonic. `quiet`: say nothing (in tests)."""

    quiet: bool = False
    lines: list[str] = field(default_factory=list)
    _zero: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        return time.monotonic() - self._zero

    def tell(self, text: str) -> None:
        self._line(f"{self.now():7.1f} s  {text}")

    def plain(self, text: str = "") -> None:
        self._line(text)

    def _line(self, line: str) -> None:
        self.lines.append(line)
        if not self.quiet:
            print(line, flush=True)
