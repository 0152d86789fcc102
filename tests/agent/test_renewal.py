"""The agent's decisions about its certificate and about whom it trusts, step by step under a hand-held clock."""

import base64
import itertools
from dataclasses import replace

import pytest
from nacl.signing import SigningKey

from broker.messages import (
    CertificateAnswer,
    CertificateRequest,
    Denial,
    KeyList,
    Keys,
    KeySignature,
    Log,
    Presence,
    SignedKeys,
    decode_text,
    encode_text,
)
from edge_agent import renewal, trust
from edge_agent.signals import (
    Adopt,
    Appeal,
    Booted,
    Connect,
    Connected,
    Disconnected,
    Effect,
    Held,
    Inspect,
    Inspected,
    Install,
    Note,
    Prepare,
    Prepared,
    RenewalFailed,
    Renewed,
    Scanned,
    Tick,
)
from edge_agent.trust import Ring
from tests.agent.rig import CA, START
from tests.agent.test_agent_steps import Bench, only

DAY = 86400.0
HELD = Held("5f3a", trust.fingerprint(CA), START - 2 * DAY, START + 30 * DAY)
REQUEST = CertificateRequest(csr="-----BEGIN", replaces="5f3a", proof="MEUCIQ==")
NEXT = Held("77aa", trust.fingerprint(CA), START + 18 * DAY, START + 50 * DAY)
OTHER_CA = CA.replace("MIH=", "MII=")


def of(kind: type, effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def requests(bench: Bench, effects: list[Effect]) -> list[CertificateRequest]:
    return [m for m in bench.sent(effects) if isinstance(m, CertificateRequest)]


def connected(held: Held = HELD, *, day: float = 0.0) -> Bench:
    """Online, with a certificate, so many days later."""
    bench = Bench()
    bench.authority.valid = (START - DAY, START + 1000 * DAY)
    bench.mono += day * DAY
    bench.online()
    bench.put(Scanned({}))
    bench.put(Inspected(held))
    return bench


def asking() -> tuple[Bench, list[Effect]]:
    """On the 25th day, with a request prepared; and the effects of that."""
    bench = connected(day=25)
    assert of(Prepare, bench.log)
    return bench, bench.put(Prepared(REQUEST))


def answer(bench: Bench, **changes: object) -> list[Effect]:
    body = replace(CertificateAnswer(replaces="5f3a", certificate="-----BEGIN"), **changes)  # type: ignore[arg-type]
    return bench.down("down/certificate", bench.authority.sealed(body, bench.now))


def test_the_certificate_is_looked_at_first() -> None:
    """At the start, by somebody who knows X.509; again in an hour where that failed."""
    bench = Bench()
    assert of(Inspect, bench.put(Booted()))
    bench.put(RenewalFailed("no such file"))
    assert not of(Inspect, bench.later(renewal.LOOK_S - 60))
    assert of(Inspect, bench.later(120))


def test_it_is_renewed_from_two_thirds_of_its_life_on() -> None:
    """Not on the 19th day; within the day after the 20th, by lot."""
    lots = set()
    for seed in range(20):
        bench = connected()
        bench.state = replace(bench.state, renewal=replace(bench.state.renewal, lot=seed / 20))
        assert not of(Prepare, bench.later(19.9 * DAY))
        hours = 0
        while not of(Prepare, bench.later(3600)):
            hours += 1
            assert hours < 28
        lots.add(hours // 6)
    assert len(lots) >= 4, "a fleet enrolled in one hour is spread over the day"


def test_it_is_renewed_over_the_connection_that_there_is() -> None:
    """Key and request first, then the question; the answer is installed, and said; the session goes on."""
    bench, effects = asking()
    assert requests(bench, effects) == [REQUEST]
    session = bench.state.link.session
    assert only(Install, answer(bench)).certificate == "-----BEGIN"
    effects = bench.put(Renewed(NEXT))
    assert [m.type for m in bench.sent(effects) if isinstance(m, Log)] == ["certificate-renewed"]
    assert bench.state.certificate == NEXT and bench.state.link.session == session and bench.state.link.connected
    assert not of(Prepare, bench.later(DAY))


def test_without_an_answer_the_same_is_asked_again() -> None:
    """After 30 s, then ever later, up to an hour; and at once on the next connection."""
    bench, _ = asking()
    times = []
    for minute in range(400):
        if requests(bench, bench.later(60)) == [REQUEST]:
            times.append(minute)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] <= 1 and max(gaps) <= 73 and gaps[-1] >= 47 and gaps == sorted(gaps, key=lambda gap: min(gap, 47))
    bench.put(Disconnected(bench.state.link.session or "", "the cable"))
    connect = only(Connect, bench.later(20))
    bench.put(Connected(connect.session))
    bench.checkpoint()
    assert requests(bench, bench.later(renewal.SOON_S + 1)) == [REQUEST]
    assert not of(Prepare, bench.log[-50:])


def test_before_a_checkpoint_nothing_is_asked() -> None:
    """What the local clock says is no reason: it may be a month ahead."""
    bench = Bench()
    bench.authority.valid = (START - DAY, START + 1000 * DAY)
    bench.mono += 25 * DAY
    bench.online(trusted=False)
    bench.put(Inspected(HELD))
    assert not of(Prepare, bench.log)
    bench.checkpoint()
    assert of(Prepare, bench.later(renewal.SOON_S))


def test_an_answer_to_another_request_changes_nothing() -> None:
    """A broker that replays the one of a month ago: counted, and told of."""
    bench, _ = asking()
    for effects in (answer(bench, replaces="0001"), answer(connected(day=25))):
        assert not of(Install, effects)
    assert sum(bench.state.refused.values()) == 1


def test_a_denial_is_said_and_tried_again_seldom() -> None:
    """In the log, with the server's words and when the present one ends; after an hour it is asked again."""
    bench, _ = asking()
    effects = answer(bench, certificate=None, reason=Denial.REPLACED, message="it has been replaced")
    [note] = [e for e in effects if isinstance(e, Note)]
    assert "it has been replaced" in note.fields["reason"] and note.fields["ends"] == "2026-12-22"
    assert not requests(bench, bench.later(renewal.RETRY_MAX_S - 60))
    assert requests(bench, bench.later(120)) == [REQUEST]


def test_a_failed_job_is_tried_again() -> None:
    """A full disk, a certificate that does not fit: nothing has changed, the request stands."""
    bench, _ = asking()
    assert of(Install, answer(bench))
    bench.put(RenewalFailed("No space left on device"))
    assert bench.state.certificate == HELD
    assert requests(bench, bench.later(2 * renewal.RETRY_FIRST_S)) == [REQUEST]


def test_one_that_has_ended_is_asked_for_over_http() -> None:
    """At once, as no broker lets it in; then ever more seldom; what comes is trusted, and the broker dialled."""
    bench = Bench()
    bench.mono += 40 * DAY
    bench.put(Booted())
    bench.put(Disconnected(bench.state.link.session or "", "MQTT_ERR_CONN_LOST"))
    assert of(Appeal, bench.put(Inspected(HELD)))
    appeals = []
    for minute in range(300):
        bench.put(RenewalFailed("the server can't be reached"))
        if session := bench.state.link.session:
            bench.put(Disconnected(session, "MQTT_ERR_CONN_LOST"))
        if of(Appeal, bench.later(60)):
            appeals.append(minute)
    assert appeals[0] <= 1 and 8 <= len(appeals) <= 14
    if session := bench.state.link.session:
        bench.put(Disconnected(session, "MQTT_ERR_CONN_LOST"))
    ring = Ring(7, (b"n" * 32,), (CA,))
    effects = bench.put(Renewed(NEXT, ring))
    assert of(Connect, effects) and bench.state.ring == ring and bench.state.certificate == NEXT


def test_what_http_brings_is_not_gone_back_to() -> None:
    """Over a connection that came about meanwhile, a later list may have been adopted than the one that the server's answer had."""
    bench = Bench()
    bench.put(Booted())
    bench.put(Inspected(HELD))
    later = Ring(8, (b"n" * 32,), (CA,))
    bench.state = replace(bench.state, ring=later)
    bench.put(Renewed(NEXT, Ring(7, (b"o" * 32,), (CA,))))
    assert bench.state.ring == later and bench.state.certificate == NEXT


def test_a_broker_of_an_unknown_ca_is_a_reason_to_ask_over_http() -> None:
    """The CA may have changed while this device was away: within seconds of the failed handshake."""
    bench = Bench()
    bench.put(Booted())
    bench.put(Inspected(HELD))
    reason = "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate"
    effects = bench.put(Disconnected(bench.state.link.session or "", reason))
    assert of(Appeal, [*effects, *bench.later(0.5), *bench.later(renewal.SOON_S)])
    appeals = 0
    for _ in range(120):
        bench.put(RenewalFailed("the server can't be reached"))
        if session := bench.state.link.session:
            bench.put(Disconnected(session, reason))
        appeals += len(of(Appeal, bench.later(30)))
    assert 6 <= appeals <= 9, "ever more seldom, though each connection fails alike"


def test_a_clock_that_is_behind_locks_nobody_out() -> None:
    """By it the certificate is good, and yet no broker lets it in: once it is due, five failures are enough."""
    bench = Bench()
    bench.mono += 25 * DAY
    bench.put(Booted())
    bench.put(Inspected(HELD))
    for _ in range(renewal.PATIENCE):
        assert not of(Appeal, bench.log)
        bench.put(Disconnected(bench.state.link.session or "", "MQTT_ERR_CONN_LOST"))
        bench.later(16)
    assert of(Appeal, bench.log)


# --- other keys -------------------------------------------------------------------------------------------------------------------


def test_a_list_that_a_trusted_root_has_signed_is_adopted() -> None:
    """On disk, in mind, and said to the server at once; what the new root delegates is believed from then on."""
    bench = connected()
    old, new = bench.authority.root, SigningKey(b"n" * 32)
    bench.authority.root = new
    bench.command("cmd-1", 1)
    assert not bench.state.durable.commands
    effects = bench.down("down/keys", bench.authority.sealed(bench.authority.keys(4, [old], old, new), bench.now))
    adopted = only(Adopt, effects).ring
    assert (adopted.generation, adopted.roots) == (4, (bytes(old.verify_key), bytes(new.verify_key)))
    assert [m.keys for m in bench.sent(effects) if isinstance(m, Presence)] == [4]
    bench.checkpoint()
    bench.command("cmd-1", 2)
    assert [entry.id for entry in bench.state.durable.commands] == ["cmd-1"]


def test_keys_that_come_before_the_checkpoint_are_said_after_it() -> None:
    """The checkpoint that is on its way answers the nonce of before: it is not to be lost."""
    bench = Bench()
    bench.authority.valid = (START - DAY, START + 1000 * DAY)
    bench.online(trusted=False)
    root = bench.authority.root
    effects = bench.down("down/keys", bench.authority.sealed(bench.authority.keys(4, [root]), bench.now))
    assert of(Adopt, effects) and not [m for m in bench.sent(effects) if isinstance(m, Presence)]
    effects = bench.checkpoint()
    assert bench.state.time is not None and [m.keys for m in bench.sent(effects) if isinstance(m, Presence)] == [4]


@pytest.mark.parametrize("signers", [[b"x" * 32], []], ids=["a stranger's", "nobody's"])
def test_a_list_that_nobody_trusted_has_signed_changes_nothing(signers: list[bytes]) -> None:
    """It is counted, and the root that it names is believed nothing."""
    bench = connected()
    thief = SigningKey(b"x" * 32)
    message = bench.authority.keys(9, [SigningKey(each) for each in signers], thief)
    assert not of(Adopt, bench.down("down/keys", bench.authority.sealed(message, bench.now)))
    assert sum(bench.state.refused.values()) == 1 and bench.state.ring is None


def test_an_older_list_is_no_news() -> None:
    """A replay of what was adopted, or of what went before it."""
    bench = connected()
    root = bench.authority.root
    for generation in (4, 4, 3):
        bench.down("down/keys", bench.authority.sealed(bench.authority.keys(generation, [root]), bench.now))
    assert len(of(Adopt, bench.log)) == 1 and bench.state.refused == {}


@pytest.mark.parametrize(
    "listed",
    [{"command_roots": ("AA==",)}, {"command_roots": ()}, {"authorities": ()}, {"authorities": ("no PEM",)}],
)
def test_a_list_that_would_lock_the_fleet_out_is_refused(listed: dict[str, tuple[str, ...]]) -> None:
    """Signed or not: without a CA and a root that can be one, nobody could ever put it right."""
    bench = connected()
    good = bench.authority.keys(4, [])
    text = encode_text(replace(decode_text(KeyList, good.lists[0].signed), **listed))  # type: ignore[arg-type]
    signature = base64.b64encode(bench.authority.root.sign(text.encode()).signature).decode()
    message = Keys(lists=(SignedKeys(signed=text, signatures=(KeySignature(key="k", signature=signature),)),))
    assert not of(Adopt, bench.down("down/keys", bench.authority.sealed(message, bench.now)))
    assert sum(bench.state.refused.values()) == 1


def test_another_ca_is_a_reason_to_renew_at_once() -> None:
    """Long before two thirds; and not while it is only announced, because the old one still issues."""
    bench = connected()
    root = bench.authority.root
    announced = bench.authority.keys(4, [root], ca=CA)
    bench.down("down/keys", bench.authority.sealed(announced, bench.now))
    assert not of(Prepare, bench.later(10 * renewal.SOON_S))
    bench.down("down/keys", bench.authority.sealed(bench.authority.keys(5, [root], ca=OTHER_CA), bench.now))
    bench.checkpoint()
    assert of(Prepare, [*bench.put(Tick()), *bench.later(renewal.SOON_S)])
