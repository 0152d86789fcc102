"""The thread that looks at the device: scans when asked, polls for changed hardware, and asks the appliers whether anything has drifted."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from broker.messages import Item
from edge_agent.appliers import Applier
from edge_agent.discovery import Scanner, Watcher
from edge_agent.settings import Settings
from edge_agent.signals import Input, Observed, Scan, Scanned

log = logging.getLogger(__name__)

SCAN_TIMEOUT_S = 10.0
"""For one probe; a probe that takes longer is an error of its section."""


class Found(Protocol):
    """What a scan gives (`discovery.Scan`)."""

    @property
    def sections(self) -> dict[str, Any]: ...

    @property
    def errors(self) -> dict[str, str]: ...


class Eyes(Protocol):
    """What the lookout sees with: `discovery` on a device, something else in tests."""

    def scan(self, sections: tuple[str, ...] | None) -> Found: ...

    def changed(self) -> tuple[str, ...]:
        """Sections that may have changed since the last call; cheap."""


class Lookout:
    """Takes `Scan`, delivers `Scanned` and `Observed`."""

    def __init__(self, eyes: Eyes, appliers: tuple[Applier, ...], settings: Settings, deliver: Callable[[Input], None]) -> None:
        self._eyes = eyes
        self._appliers = appliers
        self._settings = settings
        self._deliver = deliver
        self._asked: queue.SimpleQueue[Scan] = queue.SimpleQueue()
        self._seen: dict[int, tuple[Item, ...]] = {}
        threading.Thread(target=self._loop, name="lookout", daemon=True).start()

    def scan(self, scan: Scan) -> None:
        self._asked.put(scan)

    def _loop(self) -> None:
        drift_at = time.monotonic()
        discovery_at = drift_at + self._settings.discovery_interval_s
        while True:
            try:
                self._answer(self._asked.get(timeout=max(0.0, min(drift_at, discovery_at) - time.monotonic())))
            except queue.Empty:
                pass  # nobody asked: one of the times has come
            if time.monotonic() >= drift_at:
                self._guarded(self._look_for_drift)
                drift_at = time.monotonic() + self._settings.drift_interval_s
            if time.monotonic() >= discovery_at:
                self._guarded(self._look_for_hardware)
                discovery_at = time.monotonic() + self._settings.discovery_interval_s

    def _answer(self, scan: Scan) -> None:
        try:
            found = self._eyes.scan(scan.sections)
        except Exception as error:
            # Whoever asked must get an answer, whatever the probes do.
            log.exception("discovery has a bug")
            self._deliver(Scanned({}, {"discovery": f"{type(error).__name__}: {error}"}, scan.force, scan.commands))
            return
        self._deliver(Scanned(found.sections, found.errors, scan.force, scan.commands))

    def _guarded(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception:
            # This thread must outlive a bug in one look; it will be said again each time.
            log.exception("looking failed")

    def _look_for_hardware(self) -> None:
        changed = self._eyes.changed()
        if changed:
            found = self._eyes.scan(changed)
            self._deliver(Scanned(found.sections, found.errors))

    def _look_for_drift(self) -> None:
        changed = False
        for number, applier in enumerate(self._appliers):
            items = applier.look()
            if items is not None:
                self._seen[number] = items
                changed = True
        if changed and len(self._seen) == len(self._appliers):
            self._deliver(Observed(tuple(item for items in self._seen.values() for item in items), complete=True))


class Device:
    """Discovery on this very machine."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._scanner = Scanner()
        self._watcher = Watcher(root=root)
        self._watcher.changed(time.monotonic())  # the first answer names all, and the agent scans all when it starts anyway

    def scan(self, sections: tuple[str, ...] | None) -> Found:
        return self._scanner.scan(self._root, sections, SCAN_TIMEOUT_S)

    def changed(self) -> tuple[str, ...]:
        return tuple(sorted(self._watcher.changed(time.monotonic())))
