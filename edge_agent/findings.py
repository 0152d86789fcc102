"""What was found on the device, on its way to the outbox: facts that changed, items that are not as last reported. Pure."""

from dataclasses import replace

from broker.messages import ErrorCode, Item
from edge_agent import commands, facts
from edge_agent.outbox import FactsPart, Manifest
from edge_agent.signals import Failed, Finished, Measured, Outcome, Scanned, Succeeded
from edge_agent.state import Turn
from edge_agent.uplink import log, report_items

MAX_SAMPLES = 2000
"""Samples held while offline; past it the oldest go, and are counted."""


def scanned(turn: Turn, scan: Scanned) -> None:
    """Queue what changed. The first time in a process the manifest goes along even if nothing did: what the last process said while its
    journal could not be written is known to nobody here."""
    manifest, unfit = dict(turn.state.durable.manifest), {}
    if not turn.state.scanned:
        turn.set(scanned=True)
        turn.put(Manifest())
    for name, data in scan.sections.items():
        try:
            section = facts.section_of(data)
        except facts.Unfit as error:
            unfit[name] = str(error)
            continue
        wanted = scan.force is None or name in scan.force
        if wanted or manifest.get(name) != section.hash:
            manifest[name] = section.hash
            turn.keep(manifest=dict(manifest))
            turn.put(FactsPart(name, section))
    _scan_errors(turn, tuple(scan.sections), scan.errors | unfit)
    for id in scan.commands:
        commands.finished(turn, Finished(id, _refreshed(scan, unfit)))


def _refreshed(scan: Scanned, unfit: dict[str, str]) -> Outcome:
    problems = scan.errors | unfit
    output = ", ".join(sorted(set(scan.sections) - set(unfit)))
    if problems and not output:
        return Failed(ErrorCode.INTERNAL, "; ".join(f"{name}: {text}" for name, text in sorted(problems.items())))
    return Succeeded(output)


def _scan_errors(turn: Turn, read_now: tuple[str, ...], errors: dict[str, str]) -> None:
    """Tell once of a section that can't be read, and again when the reason changes."""
    before = turn.state.errors
    for name, text in errors.items():
        if before.get(name) != text:
            log(turn, "discovery-failed", "warning", f"{name}: {text}", section=name)
    turn.set(errors={n: t for n, t in before.items() if n not in read_now} | errors)


def observed(turn: Turn, seen: tuple[Item, ...], complete: bool) -> None:
    """Report items that are not as last reported; an absent one is then forgotten."""
    items = dict(turn.state.durable.items)
    gone = [item for id, item in items.items() if complete and id not in {i.id for i in seen}]
    for item in (*seen, *(replace(item, state="absent", digest=None, reason="", message="") for item in gone)):
        if items.get(item.id) != item:
            turn.put(item)
        if item.state == "absent":
            items.pop(item.id, None)
        else:
            items[item.id] = item
    if items != turn.state.durable.items:
        turn.keep(items=items)
    if complete and not turn.state.looked:
        owed = turn.state.owes_items
        turn.set(looked=True, owes_items=False)
        if owed:
            report_items(turn)


def measured(turn: Turn, signal: Measured) -> None:
    held = (*turn.state.samples, *signal.samples)
    lost = max(0, len(held) - MAX_SAMPLES)
    turn.set(samples=held[lost:], samples_lost=turn.state.samples_lost + lost)
