"""`python -m tests.chaos.device STATE_DIR WORK_DIR SEED`: `fleetward-agent run` with two things that only chaos needs.

Its hardware is invented (`edge_agent.simulated.hardware`), so that disks can be plugged in: as many as `WORK_DIR/plugged` says. It knows a
verb that is not idempotent: `chaos.append` appends a line to `WORK_DIR/ledger` when it begins and another when it ends, with a while
between them in which it can be killed. Nothing of this is in the product's wiring.
"""

import os
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.messages import Item
from edge_agent import identity, logs, runtime, settings
from edge_agent.appliers import Control, registry
from edge_agent.settings import SettingsError
from edge_agent.signals import Outcome, Run, Succeeded
from edge_agent.simulated.hardware import Hardware
from edge_agent.state import VERBS, Lane, Rule
from tests.chaos.checks import LEDGER_VERB

PLUGGED = "plugged"
LEDGER = "ledger"


@dataclass(slots=True)
class Ledger:
    """The applier of the test-only verb. `args`: `seconds`, how long it takes."""

    path: Path
    verbs: tuple[str, ...] = (LEDGER_VERB,)
    _looked: bool = False

    def run(self, command: Run, control: Control) -> Outcome:
        self._append(f"{command.command} begin")
        # Not time.sleep, which libfaketime breaks.
        threading.Event().wait(float(command.args["seconds"]))
        self._append(f"{command.command} end")
        return Succeeded("appended")

    def look(self) -> tuple[Item, ...] | None:
        """It keeps nothing up; said once."""
        first, self._looked = not self._looked, True
        return () if first else None

    def _append(self, line: str) -> None:
        with self.path.open("a") as ledger:
            ledger.write(line + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())


@dataclass(frozen=True, slots=True)
class Found:
    sections: dict[str, Any]
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Bench:
    """Eyes that see an invented machine, with as many more disks as `path` says."""

    seed: int
    path: Path
    _seen: int = 0

    def scan(self, sections: tuple[str, ...] | None) -> Found:
        self._seen = plugged(self.path)
        found = machine(self.seed, self._seen).sections()
        return Found(found if sections is None else {name: found[name] for name in sections if name in found})

    def changed(self) -> tuple[str, ...]:
        return ("storage",) if plugged(self.path) != self._seen else ()


def plugged(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def machine(seed: int, disks: int) -> Hardware:
    """The invented machine with that many disks plugged in."""
    hardware = Hardware(seed, 0)
    for _ in range(disks):
        hardware.add_disk()
    return hardware


def main(state_dir: Path, work_dir: Path, seed: int) -> int:
    try:
        read = settings.load(state_dir / identity.SETTINGS_FILE)
        chosen = replace(read, verbs=(*read.verbs, LEDGER_VERB))
        logs.start(chosen.log)
        appliers = (*registry.appliers(state_dir, chosen), Ledger(work_dir / LEDGER))
        verbs = {**VERBS, LEDGER_VERB: Rule(Lane.WORKER, idempotent=False)}
        running = runtime.Runtime(identity.load(state_dir), chosen, Bench(seed, work_dir / PLUGGED), appliers, verbs)
    except (SettingsError, identity.NotEnrolled, runtime.AlreadyRunning, OSError) as error:
        print(f"fleetward-agent: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    running.handle_signals()
    running.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
