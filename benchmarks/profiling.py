"""Where the time goes: py-spy on a process, and PostgreSQL's statements added up. For `--profile DIR` of the scripts that have it.

Both cost time themselves, so that the rates of a profiled run mean nothing. PostgreSQL's programs come without pg_stat_statements; the
log of every statement's duration (`STATEMENT_LOG`) says the same.
"""

import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATEMENT_LOG = {
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "statements.log",
    "log_line_prefix": "",
    "log_min_duration_statement": "0",
}
"""Settings of a cluster whose statements are to be added up."""
SAMPLES_A_SECOND = 200
_ENTRY = re.compile(r"LOG:  duration: ([\d.]+) ms  (?:parse|bind|execute|statement)[^:]*: ?(.*)")
_SHOWN = 100


@contextmanager
def recorded(into: Path | None, name: str, pid: int) -> Iterator[None]:
    """Record a process for as long as the block lasts, as a flame graph `name`.svg; nothing where `into` is None."""
    if into is None:
        yield
        return
    into.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("py-spy")
    command = [str(program), "record", "--rate", str(SAMPLES_A_SECOND), "--output", str(into / f"{name}.svg"), "--pid", str(pid)]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait(30)


def added_up(lines: Iterable[str]) -> list[tuple[float, int, str]]:
    """Milliseconds, calls and beginning of each statement in a log, the dearest first."""
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    waiting: float | None = None
    for line in lines:
        entry = _ENTRY.match(line)
        text = entry[2].strip() if entry else line.strip()
        waiting = float(entry[1]) if entry else waiting
        if waiting is None or not text or text.startswith("--"):
            continue  # a statement begins with its comment; what it is stands below
        spent[text[:_SHOWN]] += waiting
        calls[text[:_SHOWN]] += 1
        waiting = None
    return sorted(((spent[text], calls[text], text) for text in spent), reverse=True)


def write_statements(log: Path, into: Path, name: str) -> None:
    """The sums as `name`.txt."""
    with log.open(errors="replace") as lines:
        found = added_up(lines)
    told = [f"{ms:10.1f} ms {calls:8} calls  {text}\n" for ms, calls, text in found]
    (into / f"{name}.txt").write_text("".join(told))
