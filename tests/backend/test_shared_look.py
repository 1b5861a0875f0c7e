"""Many questions, few looks, and none of them older than its question."""

import asyncio

import pytest

from backend.shared_look import SharedLook


class Sight:
    """Counts looks; each sees what there is when it begins, and takes two turns of the loop."""

    def __init__(self) -> None:
        self.now = 0
        self.looks = 0

    async def look(self) -> int:
        self.looks += 1
        seen = self.now
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if seen < 0:
            raise ValueError(seen)
        return seen


async def test_who_asks_at_once_shares_a_look():
    sight = Sight()
    look = SharedLook(sight.look)
    assert await asyncio.gather(*(look() for _ in range(100))) == [0] * 100
    assert sight.looks == 1


async def test_nobody_gets_what_was_seen_before_they_asked():
    sight = Sight()
    look = SharedLook(sight.look)
    first = asyncio.create_task(look())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sight.looks == 1
    sight.now = 7
    assert await asyncio.gather(*(look() for _ in range(50))) == [7] * 50
    assert (await first, sight.looks) == (0, 2)


async def test_an_error_reaches_all_and_ends_with_them():
    sight = Sight()
    look = SharedLook(sight.look)
    sight.now = -1
    for error in await asyncio.gather(look(), look(), return_exceptions=True):
        assert isinstance(error, ValueError)
    sight.now = 3
    assert await look() == 3


async def test_who_stops_waiting_stops_nobody_else():
    sight = Sight()
    look = SharedLook(sight.look)
    patient = asyncio.create_task(look())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await look()
    assert await patient == 0
