"""`python -m tests.simulation [--seeds N] [--from S]`: simulated worlds, one a seed, each checked at every step.

A seed that breaks a promise is cut down to the events that it takes, and printed with the end of its trace and the command that repeats
it. Exit: 0 when every promise was kept, 1 otherwise.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.simulation.plan import Plan, plan
from tests.simulation.shrinking import shrink
from tests.simulation.world import simulate

SHOWN = 40
"""Lines of the trace of a broken seed."""
CHUNK = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rest_s`: how long after the healing the world was at rest, simulated."""

    seed: int
    broken: str | None
    digest: str
    rest_s: float


def judge(seed: int) -> Verdict:
    outcome = simulate(plan(seed))
    return Verdict(seed, outcome.broken, outcome.digest, outcome.rest_s)


def verdicts(seeds: Sequence[int], jobs: int) -> Iterator[Verdict]:
    """In the order of the seeds."""
    if jobs == 1:
        yield from map(judge, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(judge, seeds, chunksize=CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def report(seed: int, say: Callable[[str], object] = print) -> None:
    """Cut a broken seed down, and show it."""
    small = shrink(plan(seed))
    outcome = simulate(small)
    say(f"\n  what it takes ({len(small.events)} of {len(plan(seed).events)} events), {small.shape}:")
    for event in small.events:
        say(f"    {event}")
    say("\n  the end of its trace:")
    for line in outcome.trace[-SHOWN:]:
        say(f"    {line}")
    say(f"\n  again: python -m tests.simulation --from {seed} --seeds 1 --trace\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.trace:
        return _trace(plan(options.first))
    began = time.perf_counter()
    seeds = range(options.first, options.first + options.seeds)
    count, broken, longest = 0, 0, 0.0
    for verdict in verdicts(seeds, options.jobs):
        count, longest = count + 1, max(longest, verdict.rest_s)
        if verdict.broken:
            broken += 1
            print(f"seed {verdict.seed}: {verdict.broken}", flush=True)
            if not options.quiet:
                report(verdict.seed)
            if options.until_broken:
                break
    took = time.perf_counter() - began
    print(
        f"{count} seeds, {broken} broken, {count / took:.1f} seeds/s on {options.jobs} processes, at rest within {longest:.0f} simulated s"
    )
    return 1 if broken else 0


def _trace(planned: Plan) -> int:
    outcome = simulate(planned)
    print("\n".join([str(planned.shape), *outcome.trace, outcome.broken or f"at rest {outcome.rest_s:.0f} s after the healing"]))
    return 1 if outcome.broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulated worlds, one a seed.")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="S", help="the first seed (default 1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default 1)")
    parser.add_argument("--trace", action="store_true", help="run the first seed alone and print its whole trace")
    parser.add_argument("--until-broken", action="store_true", help="end at the first seed that breaks a promise")
    parser.add_argument("--quiet", action="store_true", help="name broken seeds, and no more of them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
