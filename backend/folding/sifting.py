"""Which of an entry's events can be folded, where not all can: none is lost beside a bad neighbour."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from backend.storage.entries import Entry
from sdk_bridge.wire.app_events import AppEvent, decode_events, encode_events
from sdk_bridge.wire.codec import WireError

Trial: TypeAlias = Callable[[Entry], Awaitable[Exception | None]]
"""Folds an entry for the sake of seeing whether it can be, and takes it back; what stood against it."""


async def sifted(entry: Entry, fails: Trial) -> tuple[Entry | None, list[tuple[Entry, Exception]]]:
    """Of an app's entry what can be folded, and each event that cannot, with why.

    Found by halves: one bad event among thousands takes a score of trials. An entry that cannot be read has
    nothing that can be folded, and no events.
    """
    try:
        events = decode_events(entry.payload)
    except WireError:
        return None, []
    good: list[AppEvent] = []
    bad: list[tuple[Entry, Exception]] = []
    waiting = _halves(events)
    while waiting:
        part = waiting.pop()
        told = _with(entry, part)
        error = await fails(told)
        if error is None:
            good += part
        elif len(part) == 1:
            bad.append((told, error))
        else:
            waiting += _halves(part)
    return (_with(entry, good) if good else None), bad


def _halves(events: Sequence[AppEvent]) -> list[Sequence[AppEvent]]:
    """The later half first: whoever takes from the end takes the earlier."""
    middle = len(events) // 2
    return [half for half in (events[middle:], events[:middle]) if half]


def _with(entry: Entry, events: Sequence[AppEvent]) -> Entry:
    return replace(entry, payload=encode_events(events))
