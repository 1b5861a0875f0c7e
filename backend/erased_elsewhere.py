"""Whom another process erased: a bridge alone asks before it takes anything in."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from backend.profiles.erasure import Tombstones
from backend.shared_look import SharedLook
from backend.storage import erasure
from backend.storage.session import Session, StorageError
from sdk_bridge.server.ports import JournalBusy

T = TypeVar("T")

KNOWN_MS: Final = 1_000  # how late an erasure may act at the door
OTHERS_KNOW_MS: Final = 1_500  # and how late in the journal; the eraser waits for so long


class State(Protocol):
    """What is asked of the database."""

    def read(self, work: Callable[[Session], T]) -> Awaitable[T]: ...


class ErasedElsewhere:
    """Keeps tombstones up to date that others set; nothing is read while nobody asks.

    `now_ms`: a clock that nobody sets.
    """

    def __init__(self, state: State, tombstones: Tombstones, now_ms: Callable[[], int]) -> None:
        self._state = state
        self._tombstones = tombstones
        self._now_ms = now_ms
        self._learnt = SharedLook(self._learn)
        self._read_at: int | None = None

    async def look(self) -> Callable[[], bool]:
        """Makes sure that no erasure of more than a second ago is missing. Raises JournalBusy.

        What is returned says whether what was admitted by it may still be committed. It is asked in the
        commit's turn, which the eraser needs, too, before it looks for what is left.
        """
        now = self._now_ms()
        if self._read_at is None or not 0 <= now - self._read_at < KNOWN_MS:
            await self._look()
        read_at = self._read_at or 0
        return lambda: 0 <= self._now_ms() - read_at < OTHERS_KNOW_MS

    async def _look(self) -> None:
        try:
            await self._learnt()
        except StorageError as error:
            raise JournalBusy(f"who was erased cannot be read: {error}") from error

    async def _learn(self) -> None:
        now = self._now_ms()
        await self._state.read(lambda session: erasure.catch_up(session, self._tombstones))
        self._read_at = now
