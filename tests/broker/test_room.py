"""Places for what is unacknowledged: bounded, in order, and lent while nobody can give one back."""

import asyncio

from broker.room import Room


async def test_who_finds_no_place_waits_in_order() -> None:
    """Two places, four who want one: the third and the fourth come in as places are given back."""
    room, inside = Room(2), list[int]()

    async def come(n: int) -> None:
        await room.take()
        inside.append(n)

    tasks = [asyncio.create_task(come(n)) for n in range(4)]
    await asyncio.wait(tasks[:2])
    assert inside == [0, 1]
    room.give()
    await tasks[2]
    assert inside == [0, 1, 2] and not tasks[3].done()
    room.give()
    await tasks[3]


async def test_lent_places_are_reckoned_up_later() -> None:
    """While lending nobody waits, those included who did; afterwards somebody waits until all that was lent is given back."""
    room = Room(1)
    await room.take()
    waiting = asyncio.create_task(room.take())
    await asyncio.sleep(0)
    room.lend()
    await waiting
    await room.take()
    room.lend_no_more()
    late = asyncio.create_task(room.take())
    for _ in range(2):
        room.give()
        await asyncio.sleep(0)
        assert not late.done()
    room.give()
    await late


async def test_who_gives_up_takes_no_place() -> None:
    """Cancelled while waiting, or in the moment the place came: it goes to the next."""
    room = Room(1)
    await room.take()
    first, second = asyncio.create_task(room.take()), asyncio.create_task(room.take())
    await asyncio.sleep(0)
    room.give()
    first.cancel()
    await asyncio.wait([first])
    await second
    assert first.cancelled()
