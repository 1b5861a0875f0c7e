"""One look at something for all who ask at the same time, so that a hundred questions cost what one costs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedLook(Generic[T]):
    """Each answer is of a look that began after the question. At most one is under way and one waits."""

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._under_way: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """What is seen. Raises what the look raises; who stops waiting stops nobody else."""
        if self._next is None:
            self._next = asyncio.create_task(self._take_turn(self._under_way))
            self._next.add_done_callback(_nobody_may_be_left_to_hear)
        return await asyncio.shield(self._next)

    async def _take_turn(self, before: "asyncio.Task[T] | None") -> T:
        if before is not None:
            await asyncio.wait({before})
        self._under_way, self._next = self._next, None
        return await self._look()


def _nobody_may_be_left_to_hear(look: "asyncio.Task[T]") -> None:
    """Else asyncio complains of an error that all who asked have stopped waiting for."""
    if not look.cancelled():
        look.exception()
