"""Bugs planted in a copy of the product, each of which the simulation has to find: `python -m tests.simulation.mutations [NAME ...]`.

A mutation replaces a piece of the product's source in a temporary copy of the tree, never in the tree itself, and says what it breaks. A
piece that is not there exactly once is an error: the product has changed, and the mutation has to follow.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
COPIED = ("broker", "inventory", "managers", "edge_agent", "tests/simulation")
SEEDS = 400
"""Within so many seeds each has to be found."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """`breaks`: what it breaks, in one sentence."""

    name: str
    file: str
    old: str
    new: str
    breaks: str


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "stale-fence-runs",
        "edge_agent/commands.py",
        "elif order.fence <= durable.fence:",
        "elif order.fence < 0:",
        "The device takes an order below the highest fence that it has seen, as from a manager that has lost its key.",
    ),
    Mutation(
        "runs-twice",
        "edge_agent/commands.py",
        "if rule is None or not rule.idempotent:",
        "if rule is None:",
        "After a crash in the middle a verb that is not idempotent runs again instead of being `unknown`.",
    ),
    Mutation(
        "effects-before-journal",
        "edge_agent/runtime.py",
        "        if state.broken is None and not self._save(state.durable, now):",
        "        self._perform(effects)\n        effects = ()\n        if state.broken is None and not self._save(state.durable, now):",
        "Effects are executed before what they follow from is on disk.",
    ),
    Mutation(
        "journal-not-synced",
        "edge_agent/journal.py",
        '"synchronous=FULL"',
        '"synchronous=NORMAL"',
        "A commit of the journal returns before it is on disk, so that a power cut takes it back.",
    ),
    Mutation(
        "acknowledges-one-more",
        "edge_agent/outbox.py",
        "if s.seq > ack.seq)), Verdict.PROGRESS",
        "if s.seq > ack.seq + 1)), Verdict.PROGRESS",
        "The outbox drops one message more than was acknowledged.",
    ),
    Mutation(
        "never-resends",
        "edge_agent/uplink.py",
        "    if turn.state.resend.at is None:\n        _plan_resend(turn)",
        "    if turn.state.resend.at is None:\n        pass",
        "What is sent first is not sent again when its acknowledgement does not come.",
    ),
    Mutation(
        "renumbers-with-a-hole",
        "edge_agent/outbox.py",
        "for n, message in enumerate(outbox.sent, 1))",
        "for n, message in enumerate(outbox.sent, 2))",
        "A new epoch begins at 2, so that the server waits for its first message for ever.",
    ),
    Mutation(
        "dials-rarely",
        "edge_agent/connection.py",
        "    limit = min(DIAL_MAX_S, DIAL_FIRST_S * 2.0 ** min(failures, 10))",
        "    limit = 6 * DIAL_MAX_S",
        "The agent waits so long before it dials again that little is as it should be 30 s after the way is open.",
    ),
    Mutation(
        "takes-gaps",
        "inventory/streams.py",
        "if seq == stream.seq + 1:",
        "if seq > stream.seq:",
        "Ingest takes a message whose predecessor is missing, and acknowledges both.",
    ),
    Mutation(
        "late-will-counts",
        "inventory/streams.py",
        "    if session != stream.session:\n        return Heard.IGNORED\n    _retire(stream, None)",
        "    _retire(stream, None)",
        "The Will of an earlier session takes a device offline that has long connected again.",
    ),
    Mutation(
        "displaced-session-stays-away",
        "inventory/streams.py",
        "    if heard + 1 < RETURNS:",
        "    if heard + 1 < 1000 * RETURNS:",
        "A session whose place a late message of an earlier one took is never current again, although it is the living one.",
    ),
    Mutation(
        "left-epoch-comes-back",
        "inventory/streams.py",
        "    if epoch in stream.retired_epochs:\n        return Verdict.RETIRED\n",
        "",
        "A message of an epoch that was left, doubled by the broker, becomes the device's current one again.",
    ),
    Mutation(
        "acknowledges-before-commit",
        "inventory/ingest.py",
        "            known = await self._known.of(w.tx.raw, list(batch.reports.sections))",
        "            for (host, epoch), verdict in batch.acks.items():\n"
        "                await self._say(host, answer(batch.streams[host], epoch, verdict))\n"
        "            known = await self._known.of(w.tx.raw, list(batch.reports.sections))",
        "Ingest acknowledges what its transaction has not committed yet, and may never.",
    ),
    Mutation(
        "remembers-before-commit",
        "inventory/ingest.py",
        "            known = await self._known.of(w.tx.raw, list(batch.reports.sections))",
        "            known = await self._known.of(w.tx.raw, list(batch.reports.sections))\n"
        "            for host, hashes in batch.reports.hashes.items():\n"
        "                self._known.keep(host, hashes)",
        "Ingest remembers sections as stored whose transaction is undone, and does not store them when they come again.",
    ),
    Mutation(
        "write-without-change",
        "inventory/bulk.py",
        "        yield writer\n        await writer.flush()",
        "        yield writer",
        "What devices report is written without its change.",
    ),
    Mutation(
        "hole-in-the-log",
        "inventory/changes.py",
        'first, digest = state["position"] + 1, bytes(state["hash"])',
        'first, digest = state["position"] + len(rows), bytes(state["hash"])',
        "The relay leaves out positions when it moves several changes at once.",
    ),
    Mutation(
        "end-is-not-final",
        "inventory/reports.py",
        '    if command["state"] in _PROGRESS:',
        '    if command["state"]:',
        "A late result replaces the end that a command has already come to.",
    ),
    Mutation(
        "settles-lost-keys",
        "managers/settling.py",
        "            held = await self._queue.hold(w.tx.raw, terms.queue, claimed)",
        "            held = await self._queue.hold(w.tx.raw, terms.queue, claimed)\n"
        "            from inventory.work import Held\n"
        "            held = [Held(c.key, c.fence, c.attempts, None, w.at) for c in claimed]",
        "A replica that has lost a key to another one writes its outcome all the same.",
    ),
    Mutation(
        "forgets-triggers",
        "managers/workqueue.py",
        "return Settled(Fate.DONE, Entry(held.key, held.now), True) if held.again else Settled(Fate.DONE, None)",
        "return Settled(Fate.DONE, None)",
        "A trigger that came while its key was being reconciled is forgotten.",
    ),
    Mutation(
        "overlooks-hosts-in-hand",
        "managers/kinds/config.py",
        "    doubtful = tuple(sorted(set(deciding) - set(concerned)))",
        "    doubtful = ()",
        "A host that is being decided on by what a config was before is not looked at again, although the config has just left it.",
    ),
    Mutation(
        "cursor-before-triggers",
        "managers/feed.py",
        '                raise _Overtaken(f"position {at} was not where the cursor stood")\n            await self._trigger(tx, asked)',
        '                raise _Overtaken(f"position {at} was not where the cursor stood")\n'
        "        async with self._db.transaction() as tx:\n            await self._trigger(tx, asked)",
        "The cursor moves in a transaction of its own, so that a crash behind it loses what the changes trigger.",
    ),
    Mutation(
        "outdated-success-counts",
        "managers/kinds/host_config.py",
        "if command is not None and command.generation == view.generation and command.verb == Verb.CONFIG_APPLY:",
        "if command is not None and command.verb == Verb.CONFIG_APPLY:",
        "A command made for an earlier generation settles the present one.",
    ),
    Mutation(
        "waits-for-ever",
        "managers/dispatch.py",
        "    if now >= end:\n        return End(CommandState.TIMED_OUT)",
        "    if now >= end and not taken:\n        return End(CommandState.TIMED_OUT)",
        "A command that a device has taken and then forgotten never ends.",
    ),
)
BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


def plant(mutation: Mutation, tree: Path) -> None:
    """Copy the product to `tree`, with the bug. Raises ValueError where its place is not found exactly once."""
    for part in COPIED:
        shutil.copytree(TREE / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    path = tree / mutation.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: its place is {source.count(mutation.old)} times in {mutation.file}, not once")
    path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")


def hunt(mutation: Mutation, seeds: int = SEEDS) -> str | None:
    """What the simulation says of the product with this bug: the first seed that is broken, or None."""
    with tempfile.TemporaryDirectory(prefix="fleetward-mutation-") as folder:
        plant(mutation, Path(folder))
        command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--until-broken", "--quiet"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.search(r"^seed \d+: .*$", ended.stdout, re.MULTILINE)
    if ended.returncode == 1 and found:
        return found[0]
    if ended.returncode != 0:
        raise RuntimeError(f"{mutation.name}: the simulation itself failed: {ended.stderr[-2000:]}")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="within how many each has to be found")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BY_NAME]
    if unknown:
        parser.error(f"there is no mutation {', '.join(unknown)}")
    missed = 0
    for mutation in [BY_NAME[name] for name in options.names] or MUTATIONS:
        began = time.perf_counter()
        found = hunt(mutation, options.seeds)
        missed += found is None
        print(f"{mutation.name:<28} {found or f'NOT FOUND in {options.seeds} seeds'} ({time.perf_counter() - began:.0f} s)", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
