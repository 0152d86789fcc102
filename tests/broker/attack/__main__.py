"""`python -m tests.broker.attack [ATTACK …] [--seed N] [--short]`: the embedded broker under attack, in full size. `make attack` runs it.

Prints a line for each thing that was looked at; exit status 1 where one is not as promised, 2 on usage. The tests run the short sizes.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.broker.attack.ground import Finding, chance_of, standing, standing_open
from tests.broker.attack.registry import ATTACKS, Entry


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    wrong = sorted(set(options.attacks) - set(ATTACKS))
    if wrong:
        print(f"attack: there is no attack {wrong[0]!r}; there are {', '.join(ATTACKS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in options.attacks or [name for name, entry in ATTACKS.items() if entry.short or not options.short]:
        began = time.monotonic()
        print(f"== {name}, seed {options.seed}", flush=True)
        findings = asyncio.run(_on(name, ATTACKS[name], options))
        for each in findings:
            print(f"{'held  ' if each.held else 'FAILED'}  {each.what}: {each.seen}")
        failed += sum(not each.held for each in findings)
        print(f"        {time.monotonic() - began:.0f} s", flush=True)
    print(f"verdict: {f'{failed} things did not hold' if failed else 'everything held'}")
    return 1 if failed else 0


async def _on(name: str, entry: Entry, options: argparse.Namespace) -> list[Finding]:
    size, chance = entry.short if options.short else entry.size, chance_of(options.seed, name)
    if entry.open:
        async with standing_open() as ground:
            return await entry.attack(ground, size, chance)
    with tempfile.TemporaryDirectory() as directory:
        async with standing(Path(directory)) as ground:
            return await entry.attack(ground, size, chance)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.broker.attack", description="Attack the embedded broker, and see whether it holds."
    )
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"all, unless named: {', '.join(ATTACKS)}")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="the sizes that the tests use")
    return parser


if __name__ == "__main__":
    sys.exit(main())
