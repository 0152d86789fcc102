"""A broker that forges, replays, reorders, misdelivers and withholds, between real agents and the real server: nothing of it takes effect,
and all of it is counted and told (design.md section 7, G11)."""

import asyncio
import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from broker.messages import DURABLE, Delegation, Doubt, decode_text
from inventory.authority import Authority
from inventory.explain import explain
from inventory.metrics import DEVICES_REFUSED, METER, REFUSED
from inventory.view import View
from tests.hostile.attacks import Attacks, Booty, Stolen, out_of_time
from tests.hostile.ground import Ground, Machine, eventually
from tests.hostile.mqtt import Carried

SEED = 20261126
ATTACKS = 10_000
SAMPLE = 1_500
"""Of them in `make test`: each kind dozens of times."""
HONEST_TIMES = 10
"""How often there is honest work amid them."""
SHORT = timedelta(seconds=0.4)
LATE = (Doubt.LATE_ACK, Doubt.LATE_CHECKPOINT)


def stolen_key(authority: Authority) -> Stolen:
    """The command key as it is now; whoever has it has also seen its delegation."""
    key = SigningKey(base64.b64decode((authority.directory / "command.key").read_text()))
    delegation = decode_text(Delegation, (authority.directory / "delegation.json").read_text())
    root = SigningKey(base64.b64decode((authority.directory / "command-root.key").read_text()))
    return Stolen(key, delegation, out_of_time(root, key, 2))


async def work(site: Ground, machine: Machine, number: int) -> list[str]:
    """So many honest commands, one after another; their names in the device's log."""
    done = []
    for _ in range(number):
        command = await site.command(machine)
        name = f"n{machine.made}"
        assert (await site.ended(command))["state"] == "succeeded"
        done.append(name)
    return done


async def ask_again(site: Ground, machine: Machine) -> None:
    """Have Inventory send a resync, as after a restore, and the device answer it."""
    await site.rows("UPDATE device_stream SET resync_at = now() WHERE host = $1", machine.id)

    async def answered() -> bool:
        [row] = await site.rows("SELECT resync_at FROM device_stream WHERE host = $1", machine.id)
        return row["resync_at"] is None

    await eventually(answered, "the device tells everything")


def carried(messages: list[Carried], machine: Machine, *channels: str) -> list[Carried]:
    return [message for message in messages if message.device == machine.id and message.channel in channels]


async def expired(site: Ground, machine: Machine, number: int) -> tuple[list[str], set[str]]:
    """Commands that the broker keeps until they are over, and then delivers; their ids, and of those that were signed at all: on a busy
    machine one may be over before that."""
    site.broker.passes = lambda message: message.channel != "down/command"
    commands = [await site.command(machine, not_after=datetime.now(UTC) + SHORT) for _ in range(number)]
    for command in commands:
        assert (await site.ended(command))["state"] == "timed_out"
    site.broker.passes = lambda message: True
    signed = set()
    for message in carried(site.broker.down, machine, "down/command"):
        if (id := json.loads(json.loads(message.payload)["signed"])["id"]) in commands:
            site.broker.deliver(message)
            signed.add(id)
    assert signed
    return commands, signed


async def plunder(site: Ground, victim: Machine, other: Machine, before: int, lost: list[Carried]) -> Booty:
    """What the broker has of the victim, sorted. `before`: messages heard up to the loss of the victim's first journal."""
    down = [message for message in site.broker.down if message not in lost]
    said = [m for m in site.broker.heard[before:] if m.device == victim.id and m.channel in DURABLE]
    epoch = json.loads(said[-1].payload)["epoch"]
    acks = [m for m in carried(down, victim, "down/ack") if json.loads(m.payload)["epoch"] == epoch]
    highest = max(json.loads(m.payload)["seq"] for m in acks)
    return Booty(
        known=carried(down, victim, "down/command"),
        lost=lost,
        elsewhere=carried(down, other, "down/command", "down/checkpoint", "down/ack"),
        checkpoints=carried(down, victim, "down/checkpoint"),
        old_acks=[m for m in acks if json.loads(m.payload)["seq"] < highest - 2],
        resyncs=carried(down, victim, "down/resync"),
        said=[m for m in said if json.loads(m.payload)["epoch"] == epoch],
        former=[m for m in site.broker.heard[:before] if m.device == victim.id and m.channel in DURABLE],
    )


@pytest.mark.sampled
async def test_none_of_ten_thousand_attacks_takes_effect(site: Ground, full: bool) -> None:
    """Forged, replayed, reordered, cross-device, expired, stale-fenced and wrongly delegated commands, forged and replayed
    acknowledgements, resyncs, checkpoints and results, amid honest work: the work is done once, nothing else is, and each attack is
    counted and told."""
    stolen = stolen_key(site.authority)
    assert site.authority.rotate_command_key() == 2
    victim, other = await site.machine("victim"), await site.machine("other")
    honest = {"victim": await work(site, victim, 4), "other": await work(site, other, 4)}
    lost, before = carried(site.broker.down, victim, "down/command"), len(site.broker.heard)
    await site.lose_journal("victim")
    honest["victim"] += await work(site, victim, 6)
    for _ in range(3):
        await ask_again(site, victim)
    overdue, late_comers = await expired(site, victim, 8)
    honest["victim"] += await work(site, victim, 2)
    booty = await plunder(site, victim, other, before, lost)
    [stream] = await site.rows("SELECT epoch FROM device_stream WHERE host = $1", victim.id)

    attacks = Attacks(SEED, victim, other, booty, stolen)
    down, up = Counter({Doubt.EXPIRED_COMMAND: len(late_comers)}), Counter[str]()
    counted, told_before = METER.value(REFUSED, "bad_mac"), {doubt: METER.value(DEVICES_REFUSED, doubt) for doubt in Doubt}
    taken_before = site.ingest.counts.duplicates, site.ingest.counts.retired
    full_before = sum(b'"full":true' in m.payload for m in site.broker.heard)
    amid: list[str] = []
    attempts = ATTACKS if full else SAMPLE
    for number in range(attempts):
        if number % 5:
            doubt, (topic, payload) = attacks.down()
            down[doubt] += 1
            await site.broker.inject(victim.id, topic, payload)
        else:
            fate, (topic, payload) = attacks.up()
            up[fate] += 1
            site.arrive(topic, payload)
        if number % (attempts // HONEST_TIMES) == 0:
            for name, machine in (("victim", victim), ("other", other)):
                amid.append(await site.command(machine))
                honest[name].append(f"n{machine.made}")
        if number % 100 == 0:
            await asyncio.sleep(0)
    for command in amid:
        assert (await site.ended(command))["state"] == "succeeded"

    def counts() -> dict[Doubt, float]:
        """How often each was told, as Inventory has counted it: that is after the commit."""
        return {doubt: METER.value(DEVICES_REFUSED, doubt) - told_before[doubt] for doubt in down if doubt is not Doubt.EXPIRED_COMMAND}

    async def all_told() -> bool:
        told = await site.refused(victim)
        return all(told.get(doubt, 0) >= n for doubt, n in down.items()) and all(n >= down[doubt] for doubt, n in counts().items())

    await eventually(all_told, "the device has reported every attack")
    told, counted_of = await site.refused(victim), counts()
    # Inventory answers what is replayed in the victim's name with acknowledgements, and these make the victim ask for checkpoints: of
    # those some are late as well.
    for doubt in LATE:
        assert min(told.pop(doubt), counted_of.pop(doubt)) >= down.pop(doubt)
    assert told == down
    assert METER.value(REFUSED, "bad_mac") - counted == up["bad_mac"]
    assert site.ingest.counts.duplicates - taken_before[0] >= up["duplicates"]
    assert site.ingest.counts.retired - taken_before[1] == up["retired"]
    assert counted_of == {doubt: n for doubt, n in down.items() if doubt is not Doubt.EXPIRED_COMMAND}

    for name, machine in (("victim", victim), ("other", other)):
        assert machine.runs == honest[name], "each honest command ran once, in its order, and nothing else did"
        assert {path.name for path in machine.files.iterdir()} == {*honest[name], "runs"}
        assert all((machine.files / each).read_text() == each for each in honest[name])
    ends = Counter(row["state"] for row in await site.rows("SELECT state FROM command"))
    assert ends == {"succeeded": len(honest["victim"]) + len(honest["other"]), "timed_out": len(overdue)}
    late = {row["id"] for row in await site.rows("SELECT id FROM command WHERE late_result IS NOT NULL")}
    assert late <= set(overdue)
    [after] = await site.rows("SELECT epoch FROM device_stream WHERE host = $1", victim.id)
    assert after["epoch"] == stream["epoch"], "no replayed acknowledgement made the device begin anew"
    assert sum(b'"full":true' in m.payload for m in site.broker.heard) == full_before, "no replayed resync was answered"

    notices = {row["type"] for row in await site.rows("SELECT type FROM notification WHERE host = $1", victim.id)}
    assert {"MessageForged", "messages-refused"} <= notices
    assert (await site.ended(await site.command(victim)))["state"] == "succeeded"


async def test_a_checkpoint_for_another_device_is_none_for_this_one(site: Ground) -> None:
    """The broker asks with the victim's own nonce in another device's name: the genuine answer, right in all but the device, is refused."""
    other = await site.machine("other")
    site.broker.passes = lambda message: message.channel != "down/checkpoint" or message.device == other.id
    victim = await site.machine("victim")
    nonce = json.loads(carried(site.broker.heard, victim, "up/presence")[-1].payload)["nonce"]
    own = json.loads(carried(site.broker.heard, other, "up/presence")[-1].payload)
    site.arrive(other.topic("up/presence"), json.dumps(own | {"nonce": nonce}).encode())

    def answers() -> list[Carried]:
        return [
            m for m in carried(site.broker.down, other, "down/checkpoint") if json.loads(json.loads(m.payload)["signed"])["nonce"] == nonce
        ]

    async def answered() -> bool:
        return bool(answers())

    await eventually(answered, "Inventory answers in the other's name")
    await site.broker.inject(victim.id, victim.topic("down/checkpoint"), answers()[-1].payload)

    async def told() -> bool:
        return (await site.refused(victim)).get(Doubt.MISDELIVERED_CHECKPOINT) == 1

    await eventually(told, "it is refused, and told")


async def test_rotation_of_the_command_key_during_work_loses_no_command(site: Ground) -> None:
    """Replaced three times while commands are made, sent, delayed and answered: each runs exactly once, and no process is started again."""
    victim, other = await site.machine("victim"), await site.machine("other")
    held: list[Carried] = []
    sent = count(1)

    def some_late(message: Carried) -> bool:
        """Every third command is kept until after the next rotation, so that its signature is void when it arrives."""
        if message.channel != "down/command" or next(sent) % 3:
            return True
        held.append(message)
        return False

    async def one_held() -> bool:
        return bool(held)

    site.broker.passes = some_late
    commands: list[str] = []
    for rotation in range(3):
        commands += [await site.command(machine) for machine in (victim, other) for _ in range(4)]
        await eventually(one_held, "a command is kept")
        assert site.authority.rotate_command_key() == rotation + 2
        after = [await site.command(machine) for machine in (victim, other) for _ in range(4)]
        for command in after:
            await site.ended(command)
        commands += after
        for message in held:
            site.broker.deliver(message)
        held.clear()
    ends = Counter([(await site.ended(command))["state"] for command in commands])
    assert ends == {"succeeded": len(commands)}
    for machine in (victim, other):
        assert sorted(machine.runs) == sorted(f"n{n}" for n in range(1, machine.made + 1))

    async def told() -> bool:
        return sum([(await site.refused(machine)).get(Doubt.VOID_COMMAND, 0) for machine in (victim, other)]) > 0

    await eventually(told, "what an earlier key had signed was refused where it came too late")
    generations = {
        json.loads(json.loads(m.payload)["delegation"]["signed"])["generation"] for m in site.broker.down if m.channel == "down/command"
    }
    assert max(generations) == 4


async def test_a_withheld_command_is_seen(site: Ground) -> None:
    """The broker keeps a command back and lets everything else pass: the device hears of it by the checkpoint and says so; server and
    people see it, until it arrives."""
    victim = await site.machine("victim")
    before = await site.command(victim)
    assert (await site.ended(before))["state"] == "succeeded"
    site.broker.passes = lambda message: message.channel != "down/command"
    command = await site.command(victim)

    async def unanswered() -> bool:
        return bool((await site.store.get("command", command))["sends"] > 3)

    await eventually(unanswered, "the server sends it again and again")
    causes = (await explain(View(site.db), "command", command))["causes"]
    assert any("does not answer" in cause["message"] for cause in causes), causes

    async def said() -> bool:
        return any(cause["reason"] == "CommandsWithheld" for cause in (await explain(View(site.db), "host", victim.id))["causes"])

    await eventually(said, "the device says that it lacks a command")
    causes = (await explain(View(site.db), "command", command))["causes"]
    assert any(cause["reason"] == "CommandsWithheld" for cause in causes), causes

    async def told() -> bool:
        notices = await site.rows("SELECT type FROM notification WHERE host = $1", victim.id)
        return "commands-withheld" in {row["type"] for row in notices}

    await eventually(told, "what the device logs of it reaches people")
    site.broker.passes = lambda message: True
    assert (await site.ended(command))["state"] == "succeeded"

    async def quiet() -> bool:
        return not any(cause["reason"] == "CommandsWithheld" for cause in (await explain(View(site.db), "host", victim.id))["causes"])

    await eventually(quiet, "nothing is withheld any more")
    assert victim.runs == ["n1", "n2"]


def test_the_attacker_has_no_key_that_counts(tmp_path: Path) -> None:
    """The stolen key is genuine until it is replaced: the test above would be easy with one that never was."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    stolen = stolen_key(authority)
    mandate = json.loads(stolen.delegation.signed)
    assert mandate["generation"] == 1
    assert mandate["public_key"] == base64.b64encode(bytes(stolen.key.verify_key)).decode()
