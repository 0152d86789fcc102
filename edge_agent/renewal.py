"""The certificate's renewal as the agent decides it: when to ask, whom, and what to make of the answer. Pure; `keeper` does the work.

From two thirds of its life on a certificate is replaced over the connection, with another key. So it is at once where the CA that issues
has changed. The request is said again until it is answered; what is lost on the way, or in a crash, costs nothing, because key and request
are on disk before they are sent and the server repeats its answer. Where the broker does not let us in any more (the certificate has ended,
or the broker's CA is one that we don't know) the server is asked over HTTP. A denial is said in the log, and tried again seldom.

Source: contract.md section 3; docs/adr/0017-renewal.md.
"""

import logging
from dataclasses import replace
from datetime import UTC, datetime

from broker.messages import CertificateAnswer, CertificateRequest, Doubt, encode
from edge_agent import uplink
from edge_agent.signals import Appeal, Held, Inspect, Inspected, Install, Prepare, Prepared, Publish, RenewalFailed, Renewed
from edge_agent.state import Renewal, State, Turn

BACK_DATED_S = 48 * 3600.0
"""By how much the server dates certificates back: their life begins after that."""
SPREAD = 1 / 30
"""The part of a certificate's life over which those of a fleet that was enrolled in one hour are renewed: a day."""
LOOK_S = 3600.0
"""How often it is looked whether it is time: clocks are put right meanwhile."""
SOON_S = 2.0
"""Within so many seconds of a connection or of other keys."""
RETRY_FIRST_S = 30.0
RETRY_MAX_S = 3600.0
PATIENCE = 5
"""After so many connections that failed, a certificate that is due is asked for over HTTP: our clock may not know that it has ended."""


def renew_at(held: Held, lot: float) -> float:
    """Unix seconds: two thirds of its life, and a little, by lot."""
    life = held.expires_at - held.issued_at - BACK_DATED_S
    return held.expires_at - life / 3 + life * SPREAD * lot


def due_at(state: State) -> float | None:
    """The monotonic time by which `due` wants to look."""
    return None if state.renewal.busy else state.renewal.at


def hasten(turn: Turn) -> None:
    """Look within moments: something has changed."""
    at = turn.state.renewal.at
    if at is not None:
        _plan(turn, at=min(at, turn.now.mono + SOON_S * turn.fraction()), tries=0)


def due(turn: Turn) -> None:
    """Ask, where it is time."""
    held, renewal = turn.state.certificate, turn.state.renewal
    if renewal.at is None or renewal.busy or turn.now.mono < renewal.at:
        return
    if held is None:
        _plan(turn, at=turn.now.mono + LOOK_S)
        turn.do(Inspect())
    elif turn.state.link.connected and turn.trusted() is not None and _is_due(turn, held):
        _retry_later(turn)
        _ask(turn)
    elif not turn.state.link.connected and _is_shut_out(turn, held):
        _retry_later(turn)
        _plan(turn, busy=True)
        turn.note(logging.WARNING, "the broker does not let this device in; asking the server", ends=_day(held))
        turn.do(Appeal())
    else:
        _plan(turn, at=turn.now.mono + LOOK_S, tries=0)


def told(turn: Turn, signal: Inspected | Prepared | Renewed | RenewalFailed) -> None:
    """What came of a job."""
    match signal:
        case Inspected(held):
            turn.set(certificate=held, renewal=Renewal(at=turn.now.mono, lot=turn.fraction()))
        case Prepared(request):
            _plan(turn, busy=False, request=request)
            if turn.state.link.connected:
                _send(turn, request)
        case Renewed(held, ring):
            _renewed(turn, held, readmitted=ring is not None)
            if ring is not None:
                if ring.generation > turn.ring.generation:  # else a connection has brought a later list meanwhile
                    turn.set(ring=ring)
                _dial_now(turn)
        case RenewalFailed(message, denied):
            _plan(turn, busy=False)
            _failed(turn, message, denied)


def answered(turn: Turn, answer: CertificateAnswer) -> None:
    """The server's word over the connection. One that does not belong to the request that is under way is late, or somebody's replay."""
    request = turn.state.renewal.request
    if request is None or answer.replaces != request.replaces:
        turn.refuse(Doubt.LATE_CERTIFICATE, "it answers no request of ours")
    elif answer.certificate is None:
        _failed(turn, f"{answer.reason}: {answer.message}", denied=True)
    elif not turn.state.renewal.busy:
        _plan(turn, busy=True)
        turn.do(Install(answer.certificate))


def _is_due(turn: Turn, held: Held) -> bool:
    changed = turn.ring.issuer not in ("", held.issuer)
    return changed or turn.unix() >= renew_at(held, turn.state.renewal.lot)


def _is_shut_out(turn: Turn, held: Held) -> bool:
    link = turn.state.link
    return link.estranged or turn.unix() >= held.expires_at or (link.failures >= PATIENCE and _is_due(turn, held))


def _ask(turn: Turn) -> None:
    request = turn.state.renewal.request
    if request is not None:
        _send(turn, request)
        return
    _plan(turn, busy=True)
    turn.do(Prepare())


def _send(turn: Turn, request: CertificateRequest) -> None:
    topic = turn.me.topic(request.suffix)
    turn.do(Publish(topic, encode(request, sent_at=turn.time_text(), topic=topic, key=turn.me.channel_key), 1))


def _renewed(turn: Turn, held: Held, readmitted: bool) -> None:
    turn.set(certificate=held, renewal=Renewal(at=turn.now.mono + LOOK_S, lot=turn.state.renewal.lot))
    how = "over HTTP, as the broker did not let it in" if readmitted else "over its connection"
    turn.note(logging.INFO, "certificate renewed", reason=how, ends=_day(held))
    uplink.log(turn, "certificate-renewed", "info", f"the device's certificate was renewed {how}; it ends on {_day(held)}")


def _dial_now(turn: Turn) -> None:
    if turn.state.link.session is None:
        turn.link(dial_at=turn.now.mono)


def _failed(turn: Turn, message: str, denied: bool) -> None:
    if turn.state.certificate is None:
        _plan(turn, at=turn.now.mono + LOOK_S)
        turn.note(logging.ERROR, "the certificate can't be looked at", error=message)
        return
    if denied:
        _plan(turn, at=turn.now.mono + RETRY_MAX_S)
        turn.note(logging.ERROR, "the server denies another certificate", reason=message, ends=_day(turn.state.certificate))
    else:
        turn.note(logging.WARNING, "certificate not renewed yet", error=message, ends=_day(turn.state.certificate))


def _retry_later(turn: Turn) -> None:
    tries = turn.state.renewal.tries
    delay = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(tries, 10)) * (0.8 + 0.4 * turn.fraction())
    _plan(turn, at=turn.now.mono + delay, tries=tries + 1)


def _plan(turn: Turn, **changes: object) -> None:
    turn.set(renewal=replace(turn.state.renewal, **changes))  # type: ignore[arg-type]


def _day(held: Held) -> str:
    return datetime.fromtimestamp(held.expires_at, UTC).date().isoformat()
