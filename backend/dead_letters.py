"""Tries dead letters once more: what can be understood by now is journalled as of the time when it came."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import structlog

from backend.ids import uuid7
from backend.storage import floor, letters
from backend.storage.journal import GatewayAppend, Journal, ReadAgain
from backend.storage.letters import Letter, NewLetter
from backend.storage.session import Database, StorageError
from backend.storage.sources import source_of
from sdk_bridge.server.letters import read_again
from sdk_bridge.server.ports import Source
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.wire.codec import WireError

log = structlog.get_logger()
LOOK_S = 60.0  # how late people hear that letters fell out

Outcome: TypeAlias = Literal["replayed", "partly", "failed", "gone"]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a letter. `partly`: some of it is still not understood, for the reason given.

    `gone`: it is no more there; somebody else was faster, or it had to make room.
    """

    letter_id: int
    outcome: Outcome
    reason: str | None = None


class Messages(Protocol):
    """Reads gateways' messages; the ingest does."""

    def read_again(self, letter: Letter) -> GatewayAppend:
        """What the message holds. Raises WireError."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """Where letters lie, whose they are, and where what they hold goes."""

    journal: Journal
    journal_file: Database
    state: Database


class DeadLetterDesk:
    """Replays letters one by one. `run` tells people of those that fell out."""

    def __init__(self, stores: Stores, messages: Messages, now_ms: Callable[[], int]) -> None:
        self._stores = stores
        self._messages = messages
        self._now_ms = now_ms

    async def replay(self, letter_id: int) -> Replay:
        """Tries one letter. Raises JournalBusy, StorageError."""
        letter = await self._stores.journal_file.read(lambda s: letters.letter_of(s, letter_id))
        if letter is None:
            return Replay(letter_id, "gone")
        again = await self._read(letter)
        if not await self._stores.journal.read_again(letter, again):
            return Replay(letter_id, "gone")
        if not again.rest:
            return Replay(letter_id, "replayed")
        return Replay(letter_id, "partly" if again.events else "failed", again.rest[0].reason)

    async def run(self) -> None:
        """Raises an alert when letters had to make room for others, as long as the process lives."""
        while True:
            try:
                await self.tell_of_losses()
            except StorageError as error:  # a full disk is no reason to end; it is told later
                log.warning("letters_not_looked_at", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def tell_of_losses(self) -> None:
        """Raises an alert for letters that fell out since the last one."""
        room = await self._stores.journal_file.read(letters.room)
        if room.fell_out <= room.told:
            return
        detail = f"{room.fell_out - room.told} letters that nobody has looked at; {room.fell_out} ever"
        now = self._now_ms()
        await self._stores.state.write(
            lambda s: floor.raise_alert(s, now, "dead letters fell out", "journal", detail)
        )
        await self._stores.journal_file.write(lambda s: s.run("letters_told", told=room.fell_out))

    async def _read(self, letter: Letter) -> ReadAgain:
        try:
            match letter.form:
                case "batch":
                    return await self._batch(letter)
                case "entry":
                    return ReadAgain(entry=letter)
                case "message":
                    return ReadAgain(gateway=self._messages.read_again(letter))
        except (Refusal, WireError) as error:
            return _still_dead(letter, str(error))
        return _still_dead(letter, "it was kept by an earlier version, which did not say what it is")

    async def _batch(self, letter: Letter) -> ReadAgain:
        source = await self._source(letter)
        if source is None:
            return _still_dead(letter, f"there is no source {letter.source}")
        events, rest = await asyncio.to_thread(
            read_again, letter.payload, source, letter.received_at, lambda: uuid7(self._now_ms())
        )
        return ReadAgain(events=events, rest=[letters.of_batch(one) for one in rest])

    async def _source(self, letter: Letter) -> Source | None:
        source_id = letter.source
        if source_id is None:
            return None
        return await self._stores.state.read(lambda s: source_of(s, source_id))


def _still_dead(letter: Letter, reason: str) -> ReadAgain:
    left = NewLetter(letter.received_at, letter.origin, reason, letter.payload, letter.form)
    return ReadAgain(rest=[replace(left, events=letter.events)])
