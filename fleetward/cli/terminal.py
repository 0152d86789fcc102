"""What reaches a person's terminal: colours for people, and nothing that would command it (`render.harmless`).

Everything in `fleetward.cli` prints with `echo`, and a test holds it to that.
"""

import os
import sys

import click

from fleetward.cli.render import harmless

_GOOD = {"online", "Reconciled", "present", "onboarded", "succeeded"}
_BAD = {"offline", "failed", "Halted", "untrusted", "critical", "error"}
_WORTH_A_LOOK = {"stale", "Retrying", "Drifted", "drifted", "warning", "Pending", "WaitingForDevice", "WaitingForApproval"}


def echo(text: str, *, err: bool = False, nl: bool = True, coloured: bool = False) -> None:
    """Print; `coloured`: the words for how something is, where somebody looks who wants colours."""
    safe = harmless(text)
    click.echo(_with_colours(safe) if coloured and not os.environ.get("NO_COLOR") and sys.stdout.isatty() else safe, err=err, nl=nl)


def _with_colours(line: str) -> str:
    for words, colour in ((_GOOD, "green"), (_BAD, "red"), (_WORTH_A_LOOK, "yellow")):
        for word in words:
            line = line.replace(f"  {word}  ", f"  {click.style(word, fg=colour)}  ")
    return line
