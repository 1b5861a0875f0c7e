"""An outbox even while the card takes nothing: in memory until it does, and nothing doubled on the way back.

A card that is full, read-only or failing must not silence the gateway. What is heard then goes into an outbox
of another epoch, in memory, and on to the backend from there; heartbeats say so. When there is room again,
that outbox is copied to a file of its own beside the first, `spare-<epoch>.db`, and goes on there with its
sequences, so that nothing which may be on its way is given another number. Emptied, it is deleted.

    writes go to   leaves when                                      to
    the outbox     the card has taken nothing for some seconds      memory
    memory         there is room for it: it is copied               a spare
    memory         there is room, and it holds nothing              what lay below
    a spare        everything in it is acknowledged: it is deleted  what lay below
    a spare        the card has taken nothing for some seconds      memory

What the memory holds dies with the process: a kill or a pulled plug costs it, and so does a card that stays
full when the gateway is stopped, which is logged.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from gateway.outbox import (
    NO_LOSS,
    MemoryOutbox,
    Outbox,
    OutboxTooNew,
    OutboxUnavailable,
    Record,
    Stock,
    Turn,
)
from sdk_bridge.wire.messages import Lane

MEMORY_BYTES: Final = 16 * 1024 * 1024  # half a day of fifty beacons; the unit's MemoryMax leaves far more
RETREAT_MS: Final = 4_000  # with two missed heartbeats the backend would call the zones unknown at eight
LOOK_MS: Final = 5_000  # between attempts to return; each costs a few failed writes
ROOM_BYTES: Final = 1024 * 1024  # free beyond what is copied, or the next minute would be in memory again
MAX_SPARES: Final = 8  # a card that comes and goes all day must not fill up with them

log = structlog.get_logger()


@dataclass(slots=True)
class _Shelf:
    """An outbox with a file: opened when it is its turn."""

    path: Path
    outbox: Outbox | None = None


class Standby:
    """An outbox that can always be written. Belongs to one thread at a time, but for `stock` and `writable`.

    What it asks and raises is gateway.outbox.Outbox's; opening raises OutboxTooNew only.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, new_epoch: Callable[[], str], now_ms: Callable[[], int]
    ) -> None:
        self.moved_aside: list[Path] = []
        self._folder = path.parent
        self._max_bytes = max_bytes
        self._new_epoch = new_epoch
        self._now_ms = now_ms
        self._shelves = [_Shelf(name) for name in (path, *sorted(path.parent.glob("spare-*.db")))]
        self._failing_since: int | None = None
        self._look_at = 0
        self._top: _Shelf | None = None  # the current outbox's; None while it is in memory
        try:
            self._current = self._opened(self._shelves[-1])
            self._current.probe()
            self._top = self._shelves.pop()
        except OutboxTooNew:
            raise  # no room will ever mend that
        except OutboxUnavailable as error:
            self._current = self._in_memory(error)

    @property
    def stock(self) -> Stock:
        return self._current.stock

    @property
    def anchors(self) -> dict[str, int]:
        return self._current.anchors

    @property
    def writable(self) -> bool:
        """Whether what is heard goes to the card."""
        return self._top is not None

    def turn(self, turn: Turn) -> Stock:
        """As Outbox.turn, wherever the outbox is by then."""
        try:
            stock = self._turn(turn)
        except OutboxUnavailable as error:
            if not self._has_lost_patience(turn.now_ms):
                raise
            self._retreat(error, turn.now_ms)
            return self._current.turn(replace(turn, heartbeat=None))  # which says that all is well
        self._failing_since = None
        return stock

    def load(self, lane: Lane, first: int, limit: int) -> list[Record]:
        return self._current.load(lane, first, limit)

    def oldest(self) -> tuple[str, int] | None:
        return self._current.oldest()

    def skip(self, lane: Lane, first: int, last: int, reason: str) -> None:
        self._current.skip(lane, first, last, reason)

    def renew(self, reason: str, forgotten: int, at: tuple[str, int]) -> Stock:
        return self._current.renew(reason, forgotten, at)

    def coalesce(self, boot_id: str, now_ms: int) -> bool:
        return self._current.coalesce(boot_id, now_ms)

    def learn_anchor(self, boot_id: str, unix_ms: int) -> None:
        self._current.learn_anchor(boot_id, unix_ms)

    def close(self) -> None:
        """What is in memory gets a last chance."""
        if self._top is None and self._current.stock.records:
            try:
                self._spare()
            except OutboxUnavailable as error:
                stock = self._current.stock
                log.error("lost with the memory", records=stock.records, cause=str(error))  # noqa: TRY400
        for outbox in (self._current, *(shelf.outbox for shelf in self._shelves)):
            if outbox is not None:
                outbox.close()

    # Where it goes.

    def _turn(self, turn: Turn) -> Stock:
        if self._top is None and turn.now_ms >= self._look_at:
            self._look_at = turn.now_ms + LOOK_MS
            self._return()
        if self._top is None or not self._shelves:
            return self._current.turn(turn)
        return self._empty(turn)

    def _empty(self, turn: Turn) -> Stock:
        """A spare's turn. As soon as only live records of it are on their way, what is new goes below it."""
        stock = self._current.stock
        backlog = stock.lanes["backlog"]
        below = None if stock.waiting or backlog.acked < backlog.last else self._below(turn.now_ms)
        if below is None:
            return self._current.turn(turn)
        done = replace(turn, parcels=(), heartbeat=None, room={}, lost=NO_LOSS)
        if self._current.turn(done).records:
            below.turn(replace(turn, heartbeat=None, acked={}, room={}))
            return self._current.stock
        self._descend()
        return self._current.turn(turn)

    def _below(self, now_ms: int) -> Outbox | None:
        """None while it cannot be opened; then the spare is as good a place."""
        if now_ms < self._look_at and self._shelves[-1].outbox is None:
            return None
        try:
            return self._opened(self._shelves[-1])
        except OutboxUnavailable as error:
            self._look_at = now_ms + LOOK_MS
            log.warning("outbox unavailable", cause=str(error))
            return None

    def _has_lost_patience(self, now_ms: int) -> bool:
        if self._top is None:
            return False
        if self._failing_since is None:
            self._failing_since = now_ms
        return now_ms - self._failing_since >= RETREAT_MS

    def _retreat(self, error: OutboxUnavailable, now_ms: int) -> None:
        if self._top is not None:
            self._shelves.append(self._top)
        self._failing_since = None
        self._look_at = now_ms + LOOK_MS
        self._current = self._in_memory(error)
        self._top = None

    def _return(self) -> None:
        try:
            self._require_room()
            if self._current.stock.records:
                self._spare()
            else:
                self._opened(self._shelves[-1]).probe()
                self._descend()
        except OutboxUnavailable as error:
            log.warning("the card takes nothing", cause=str(error), in_memory=self._current.stock.records)
        else:
            log.warning("the card takes what is heard again")

    def _require_room(self) -> None:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise OutboxUnavailable(f"{self._folder}: {error}") from error
        if free < self._current.stock.bytes + ROOM_BYTES:
            raise OutboxUnavailable(f"{self._folder} has {free} bytes left")

    def _spare(self) -> None:
        """The memory's outbox goes on in a file. Raises OutboxUnavailable."""
        path = self._folder / f"spare-{self._current.stock.epoch}.db"
        if len(self._shelves) > MAX_SPARES:
            raise OutboxUnavailable(f"{self._folder} holds {MAX_SPARES} spare outboxes already")
        shelf, former = _Shelf(path), self._current
        former.copy_to(path)
        try:
            self._current = self._opened(shelf)
        except OutboxUnavailable:
            _delete(path)  # the memory goes on, and a copy left behind would contradict it one day
            raise
        self._top = shelf
        former.close()

    def _descend(self) -> None:
        """To the outbox below; the one that was emptied is deleted."""
        former, emptied = self._current, self._top
        self._current = self._opened(self._shelves[-1])
        self._top = self._shelves.pop()
        former.close()
        if emptied is not None:
            _delete(emptied.path)

    def _opened(self, shelf: _Shelf) -> Outbox:
        """Raises OutboxUnavailable."""
        if shelf.outbox is None:
            outbox = Outbox(
                shelf.path, max_bytes=self._max_bytes, new_epoch=self._new_epoch, now_ms=self._now_ms
            )
            self.moved_aside.extend(outbox.moved_aside)
            outbox.moved_aside = self.moved_aside
            shelf.outbox = outbox
        return shelf.outbox

    def _in_memory(self, error: OutboxUnavailable) -> Outbox:
        log.error("the card takes nothing, so what is heard is kept in memory", cause=str(error))
        return MemoryOutbox(
            self._folder / "memory", max_bytes=MEMORY_BYTES, new_epoch=self._new_epoch, now_ms=self._now_ms
        )


def _delete(path: Path) -> None:
    """Where the card refuses, the next start finds it, empty, and tries again."""
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        log.warning("spare outbox not deleted", name=path.name, cause=str(error))
