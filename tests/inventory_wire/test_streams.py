"""Streams and sessions as pure values: what is taken, what is repeated, what is late, and when two machines share an identity."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Ack, Heartbeat, Presence
from inventory.streams import NEVER_GIVEN, TURNS, Heard, Stream, Verdict, answer, hear_heartbeat, hear_presence, judge, take

AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def presence(session: str, boot: str = "b1", *, online: bool = True) -> Presence:
    return Presence(
        online=online, session=session, epoch="e1", boot_id=boot, agent_version="0.1.0", keepalive_s=20, heartbeat_s=10, nonce="n1"
    )


def beat(session: str) -> Heartbeat:
    return Heartbeat(session=session, uptime_s=1, unacked=0)


def test_a_stream_takes_each_number_once_and_in_order() -> None:
    """The next one, a duplicate, a gap; and what each is answered."""
    stream = Stream("host-1", "e1", 5)
    assert judge(stream, "e1", 6) is Verdict.NEXT
    assert judge(stream, "e1", 5) is Verdict.DUPLICATE
    assert judge(stream, "e1", 8) is Verdict.GAP
    assert answer(stream, "e1", Verdict.GAP) == Ack(epoch="e1", seq=5)


def test_a_new_epoch_begins_at_one() -> None:
    """Anything else of it is answered with nothing committed."""
    stream = Stream("host-1", "e1", 5)
    assert judge(stream, "e2", 2) is Verdict.GAP
    assert answer(stream, "e2", Verdict.GAP) == Ack(epoch="e2", seq=0)
    assert judge(stream, "e2", 1) is Verdict.NEXT
    take(stream, "e2", 1)
    assert (stream.epoch, stream.seq, stream.retired_epochs) == ("e2", 1, ["e1"])


def test_an_epoch_that_was_left_never_comes_back() -> None:
    """Replayed by a broker it has no effect; a device that was rolled back to it is told a number that makes it begin a new one."""
    stream = Stream("host-1", "e1", 5)
    take(stream, "e2", 1)
    assert judge(stream, "e1", 1) is Verdict.RETIRED
    assert answer(stream, "e1", Verdict.RETIRED) == Ack(epoch="e1", seq=NEVER_GIVEN)


@given(st.lists(st.tuples(st.sampled_from(["e1", "e2", "e3"]), st.integers(1, 5)), max_size=60))
def test_in_whatever_order_messages_come_each_is_taken_once(arrivals: list[tuple[str, int]]) -> None:
    """Doubled and reordered: numbers are taken without holes from 1 in each epoch, and none twice."""
    stream, taken = Stream("host-1"), []
    for epoch, seq in arrivals:
        if judge(stream, epoch, seq) is Verdict.NEXT:
            take(stream, epoch, seq)
            taken.append((epoch, seq))
    assert len(set(taken)) == len(taken)
    for epoch in {epoch for epoch, _ in taken}:
        numbers = [seq for e, seq in taken if e == epoch]
        assert numbers == list(range(1, len(numbers) + 1))


def test_an_unseen_session_becomes_current() -> None:
    """With the intervals that it tells."""
    stream = Stream("host-1")
    assert hear_presence(stream, presence("s1"), AT) is Heard.ONLINE
    assert (stream.session, stream.session_since, stream.boot_id, stream.keepalive_s, stream.heartbeat_s) == ("s1", AT, "b1", 20, 10)
    assert hear_presence(stream, presence("s1"), AT) is Heard.ONLINE
    assert stream.retired == []


def test_a_late_will_harms_nobody() -> None:
    """`online: false` counts for the current session alone."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s1"), AT)
    hear_presence(stream, presence("s2"), AT)
    assert hear_presence(stream, presence("s1", online=False), AT) is Heard.IGNORED
    assert stream.session == "s2"
    assert hear_presence(stream, presence("s2", online=False), AT) is Heard.OFFLINE
    assert stream.session is None


def test_a_session_that_has_ended_does_not_come_back() -> None:
    """Neither by a heartbeat that was late nor by its own first message doubled."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s1"), AT)
    hear_presence(stream, presence("s1", online=False), AT)
    assert hear_heartbeat(stream, beat("s1"), AT) is Heard.IGNORED
    assert hear_presence(stream, presence("s1"), AT) is Heard.IGNORED
    assert stream.session is None


def test_a_session_that_began_unheard_is_taken_up_by_its_heartbeat() -> None:
    """Inventory was away when it connected."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s1"), AT)
    assert hear_heartbeat(stream, beat("s2"), AT) is Heard.ONLINE
    assert (stream.session, stream.boot_id) == ("s2", None)


def test_eight_retired_sessions_are_remembered() -> None:
    """A bound on what a device that reconnects all the time can make us keep."""
    stream = Stream("host-1")
    for n in range(20):
        hear_presence(stream, presence(f"s{n}"), AT)
    assert [session for session, *_ in stream.retired] == [f"s{n}" for n in range(11, 19)]


def test_two_sessions_taking_turns_are_called_a_clone_once() -> None:
    """Two machines that both keep speaking: reported at the third time that one was not current, and not again."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s1"), AT)
    hear_presence(stream, presence("s2", "b2"), AT)
    heard = [hear_heartbeat(stream, beat(f"s{1 + n % 2}"), AT) for n in range(6 * TURNS)]
    assert heard.count(Heard.CLONED) == 1


def test_a_session_whose_place_a_late_message_took_comes_back() -> None:
    """The first message of an earlier session was overtaken by this one's: once is ignored, going on is not."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s2", "b2"), AT)
    hear_presence(stream, presence("s1", "b1"), AT)
    assert hear_heartbeat(stream, beat("s2"), AT) is Heard.IGNORED
    assert hear_heartbeat(stream, beat("s2"), AT) is Heard.ONLINE
    assert (stream.session, stream.boot_id) == ("s2", "b2")
    assert hear_presence(stream, presence("s1", "b1", online=False), AT) is Heard.IGNORED


def test_it_comes_back_also_after_the_late_one_has_ended() -> None:
    """Whose Will took the device offline, although it was connected all the time."""
    stream = Stream("host-1")
    hear_presence(stream, presence("s2"), AT)
    hear_presence(stream, presence("s1"), AT)
    assert hear_presence(stream, presence("s1", online=False), AT) is Heard.OFFLINE
    heard = [hear_heartbeat(stream, beat("s2"), AT) for _ in range(3)]
    assert heard == [Heard.IGNORED, Heard.ONLINE, Heard.ONLINE]


def test_a_row_of_an_earlier_release_is_understood() -> None:
    """It says of no session how it was left, so that none of them comes back."""
    stream = Stream("host-1", session="s2", retired=[["s1", "b1"]])
    assert [hear_heartbeat(stream, beat("s1"), AT) for _ in range(3)].count(Heard.ONLINE) == 0


def test_a_boot_that_comes_back_is_a_clone_too() -> None:
    """Two machines that push each other off the broker have new sessions each time, but their boots alternate."""
    stream, heard = Stream("host-1"), []
    for n in range(10):
        heard.append(hear_presence(stream, presence(f"s{n}", f"b{n % 2}"), AT + timedelta(seconds=n)))
    assert heard.count(Heard.CLONED) == 1


def test_reconnecting_and_rebooting_is_no_clone() -> None:
    """A bad network makes many sessions of one boot, a crash loop many boots: each is new."""
    stream = Stream("host-1")
    heard = [hear_presence(stream, presence(f"s{n}", "b1"), AT) for n in range(20)]
    heard += [hear_presence(stream, presence(f"t{n}", f"c{n}"), AT) for n in range(20)]
    assert set(heard) == {Heard.ONLINE}


def test_a_long_session_ends_the_suspicion() -> None:
    """One late message a day never adds up to a clone."""
    stream = Stream("host-1")
    for n in range(10):
        at = AT + timedelta(days=n)
        hear_presence(stream, presence(f"s{n}"), at)
        if n:
            assert hear_heartbeat(stream, beat(f"s{n - 1}"), at) is Heard.IGNORED
