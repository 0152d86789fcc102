"""The connection as the agent decides it: when to dial, who we say we are, how often we say so. Pure; `session` does the talking.

Source: design.md section 4 (Presence, Sessions, Time).
"""

import logging

from broker.messages import QOS, Checkpoint, Doubt, Heartbeat, Keys, Metrics, Presence, encode
from edge_agent import commands, renewal, trust, uplink, withheld
from edge_agent.signals import Adopt, Connect, Disconnect
from edge_agent.state import Link, Resend, Trusted, Turn

DIAL_FIRST_S = 5.0
DIAL_MAX_S = 15.0
"""Once the way is open again, all is to be as it should within 30 s, however long it was shut."""
DIAL_LIMIT_S = 45.0
"""A session that isn't confirmed by then is closed and tried again."""
STEADY_S = 60.0
"""A connection that lasted this long makes the next backoff start anew."""
CHECKPOINT_FIRST_S = 10.0
CHECKPOINT_MAX_S = 300.0
CHECK_BEATS = 120
"""So many heartbeats after a checkpoint another one is asked for: what a broker withholds meanwhile, only a fresh one shows. Once an hour
by default, for about 1 MiB a month of the 30."""


UNKNOWN_CA = "CERTIFICATE_VERIFY_FAILED"
"""What OpenSSL calls it when a broker's certificate is by nobody whom we trust."""


def dial(turn: Turn) -> None:
    session = turn.token()
    nonce = turn.token()
    before = turn.state.link
    turn.set(link=Link(session=session, since=turn.now.mono, failures=before.failures, nonce=nonce, estranged=before.estranged))
    will = encode(_presence_body(turn, online=False), sent_at=turn.time_text())
    topics = turn.me.topics
    turn.do(Connect(session, turn.me.topic(Presence.suffix), will, topics.downlinks(turn.me.device), turn.me.keepalive_s))


def connected(turn: Turn, session: str) -> None:
    if session != turn.state.link.session:
        turn.do(Disconnect(session, clean=False))
        return
    turn.link(connected=True, since=turn.now.mono, estranged=False)
    turn.note(logging.INFO, "connected", session=session)
    presence(turn)
    _plan_heartbeat(turn)
    turn.set(resend=Resend())
    uplink.go_back(turn)


def disconnected(turn: Turn, session: str, reason: str) -> None:
    link = turn.state.link
    if session != link.session:
        return
    steady = link.connected and turn.now.mono - link.since >= STEADY_S
    failures = 0 if steady else link.failures
    limit = min(DIAL_MAX_S, DIAL_FIRST_S * 2.0 ** min(failures, 10))
    delay = 1.0 + (limit - 1.0) * turn.fraction()
    estranged = UNKNOWN_CA in reason
    turn.set(link=Link(failures=failures + 1, dial_at=turn.now.mono + delay, estranged=estranged), unjudged=())
    withheld.disconnected(turn)
    if (estranged and not link.estranged) or failures + 1 == renewal.PATIENCE:
        renewal.hasten(turn)
    turn.note(logging.WARNING, "disconnected", reason=reason, retry_s=round(delay, 1))


def stopping(turn: Turn) -> None:
    """A planned end says so itself: no need for the server to wait for the Will."""
    link = turn.state.link
    if link.connected and link.session is not None:
        turn.publish(_presence_body(turn, online=False), QOS[Presence.suffix])
        turn.do(Disconnect(link.session, clean=True))
    turn.set(link=Link(failures=link.failures))


def presence(turn: Turn) -> None:
    """Say that we are here, and ask for a checkpoint until one comes; each time with a new nonce, so that none can come late."""
    tries = turn.state.link.presence_tries
    delay = min(CHECKPOINT_MAX_S, CHECKPOINT_FIRST_S * 2.0 ** min(tries, 10)) * (0.8 + 0.4 * turn.fraction())
    if tries:
        turn.link(nonce=turn.token())
    box = turn.state.durable.outbox
    turn.link(nonce_at=turn.now.mono, presence_at=turn.now.mono + delay, presence_tries=tries + 1, acked=(box.epoch, box.base - 1))
    turn.publish(_presence_body(turn, online=True), QOS[Presence.suffix])


def _presence_body(turn: Turn, *, online: bool) -> Presence:
    me, link = turn.me, turn.state.link
    return Presence(
        online=online,
        session=link.session or "",
        epoch=turn.state.durable.outbox.epoch,
        boot_id=me.boot_id,
        agent_version=me.agent_version,
        keepalive_s=me.keepalive_s,
        heartbeat_s=me.heartbeat_s,
        nonce=link.nonce,
        keys=turn.ring.generation,
    )


def _plan_heartbeat(turn: Turn) -> None:
    turn.link(heartbeat_at=turn.now.mono + turn.me.heartbeat_s * (0.9 + 0.2 * turn.fraction()))


def heartbeat(turn: Turn) -> None:
    _plan_heartbeat(turn)
    unacked = turn.state.durable.outbox.unacked
    body = Heartbeat(session=turn.state.link.session or "", uptime_s=max(0, int(turn.now.mono)), unacked=unacked)
    turn.publish(body, QOS[Heartbeat.suffix])
    if turn.state.samples:
        turn.publish(Metrics(samples=turn.state.samples), QOS[Metrics.suffix])
        turn.set(samples=())


def checkpoint(turn: Turn, message: Checkpoint) -> None:
    """The time, on the safe side: what the answer took is added, so that a delayed one makes no old command young."""
    link, durable = turn.state.link, turn.state.durable
    try:
        moment, at, generation = trust.read_checkpoint(turn.ring.roots, message, turn.me.device, link.nonce, durable.generation)
    except trust.Untrusted as error:
        turn.refuse(Doubt(f"{error.fault}-checkpoint"), str(error))
        return
    took = max(0.0, turn.now.mono - link.nonce_at)
    turn.keep(generation=max(durable.generation, generation, moment.generation))
    if durable.born is None:
        # With a fence it is an older agent's journal, which knows all that it has run.
        turn.keep(born=0 if durable.fence else moment.fence, fence=max(durable.fence, moment.fence if not durable.fence else 0))
    turn.set(time=Trusted(at + took, turn.now.mono))
    owed = turn.state.link.owes_presence
    again = CHECK_BEATS * turn.me.heartbeat_s * (0.9 + 0.2 * turn.fraction())
    turn.link(nonce=turn.token(), presence_at=turn.now.mono + again, presence_tries=0, owes_presence=False)
    uplink.compared(turn, moment)
    withheld.expect(turn, moment.awaiting)
    renewal.hasten(turn)
    commands.judge_held(turn)
    commands.start(turn)
    if owed:
        presence(turn)


def keys(turn: Turn, message: Keys) -> None:
    """Other CAs or command roots: what one of the roots trusted so far has signed is adopted, and the server told so."""
    try:
        ring = trust.follow(turn.ring, message)
    except trust.Untrusted as error:
        turn.refuse(Doubt(f"{error.fault}-keys"), str(error))
        return
    if ring is turn.ring:
        return
    turn.set(ring=ring)
    turn.do(Adopt(ring))
    turn.note(logging.INFO, "other keys are trusted", generation=ring.generation)
    uplink.log(turn, "keys-adopted", "info", "other CAs or command roots are trusted from now on", generation=ring.generation)
    if not turn.state.link.presence_tries:
        presence(turn)
    else:
        turn.link(owes_presence=True)  # a checkpoint is on its way, and answers the nonce of before
    renewal.hasten(turn)
