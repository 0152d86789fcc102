"""`python -m tests.chaos`: put a thousand simulated worlds and then a real installation under chaos, and check what was promised. Called by
`make chaos`.

Exit status: 0 all checks hold, 1 one does not, 2 usage.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.checks import Check
from tests.chaos.nemeses.registry import NEMESES
from tests.chaos.run import run
from tests.chaos.schedule import BROKERS, PLUG, Step, plan, worlds
from tests.chaos.story import Story
from tests.simulation.__main__ import main as simulated

SHOWN = 12
"""Problems of a check that are printed."""
WORLDS = 1000
"""Simulated worlds that come before a whole run (docs/simulation.md)."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(NEMESES))
        return 0
    wrong = sorted(set(options.only) - set(NEMESES))
    if wrong:
        print(f"chaos: there is no nemesis {wrong[0]!r}; there are {', '.join(NEMESES)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was mounted and started is taken away
    story = Story()
    try:
        good = _worlds(options, story)
        _hush()
        for broker, steps in _plans(options):
            good = asyncio.run(_on(broker, steps, options, story)) and good
    except KeyboardInterrupt:
        story.plain("\nverdict: none, it was interrupted")
        return 1
    story.plain(f"\nverdict: {'everything held' if good else 'SOMETHING DID NOT HOLD'} (seed {options.seed}, {story.now():.0f} s)")
    return 0 if good else 1


def _worlds(options: argparse.Namespace, story: Story) -> bool:
    """Whether every promise was kept in each of them."""
    whole = not (options.plug or options.only)
    seeds = worlds(options.seed, options.worlds if options.worlds is not None else WORLDS if whole else 0)
    if not seeds:
        return True
    story.plain(f"== simulated worlds, seeds {seeds.start} to {seeds.stop - 1}")
    return simulated(["--seeds", str(len(seeds)), "--from", str(seeds.start), "--jobs", str(os.cpu_count() or 1)]) == 0


def _plans(options: argparse.Namespace) -> list[tuple[str, Sequence[Step]]]:
    if options.plug:
        return [("embedded", PLUG)]
    chosen = options.everywhere or bool(options.only and options.broker != "both")
    planned = plan(options.seed, options.only or list(NEMESES), options.rounds, everywhere=chosen)
    return [(broker, steps) for broker, steps in planned.items() if steps and options.broker in (broker, "both")]


def _hush() -> None:
    """What breaks here is meant to; only what this process asks itself would be heard."""
    for name, level in (("inventory", logging.ERROR), ("asyncpg", logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)


async def _on(broker: str, steps: Sequence[Step], options: argparse.Namespace, story: Story) -> bool:
    story.plain(f"\n== {broker} broker, seed {options.seed}: {len(steps)} nemeses")
    history, checks = await run(broker, options.seed, steps, story, keep=options.keep)
    if options.history is not None:
        history.save(options.history.with_stem(f"{options.history.stem}-{broker}"))
    story.plain()
    for check in checks:
        _show(story, check)
    return all(check.good for check in checks)


def _show(story: Story, check: Check) -> None:
    story.plain(f"  {'ok  ' if check.good else 'FAIL'} {check.name}: {check.counted}")
    for problem in check.problems[:SHOWN]:
        story.plain(f"         {problem}")
    if len(check.problems) > SHOWN:
        story.plain(f"         and {len(check.problems) - SHOWN} more")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill things, heal them, and check what was promised.")
    parser.add_argument(
        "--broker", choices=(*BROKERS, "both"), default="both", help="default both: what has nothing to do with it comes on one"
    )
    parser.add_argument("--worlds", type=int, metavar="N", help=f"simulated worlds that come first (default {WORLDS}; none with --only)")
    parser.add_argument("--everywhere", action="store_true", help="every nemesis on each broker")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same schedule (default 1)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each nemesis comes (default once)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NEMESIS", help="only these")
    parser.add_argument("--list", action="store_true", help="the names of all nemeses")
    parser.add_argument("--plug", action="store_true", help="the short demonstration instead")
    parser.add_argument("--keep", action="store_true", help="keep the installation's files and logs")
    parser.add_argument("--history", type=Path, metavar="FILE", help="write the history as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
