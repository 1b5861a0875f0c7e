"""Thins what was heard and forgets what is too old, once an hour and on request, beside everything else.

Each portion holds the writer for some milliseconds and rests for longer. Which rows are left to do, the rows
themselves say; so a process that was killed goes on at its next start.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog

from backend.storage import retention
from backend.storage.retention import RULES, Job, Rule
from backend.storage.session import Database, Session, StorageError

log = structlog.get_logger()

PORTION_S: Final = 0.008  # of the writer's time; with the commit still less than gateways would notice
REST: Final = 2.0  # portions' lengths between two: the fold has two thirds of the writer even then
FIRST_PORTION: Final = 100
LARGEST_PORTION: Final = 5_000
DAY_MS: Final = 86_400_000
HOUR_S: Final = 3_600.0
RETRY_S: Final = 60.0


class Retention:
    """`run` lives as long as the process; `request` asks for a run now. Days of 0 keep something for good."""

    def __init__(
        self, state: Database, days: Mapping[str, int], now_ms: Callable[[], int], *, every_s: float = HOUR_S
    ) -> None:
        """`days` by the names of the rules' settings."""
        self._state = state
        self._days = dict(days)
        self._now_ms = now_ms
        self._every_s = every_s
        self._wanted = asyncio.Event()
        self.at_work: str | None = None
        """The kind of rows that is being worked off."""

    def request(self) -> None:
        """A run begins at once, or right after the one that is going on."""
        self._wanted.set()

    def days_of(self, rule: Rule) -> int:
        return self._days[rule.setting]

    async def jobs(self) -> dict[str, Job]:
        """How far each kind of rows is. Raises StorageError."""
        return await self._state.read(retention.jobs)

    async def run(self) -> None:
        """A run at the start, for what an earlier process left; then one an hour, and whenever asked."""
        while True:
            pause = self._every_s
            self._wanted.clear()
            try:
                await self.sweep()
            except StorageError as error:  # the disk's fault; the next run finds everything as it is
                log.warning("retention_failed", error=str(error))
                pause = RETRY_S
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def sweep(self) -> int:
        """One run over every kind; how many rows were thinned, forgotten or emptied. Raises StorageError."""
        done = 0
        try:
            for rule in RULES:
                if self.days_of(rule):
                    self.at_work = rule.kind
                    done += await self._work_off(rule)
        finally:
            self.at_work = None
        return done

    async def _work_off(self, rule: Rule) -> int:
        now = self._now_ms()
        before = now - self.days_of(rule) * DAY_MS
        counted = partial(retention.count, rule=rule, before=before)
        found = await asyncio.to_thread(self._state.view, counted)
        first = partial(retention.begin, rule=rule, now=now, before=before, found=found)
        rows, took = await self._state.write(partial(self._portion, rule, before, FIRST_PORTION, first))
        done, limit = rows, FIRST_PORTION
        while rows:
            await asyncio.sleep(took * REST)
            limit = min(max(round(limit * min(PORTION_S / took, 2.0)), 20), LARGEST_PORTION)
            rows, took = await self._state.write(partial(self._portion, rule, before, limit, None))
            done += rows
        if done:
            log.info("retained", kind=rule.kind, rows=done, before=before)
        return done

    def _portion(
        self, rule: Rule, before: int, limit: int, first: Callable[[Session], None] | None, session: Session
    ) -> tuple[int, float]:
        """One transaction: how a run begins, a portion, and that nothing is left."""
        began = time.perf_counter()
        if first is not None:
            first(session)
        rows = retention.portion(session, rule, self._now_ms(), before, limit)
        if not rows:
            retention.end(session, rule, self._now_ms())
        return rows, max(time.perf_counter() - began, 1e-6)
