"""Devices that are hostile in every text that they may say of themselves, put into a site by the real ingest.

Each has a kind of its own, because the texts have a bound of 256 characters: markup that breaks out of an element or an attribute,
templates and addresses of every system that might evaluate them, and what a terminal or a spreadsheet would obey.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.messages import Error, Item, Message
from inventory import facts, tokens
from inventory.actor import Actor
from inventory.authority import Authority
from inventory.db import Database
from inventory.enrollment import Admitted, redeem
from inventory.ingest import Ingest
from inventory.signing import CommandSigner
from inventory.store import Store
from tests.inventory_wire.device import TOPICS, Device, Sent, log_message, result, status
from tests.inventory_wire.installation import new_key, request
from tests.pages.seed import ADMIN

RUNS = "document.documentElement.dataset.owned=1"
"""What each of them tries to run, and a test looks for."""
EVALUATED = "36553998481"
"""191191 × 191191: what a template would make of its expression. Shorter numbers are found in ids and hashes by chance."""
END = "\u27e7"
"""The last character of each text, so that a test sees what stands behind it."""

KINDS = {
    "markup": f"\"'></title></textarea></script><img src=x onerror={RUNS}><script>{RUNS}</script>"
    f"<svg onload={RUNS}><b hx-get=/owned hx-trigger=load>{END}",
    "templates": "{{191191*191191}}${191191*191191}<%=191191*191191%>#{191191*191191}{%raw%}javascript:"
    + RUNS
    + ";//"
    + "<a href='javascript:"
    + RUNS
    + "'>"
    + END,
    "controls": '=1+1;@SUM(1);+1|-2\t=cmd|"/c calc"!A0 \u202eenil\u2066 \u009b31m \u2028%n %s &lt;b&gt; \\u003cb\\u003e' + END,
}


def said(text: str) -> dict[str, Any]:
    """Every section of facts: the members that become fields of the host, components, and some that nobody knows, by hostile names too."""
    sections: dict[str, Any] = {name: {member: text for _, member in members} for name, members in facts.TEXTS.items()}
    for name, (member, _) in facts.COMPONENTS.items():
        attributes = dict.fromkeys(("name", "model", "vendor", "serial", "driver", "mac", "path", "type"), text)
        found = {"key": text, **attributes, "size_bytes": text, "list": [text, text], "inner": {text: text}, text: text}
        sections.setdefault(name, {})[member] = [found, {"key": f"2 {text}"[:250], "name": text}]
    for name in ("platform", "software", "time", "unknown"):
        sections[name] = {"virtualization": text, "container": text, "packages": [text], text: {text: [text]}}
    return sections


async def make(db: Database, kind: str, config: str) -> str:
    """A hostile device's host, as enrollment and its reports make it: evidence, facts, presence, logs, a result, the status of a config."""
    text, store = KINDS[kind], Store(db)
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory) / "secrets")
        authority.bootstrap()
        ingest = Ingest(db, TOPICS, authority, CommandSigner(authority.directory), Sent())
        device = await _enroll(db, store, authority, text)
        await _report(ingest, store, device, text, config)
    return device.id


async def _enroll(db: Database, store: Store, authority: Authority, text: str) -> Device:
    secret = tokens.random_secret()
    await store.create("enrollment-token", {"approve": True}, ADMIN, extra={"token_hash": tokens.stored_hash(secret)})
    word = text.replace("\t", " ")
    evidence = {"serial": word, "uuid": word, "hostname": word, "macs": []}
    body = {"token": secret, "csr": request(new_key()), "evidence": evidence, "agent_version": word}
    outcome = await redeem(db, store, authority, body, broker=("127.0.0.1", 8883), topics=TOPICS)
    assert isinstance(outcome, Admitted), "no other device here has said such a serial number"
    return Device(outcome.answer["device"], bytes.fromhex(outcome.answer["channel_key"]))


async def _report(ingest: Ingest, store: Store, device: Device, text: str, config: str) -> None:
    """What the wire takes as a word (types, codes, digests) can be none of these texts: such a message would be set aside."""
    manager = Actor.manager("config")
    placed = {"host": device.id, "config": config, "digest": "sha256:0", "paths": [], "shadowed": []}
    host_config = (await store.make("host-config", placed, manager))["id"]
    resource = {"kind": "host-config", "id": host_config, "generation": 1}
    command = {"host": device.id, "verb": "config.apply", "args": {}, "resource": resource, "state": "running", "timeout_s": 60}
    made = (await store.make("command", command | {"not_after": store.clock()}, manager))["id"]
    item = Item(kind="host-config", id=host_config, generation=1, state="failed", digest="sha256:0", reason=text[:128], message=text)
    messages: list[Message] = [
        replace(device.presence(), agent_version=text),
        device.facts(**said(text)),
        status(item),
        result(made, "failed", error=Error(code="Internal", message=text, recoverable=False), output=text),
        log_message(severity="critical", message=text),
    ]
    await ingest.process(await ingest.open([device.inbound(each) for each in messages]))
    async with store.transaction() as w:
        poison = await w.tx.raw.fetchval("SELECT count(*) FROM poison WHERE host = $1", device.id)
    assert not poison, "a message was set aside: its texts are seen nowhere"
    told = {"indicator": "error", "reason": "Halted", "message": text, "since": "2026-11-22T18:00:00.000Z", "halted": True}
    await store.write("host-config", host_config, {"current_state": "failed", "status": told}, manager)
