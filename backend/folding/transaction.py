"""One run over some journal entries, inside one transaction: floor and people, audiences, offers.

Runs on the state's writer thread. Each part returns what happened; nothing reaches upwards by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from backend.folding.audiences import AudiencePart
from backend.folding.fences import FencePart
from backend.folding.floor import FloorPart
from backend.folding.handovers import HandoverPart
from backend.folding.live import LiveState
from backend.folding.offers import OfferPart
from backend.folding.people import Observers, PeoplePart
from backend.listening import Listening
from backend.occurrences import Occurrence
from backend.profiles.service import ProfileService
from backend.storage import erasure, floor
from backend.storage.database import Session
from backend.storage.entries import Cursor, Entry
from backend.storage.session import StorageRetry

FORGET_EVERY_MS = 60_000  # so few spoke since that looking at all of them takes no time


@dataclass(slots=True)
class Folded:
    """What one transaction caused, for those who wait for it."""

    position: Cursor
    pushes: int = 0
    entered: int = 0
    listening: Listening | None = None
    traits_left_out: int = 0
    more: bool = False
    """There is work left that waits for nothing: begin the next one at once."""


class Transaction:
    """`now` is the time of the run, unix milliseconds."""

    def __init__(self, session: Session, live: LiveState, people: ProfileService, now: int) -> None:
        self._session = session
        self._live = live
        self._now = now
        self._handovers = HandoverPart(session, live)
        self._floor = FloorPart(session, live, self._handovers)
        self._fences = FencePart(session, live, self._handovers)
        self._people = PeoplePart(session, live, people, Observers(self._floor, self._fences), now)
        self._audiences = AudiencePart(session, live.audiences, holding=live.holding)
        self._offers = OfferPart(session, live, now)
        self._entered = 0

    def fold(self, entries: Sequence[Entry], position: Cursor) -> Folded:
        """Everything the entries cause, and the position behind the last. Raises StorageRetry."""
        if erasure.newest_receipt(self._session) != self._live.last_erasure:
            raise StorageRetry("somebody was erased; the live state still knows them")
        reached = position
        self._handovers.forget()
        self._leave_withdrawn()
        for kind, run in groupby(entries, key=lambda entry: entry.kind):
            together = list(run)
            for entry in together:
                self._happened(self._floor.expire(entry.received_at))
                if kind != "app":
                    self._happened(self._floor.fold(entry))
                reached = reached.past(entry)
            if kind == "app":
                self._happened(self._people.fold(together))
        if not entries:
            self._happened(self._floor.expire(self._now))
        self._happened(self._fences.expire(self._known_until(entries)))
        self._floor.save_tracks()
        self._fences.save()
        if self._live.audiences.segments:
            self._audiences.arrived(self._people.arrivals(), self._people.known, self._people.memory)
        self._audiences.disturbed(self._people.disturbed)
        self._happened(self._audiences.settle(self._known_until(entries)))
        self._offers.tick(self._known_until(entries))
        self._offers.decide_all()
        if entries:
            floor.move_to(self._session, position, reached, self._live.holding)
        self._people.end()
        self._tell_replicas()
        self._forget_absent()
        listening = self._live.listening if self._people.bearers_changed else None
        return Folded(
            position=reached,
            pushes=self._offers.pushes,
            entered=self._entered,
            listening=listening,
            traits_left_out=self._people.traits_left_out,
            more=self._audiences.more,
        )

    def _forget_absent(self) -> None:
        if self._now - self._live.absent_forgotten_at >= FORGET_EVERY_MS:
            self._live.absent_forgotten_at = self._now
            self._live.forget_absent()

    def _leave_withdrawn(self) -> None:
        """It is not the new bearer of a tag who leaves here."""
        strangers, self._live.strangers = self._live.strangers, set()
        people = self._live.people
        bearers = {subject: people.pop(subject) for subject in strangers if subject in people}
        for subject in sorted(strangers):
            self._happened(self._floor.forget(subject, self._now))
        people.update(bearers)

    def _tell_replicas(self) -> None:
        """The others have in memory who agreed, and which segments are computed."""
        changed = self._people.bearers_changed or self._audiences.computed
        if changed and not self._live.holding.whole:
            self._session.run("tell_replicas", at=self._now)

    def _known_until(self, entries: Sequence[Entry]) -> int:
        """Behind an outage nobody leaves an audience for want of what still waits in the journal."""
        return min(self._now, max((entry.received_at for entry in entries), default=self._now))

    def _happened(self, occurrences: Iterable[Occurrence]) -> None:
        for occurrence in occurrences:
            self._entered += occurrence.kind == "zone_entered"
            self._audiences.happened(occurrence)
            self._offers.happened(occurrence)
