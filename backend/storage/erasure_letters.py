"""Erasing a person from the journal's dead letters, in transactions that no sender waits for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from backend.profiles.erasure import Traces
from backend.storage.session import Session

LETTERS_AT_ONCE: Final = 20  # of 64 KB at the most: a megabyte of zeros is written in some milliseconds


@dataclass(frozen=True, slots=True)
class LetterHits:
    """Letters that mention a person, with their sizes, among those up to `reached`; `more` are to come."""

    letters: list[tuple[int, int]]
    reached: int
    more: bool


def letters_mentioning(session: Session, traces: Traces, after: int) -> LetterHits:
    """The next few letters."""
    rows = session.rows("letters_to_search", after=after, limit=LETTERS_AT_ONCE)
    found = [
        (row["letter_id"], len(row["payload"]))
        for row in rows
        if traces.in_payload(
            b"\n".join((bytes(row["payload"]), _text(row["reason"]), _text(row["envelope"])))
        )
    ]
    reached = rows[-1]["letter_id"] if rows else after
    return LetterHits(found, reached, len(rows) == LETTERS_AT_ONCE)


def forget_letters(session: Session, letters: Iterable[tuple[int, int]]) -> int:
    """Takes letters away, each overwritten first; how many were still there."""
    gone = 0
    for letter_id, size in letters:
        session.run("blank_letter", letter_id=letter_id, payload=bytes(size))
        changed = session.run("remove_letter", letter_id=letter_id, tries=None)
        session.run("take_letter_room", letters=-changed, bytes=-changed * size)
        gone += changed
    return gone


def last_letter(session: Session) -> int:
    """The newest letter's id; 0 for none."""
    row = session.row("newest_letter")
    return int(row[0]) if row is not None and row[0] is not None else 0


def move_letters(session: Session, until: int) -> bool:
    """Moves the next few letters up to `until` to pages of their own; False: all have been moved.

    A letter that was merged with others long ago may have left a copy in the page it came from; once all
    letters have moved, those pages are free, and free pages are overwritten.
    """
    rows = session.rows("letters_until", until=until, limit=LETTERS_AT_ONCE)
    for row in rows:
        session.run("copy_letter", letter_id=row["letter_id"])
        session.run("remove_letter", letter_id=row["letter_id"], tries=None)
    return len(rows) == LETTERS_AT_ONCE


def _text(value: str | None) -> bytes:
    return (value or "").encode("utf-8", "surrogatepass")
