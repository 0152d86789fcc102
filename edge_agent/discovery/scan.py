"""Running the probes: each on its own, bounded in time and size, so that a broken or hanging one costs its section and nothing else.

Probes run one after another in a thread that the caller waits for. One that gives no answer in time is left behind with its thread
(nobody can end a thread that hangs in the kernel), a new thread goes on with the rest, and the section is not tried again before the old
one has come back: a dead device costs one thread, never one a scan. Called by the agent, at start, when `watch` sees a change, and on
`facts.refresh`. It keeps nothing of what it found.
"""

import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from edge_agent.discovery import (
    cpu,
    firmware,
    gpu,
    memory,
    network,
    operating_system,
    pci,
    platform,
    power,
    sensors,
    software,
    storage,
    timezone,
    tpm,
    usb,
)
from edge_agent.discovery.calls import SystemCalls
from edge_agent.discovery.cleaning import clean, clean_json
from edge_agent.discovery.probe import Probe
from edge_agent.discovery.tree import Tree

_log = logging.getLogger(__name__)

PROBES: tuple[Probe, ...] = (
    cpu.PROBE,
    memory.PROBE,
    storage.PROBE,
    network.PROBE,
    pci.PROBE,
    usb.PROBE,
    gpu.PROBE,
    tpm.PROBE,
    power.PROBE,
    sensors.PROBE,
    firmware.PROBE,
    operating_system.PROBE,
    platform.PROBE,
    software.PROBE,
    timezone.PROBE,
)
"""One a section, in the order of the contract."""

SECTION_BYTES = 96 * 1024
"""JSON bytes of one section: it has to fit a message of 192 KiB, and 10,000 hosts of them a database."""

TEXT_LIMITS = (4096, 256)
"""Characters of one text: this many, or, in a section that is too large, that many."""


@dataclass(frozen=True, slots=True)
class Scan:
    """`sections`: what was found, JSON values. `errors`: by section why there is nothing, or not all. `denied`: by section which files
    only root may read, and so what is missing for that."""

    sections: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    denied: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Scanner:
    """Runs probes, and remembers which of them hang."""

    def __init__(self, probes: tuple[Probe, ...] = PROBES) -> None:
        sections = [probe.section for probe in probes]
        if len(set(sections)) != len(sections):
            raise ValueError(f"two probes for one section: {sections}")
        self._probes = {probe.section: probe for probe in probes}
        self._hanging: dict[tuple[Path, str], threading.Thread] = {}

    def scan(
        self, root: Path = Path("/"), sections: Iterable[str] | None = None, timeout_s: float = 10.0, calls: SystemCalls | None = None
    ) -> Scan:
        """What the named sections (None: all) say below `root`. Each probe has `timeout_s`. Raises ValueError for an unknown section."""
        wanted = list(dict.fromkeys(self._probes if sections is None else sections))
        if unknown := [name for name in wanted if name not in self._probes]:
            raise ValueError(f"no such section: {', '.join(unknown)}; there are {', '.join(self._probes)}")
        scan = Scan()
        waiting = []
        for name in wanted:
            if self._still_hanging(root, name):
                scan.errors[name] = "an earlier look has still given no answer"
            else:
                waiting.append(self._probes[name])
        while waiting:
            waiting = self._run(waiting, scan, root, timeout_s, calls)
        return scan

    def _still_hanging(self, root: Path, name: str) -> bool:
        thread = self._hanging.get((root, name))
        if thread is not None and not thread.is_alive():
            del self._hanging[root, name]
            return False
        return thread is not None

    def _run(self, waiting: list[Probe], scan: Scan, root: Path, timeout_s: float, calls: SystemCalls | None) -> list[Probe]:
        """Run the probes in one thread until the end, or until one hangs; gives those still to run."""
        worker = _Worker(waiting, root, calls)
        worker.start()
        for done, probe in enumerate(waiting):
            try:
                worker.answers.get(timeout=timeout_s).into(scan)
            except Empty:
                worker.abandoned.set()
                self._hanging[root, probe.section] = worker
                scan.errors[probe.section] = f"no answer within {timeout_s:g} s"
                _log.warning("probe hangs", extra={"section": probe.section, "timeout_s": timeout_s})
                return waiting[done + 1 :]
        worker.join()
        return []


@dataclass(frozen=True, slots=True)
class _Answer:
    section: str
    data: Any
    error: str
    denied: tuple[str, ...]

    def into(self, scan: Scan) -> None:
        if self.data is not None:
            scan.sections[self.section] = self.data
        if self.error:
            scan.errors[self.section] = self.error
        if self.denied:
            scan.denied[self.section] = self.denied


class _Worker(threading.Thread):
    """Runs probes one after another, until it is abandoned."""

    def __init__(self, probes: list[Probe], root: Path, calls: SystemCalls | None) -> None:
        super().__init__(name="discovery", daemon=True)
        self.answers: SimpleQueue[_Answer] = SimpleQueue()
        self.abandoned = threading.Event()
        self._probes, self._root, self._calls = probes, root, calls

    def run(self) -> None:
        for probe in self._probes:
            if self.abandoned.is_set():
                return
            self.answers.put(_ask(probe, Tree(self._root, self._calls)))


def _ask(probe: Probe, tree: Tree) -> _Answer:
    try:
        data, problem = fitting(probe.read(tree))
    except Exception as error:
        # Whatever a probe stumbles over must cost its own section only; the error goes to the server and the log.
        _log.warning("probe failed", extra={"section": probe.section}, exc_info=True)
        return _Answer(probe.section, None, clean(f"{type(error).__name__}: {error}"), tuple(sorted(tree.denied)))
    problems = [*tree.problems, *([problem] if problem else [])]
    return _Answer(probe.section, data, clean("; ".join(problems), 1024), tuple(sorted(tree.denied)))


def fitting(facts: Any) -> tuple[Any, str]:
    """The section made fit for a message: texts cleaned, and, above SECTION_BYTES, its longest list cut short, which the text says."""
    facts = clean_json(facts, TEXT_LIMITS[0])
    if _json_bytes(facts) <= SECTION_BYTES:
        return facts, ""
    facts = clean_json(facts, TEXT_LIMITS[1])
    size = _json_bytes(facts)
    problem = f"cut short: {size} bytes are more than {SECTION_BYTES}"
    while size > SECTION_BYTES:
        lists = [(len(value), name) for name, value in facts.items() if isinstance(value, list) and value]
        if not lists:
            raise ValueError(f"{size} bytes are more than {SECTION_BYTES}")
        length, name = max(lists)
        facts = {**facts, name: facts[name][: length // 2]}
        size = _json_bytes(facts)
    return facts, problem


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


_SCANNER = Scanner()
scan = _SCANNER.scan
