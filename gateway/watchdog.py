"""What the watchdog is fed by: data that flows from the radio into the outbox, and not a loop that turns."""

from dataclasses import dataclass
from typing import Final

DISK_PATIENCE_MS: Final = 180_000
"""Without a commit for so long, the watchdog starves; with systemd's minute that makes four, when memory is
full and a new process costs nothing that this one would not lose. Sooner, a disk that somebody is clearing
would cost what waits in memory."""
RADIO_PATIENCE_MS: Final = 60_000
"""A radio's supervisor may be late by so much. Its longest remedy takes half of it, every call having its
own limit; later, it hangs in a call that has ignored them all."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How long ago, in milliseconds: the outbox took what there was; the slowest radio's work was due."""

    since_commit_ms: int
    radio_overdue_ms: int


def starves(flow: Flow) -> str | None:
    """Why the watchdog must not be fed; None while data can flow.

    A radio that is away or deaf is no reason: its ladder is at work, heartbeats tell the backend, and a new
    process would not plug it in. One whose ladder has stopped is.
    """
    if flow.since_commit_ms > DISK_PATIENCE_MS:
        return "the outbox takes nothing"
    if flow.radio_overdue_ms > RADIO_PATIENCE_MS:
        return "a radio's supervisor hangs"
    return None
