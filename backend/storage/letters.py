"""Dead letters in the database: kept with their reason, within bounds, until they are understood at last."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from backend.storage.entries import Entry
from backend.storage.session import Session
from sdk_bridge.server.ports import DeadLetter
from sdk_bridge.wire.topics import partition_of

Form: TypeAlias = Literal["batch", "entry", "message", "old"]
"""What a letter holds: a batch of calls as apps send it; an entry of the journal that could not be folded; a
gateway's message as it came. `old` was kept by an earlier version, and nobody can say."""

LETTERS_KEPT = 10_000
BYTES_KEPT = 128 * 1024 * 1024  # or 10,000 letters of public write keys' holders could be five gigabytes
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class NewLetter:
    """What could not be understood. Times are unix milliseconds; `source` None: it is a gateway's."""

    received_at: int
    origin: str
    reason: str
    payload: bytes
    form: Form
    source: str | None = None
    events: int = 0
    partition: int | None = None
    lane: str | None = None
    boot_offset: int | None = None
    envelope: str | None = None
    tries: int = 0
    tried_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter(NewLetter):
    """One that is kept."""

    letter_id: int


@dataclass(frozen=True, slots=True)
class Room:
    """How many letters there are, and their bytes; how many ever fell out, and of how many it was told."""

    letters: int
    bytes: int
    fell_out: int
    told: int


def of_batch(letter: DeadLetter) -> NewLetter:
    """The bridge's."""
    return NewLetter(
        received_at=letter.received_at,
        origin=f"app:{letter.source_id}",
        reason=letter.reason,
        payload=letter.payload,
        form="batch",
        source=letter.source_id,
        events=letter.events,
        partition=partition_of(letter.source_id),
    )


def of_entry(entry: Entry, reason: str) -> NewLetter:
    """An entry that could not be folded."""
    is_app = entry.kind == "app"
    return NewLetter(
        received_at=entry.received_at,
        origin=f"app:{entry.source}" if is_app else entry.source,
        reason=reason,
        payload=entry.payload,
        form="entry",
        source=entry.source if is_app else None,
        partition=entry.partition,
        lane=entry.lane,
        boot_offset=entry.boot_offset,
    )


def bury(session: Session, letter: NewLetter) -> None:
    """Keeps a letter; the oldest make room."""
    session.run(
        "bury",
        received_at=letter.received_at,
        origin=_plain(letter.origin, 200),
        reason=_plain(letter.reason, LONGEST_REASON),
        payload=letter.payload,
        form=letter.form,
        source=letter.source,
        events=letter.events,
        partition=letter.partition,
        lane=letter.lane,
        boot_offset=letter.boot_offset,
        envelope=letter.envelope,
        tries=letter.tries,
        tried_at=letter.tried_at,
    )
    session.run("take_letter_room", letters=1, bytes=len(letter.payload))
    _bound(session)


def letter_of(session: Session, letter_id: int) -> Letter | None:
    """One letter, with its content."""
    row = session.row("letter", letter_id=letter_id)
    return None if row is None else Letter(**dict(row))


def room(session: Session) -> Room:
    """How much of their room the letters take."""
    row = session.row("letter_room")
    if row is None:
        raise RuntimeError("the journal has no row for its letters' room")
    return Room(row["letters"], row["bytes"], row["fell_out"], row["told"])


def settle(session: Session, letter: Letter, rest: Sequence[NewLetter], now: int) -> bool:
    """A letter was tried once more: it goes, or `rest` is left of it. False: somebody else was faster."""
    if not rest:
        changed = session.run("remove_letter", letter_id=letter.letter_id, tries=letter.tries)
        session.run("take_letter_room", letters=-changed, bytes=-changed * len(letter.payload))
        return changed > 0
    first, *others = rest
    told = {"reason": _plain(first.reason, LONGEST_REASON), "payload": first.payload, "events": first.events}
    key = {"letter_id": letter.letter_id, "tries": letter.tries}
    if not session.run("rewrite_letter", tried_at=now, **key, **told):
        return False
    session.run("take_letter_room", letters=0, bytes=len(first.payload) - len(letter.payload))
    for other in others:
        bury(session, replace(other, tries=letter.tries + 1, tried_at=now))
    return True


def _bound(session: Session) -> None:
    taken = room(session)
    letters, size = taken.letters, taken.bytes
    while letters > LETTERS_KEPT or size > BYTES_KEPT:
        oldest = session.row("oldest_letter")
        if oldest is None:
            return
        session.run("remove_letter", letter_id=oldest["letter_id"], tries=None)
        session.run("take_letter_room", letters=-1, bytes=-oldest["bytes"])
        session.run("letter_fell_out")
        letters, size = letters - 1, size - oldest["bytes"]


def _plain(text: str, most: int) -> str:
    return text[:most].replace("\0", "")
