"""Scores everybody's purchases (RFM), on request and once a day, beside everything else that goes on."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain

import structlog

from backend.segments.model import HasRfm, nodes_of
from backend.storage import rfm, segments
from backend.storage.rfm import Changes
from backend.storage.session import Database, Session, StorageError

log = structlog.get_logger()

PORTION_S = 0.01  # of the writer's time; gateways and phones must not wait behind a million scores
FIRST_PORTION = 500
LARGEST_PORTION = 5_000
DAY_MS = 86_400_000
LOOK_EVERY_S = 600.0
DIED_MS = 600_000  # a run of another process that has not come to its end by then never will
AGAIN_S = 5.0  # after a failure, then ever longer; a disk that is full stays so for a while


@dataclass(slots=True)
class Progress:
    """How far the present run is; `people` 0 while purchases are read, `run_id` None at its beginning.

    A run that failed goes on with the next try: `written` is what all of its tries have stored.
    """

    run_id: int | None = None
    people: int = 0
    written: int = 0


class Scorer:
    """`run` lives as long as the process; `request` asks for a run now."""

    def __init__(
        self,
        state: Database,
        now_ms: Callable[[], int],
        *,
        changed: Callable[[], None],
        every_ms: int = DAY_MS,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`changed` is called when scores changed, so that segments are asked again.

        `leads` says whether the daily run is this process's to do.
        """
        self._leads = leads
        self._state = state
        self._now_ms = now_ms
        self._changed = changed
        self._every_ms = every_ms
        self._wanted = asyncio.Event()
        self._progress: Progress | None = None

    @property
    def progress(self) -> Progress | None:
        """Of the run that goes on or was asked for; None: there is none."""
        return self._progress or (Progress() if self._wanted.is_set() else None)

    def request(self) -> None:
        """A run begins at once, or right after the one that is going on."""
        self._wanted.set()

    async def run(self) -> None:
        """Runs when asked to, a day after the last run if there are orders, and in place of one that died."""
        while True:
            if self._wanted.is_set() or await self._is_due():
                await self._try()
                continue
            await self._asked_within(LOOK_EVERY_S)

    async def _try(self) -> None:
        """Until the run comes to its end; whoever asks anew need not wait for the next try."""
        pause_s = AGAIN_S
        while True:
            try:
                await self.score()
                return
            except StorageError as error:  # the disk's fault; whoever asked was told that a run begins
                log.warning("scoring_failed", error=str(error), again_in_s=pause_s)
            await self._asked_within(pause_s)
            pause_s = min(2 * pause_s, LOOK_EVERY_S)

    async def _asked_within(self, seconds: float) -> None:
        """Returns when a run is asked for, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wanted.wait()

    async def score(self) -> int:
        """One run, or another try of the one that failed; its number. It is the one that was asked for."""
        self._wanted.clear()
        progress = self._progress = self._progress or Progress()
        run_id = progress.run_id
        if run_id is None:
            run_id = await self._state.write(lambda session: rfm.begin_run(session, self._now_ms()))
            progress.run_id = run_id
        changed = await asyncio.to_thread(self._state.view, _reckon)
        scored = changed.scored
        progress.people = progress.written + len(changed)
        await self._write(run_id, progress, changed)
        await self._state.write(
            lambda session: rfm.end_run(session, run_id, scored, progress.written, self._now_ms())
        )
        self._progress = None
        if progress.written:
            self._changed()
        log.info("scored", run=run_id, people=len(scored.people), changed=progress.written)
        return run_id

    async def _write(self, run_id: int, progress: Progress, changed: Changes) -> None:
        """In portions that follow how long the last ones took."""
        written, portion, before = 0, FIRST_PORTION, progress.written
        while written < len(changed):
            put = partial(self._put, run_id, changed, written, portion)
            took = await self._state.write(put)
            written = min(written + portion, len(changed))
            progress.written = before + written
            portion = min(max(round(portion * min(PORTION_S / took, 2.0)), 50), LARGEST_PORTION)

    def _put(self, run_id: int, changed: Changes, start: int, size: int, session: Session) -> float:
        """Whether any segment asks is seen with each: one saved meanwhile may be computed already."""
        began, now = time.perf_counter(), self._now_ms()
        some = changed.portion(start, size)
        rfm.put_changes(session, run_id, some, now)
        if _any_segment_asks(session):
            segments.ask_again(session, chain.from_iterable(some.values()), now)
        return max(time.perf_counter() - began, 1e-6)

    async def _is_due(self) -> bool:
        if not self._leads():
            return False
        try:
            last = await self._state.read(lambda session: rfm.runs(session, 1))
        except StorageError as error:  # the next look will tell
            log.warning("scoring_not_looked_at", error=str(error))
            return False
        if not last:
            return False  # nobody has asked for scores yet
        patience = self._every_ms if last[0]["finished_at"] is not None else DIED_MS
        return self._now_ms() - int(last[0]["started_at"]) >= patience


def _reckon(session: Session) -> Changes:
    bought = rfm.purchases(session)
    return rfm.changes(bought, rfm.score(bought))


def _any_segment_asks(session: Session) -> bool:
    return any(
        isinstance(node, HasRfm)
        for stored in segments.segments(session).values()
        for node in nodes_of(stored.condition)
    )
