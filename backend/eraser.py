"""Erases people: makes them unknown at once, and works through what is left, also after having been killed.

`erase` commits tombstones and forgets who somebody is, in one transaction. What follows is a row of steps,
each of which may be repeated: history, sightings, what others' rows mention, the journal's dead letters,
files, and at last the bytes of the databases. The row `erasure_work` says which step is next.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

import structlog

from backend.ids import uuid7
from backend.profiles.erasure import ErasureKeys, Tombstones, Traces
from backend.storage import erasure, erasure_letters, floor, profiles, registry
from backend.storage.entries import Cursor
from backend.storage.erasure import ErasureReceipt, Hits, Person
from backend.storage.session import Database, Session, StorageError
from sdk_bridge.server.links import expired_link
from sdk_bridge.server.ports import DeadLetter, JournalBusy
from sdk_bridge.wire.app_events import AppEvent

log = structlog.get_logger()
T = TypeVar("T")

Step: TypeAlias = Literal["history", "sightings", "mentions", "journal", "files", "bytes", "done"]
CAUGHT_UP_S: Final = 5.0  # what the person did a moment ago has to be folded before it can be erased
RETRY_S: Final = 1.0
JOURNAL_TURNS: Final = 20  # seconds until every page of the queue has been used anew
KEPT_FOLDERS: Final = frozenset({"authority"})
FILE_BLOCK: Final = 1 << 20
LONGEST_REST_S: Final = 0.05
NOTES: Final[tuple[Literal["audit", "alerts"], ...]] = ("audit", "alerts")


class FoldBehind(RuntimeError):
    """The fold has not come to what the person did last; come again."""


class Fold(Protocol):
    """What erasing needs of the fold."""

    @property
    def position(self) -> Cursor: ...
    def refresh(self) -> None: ...
    async def caught_up(self, profile_id: str, within_s: float = ...) -> bool: ...


class Journal(Protocol):
    """And of the journal."""

    async def append_events(
        self,
        events: Sequence[AppEvent],
        encoded: Sequence[bytes] | None = None,
        *,
        still: Callable[[], bool] = ...,
    ) -> int: ...
    async def bury(self, letter: DeadLetter) -> None: ...
    async def delete_folded(self, cursor: Cursor) -> None: ...


class Wiper(Protocol):
    """Looks for traces in a database's bytes, and removes them where it can."""

    async def wipe(self, traces: Traces) -> int: ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where people are kept. With PostgreSQL the wipers are none: its VACUUM does that (docs/privacy.md).

    `others_know_ms`: for how long after an erasure another process may take in what it refuses.
    """

    state: Database
    journal_file: Database
    journal: Journal
    fold: Fold
    folder: Path | None = None
    state_wiper: Wiper | None = None
    journal_wiper: Wiper | None = None
    others_know_ms: int = 0


class Eraser:
    """`run` lives as long as the process; `tombstones` are asked at every door."""

    def __init__(
        self, places: Places, keys: ErasureKeys, tombstones: Tombstones, now_ms: Callable[[], int]
    ) -> None:
        self._at = places
        self._keys = keys
        self._tombstones = tombstones
        self._now_ms = now_ms
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self.on_tags_gone: Callable[[Sequence[str]], None] = lambda _: None
        """Called with the keys of beacons that were the person's."""

    async def erase(self, id_type: str, identifier: str, actor: str) -> ErasureReceipt | None:
        """Makes the person behind an identifier unknown; None for nobody. The rest follows by itself.

        Raises FoldBehind, StorageError.
        """
        async with self._turn:
            if not await self._at.fold.caught_up("", CAUGHT_UP_S):
                raise FoldBehind("what was sent last has not been taken in yet")
            begin = partial(self._begin, id_type=id_type, identifier=identifier, actor=actor)
            begun = await self._at.state.write(begin)
            if begun is None:
                return None
            receipt, person = begun
            await self._at.state.read(lambda session: erasure.catch_up(session, self._tombstones))
        self._at.fold.refresh()
        self.on_tags_gone(list(person.tags))
        self._wake.set()
        log.info("erasing", receipt=receipt.receipt_id)
        return receipt

    def _begin(
        self, session: Session, *, id_type: str, identifier: str, actor: str
    ) -> tuple[ErasureReceipt, Person] | None:
        root = profiles.resolve(session, id_type, identifier)
        if root is None:
            return None
        now = max(self._now_ms(), _made_at(erasure.newest_receipt(session)) + 1)  # receipts' ids rise
        theirs = profiles.profiles_of_person(session, root)
        person = erasure.gather(session, theirs, now, lambda: uuid7(now))
        receipt_id = uuid7(now)
        erasure.begin(session, self._keys, person, receipt_id, secrets.token_bytes(12))
        registry.note(session, now, actor, "person erased", receipt_id)
        receipt = erasure.erasure_receipt(session, receipt_id)
        return (receipt, person) if receipt is not None else None

    def wake(self) -> None:
        """There may be work that another process began and does no more."""
        self._wake.set()

    async def run(self) -> None:
        """Finishes what is begun, the oldest first."""
        while True:
            try:
                while await self.work_off():
                    pass
            except (StorageError, JournalBusy) as error:
                log.warning("erasure_waits", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await self._wake.wait()

    async def work_off(self) -> bool:
        """Takes the oldest unfinished erasure to its end; False where there is none. Raises StorageError."""
        self._wake.clear()
        found = await self._at.state.read(lambda session: erasure.work(session, self._keys))
        if found is None:
            return False
        receipt_id, step, person = found
        for name, work in self._steps(receipt_id, person):
            if step not in (name, "done"):
                continue
            await work()
            step = await self._next(receipt_id, person, name)
        await self._finish(receipt_id)
        return True

    def _steps(self, receipt_id: str, person: Person) -> list[tuple[Step, Callable[[], Awaitable[None]]]]:
        return [
            ("history", partial(self._history, receipt_id, person)),
            ("sightings", partial(self._sightings, receipt_id, person)),
            ("mentions", partial(self._mentions, receipt_id, person)),
            ("journal", partial(self._journal, receipt_id, person)),
            ("files", partial(self._files, receipt_id, person)),
            ("bytes", partial(self._bytes, receipt_id, person)),
        ]

    async def _next(self, receipt_id: str, person: Person, done: Step) -> Step:
        """Says in the row that a step is behind us."""
        names = [name for name, _ in self._steps(receipt_id, person)]
        following = [*names, "done"][names.index(done) + 1]
        person.reached, person.reached_text, nonce = 0, "", secrets.token_bytes(12)
        await self._at.state.write(
            lambda s: erasure.put_work(s, self._keys, receipt_id, following, person, nonce)
        )
        return following

    async def _finish(self, receipt_id: str) -> None:
        now = self._now_ms()
        await self._at.state.write(lambda session: erasure.finish(session, receipt_id, now))
        log.info("erased", receipt=receipt_id)

    # The steps --------------------------------------------------------------------------------------------

    async def _history(self, receipt_id: str, person: Person) -> None:
        chunk = partial(erasure.erase_history, receipt_id=receipt_id, person=person)
        while await self._at.state.write(chunk):
            pass

    async def _sightings(self, receipt_id: str, person: Person) -> None:
        chunk = partial(erasure.erase_sightings, receipt_id=receipt_id, person=person)
        while await self._at.state.write(chunk):
            pass

    async def _mentions(self, receipt_id: str, person: Person) -> None:
        traces, state = Traces(person.names), self._at.state
        more = True
        while more:
            look = partial(erasure.events_mentioning, traces=traces, person=person)
            hits = await _gently(partial(state.view, look))
            if hits.rows:
                forget = partial(erasure.forget_in_events, receipt_id=receipt_id, person=person)
                await state.write(partial(forget, found=hits.rows))
            person.reached, more = hits.reached or 0, hits.more
        await self._devices(person)
        await self._through(
            partial(erasure.traits_mentioning, traces=traces, person=person),
            partial(erasure.forget_in_traits, person=person),
            after=("", ""),
        )
        await state.write(partial(erasure.forget_in_definitions, traces=traces, person=person))
        await state.write(partial(erasure.forget_in_campaigns, traces=traces, person=person))
        self._at.fold.refresh()  # it has campaigns in memory
        for table in NOTES:
            await self._through(
                partial(erasure.notes_mentioning, table=table, traces=traces),
                partial(erasure.forget_in_notes, table=table),
                after=0,
            )

    async def _devices(self, person: Person) -> None:
        more = True
        while more:
            look = partial(erasure.devices_remembering, person=person)
            hits = await _gently(partial(self._at.state.view, look))
            if hits.rows:
                await self._at.state.write(partial(erasure.forget_in_devices, person=person, rows=hits.rows))
            person.reached_text, more = hits.reached or "", hits.more

    async def _through(self, look: Callable[..., Hits], forget: Callable[..., None], after: object) -> None:
        """Goes through a table in stretches from `after`; what `look` finds there, `forget` takes away."""
        more = True
        while more:
            hits = await _gently(partial(self._at.state.view, partial(look, after=after)))
            if hits.rows:
                await self._at.state.write(partial(forget, rows=hits.rows))
            after, more = hits.reached or after, hits.more

    async def _journal(self, receipt_id: str, person: Person) -> None:
        """What waited is folded, which refuses it; then the dead letters."""
        await asyncio.sleep(self._at.others_know_ms / 1000)
        while not await self._at.fold.caught_up("", CAUGHT_UP_S):
            log.info("erasure_waits_for_fold", receipt=receipt_id)
        await self._at.journal.delete_folded(self._at.fold.position)
        gone = 0
        async for hits in self._letters(Traces(person.names)):
            gone += await self._at.journal_file.write(partial(erasure_letters.forget_letters, letters=hits))
        await self._at.state.write(lambda session: erasure.count(session, receipt_id, {"dead_letters": gone}))

    async def _letters(self, traces: Traces) -> AsyncIterator[list[tuple[int, int]]]:
        after, more = 0, True
        while more:
            look = partial(erasure_letters.letters_mentioning, traces=traces, after=after)
            hits = await _gently(partial(self._at.journal_file.view, look))
            if hits.letters:
                yield hits.letters
            after, more = hits.reached, hits.more

    async def _files(self, receipt_id: str, person: Person) -> None:
        if self._at.folder is None:
            return
        gone = await asyncio.to_thread(remove_files, self._at.folder, Traces(person.names))
        await self._at.state.write(lambda session: erasure.count(session, receipt_id, {"files": gone}))

    async def _bytes(self, receipt_id: str, person: Person) -> None:
        """Nobody's name may be left in a file; whoever registered anew has a right to be there."""
        names = await self._at.state.read(lambda session: erasure.not_known_again(session, person))
        traces = Traces(names)
        left = 0
        if self._at.state_wiper is not None:
            left += await self._at.state_wiper.wipe(traces)
        if self._at.journal_wiper is not None:
            left += await self._wipe_journal(self._at.journal_wiper, traces)
        if left:
            await self._at.state.write(partial(_tell_of_remains, at=self._now_ms(), receipt=receipt_id))

    async def _wipe_journal(self, wiper: Wiper, traces: Traces) -> int:
        """The queue's pages are used anew all the time; letters' pages are when all letters have moved."""
        left = await wiper.wipe(traces)
        if not left:
            return 0
        until = await self._at.journal_file.read(erasure_letters.last_letter)
        while await self._at.journal_file.write(partial(erasure_letters.move_letters, until=until)):
            pass
        for _ in range(JOURNAL_TURNS):
            left = await wiper.wipe(traces)
            if not left:
                break
            await asyncio.sleep(1.0)
        return left


async def _gently(look: Callable[[], T]) -> T:
    """Looks on a thread, then rests half as long: whoever answers requests has the same interpreter."""
    began = time.monotonic()
    found = await asyncio.to_thread(look)
    await asyncio.sleep(min((time.monotonic() - began) / 2, LONGEST_REST_S))
    return found


def _made_at(receipt_id: str) -> int:
    """The time in a receipt's id, unix milliseconds; -1 for none."""
    return int(receipt_id.replace("-", "")[:12], 16) if receipt_id else -1


def _tell_of_remains(session: Session, *, at: int, receipt: str) -> None:
    detail = "traces may be left in unused space of the databases' files; see docs/privacy.md"
    floor.raise_alert(session, at, "erasure incomplete", receipt, detail)


def remove_files(folder: Path, traces: Traces) -> int:
    """Removes exports, error files of imports and the like that mention somebody; how many.

    They lie in folders of the data folder; its own files are the databases and the secrets.
    """
    places = [path for path in folder.iterdir() if path.is_dir() and path.name not in KEPT_FOLDERS]
    found = [
        file for place in places for file in place.rglob("*") if file.is_file() and _mentions(file, traces)
    ]
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


def _mentions(file: Path, traces: Traces) -> bool:
    kept = b""
    with file.open("rb") as content:
        while block := content.read(FILE_BLOCK):
            whole = kept + block
            if traces.in_payload(whole):
                return True
            kept = (
                whole[-6 * traces.longest :] if traces.longest else b""
            )  # six bytes for each escaped letter
    return False


class GuardedJournal:
    """The journal behind a door at which erased people's past is refused."""

    def __init__(
        self,
        journal: Journal,
        tombstones: Tombstones,
        look: Callable[[], Awaitable[Callable[[], bool]]] | None = None,
    ) -> None:
        self._journal = journal
        self._tombstones = tombstones
        self._look = look
        """Learns whom other processes erased; what comes of it says whether that is fresh enough still."""

    async def append_events(self, events: Sequence[AppEvent], encoded: Sequence[bytes] | None = None) -> int:
        """Commits what is admitted; how many were new.

        Raises JournalBusy, and Refusal for a link token of somebody who was erased since.
        """
        still = _always if self._look is None else await self._look()
        admitted = [one for event in events if (one := self._tombstones.admitted(event)) is not None]
        if _links_in(events) != _links_in(admitted):
            raise expired_link()
        if not admitted:
            return 0
        untouched = len(admitted) == len(events) and all(map(is_, admitted, events))
        appending = self._journal.append_events(admitted, encoded if untouched else None, still=still)
        del events, encoded, admitted  # only bytes wait for the commit
        return await appending

    async def bury(self, letter: DeadLetter) -> None:
        """Keeps what could not be understood."""
        await self._journal.bury(letter)


def _always() -> bool:
    return True


def _links_in(events: Sequence[AppEvent]) -> int:
    return sum(event.link is not None for event in events)
