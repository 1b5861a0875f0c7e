"""Which of an entry's events can be folded, where not all can: none is lost beside a bad neighbour."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from backend.storage.entries import Entry
from sdk_bridge.wire.app_events import AppEvent, decode_apart, encode_events, joined
from sdk_bridge.wire.codec import WireError

Trial: TypeAlias = Callable[[Entry], Awaitable[Exception | None]]
"""Folds an entry for the sake of seeing whether it can be, and takes it back; what stood against it."""
MOST_PARTS: Final = (
    16  # that are found bad; beyond, a part is taken for bad as a whole: each trial takes time
)


async def sifted(entry: Entry, fails: Trial) -> tuple[Entry | None, list[tuple[Entry, Exception]]]:
    """Of an app's entry what can be folded, all at once, and what cannot, together by the reason.

    Found by halves, each tried with all that was found good before it: one bad event among hundreds takes a
    score of trials. Events that cannot be read are no part of that. An entry that is no list of any has
    neither.
    """
    try:
        events, unreadable = decode_apart(entry.payload)
    except WireError:
        return None, []
    good: list[AppEvent] = []
    bad: dict[str, tuple[list[AppEvent], Exception]] = {}
    waiting, parts = _halves(events), 0
    while waiting:
        part = waiting.pop()
        error = await fails(_with(entry, [*good, *part]))
        if error is None:
            good += part
        elif len(part) > 1 and parts < MOST_PARTS:
            waiting += _halves(part)
        else:
            parts += 1
            bad.setdefault(repr(error), ([], error))[0].extend(part)
    letters = [(_with(entry, part), error) for part, error in bad.values()]
    if unreadable:
        letters.append((replace(entry, payload=joined(unreadable)), WireError("these events cannot be read")))
    return (_with(entry, good) if good else None), letters


def _halves(events: Sequence[AppEvent]) -> list[Sequence[AppEvent]]:
    """The later half first: whoever takes from the end takes the earlier."""
    middle = len(events) // 2
    return [half for half in (events[middle:], events[:middle]) if half]


def _with(entry: Entry, events: Sequence[AppEvent]) -> Entry:
    return replace(entry, payload=encode_events(events))
