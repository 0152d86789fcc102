"""The pure agent, step by step: what it sends, what it believes, what it runs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from broker.messages import (
    Ack,
    ErrorCode,
    Facts,
    Heartbeat,
    Item,
    Log,
    Message,
    Presence,
    Result,
    Resync,
    Status,
    Verb,
    open_envelope,
    read,
)
from edge_agent import agent, outbox
from edge_agent.policy import Policy
from edge_agent.signals import (
    Booted,
    Clock,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Effect,
    Failed,
    Finished,
    Governed,
    Input,
    JournalFailed,
    JournalLost,
    JournalMended,
    Measured,
    Observed,
    Progressed,
    Publish,
    Received,
    Run,
    Scan,
    Scanned,
    Stop,
    Stopped,
    Stopping,
    StopReason,
    Succeeded,
    Tick,
)
from edge_agent.state import VERBS, Lane, Rule, State, fresh
from tests.agent.rig import START, Authority

ITEM = Item(kind="host-config", id="hcfg-1", generation=1, state="present", digest="sha256:00")


class Bench:
    """One agent under a hand-held clock; its wall clock is a day behind on purpose."""

    def __init__(self, authority: Authority | None = None, verbs: Mapping[str, Rule] | None = None) -> None:
        self.authority = authority or Authority()
        self.me = self.authority.profile(verbs)
        self.mono = 100.0
        self.state: State = agent.begin(fresh("epoch-a"), b"s" * 32)
        self.log: list[Effect] = []

    def put(self, signal: Input) -> list[Effect]:
        self.state, effects = agent.step(self.me, self.state, Clock(self.mono, START - 86400 + self.mono), signal)
        self.log += effects
        return list(effects)

    def later(self, seconds: float) -> list[Effect]:
        self.mono += seconds
        return self.put(Tick())

    def online(self, trusted: bool = True, fence: int = 0) -> list[Effect]:
        """Boot, connect, and (unless told otherwise) get a checkpoint, which says how far the server has numbered."""
        connect = only(Connect, self.put(Booted()))
        effects = self.put(Connected(connect.session))
        return effects + (self.checkpoint(fence) if trusted else [])

    def looked(self) -> "Bench":
        """The device has been looked at, and nothing was there; what the new journal owes is sent and acknowledged."""
        self.put(Observed((), complete=True))
        self.ack(self.state.durable.outbox.next_seq - 1)
        return self

    def checkpoint(self, fence: int = 0, **said: Any) -> list[Effect]:
        return self.down("down/checkpoint", self.authority.checkpoint(self.state.link.nonce, self.now, fence=fence, **said))

    @property
    def now(self) -> float:
        return START + self.mono

    def checkpoint_again(self, **said: Any) -> list[Effect]:
        """A checkpoint is asked for, and comes."""
        self.state = replace(self.state, link=replace(self.state.link, presence_at=self.mono))
        self.put(Tick())
        return self.checkpoint(**said)

    def down(self, suffix: str, payload: bytes) -> list[Effect]:
        assert self.state.link.session is not None
        return self.put(Received(self.state.link.session, self.authority.topic(suffix), payload))

    def ack(self, seq: int, epoch: str | None = None) -> list[Effect]:
        body = Ack(epoch=epoch or self.state.durable.outbox.epoch, seq=seq)
        return self.down("down/ack", self.authority.sealed(body, self.now))

    def command(self, id: str, fence: int, **changes: Any) -> list[Effect]:
        changes.setdefault("at", self.now)
        return self.down("down/command", self.authority.command(self.authority.order(id, fence, **changes), self.now))

    def restarted(self) -> "Bench":
        """The same device after its process died."""
        other = Bench(self.authority, self.me.verbs)
        other.mono = self.mono
        other.state = agent.begin(self.state.durable, b"t" * 32)
        return other

    def sent(self, effects: list[Effect]) -> list[Message]:
        """The messages among the effects, decoded as the server does."""
        found = []
        for effect in effects:
            if isinstance(effect, Publish):
                suffix = effect.topic.removeprefix(self.authority.topics.device_prefix(self.authority.device) + "/")
                found.append(read(open_envelope(suffix, effect.payload, topic=effect.topic, key=self.authority.channel_key)))
        return found

    def results(self, effects: list[Effect]) -> list[Result]:
        return [m for m in self.sent(effects) if isinstance(m, Result)]


def only(kind: type[Any], effects: list[Effect]) -> Any:
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def seqs(effects: list[Effect]) -> list[int]:
    return [json.loads(e.payload)["seq"] for e in effects if isinstance(e, Publish) and b'"seq":' in e.payload]


# --- the connection ---


def test_the_first_message_after_suback_is_presence() -> None:
    """Presence names session and epoch and comes before anything durable."""
    bench = Bench()
    bench.put(Scanned({"cpu": {"cores": 4}}))
    effects = bench.online(trusted=False)
    first, second = bench.sent(effects)[:2]
    assert isinstance(first, Presence) and isinstance(second, Facts)
    assert (first.online, first.session, first.epoch) == (True, bench.state.link.session, "epoch-a")


def test_the_will_says_offline_for_the_same_session() -> None:
    """The Will belongs to the session that it is left with."""
    bench = Bench()
    connect = only(Connect, bench.put(Booted()))
    will = read(open_envelope("up/presence", connect.will))
    assert isinstance(will, Presence)
    assert (will.online, will.session) == (False, connect.session)
    assert connect.subscribe == bench.authority.topics.downlinks(bench.authority.device)


def test_each_connection_has_a_session_of_its_own() -> None:
    """Sessions are compared for equality, so none may come back."""
    bench = Bench()
    bench.online()
    first = bench.state.link.session
    bench.put(Disconnected(first or "", "cable cut"))
    connect = only(Connect, bench.later(61))
    assert connect.session != first


def test_backoff_grows_to_fifteen_seconds_and_is_jittered() -> None:
    """Reconnecting is spread between one second and a bound that doubles up to 15 s."""
    bench, delays = Bench(), []
    bench.put(Booted())
    for _ in range(40):
        bench.put(Disconnected(bench.state.link.session or "", "refused"))
        assert bench.state.link.dial_at is not None
        delays.append(bench.state.link.dial_at - bench.mono)
        bench.later(61)
    assert all(1.0 <= delay <= 15.0 for delay in delays)
    assert delays[0] <= 5.0
    assert max(delays[5:]) > 12.0 and len(set(delays)) > 35


def test_a_late_disconnect_of_an_old_session_changes_nothing() -> None:
    """Only the current session can be lost."""
    bench = Bench()
    bench.online()
    before = bench.state
    bench.put(Disconnected("another", "late"))
    assert bench.state.link == before.link


def test_a_session_that_is_never_confirmed_is_given_up() -> None:
    """Silence instead of SUBACK ends the attempt."""
    bench = Bench()
    bench.put(Booted())
    effects = bench.later(46)
    assert only(Disconnect, effects).clean is False
    assert bench.state.link.session is None and bench.state.link.dial_at is not None


def test_heartbeats_come_every_30_seconds_give_or_take_ten_percent() -> None:
    """The contract's rhythm, with jitter."""
    bench, gaps = Bench(), []
    bench.online()
    for _ in range(20):
        assert bench.state.link.heartbeat_at is not None
        gaps.append(bench.state.link.heartbeat_at - bench.mono)
        assert [type(m) for m in bench.sent(bench.later(gaps[-1]))].count(Heartbeat) == 1
    assert all(27.0 <= gap <= 33.0 for gap in gaps) and len(set(gaps)) > 10


def test_a_planned_end_says_goodbye() -> None:
    """SIGTERM publishes online: false and closes without the Will."""
    bench = Bench()
    bench.online()
    effects = bench.put(Stopping())
    (goodbye,) = bench.sent(effects)
    assert isinstance(goodbye, Presence) and goodbye.online is False
    assert only(Disconnect, effects).clean is True


def test_without_a_checkpoint_presence_is_repeated_with_another_nonce() -> None:
    """A lost checkpoint is asked for again; a late answer to the first nonce does not count."""
    bench = Bench()
    bench.online(trusted=False)
    nonce = bench.state.link.nonce
    again = [m for m in bench.sent(bench.later(12.1)) if isinstance(m, Presence)]
    assert len(again) == 1 and again[0].nonce != nonce and again[0].session == bench.state.link.session
    bench.down("down/checkpoint", bench.authority.checkpoint(nonce, bench.now))
    assert bench.state.refused == {"late-checkpoint": 1}
    bench.checkpoint()
    assert bench.state.time is not None
    assert bench.state.link.presence_at is not None and bench.state.link.presence_at - bench.mono > 3000, "the next one is for control"


# --- the outbox ---


def test_facts_of_several_sections_travel_together_with_the_manifest_of_all() -> None:
    """One message, and the hashes of everything."""
    bench = Bench()
    bench.put(Scanned({"cpu": {"cores": 4}, "memory": {"bytes": 1}}))
    facts = [m for m in bench.sent(bench.online()) if isinstance(m, Facts)]
    assert len(facts) == 1
    assert set(facts[0].sections) == {"cpu", "memory"} == set(facts[0].manifest)


def test_unchanged_sections_are_not_sent() -> None:
    """A scan that finds the same costs no message."""
    bench = Bench()
    bench.online()
    bench.put(Scanned({"cpu": {"cores": 4}}))
    bench.ack(1)
    assert bench.sent(bench.put(Scanned({"cpu": {"cores": 4}}))) == []


def test_unsent_facts_coalesce_by_section() -> None:
    """Offline, only the last state of a section waits."""
    bench = Bench()
    for cores in (1, 2, 3):
        bench.put(Scanned({"cpu": {"cores": cores}}))
    facts = [m for m in bench.sent(bench.online()) if isinstance(m, Facts)]
    assert [f.sections["cpu"].data for f in facts] == [{"cores": 3}]


def test_large_facts_are_split_below_the_limit() -> None:
    """Two sections that don't fit together go in two messages."""
    bench = Bench()
    bench.put(Scanned({"pci": ["x" * 150_000], "usb": ["y" * 150_000]}))
    sizes = [len(e.payload) for e in bench.online() if isinstance(e, Publish) and e.topic.endswith("up/facts")]
    assert len(sizes) == 2 and all(size < 192 * 1024 for size in sizes)


def test_a_section_too_large_for_any_message_is_told_of_instead() -> None:
    """It is a discovery error with its section, once."""
    bench = Bench()
    bench.put(Scanned({"software": ["x" * 200_000]}))
    bench.put(Scanned({"software": ["x" * 200_000]}))
    logs = [m for m in bench.sent(bench.online()) if isinstance(m, Log)]
    assert [(log.type, log.data["section"]) for log in logs] == [("discovery-failed", "software")]


def test_what_firmware_puts_into_strings_is_cleaned() -> None:
    """NUL and lone surrogates are refused by the wire, so they never get that far."""
    bench = Bench()
    bench.put(Scanned({"firmware": {"vendor\0": "ACME\0\udc80"}}))
    facts = next(m for m in bench.sent(bench.online()) if isinstance(m, Facts))
    assert facts.sections["firmware"].data == {"vendor": "ACME?"}


def test_the_window_holds_sixteen() -> None:
    """The seventeenth waits until something is acknowledged."""
    bench = Bench()
    bench.online()
    for n in range(20):
        bench.put(Scanned({"time": {"n": n}}))
    assert len(bench.state.durable.outbox.sent) == outbox.WINDOW
    effects = bench.ack(3)
    assert seqs(effects) == [17] and len(bench.state.durable.outbox.sent) == 14


def test_resending_repeats_the_same_bytes_after_5_s_doubling_to_5_min() -> None:
    """Go-back-N: oldest first, nothing changed, ever less often."""
    bench = Bench()
    bench.online()
    original = [e.payload for e in bench.put(Scanned({"cpu": {"cores": 4}})) if isinstance(e, Publish)]
    gaps = []
    for _ in range(9):
        assert bench.state.resend.at is not None
        gap = bench.state.resend.at - bench.mono
        gaps.append(gap)
        again = [e.payload for e in bench.later(gap) if isinstance(e, Publish) and e.topic.endswith("up/facts")]
        assert again == original
    assert 5.0 <= gaps[0] <= 6.0 and 10.0 <= gaps[1] <= 12.0 and 20.0 <= gaps[2] <= 24.0
    assert 300.0 <= gaps[-1] <= 360.0


def test_everything_unacknowledged_is_sent_again_on_connect() -> None:
    """A new session begins with the oldest that is not acknowledged."""
    bench = Bench()
    bench.online()
    bench.put(Scanned({"cpu": {"cores": 4}}))
    bench.put(Scanned({"memory": {"bytes": 1}}))
    bench.put(Disconnected(bench.state.link.session or "", "gone"))
    connect = only(Connect, bench.later(61))
    assert seqs(bench.put(Connected(connect.session))) == [1, 2]


def test_a_gap_answer_goes_back_once_a_second_at_most() -> None:
    """Sixteen answers to one lost message cause one repetition, not sixteen."""
    bench = Bench()
    bench.online()
    for n in range(5):
        bench.put(Scanned({"time": {"n": n}}))
    bench.mono += 1.5
    assert seqs(bench.ack(0)) == [1, 2, 3, 4, 5]
    assert seqs(bench.ack(0)) == []
    bench.mono += 1.5
    assert seqs(bench.ack(0)) == [1, 2, 3, 4, 5]


def test_one_late_acknowledgement_changes_nothing() -> None:
    """An old number, come late, neither moves the window nor begins an epoch."""
    bench = Bench()
    bench.online()
    for n in range(3):
        bench.put(Scanned({"time": {"n": n}}))
    bench.ack(2)
    bench.ack(1)
    assert bench.state.durable.outbox.epoch == "epoch-a" and bench.state.durable.outbox.base == 3


@pytest.mark.parametrize(
    "said", [{"epoch": "epoch-a", "seq": 2}, {"epoch": "epoch-0", "seq": 9}, {}], ids=["less", "another epoch", "older server"]
)
def test_a_server_that_forgot_what_it_acknowledged_gets_a_new_epoch(said: dict[str, Any]) -> None:
    """Restored from a backup, it answers below our oldest again and again: asked, it confirms that; everything begins anew, and is reported
    in full."""
    bench = Bench()
    bench.online()
    bench.looked()
    for n in range(3):
        bench.put(Scanned({"time": {"n": n}}))
    bench.ack(3)
    effects: list[Effect] = []
    for _ in range(3):
        bench.mono += 6
        effects = bench.ack(2)
    assert bench.state.durable.outbox.epoch == "epoch-a"
    assert [m.online for m in bench.sent(effects) if isinstance(m, Presence)] == [True], "the server is asked what it has"
    effects = bench.checkpoint(**said)
    assert bench.state.durable.outbox.epoch != "epoch-a"
    assert seqs(effects)[0] == 1
    assert Scan(None, None) in effects
    assert any(isinstance(m, Status) and m.full for m in bench.sent(effects))


def test_repeated_acknowledgements_begin_no_epoch() -> None:
    """Whoever carries them can repeat old ones for ever: the answer to a new question shows that nothing is lost, and they are counted."""
    bench = Bench()
    bench.online()
    bench.looked()
    for n in range(3):
        bench.put(Scanned({"time": {"n": n}}))
    bench.ack(3)
    for _ in range(12):
        bench.mono += 6
        bench.ack(2)
        bench.checkpoint(epoch="epoch-a", seq=bench.state.durable.outbox.base - 1)
    assert bench.state.durable.outbox.epoch == "epoch-a"
    told = {m.id: m.data["late-ack"] for m in bench.sent(bench.log) if isinstance(m, Log)}
    assert sum(told.values()) + bench.state.refused.get("late-ack", 0) == 12


def test_a_delayed_answer_is_compared_with_what_was_acknowledged_when_it_was_asked() -> None:
    """What is acknowledged while the checkpoint is on its way is no loss."""
    bench = Bench()
    bench.online(trusted=False)
    bench.looked()
    acked = bench.state.durable.outbox.base - 1
    payload = bench.authority.checkpoint(bench.state.link.nonce, bench.now, epoch="epoch-a", seq=0)
    bench.down("down/checkpoint", payload)
    assert acked > 0 and bench.state.durable.outbox.epoch == "epoch-a"


def test_the_answers_to_mere_repetitions_count_as_well() -> None:
    """They come within milliseconds of a repetition by the timer, each time anew."""
    bench = Bench()
    bench.online()
    bench.looked()
    bench.put(Scanned({"cpu": {}}))
    bench.ack(0)
    for _ in range(2):
        assert bench.state.resend.at is not None
        bench.later(bench.state.resend.at - bench.mono)
        bench.mono += 0.01
        bench.ack(0)
    bench.checkpoint(epoch=None, seq=0)
    assert bench.state.durable.outbox.epoch != "epoch-a"


def test_an_acknowledgement_of_what_was_never_sent_begins_a_new_epoch() -> None:
    """The journal was rolled back (a disk image): numbers would collide with those of the lost time."""
    bench = Bench()
    bench.online()
    bench.put(Scanned({"cpu": {}}))
    bench.ack(7)
    assert bench.state.durable.outbox.epoch != "epoch-a"
    assert [s.seq for s in bench.state.durable.outbox.sent][:1] == [1]


def test_logs_are_bounded_mildest_first_and_the_loss_is_told() -> None:
    """Offline for long: warnings survive infos, results are never dropped, and the count is reported."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.put(Disconnected(bench.state.link.session or "", "gone"))
    bench.put(Finished("cmd-1", Succeeded()))
    for n in range(300):
        bench.put(Scanned({}, {"pci": f"error {n}"}))
    waiting = bench.state.durable.outbox.waiting
    assert sum(isinstance(w.part, Log) for w in waiting) == outbox.MAX_LOGS
    connect = only(Connect, bench.later(61))
    messages = bench.sent(bench.put(Connected(connect.session)))
    while bench.state.durable.outbox.sent:
        messages += bench.sent(bench.ack(bench.state.durable.outbox.sent[-1].seq))
    told = [m for m in messages if isinstance(m, Log) and m.type == "dropped"]
    assert len(told) == 1 and told[0].data["logs"] >= 100
    assert any(isinstance(m, Result) and m.state == "succeeded" for m in messages)


def test_metrics_are_dropped_first_and_counted() -> None:
    """Samples are held up to a bound while offline."""
    bench = Bench()
    bench.put(Measured(tuple(("load", n, 1.0) for n in range(2500))))
    messages = bench.sent(bench.online())
    assert [m.data for m in messages if isinstance(m, Log)] == [{"logs": 0, "samples": 500}]


# --- what is believed ---


def test_a_forged_or_foreign_message_is_dropped_counted_and_reported_together() -> None:
    """Bad MACs, broken JSON and other topics change nothing; one log tells how many there were."""
    bench = Bench()
    bench.online()
    bench.put(Scanned({"cpu": {}}))
    before = bench.state.durable
    forger = Authority(channel_key=b"x" * 32)
    for _ in range(3):
        bench.down("down/ack", forger.sealed(Ack(epoch="epoch-a", seq=1), bench.now))
    bench.down("down/command", b"{nonsense")
    bench.put(Received(bench.state.link.session or "", "fleet/v1/events/host/x", b"{}"))
    assert bench.state.durable == before
    logs = [m for m in bench.sent(bench.later(6)) if isinstance(m, Log)]
    assert [(log.severity, log.data) for log in logs] == [("error", {"bad-mac": 3, "foreign-topic": 1, "unreadable": 1})]
    bench.ack(bench.state.durable.outbox.next_seq - 1)
    assert [m for m in bench.sent(bench.later(60)) if isinstance(m, Log)] == []


def test_trusted_time_is_the_checkpoints_not_the_local_clocks() -> None:
    """The bench's own clock is a day slow; a command of today starts, one of yesterday does not."""
    bench = Bench()
    bench.online()
    assert [r for r in bench.command("cmd-1", 1) if isinstance(r, Run)]
    bench.put(Finished("cmd-1", Succeeded()))
    effects = bench.command("cmd-2", 2, not_after="2026-11-21T00:00:00.000Z")
    assert not [r for r in effects if isinstance(r, Run)]
    (result,) = bench.results(effects)
    assert (result.state, result.error.code if result.error else "") == ("timed_out", "TimedOut")


def test_commands_before_the_first_checkpoint_wait_for_it() -> None:
    """Without a time nothing is judged, and nothing is lost."""
    bench = Bench()
    bench.online(trusted=False)
    assert not [e for e in bench.command("cmd-1", 1) if isinstance(e, Run)]
    assert only(Run, bench.checkpoint()).command == "cmd-1"


def test_a_command_that_waits_for_a_checkpoint_shortens_the_wait() -> None:
    """After five questions that got no answer the next would come in minutes; a command that is held has it asked within ten seconds."""
    bench = Bench()
    bench.online(trusted=False)
    for seconds in (13, 25, 49, 97, 193):
        bench.later(seconds)
    bench.mono += 30
    assert not [m for m in bench.sent(bench.later(1)) if isinstance(m, Presence)]
    assert [m for m in bench.sent(bench.command("cmd-1", 1)) if isinstance(m, Presence)]
    assert not [m for m in bench.sent(bench.command("cmd-1", 2)) if isinstance(m, Presence)], "at that pace, however much is held"
    assert [m for m in bench.sent(bench.later(10.1)) if isinstance(m, Presence)]


def test_a_delayed_checkpoint_makes_no_old_command_young() -> None:
    """What the answer took is added to the time it tells."""
    bench = Bench()
    bench.online(trusted=False)
    payload = bench.authority.checkpoint(bench.state.link.nonce, bench.now)
    bench.mono += 9
    bench.down("down/checkpoint", payload)
    assert bench.state.time is not None
    assert bench.state.time.at == pytest.approx(bench.now, abs=0.01)


FLAWS = {
    "signature": "forged-command",
    "device": "misdelivered-command",
    "delegation": "forged-command",
    "expired": "void-command",
    "generation": "void-command",
    "key": "forged-command",
}


@pytest.mark.parametrize(("flaw", "doubt"), FLAWS.items())
def test_a_command_that_is_not_to_be_believed_is_never_journalled(flaw: str, doubt: str) -> None:
    """Wrong signature, device, root, validity, generation or key: counted, and that is all."""
    authority = Authority()
    bench = Bench(authority)
    bench.online()
    order = authority.order("cmd-1", 1, at=bench.now)
    match flaw:
        case "signature":
            payload = authority.command(order, bench.now).replace(b"config.apply", b"config.wrong")
        case "device":
            payload = authority.command(authority.order("cmd-1", 1, device="host-other"), bench.now)
        case "delegation":
            payload = Authority(root=Authority().key).command(order, bench.now)
        case "expired":
            payload = Authority(valid=(START - 90, START - 60)).command(order, bench.now)
        case "generation":
            bench.state = agent.begin(bench.state.durable, b"s" * 32)
            newer = Bench(Authority(generation=2))
            newer.online()
            bench.state = newer.state
            payload = authority.command(order, bench.now)
        case _:
            payload = authority.command(order, bench.now).replace(authority.key_id.encode(), b"0" * 16)
    effects = bench.down("down/command", payload)
    assert not [e for e in effects if isinstance(e, Run)]
    assert bench.state.durable.commands == () and bench.state.durable.fence == 0
    assert bench.state.refused == {doubt: 1}


def test_the_same_signing_twice_is_a_replay() -> None:
    """Each signing of a known command is answered once; the same one again is counted, and costs neither a message nor a write."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.put(Finished("cmd-1", Succeeded("done")))
    bench.ack(bench.state.durable.outbox.next_seq - 1)
    before = bench.state.durable
    for _ in range(5):
        assert bench.results(bench.command("cmd-1", 1)) == []
    assert bench.state.durable == before and bench.state.refused == {"replayed-command": 5}
    bench.command("cmd-2", 4)
    assert len(bench.results(bench.command("cmd-1", 3))) == 1, "one that was overtaken on its way is a new signing all the same"
    assert bench.results(bench.command("cmd-1", 3)) == []


def test_an_expired_command_is_counted_where_it_comes_too_late() -> None:
    """Kept back by somebody until it was over; its result says so too."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1, not_after="2026-11-21T00:00:00.000Z")
    assert bench.state.refused == {"expired-command": 1}


def test_before_the_first_checkpoint_only_what_may_be_ours_is_held_and_once() -> None:
    """Without a clock a signature can still be checked: whoever sends forgeries must not crowd out what waits, nor fill the memory."""
    bench = Bench()
    bench.online(trusted=False)
    forger = Authority(root=Authority().key)
    for n in range(100):
        bench.down("down/command", forger.command(forger.order(f"cmd-{n}", n + 1, at=bench.now), bench.now))
    for _ in range(100):
        bench.command("cmd-1", 1, at=START)
    assert len(bench.state.unjudged) == 1
    assert bench.state.refused == {"forged-command": 100, "replayed-command": 99}
    for n in range(2, 100):
        bench.command(f"cmd-{n}", n, at=START)
    assert len(bench.state.unjudged) == 64 and bench.state.refused["unjudged-command"] == 35
    assert only(Run, bench.checkpoint()).command == "cmd-1"


def test_a_checkpoint_for_another_device_counts_for_nobody() -> None:
    """Not even with our nonce: its `fence` would make old commands new."""
    bench = Bench()
    bench.online(trusted=False)
    bench.checkpoint(device="host-other")
    assert bench.state.time is None and bench.state.refused == {"misdelivered-checkpoint": 1}


def test_a_checkpoint_counts_once() -> None:
    """Its nonce is spent; the next one is asked for an hour later, with another."""
    bench = Bench()
    bench.online(trusted=False)
    payload = bench.authority.checkpoint(bench.state.link.nonce, bench.now)
    for _ in range(3):
        bench.down("down/checkpoint", payload)
    assert bench.state.refused == {"late-checkpoint": 2}
    asked = [m.nonce for m in bench.sent(bench.later(4000)) if isinstance(m, Presence)]
    assert len(asked) == 1 and asked[0].encode() not in payload


def test_what_is_refused_is_told_before_the_end() -> None:
    """Counts live in memory: a planned end must not lose them."""
    bench = Bench()
    bench.online()
    bench.down("down/ack", b"junk")
    bench.put(Stopping())
    waiting = [w.part for w in bench.state.durable.outbox.waiting if isinstance(w.part, Log)]
    assert [log.data for log in waiting] == [{"bad-mac": 1}]


# --- what is withheld ---


def test_a_command_that_the_checkpoint_names_and_that_does_not_come_is_said() -> None:
    """It has a while to come; then a log tells people, and the facts say so until it is there."""
    bench = governed()
    bench.online()
    bench.checkpoint_again(awaiting=("cmd-7", "cmd-8"))
    bench.command("cmd-7", 7)
    bench.ack(bench.state.durable.outbox.next_seq - 1)
    assert missing(bench.later(30)) is None
    effects = bench.later(6)
    assert missing(effects) == ["cmd-8"]
    (log,) = [m for m in bench.sent(effects) if isinstance(m, Log)]
    assert (log.type, log.severity, log.data) == ("commands-withheld", "error", {"commands": ["cmd-8"]})
    assert missing(bench.command("cmd-8", 9)) == []


def test_what_is_not_awaited_any_more_is_not_missing() -> None:
    """The command has ended without us: the next checkpoint, a few minutes later, names it no more."""
    bench = governed()
    bench.online()
    bench.checkpoint_again(awaiting=("cmd-7",))
    assert missing(bench.later(36)) == ["cmd-7"]
    asked = [m for m in bench.sent(bench.later(300)) if isinstance(m, Presence)]
    assert len(asked) == 1
    assert missing(bench.checkpoint()) == []


def test_a_cut_connection_withholds_nothing() -> None:
    """Offline, nothing can come; the next session's checkpoint says what is awaited then."""
    bench = governed()
    bench.online()
    bench.checkpoint_again(awaiting=("cmd-7",))
    bench.put(Disconnected(bench.state.link.session or "", "cable cut"))
    assert missing(bench.later(36)) is None and bench.state.awaited.missing == ()


# --- what the owner allows ---


OPEN = Policy(tuple(str(verb) for verb in Verb), ("/srv",), on_change=True)
LOCKED = replace(OPEN, maintenance="rewiring; Ana")


def governed(policy: Policy = OPEN) -> "Bench":
    bench = Bench()
    bench.put(Governed(policy))
    return bench


def section(effects: list[Effect]) -> Any:
    """The section `agent` among what is sent, or None."""
    found = [e for e in effects if isinstance(e, Publish) and b'"agent":{"hash"' in e.payload]
    return json.loads(found[-1].payload)["sections"]["agent"]["data"] if found else None


def missing(effects: list[Effect]) -> Any:
    data = section(effects)
    return None if data is None else data["missing"]


@pytest.mark.parametrize(
    ("policy", "verb", "words"),
    [
        (LOCKED, "config.apply", "locked for maintenance: rewiring; Ana"),
        (LOCKED, "config.remove", "locked for maintenance"),
        (LOCKED, "facts.refresh", ""),
        (LOCKED, "cancel", ""),
        (replace(OPEN, verbs=("facts.refresh",)), "config.apply", "does not allow config.apply"),
        (replace(OPEN, verbs=("facts.refresh",)), "facts.refresh", ""),
        (replace(OPEN, verbs=()), "cancel", "does not allow cancel"),
    ],
)
def test_what_the_owner_does_not_allow_is_refused(policy: Policy, verb: str, words: str) -> None:
    """Whatever the server signs: rejected with PolicyRefused, not recoverable, and the reason in words."""
    bench = governed(policy)
    bench.online()
    effects = bench.command("cmd-1", 1, verb=verb, args={"command": "cmd-0"} if verb == "cancel" else {})
    refused = [r for r in bench.results(effects) if r.state == "rejected"]
    assert bool(refused) == bool(words)
    for result in refused:
        assert result.error is not None and words in result.error.message
        assert (result.error.code, result.error.recoverable) == ("PolicyRefused", False)
        assert not [e for e in effects if isinstance(e, Run)]


def test_a_lock_stops_what_waits_and_lets_end_what_runs() -> None:
    """What has begun goes on to its end; what is behind it never starts. Taken away, the lock stops nothing more."""
    bench = governed()
    bench.online()
    bench.command("cmd-1", 1)
    bench.command("cmd-2", 2)
    assert not [e for e in bench.put(Governed(LOCKED)) if isinstance(e, Stop)]
    effects = bench.put(Finished("cmd-1", Succeeded()))
    assert [(r.command, r.state) for r in bench.results(effects)] == [("cmd-1", "succeeded"), ("cmd-2", "rejected")]
    bench.put(Governed(OPEN))
    assert only(Run, bench.command("cmd-3", 3)).command == "cmd-3"


def test_a_lock_found_at_the_start_stops_what_the_last_process_began() -> None:
    """Half done or not: nothing changes the device while it is locked, and the server hears that it failed."""
    bench = governed()
    bench.online()
    bench.command("cmd-1", 1)
    bench = bench.restarted()
    bench.put(Governed(LOCKED))
    effects = bench.online()
    assert not [e for e in effects if isinstance(e, Run)]
    assert [(r.state, r.error.code if r.error else "") for r in bench.results(effects)] == [("failed", "PolicyRefused")]


def test_the_policy_is_reported_when_it_changes_and_when_asked() -> None:
    """In the section `agent` of the facts, which a resync can ask for like any other."""
    bench = governed()
    policy = section(bench.online())["policy"]
    assert policy == {"verbs": list(OPEN.verbs), "roots": ["/srv"], "on_change": True, "maintenance": None}
    assert section(bench.put(Governed(OPEN))) is None
    assert section(bench.put(Governed(LOCKED)))["policy"]["maintenance"] == "rewiring; Ana"
    asked = Resync(sections=("agent",), session=bench.state.link.session, id="r1")
    effects = bench.down("down/resync", bench.authority.sealed(asked, bench.now))
    assert section(effects)["missing"] == []
    assert len([m for m in bench.sent(effects) if isinstance(m, Presence)]) == 1, "and what the server awaits is asked for"


# --- commands ---


def test_a_quick_command_sends_its_outcome_alone() -> None:
    """Accepted and running are held for a moment and outdated by the result."""
    bench = Bench()
    bench.online()
    run = only(Run, bench.command("cmd-1", 1))
    assert (run.command, run.verb, run.timeout_s) == ("cmd-1", "config.apply", 60)
    results = bench.results(bench.put(Finished("cmd-1", Succeeded("done", (ITEM,)))))
    assert [(r.state, r.progress, r.output) for r in results] == [("succeeded", 100, "done")]
    assert results[0].started_at is not None and results[0].finished_at is not None


def test_a_slow_command_reports_that_it_runs_and_how_far_it_is() -> None:
    """After a quarter of a second the server hears of it."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    assert [r.state for r in bench.results(bench.later(0.3))] == ["running"]
    bench.put(Progressed("cmd-1", 40))
    assert [(r.state, r.progress) for r in bench.results(bench.later(0.3))] == [("running", 40)]


def test_the_outcome_reports_the_item_before_the_result() -> None:
    """Who hears that a command succeeded can already see what came of it."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    messages = [m for m in bench.sent(bench.put(Finished("cmd-1", Succeeded("", (ITEM,))))) if not isinstance(m, Presence)]
    assert [type(m) for m in messages] == [Status, Result]


def test_a_known_command_is_not_run_again_but_answered_from_the_journal() -> None:
    """Signed and sent again with a higher fence: the same result with the same id, also across a restart."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    (first,) = bench.results(bench.put(Finished("cmd-1", Succeeded("done"))))
    bench = bench.restarted()
    bench.online()
    bench.ack(bench.state.durable.outbox.next_seq - 1)
    effects = bench.command("cmd-1", 5)
    assert not [e for e in effects if isinstance(e, Run)]
    assert bench.results(effects) == [first]
    assert bench.state.durable.fence == 5


def test_a_command_below_the_fence_is_stale_and_no_failure() -> None:
    """It is dropped and counted; its manager will sign it again."""
    bench = Bench()
    bench.online()
    bench.command("cmd-2", 2)
    effects = bench.command("cmd-1", 1)
    assert not bench.results(effects) and not [e for e in effects if isinstance(e, Run)]
    assert bench.state.refused == {"stale-command": 1}


def test_a_lost_journal_lets_nobody_replay_what_it_had_seen() -> None:
    """The first checkpoint of a journal says how far the server has numbered: an order up to there is stale, whenever it was signed."""
    bench = Bench()
    bench.online(fence=99)
    old = bench.authority.command(bench.authority.order("cmd-old", 99, at=bench.now), bench.now)
    assert not [e for e in bench.down("down/command", old) if isinstance(e, Run)]
    assert bench.state.refused == {"stale-command": 1}
    assert only(Run, bench.command("cmd-new", 100)).command == "cmd-new"


def test_later_checkpoints_make_nothing_stale() -> None:
    """What is on its way to a journal that stands is not dropped: only the first one of a journal counts."""
    bench = Bench()
    bench.online(fence=5)
    bench.command("cmd-6", 6)
    bench = bench.restarted()
    bench.online(fence=9)
    assert (bench.state.durable.fence, bench.state.durable.born) == (6, 5)


@pytest.mark.parametrize(("verb", "first", "runs"), [("config.apply", 3, True), ("burn.fuse", 3, False), ("burn.fuse", 4, True)])
def test_a_command_that_a_lost_journal_may_have_run(verb: str, first: int, runs: bool) -> None:
    """First sent before this journal began, and signed anew since: an idempotent verb runs, any other is unknown and never runs."""
    bench = Bench(verbs={**VERBS, "burn.fuse": Rule(Lane.WORKER, idempotent=False)})
    bench.online(fence=3)
    effects = bench.command("cmd-1", 7, verb=verb, first_fence=first)
    assert len([e for e in effects if isinstance(e, Run)]) == runs
    assert [r.state for r in bench.results(effects) if r.state.final] == ([] if runs else ["unknown"])


def test_appliers_get_one_command_at_a_time_in_order() -> None:
    """The next starts when the one before has come back."""
    bench = Bench()
    bench.online()
    assert only(Run, bench.command("cmd-1", 1)).command == "cmd-1"
    assert not [e for e in bench.command("cmd-2", 2) if isinstance(e, Run)]
    assert [r.command for r in bench.results(bench.later(0.3)) if r.state == "accepted"] == ["cmd-2"]
    assert only(Run, bench.put(Finished("cmd-1", Succeeded()))).command == "cmd-2"


def test_a_command_that_waited_past_its_start_limit_times_out() -> None:
    """not_after limits the start, also of what was accepted in time."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1, timeout_s=7200)
    bench.command("cmd-2", 2)
    bench.mono += 3700
    effects = bench.put(Finished("cmd-1", Succeeded()))
    assert not [e for e in effects if isinstance(e, Run)]
    assert {r.command: r.state for r in bench.results(effects)}["cmd-2"] == "timed_out"


def test_the_run_limit_stops_the_applier_and_reports_it() -> None:
    """timeout_s: a Stop, then timed_out with whatever output there was."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1, timeout_s=10)
    assert only(Stop, bench.later(10.1)).reason is StopReason.TIMED_OUT
    results = bench.results(bench.put(Finished("cmd-1", Stopped(StopReason.TIMED_OUT, "half way"))))
    assert [(r.state, r.output) for r in results] == [("timed_out", "half way")]


def test_an_applier_that_never_comes_back_does_not_keep_its_command_from_ending() -> None:
    """Every command ends; later ones end by their own limits."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1, timeout_s=10)
    bench.later(10.1)
    assert bench.results(bench.later(15.1))[-1].state == "timed_out"
    assert not [e for e in bench.command("cmd-2", 2) if isinstance(e, Run)]
    late = bench.put(Finished("cmd-1", Succeeded("too late")))
    assert not [r for r in bench.results(late) if r.command == "cmd-1"]
    assert only(Run, late).command == "cmd-2"


def test_cancel_stops_what_runs_and_what_waits() -> None:
    """The running one is stopped, the waiting one never starts, cancel itself succeeds."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.command("cmd-2", 2)
    waiting = bench.results(bench.command("cmd-3", 3, verb="cancel", args={"command": "cmd-2"}))
    assert {r.command: r.state for r in waiting} == {"cmd-2": "cancelled", "cmd-3": "succeeded"}
    running = bench.command("cmd-4", 4, verb="cancel", args={"command": "cmd-1"})
    assert only(Stop, running).reason is StopReason.CANCELLED
    effects = bench.put(Finished("cmd-1", Stopped(StopReason.CANCELLED)))
    assert [(r.command, r.state) for r in bench.results(effects)] == [("cmd-1", "cancelled")]
    assert not [e for e in effects if isinstance(e, Run)]


def test_an_unknown_verb_is_rejected() -> None:
    """A newer server's verb is refused with a reason, not ignored."""
    bench = Bench()
    bench.online()
    (result,) = bench.results(bench.command("cmd-1", 1, verb="image.flash"))
    assert result.state == "rejected" and result.error is not None
    assert (result.error.code, result.error.recoverable) == ("PolicyRefused", False)


def test_facts_refresh_scans_and_reports_even_what_did_not_change() -> None:
    """The sections asked for are sent again, and the command succeeds with their names."""
    bench = Bench()
    bench.put(Scanned({"cpu": {"cores": 4}}))
    bench.online()
    bench.ack(1)
    scan = only(Scan, bench.command("cmd-1", 1, verb="facts.refresh", args={"sections": ["cpu"]}))
    assert (scan.sections, scan.force, scan.commands) == (("cpu",), ("cpu",), ("cmd-1",))
    messages = bench.sent(bench.put(Scanned({"cpu": {"cores": 4}}, {}, scan.force, scan.commands)))
    assert [type(m) for m in messages] == [Facts, Result]
    assert isinstance(messages[1], Result) and messages[1].output == "cpu"


def test_a_refresh_that_found_nothing_fails() -> None:
    """Every section asked for could not be read: that is a failure with its reason."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1, verb="facts.refresh", args={"sections": ["tpm"]})
    (result,) = bench.results(bench.put(Scanned({}, {"tpm": "no permission"}, ("tpm",), ("cmd-1",))))
    assert result.state == "failed" and result.error is not None and "no permission" in result.error.message


# --- restarts ---


def test_after_a_crash_an_idempotent_command_runs_again() -> None:
    """Started and not done: from the start once more, without waiting for the broker."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench = bench.restarted()
    assert only(Run, bench.put(Booted())).command == "cmd-1"


def test_after_a_crash_any_other_command_is_unknown_and_never_runs_again() -> None:
    """The ambiguous case says so."""
    verbs = {"pump.start": Rule(Lane.WORKER, idempotent=False)}
    bench = Bench(verbs=verbs)
    bench.online()
    only(Run, bench.command("cmd-1", 1, verb="pump.start"))
    bench = bench.restarted()
    effects = bench.online()
    assert not [e for e in effects if isinstance(e, Run)]
    assert [r.state for r in bench.results(effects)] == ["unknown"]
    again = bench.command("cmd-1", 2, verb="pump.start")
    assert not [e for e in again if isinstance(e, Run)]


def test_a_command_that_brings_the_agent_down_is_given_up_after_three_starts() -> None:
    """One crash-looping item must not block all later ones."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    for _ in range(2):
        bench = bench.restarted()
        only(Run, bench.put(Booted()))
    bench = bench.restarted()
    effects = bench.online()
    assert not [e for e in effects if isinstance(e, Run)]
    assert [r.state for r in bench.results(effects)] == ["failed"]


def test_what_was_received_but_not_started_starts_once_the_time_is_known() -> None:
    """Its start limit can only be judged by trusted time."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.command("cmd-2", 2)
    bench = bench.restarted()
    bench.put(Booted())
    bench.put(Finished("cmd-1", Succeeded()))
    assert not [e for e in bench.log if isinstance(e, Run) and e.command == "cmd-2"]
    bench.put(Connected(bench.state.link.session or ""))
    assert only(Run, bench.checkpoint()).command == "cmd-2"


# --- items, resync, the journal ---


def test_items_are_reported_when_they_change_and_in_full_on_resync() -> None:
    """Drift is one item; a resync with items is all of them."""
    bench = Bench()
    bench.online()
    other = Item(kind="host-config", id="hcfg-2", generation=1, state="present", digest="sha256:11")
    bench.put(Observed((ITEM, other), complete=True))
    drifted = Item(kind="host-config", id="hcfg-1", generation=1, state="drifted", digest="sha256:00", reason="Drifted", message="/x")
    (status,) = [m for m in bench.sent(bench.put(Observed((drifted, other), complete=True))) if isinstance(m, Status)]
    assert (status.full, status.items) == (False, (drifted,))
    effects = bench.down("down/resync", bench.authority.sealed(Resync(sections=(), items=True, reason="new"), bench.now))
    (status,) = [m for m in bench.sent(effects) if isinstance(m, Status)]
    assert (status.full, set(status.items)) == (True, {drifted, other})
    assert not [e for e in effects if isinstance(e, Scan)]


def test_an_item_that_is_gone_is_reported_absent_once() -> None:
    """What a complete look no longer sees is absent."""
    bench = Bench()
    bench.online()
    bench.put(Observed((ITEM,), complete=True))
    (status,) = [m for m in bench.sent(bench.put(Observed((), complete=True))) if isinstance(m, Status)]
    assert [(i.id, i.state, i.digest) for i in status.items] == [("hcfg-1", "absent", None)]
    assert bench.sent(bench.put(Observed((), complete=True))) == []


def test_a_resync_of_sections_scans_and_sends_them_whether_changed_or_not() -> None:
    """Data is not kept, so it is looked up again; names of no section are left out."""
    bench = Bench()
    bench.online()
    body = Resync(sections=("cpu", "nonsense"), items=False, reason="hash differs")
    assert only(Scan, bench.down("down/resync", bench.authority.sealed(body, bench.now))) == Scan(("cpu",), ("cpu",))


@pytest.mark.parametrize(("session", "times"), [("ours", 1), ("another", 0)])
def test_a_resync_counts_once_and_in_its_session(session: str, times: int) -> None:
    """Replayed, it would have the device look and tell for nobody."""
    bench = Bench()
    bench.online()
    meant = bench.state.link.session if session == "ours" else "session-0"
    payload = bench.authority.sealed(Resync(sections=("cpu",), session=meant, id="r1"), bench.now)
    scans = [e for _ in range(5) for e in bench.down("down/resync", payload) if isinstance(e, Scan)]
    assert len(scans) == times and bench.state.refused == {"replayed-resync": 5 - times}


def test_a_broken_journal_is_said_and_nothing_is_run() -> None:
    """Commands fail recoverably, discovery goes on, numbers belong to an epoch that the journal never saw."""
    bench = Bench()
    bench.online()
    bench.put(Scanned({"cpu": {}}))
    effects = bench.put(JournalFailed(ErrorCode.NO_SPACE, "disk full"))
    assert bench.state.durable.outbox.epoch != "epoch-a"
    assert [m.type for m in bench.sent(effects) if isinstance(m, Log)] == ["journal-failed"]
    effects = bench.command("cmd-1", 1)
    assert not [e for e in effects if isinstance(e, Run)]
    (result,) = bench.results(effects)
    assert result.state == "failed" and result.error is not None
    assert (result.error.code, result.error.recoverable) == ("NoSpace", True)
    assert [type(m) for m in bench.sent(bench.put(Scanned({"memory": {}})))] == [Facts]
    bench.put(JournalMended())
    assert only(Run, bench.command("cmd-2", 2)).command == "cmd-2"


def test_what_waited_when_the_journal_broke_starts_when_it_is_mended() -> None:
    """A start that can't be journalled is none; the command isn't forgotten either."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.command("cmd-2", 2)
    bench.put(JournalFailed(ErrorCode.READ_ONLY, "remounted"))
    assert not [e for e in bench.put(Finished("cmd-1", Succeeded())) if isinstance(e, Run)]
    assert only(Run, bench.put(JournalMended())).command == "cmd-2"


def test_a_lost_journal_makes_everything_be_reported() -> None:
    """Full status and all facts, and people are told."""
    bench = Bench()
    effects = bench.put(JournalLost("file is not a database"))
    assert Scan(None, None) in effects
    messages = bench.sent(bench.online())
    assert any(isinstance(m, Log) and m.type == "journal-lost" for m in messages)
    assert not any(isinstance(m, Status) for m in messages), "nothing has been looked at yet"
    (status,) = [m for m in bench.sent(bench.put(Observed((ITEM,), complete=True))) if isinstance(m, Status)]
    assert (status.full, status.items) == (True, (ITEM,))


def test_a_failed_command_carries_code_and_whether_to_try_again() -> None:
    """ReadOnly is recoverable, PathOutsideRoots is not."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    (first,) = bench.results(bench.put(Finished("cmd-1", Failed(ErrorCode.READ_ONLY, "mounted ro"))))
    bench.command("cmd-2", 2)
    (second,) = bench.results(bench.put(Finished("cmd-2", Failed(ErrorCode.PATH_OUTSIDE_ROOTS, "/etc"))))
    assert first.error is not None and first.error.recoverable is True
    assert second.error is not None and second.error.recoverable is False


def test_wake_at_never_lies_in_the_past_after_a_step() -> None:
    """Otherwise the shell would spin."""
    bench = Bench()
    bench.online()
    bench.command("cmd-1", 1)
    bench.down("down/ack", b"junk")
    for _ in range(200):
        at = agent.wake_at(bench.state)
        assert at is not None and at > bench.mono
        bench.later(at - bench.mono)
