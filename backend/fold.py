"""The fold: journal entries in order; each transaction takes its position and everything they cause.

Here is the loop around the transactions: reading ahead, the clock, disks that fail, entries that cannot be
folded. What an entry causes is in `backend/folding/`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import structlog

from backend.folding import Folded, LiveState, Transaction
from backend.folding.floor import WEIGH_EVERY_MS
from backend.folding.sifting import sifted
from backend.listening import Listening
from backend.profiles.erasure import Tombstones
from backend.profiles.service import ProfileService
from backend.proximity.zones import ZoneSettings
from backend.shared_look import SharedLook
from backend.storage import floor
from backend.storage.entries import Cursor, Entry
from backend.storage.journal import Journal, may_have_more
from backend.storage.letters import of_entry
from backend.storage.ownership import Ownership, Sole
from backend.storage.profiles import partitions_of_person
from backend.storage.session import Database, Session, StorageConflict, StorageError, StorageRetry
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.topics import partition_of

log = structlog.get_logger()

ENTRIES_A_TRANSACTION = 64  # 103k events/s against 63k at a few; and nobody waits long for the file
TICK_S = 0.25  # how late an absence may be noticed
WEIGH_TICK_S = WEIGH_EVERY_MS / 1000  # while seconds wait for gateways to tell of them: offers wait behind
WINDOW_TICK_S = 0.05  # windows that run out one after the other share a transaction; nobody is 100 ms late
REST_S = 0.003  # what comes meanwhile shares a transaction; with 5 ms 7,500 events/s wait half as long again
DELETE_EVERY_S = 1.0  # folded entries go in one sweep, not with a sync of their own each
STORAGE_RETRY_S = 1.0
RACES = 3  # two replicas that meet the same stranger at once; the loser finds them at its next try
OTHERS_S = 0.02  # how often another replica's position is looked at
LOOK_S = 0.05  # how often an idle fold looks for what bridges alone appended; segments follow in 100 ms
SOON_S = 0.002  # and how soon one that has just folded: where much comes, more has come


class _TakenBack(Exception):
    """Rolls a trial back."""


class Fold:
    """Takes the journal's entries as they come. `run` lives as long as the process."""

    def __init__(
        self,
        journal: Journal,
        state: Database,
        now_ms: Callable[[], int],
        *,
        on_listening: Callable[[Listening], None],
        settings: ZoneSettings | None = None,
        tombstones: Tombstones | None = None,
        ownership: Ownership | None = None,
    ) -> None:
        self._journal = journal
        self._state = state
        self._now_ms = now_ms
        self._on_listening = on_listening
        self.on_pushes: Callable[[], None] = lambda: None
        """Called after a commit that queued pushes; the sender's `wake`, where there is one."""
        self._settings = settings or ZoneSettings()
        self._tombstones = tombstones or Tombstones()
        self._ownership = ownership or Sole()
        self._people = ProfileService()
        self._heads = SharedLook(journal.newest)
        self._positions = SharedLook(lambda: state.read(floor.position))
        self._live: LiveState | None = None
        self._moved = asyncio.Event()
        self._stale = False
        self._more = False
        self._sifted: tuple[int, int] | None = None
        """Line and position of the entry of which what cannot be folded was buried last."""
        self._deleted, self._delete_at = Cursor(), 0.0
        self.traits_left_out = 0
        """Since the process started: too long for a profile, or one too many."""
        self.position = Cursor()

    async def load(self) -> None:
        """Reads the live state and the position; call once before `run`."""
        live, self.position = await self._state.write(self._read)
        self._start_grace(live, live.gateways)
        self._live = live
        self._on_listening(live.listening)

    def _read(self, session: Session) -> tuple[LiveState, Cursor]:
        """The live state and the position of what is ours as we read."""
        holding = self._ownership.holding
        live = LiveState.read(session, self._settings, self._tombstones, self._live, holding)
        return live, holding.narrow(floor.position(session))

    @property
    def behind(self) -> int:
        """How many entries wait, of the partitions that are ours."""
        holding = self._ownership.holding if self._live is None else self._live.holding
        return self.position.behind(holding.narrow(self._journal.head))

    def refresh(self) -> None:
        """An operator changed the registry or a campaign: read it before the next entry."""
        self._stale = True
        self._journal.appended.set()

    async def caught_up(self, profile_id: str, within_s: float = 0.2) -> bool:
        """Whether everything journalled so far, the person's events among it, is folded soon enough.

        Beside other replicas, everything in the partitions that the person's events come in; in all, for
        nobody.
        """
        if not self._ownership.holding.whole:
            return await self._all_have_folded(profile_id, within_s)
        try:
            async with asyncio.timeout(within_s):
                target = await self._heads()
                while not self.position.covers(target):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _all_have_folded(self, profile_id: str, within_s: float) -> bool:
        """Whoever folds them: what the database says of their positions counts.

        One look is always taken: that the database is busy with hundreds of such questions does not mean
        that the fold is behind, and pushes put off for it would only ask again.
        """
        theirs = await self._state.read(lambda session: partitions_of_person(session, profile_id))
        heads = (await self._heads()).positions
        target = Cursor({line: at for line, at in heads.items() if not theirs or line in theirs})
        until = asyncio.get_running_loop().time() + within_s
        while not (await self._positions()).covers(target):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(OTHERS_S)
        return True

    async def run(self) -> None:
        """Folds whatever the journal holds, and looks at the clock in between."""
        while True:
            try:
                await self._round()
            except StorageRetry as error:  # the live state knows of what was not written: begin from the rows
                log.info("fold_again", error=str(error))
                self._stale = True
            except (StorageError, JournalBusy) as error:  # the disk's fault: the entries wait in the journal
                log.error("fold_waits_for_disk", error=str(error))  # noqa: TRY400 - a full disk has no traceback
                self._stale = True
                await asyncio.sleep(STORAGE_RETRY_S)

    async def _round(self) -> None:
        self._journal.appended.clear()
        entries = await self._next_entries()
        await self._fold_all(entries)
        await self._delete_folded()
        if not (self._more or may_have_more(entries, ENTRIES_A_TRANSACTION)):
            if entries:
                await asyncio.sleep(REST_S)
            await self._wait()

    async def _next_entries(self) -> Sequence[Entry]:
        """What comes next, and before it whatever was changed before any of it came."""
        while True:
            if self._stale:
                self._stale = False
                await self._reload()
            entries = await self._journal.after(self.position, ENTRIES_A_TRANSACTION)
            if not self._stale:
                return entries

    async def _delete_folded(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.position != self._deleted and now >= self._delete_at:
            await self._journal.delete_folded(self.position)
            self._deleted, self._delete_at = self.position, now + DELETE_EVERY_S

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._rest_s()):
                await self._news()
        except TimeoutError:
            return  # the tick: time itself may have moved somebody

    def _rest_s(self) -> float:
        """How long nothing need be done unless something comes: no longer than until a window runs out."""
        live = self._own()
        tick_s = WEIGH_TICK_S if live.engine.waits else TICK_S
        due = live.audiences.next_due
        if due is None or not (live.audiences.segments and live.holding.leads):
            return tick_s
        return min(tick_s, max((due - self._now_ms()) / 1000, WINDOW_TICK_S))

    async def _news(self) -> None:
        """Returns when something was appended: by us, or in our partitions by another process."""
        rest_s = SOON_S
        while not self._journal.appended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._journal.appended.wait()
                    return
            known = self._journal.head
            await self._journal.look()
            narrow = self._ownership.holding.narrow
            if narrow(self._journal.head) != narrow(known):
                return
            rest_s = min(2 * rest_s, LOOK_S)

    async def _fold_all(self, entries: Sequence[Entry]) -> None:
        try:
            await self._fold(entries)
        except StorageConflict:
            await self._one_by_one(entries)
        except StorageError:
            raise
        except Exception:
            log.exception("fold_failed", entries=len(entries))
            await self._one_by_one(entries)

    async def _one_by_one(self, entries: Sequence[Entry]) -> None:
        """One entry that cannot be folded must not stop all that follow."""
        await self._reload()
        for entry in entries:
            await self._fold_or_bury(entry)

    async def _fold_or_bury(self, entry: Entry) -> None:
        """Buries what cannot be folded; of an app's entry, which may be many people's, only those events."""
        error = await self._refusal(self._fold_in_the_end, entry)
        if error is None:
            return
        good, bad = await sifted(entry, self._trial) if entry.kind == "app" else (None, [])
        if good is None:
            bad = bad or [(entry, error)]
        if self._sifted != (entry.line, entry.position):  # or it comes again, for what is good was in a race
            for part, why in bad:
                await self._bury(part, why)
            self._sifted = entry.line, entry.position
        error = None if good is None else await self._refusal(self._fold_in_the_end, good)
        if good is not None and error is not None:
            await self._bury(good, error)
        if good is None or error is not None:
            await self._pass(entry)

    async def _trial(self, entry: Entry) -> Exception | None:
        """What stands against folding an entry, which is not folded yet."""
        return await self._refusal(partial(self._fold_in_the_end, only_try=True), entry)

    async def _refusal(self, fold: Callable[[Entry], Awaitable[None]], entry: Entry) -> Exception | None:
        """What stood against folding an entry; None: nothing. Raises StorageError for the disk's fault."""
        refusal: Exception | None
        try:
            await fold(entry)
        except _TakenBack:
            refusal = None
        except StorageConflict as error:
            refusal = error
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - kept with its reason, and logged, by _bury
            refusal = error
        else:
            return None
        await self._reload()
        return refusal

    async def _fold_in_the_end(self, entry: Entry, *, only_try: bool = False) -> None:
        """What contradicts another replica's rows may be a race, which a fresh look decides."""
        races = (StorageConflict, StorageRetry) if only_try else StorageConflict
        for _ in range(0 if self._ownership.holding.whole else RACES):
            try:
                await self._fold([entry], only_try=only_try)
            except races as error:
                log.info("fold_again", error=str(error))
                await self._reload()
            else:
                return
        await self._fold([entry], only_try=only_try)

    async def _bury(self, entry: Entry, error: Exception) -> None:
        log.error("entry_buried", position=entry.position, source=entry.source, exc_info=error)
        await self._journal.bury(of_entry(entry, f"could not be folded: {error!r}"))

    async def _pass(self, entry: Entry) -> None:
        """Goes on behind an entry of which nothing can be folded any more."""
        before, live = self.position, self._own()
        await self._state.write(
            lambda session: floor.move_to(session, before, before.past(entry), live.holding)
        )
        await self._reload()

    async def _reload(self) -> None:
        before = self._live
        live, position = await self._state.write(self._read)
        if before is not None:
            live.engine.knows_gateways_of(before.engine)
            live.visits.go_on(before.visits)
            if live.holding != before.holding:
                gained = {
                    name
                    for name, one in live.gateways.items()
                    if not before.holding.has(partition_of(one.store_id))
                }
                self._start_grace(live, gained)
        self._live = live
        self._reached(position)
        self._on_listening(live.listening)

    def _start_grace(self, live: LiveState, gateways: Iterable[str]) -> None:
        """After our own absence, every gateway and every beacon gets the time of one silence."""
        now = live.engine.awake_at = self._now_ms()
        for gateway in gateways:
            live.engine.gateway_alive(gateway, now)

    async def _fold(self, entries: Sequence[Entry], *, only_try: bool = False) -> None:
        live, now, position = self._own(), self._now_ms(), self.position
        self._more = False

        def fold(session: Session) -> Folded:
            if self._ownership.holding != live.holding:
                raise StorageRetry("other partitions are ours now")
            folded = Transaction(session, live, self._people, now).fold(entries, position)
            if only_try:
                raise _TakenBack
            return folded

        folded = await self._state.write(fold, again=False)
        self._reached(folded.position)
        if folded.listening is not None:
            self._on_listening(folded.listening)
        self._more = folded.more
        self.traits_left_out += folded.traits_left_out
        if folded.pushes:
            self.on_pushes()

    def _own(self) -> LiveState:
        if self._live is None:
            raise RuntimeError("Fold.load must come before Fold.run")
        return self._live

    def _reached(self, position: Cursor) -> None:
        self.position = position
        self._moved.set()
