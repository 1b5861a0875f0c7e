"""People who come from a partition that another replica folds: what it knew of them goes on here.

Whoever takes a subject over leaves word in the transaction that does; whoever knew it before forgets it,
and nothing comes of that, for it has not left.
"""

from collections.abc import Collection

from backend.folding.live import PHONE_TRACK, LiveState
from backend.storage import campaigns as campaign_rows
from backend.storage import fences, floor
from backend.storage.session import Session


class HandoverPart:
    """What replicas hand to each other in one transaction; a process alone has nobody to hand anything to."""

    def __init__(self, session: Session, live: LiveState) -> None:
        self._session = session
        self._live = live

    def forget(self) -> None:
        """Whoever is known elsewhere by now; before anything else happens."""
        if self._live.holding.whole:
            return
        for row in self._session.rows("handovers"):
            partition, subject = int(row["partition"]), row["subject"]
            if self._live.holding.has(partition):
                if self._live.partitions.get(subject) == partition:
                    self._live.lose(subject)
                self._session.run("end_handover", partition=partition, subject=subject)

    def seen(self, subjects: Collection[str], partition: int) -> None:
        """Subjects are told of by an event of a partition of ours."""
        live = self._live
        if not live.holding.whole:
            for subject in subjects:
                if not live.knows(subject):
                    self._take_over(subject, partition)
        live.partitions.update(dict.fromkeys(subjects, partition))

    def _take_over(self, subject: str, partition: int) -> None:
        left = self._presence(subject) | self._visit(subject, partition) | self._fences(subject)
        if left:
            self._live.stays[subject] = campaign_rows.stays_of(self._session, subject)
            self._session.run("end_handover", partition=partition, subject=subject)
        for before in sorted(left - {partition}):
            self._session.run("hand_over", partition=before, subject=subject)

    def _presence(self, subject: str) -> set[int]:
        row = self._session.row("presence_of", subject=subject)
        if row is None:
            return set()
        self._live.engine.restore(subject, row["engine"])
        self._live.engine.changed.add(subject)
        if subject.startswith(PHONE_TRACK) and row["profile_id"] is not None:
            self._live.phones[subject] = row["profile_id"]
        return {floor.partition_of_row(row)}

    def _visit(self, subject: str, partition: int) -> set[int]:
        row = self._session.row("open_visit_of", subject=subject)
        if row is None:
            return set()
        self._live.visits.open[subject] = floor.visit_of(row, self._live.holding)
        if subject.startswith(PHONE_TRACK) and row["profile_id"] is not None:
            self._live.phones.setdefault(subject, row["profile_id"])
        self._session.run("move_visit", subject=subject, partition=partition)
        return {floor.partition_of_row(row)}

    def _fences(self, subject: str) -> set[int]:
        if not subject.startswith(PHONE_TRACK):
            return set()
        left, tracks = set(), self._live.fence_tracks
        for row in self._session.rows("fence_presences_of", subject=subject):
            track = fences.track_of(row)
            tracks.restore([track])
            tracks.changed.add((subject, track.fence_id))
            self._live.fence_owners[subject] = row["profile_id"]
            left.add(fences.partition_of_row(row))
        return left
