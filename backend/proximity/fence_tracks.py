"""Who is in which geofence, from fixes of any quality in any order; and who comes nearer. Pure.

A fix that is less accurate than the fence is large says nothing about it: one of 17 km once threw people out
of fences. What is surely inside (or outside, with a margin) counts at once; what only may be, when a second
fix says so. Times are unix milliseconds, lengths metres.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from backend.occurrences import Confidence
from backend.proximity.fences import Near

LEAVE_MARGIN_M: Final = 30.0  # behind the edge before anybody has left: fixes jump by as much at a standstill
NEARER_M: Final = 50.0  # by how much somebody must have come nearer to be coming
SILENT_MS: Final = 6 * 3_600_000  # unheard for so long, nobody knows where the phone is
CONFIRM_MS: Final = 10 * 60_000  # a second doubtful fix must come within this time to confirm the first
MOST_SURER: Final = 4  # fixes remembered of a phone beside its newest: it may send ever coarser ones

Kind: TypeAlias = Literal["entered", "stayed", "left", "approached"]


class Fix(NamedTuple):
    """Where a phone was; `accuracy_m` is the radius within which it is with 68 %."""

    at: int
    accuracy_m: float


NEVER: Final = -1


class FenceTransition(NamedTuple):
    """Someone entered or left a fence, is still in it, or comes nearer."""

    kind: Kind
    subject: str
    fence_id: str
    at: int
    entered_at: int
    confidence: Confidence = "high"


@dataclass(slots=True)
class FenceTrack:
    """What is remembered of a phone and a fence near it. `doubtful_at`: when a fix first contradicted it."""

    subject: str
    fence_id: str
    inside: bool = False
    entered_at: int = 0
    seen_at: int = 0
    farthest: float | None = None
    doubtful_at: int | None = None
    approached: bool = False


Key: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class FenceTracks:
    """Every phone's fences, by phone and fence. `changed` is what has to be stored.

    `fixes`: of every phone its newest fix, behind those before it that are surer than all that came since:
    a coarse one does not undo what they said. The oldest is first, and the surest.
    """

    tracks: dict[str, dict[str, FenceTrack]] = field(default_factory=dict)
    fixes: dict[str, tuple[Fix, ...]] = field(default_factory=dict)
    changed: set[Key] = field(default_factory=set)

    def locate(self, subject: str, fix: Fix, around: Iterable[Near]) -> list[FenceTransition]:
        """A fix with all the fences near it, and with those that the phone has a track of, however far.

        One that is older than the last says nothing about now.
        """
        if fix.at <= self.last_at(subject):
            return []
        self._remember(subject, fix)
        near = {one.geometry.fence.fence_id: one for one in around}
        mine = self.tracks.get(subject, {})
        seen = []
        for fence_id in sorted(mine.keys() | near.keys()):
            track = mine.get(fence_id) or FenceTrack(subject, fence_id)
            transition = self._weigh(track, fix, near.get(fence_id))
            if transition is not None:
                seen.append(transition)
        return seen

    def report(
        self, subject: str, fence_id: str, what: Literal["enter", "dwell", "leave"], fix: Fix, reach_m: float
    ) -> list[FenceTransition]:
        """A phone's own system watched the fence. Its word counts, unless its fix is worse than the fence.

        What it said of before is history: a request that failed comes later than the one behind it.
        """
        if fix.accuracy_m > reach_m or fix.at < self._known_until(subject, fence_id, reach_m):
            return []
        track = self.tracks.get(subject, {}).get(fence_id) or FenceTrack(subject, fence_id)
        if what != "leave":
            return [self._stay(track, fix.at) if track.inside else self._enter(track, fix.at, "medium")]
        if not track.inside:
            track.seen_at = fix.at
            self._keep(track)
        return self._left(track, fix.at, "medium")

    def expire(self, now: int) -> Iterator[FenceTransition]:
        """Whoever has been silent for long left when they were last seen, as far as anybody knows.

        Nothing more is remembered of a phone that was near no fence either.
        """
        for mine in list(self.tracks.values()):
            for track in list(mine.values()):
                if now - track.seen_at > SILENT_MS:
                    yield from self._left(track, track.seen_at, "low")
                    self._drop(track)
        for subject in [one for one, fixes in self.fixes.items() if now - fixes[-1].at > SILENT_MS]:
            del self.fixes[subject]

    def forget(self, subject: str, at: int) -> Iterator[FenceTransition]:
        """They withdrew: nothing of them is kept."""
        self.fixes.pop(subject, None)
        for track in list(self.tracks.get(subject, {}).values()):
            yield from self._left(track, max(at, track.entered_at), "high")
            self._drop(track)

    def lose(self, subject: str) -> None:
        """Somebody else follows them now."""
        self.tracks.pop(subject, None)
        self.fixes.pop(subject, None)

    def restore(self, tracks: Iterable[FenceTrack]) -> None:
        """Puts stored tracks back."""
        for track in tracks:
            self.tracks.setdefault(track.subject, {})[track.fence_id] = track
            if track.seen_at > self.last_at(track.subject):
                self._remember(track.subject, Fix(track.seen_at, 0.0))

    def last_at(self, subject: str) -> int:
        """When a phone had its newest fix; before all time where none is known."""
        fixes = self.fixes.get(subject)
        return fixes[-1].at if fixes else NEVER

    # One phone and one fence ----------------------------------------------------------------------------

    def _weigh(self, track: FenceTrack, fix: Fix, near: Near | None) -> FenceTransition | None:
        """What a fix says of a fence; the fence may be no more, and then nobody is in it."""
        if near is None:
            left = self._leave(track, fix.at, "high")
            self._drop(track)
            return left
        if fix.accuracy_m > near.geometry.reach_m or fix.at < track.seen_at:
            return None
        weigh = self._weigh_inside if track.inside else self._weigh_outside
        seen = weigh(track, fix, near.distance)
        if not track.inside and near.distance > near.geometry.fence.approach_m:
            self._drop(track)
        return seen

    def _weigh_inside(self, track: FenceTrack, fix: Fix, distance: float) -> FenceTransition | None:
        if distance <= 0:
            track.doubtful_at = None
            return self._stay(track, fix.at)
        surely_out = distance - fix.accuracy_m > LEAVE_MARGIN_M
        if surely_out or (distance > LEAVE_MARGIN_M and self._is_confirmed(track, fix.at)):
            return self._leave(track, fix.at, "high" if surely_out else "medium")
        self._keep(track)
        return None

    def _weigh_outside(self, track: FenceTrack, fix: Fix, distance: float) -> FenceTransition | None:
        track.seen_at = fix.at
        if distance > 0:
            track.doubtful_at = None
            return self._approach(track, fix, distance)
        surely_in = distance + fix.accuracy_m <= 0
        if surely_in or self._is_confirmed(track, fix.at):
            return self._enter(track, fix.at, "high" if surely_in else "medium")
        self._keep(track)
        return None

    def _approach(self, track: FenceTrack, fix: Fix, distance: float) -> FenceTransition | None:
        """Nearer by more than the fixes may err since the farthest point of this way; once for each way."""
        track.farthest = distance if track.farthest is None else max(track.farthest, distance)
        self._keep(track)
        nearer = track.farthest - distance
        if track.approached or nearer <= max(NEARER_M, fix.accuracy_m):
            return None
        track.approached = True
        confidence: Confidence = "high" if nearer > 2 * fix.accuracy_m else "medium"
        return FenceTransition("approached", track.subject, track.fence_id, fix.at, fix.at, confidence)

    def _is_confirmed(self, track: FenceTrack, at: int) -> bool:
        """Whether this is the second fix in a row that contradicts what we took for true."""
        first = track.doubtful_at
        if first is not None and at - first <= CONFIRM_MS:
            return True
        track.doubtful_at = at
        self._keep(track)
        return False

    def _enter(self, track: FenceTrack, at: int, confidence: Confidence) -> FenceTransition:
        track.inside, track.entered_at, track.seen_at = True, at, at
        track.doubtful_at, track.approached = None, False
        self._keep(track)
        return FenceTransition("entered", track.subject, track.fence_id, at, at, confidence)

    def _stay(self, track: FenceTrack, at: int) -> FenceTransition:
        track.seen_at = at
        self._keep(track)
        return FenceTransition("stayed", track.subject, track.fence_id, at, track.entered_at)

    def _leave(self, track: FenceTrack, at: int, confidence: Confidence) -> FenceTransition | None:
        if not track.inside:
            return None
        at = max(at, track.entered_at)
        track.inside, track.seen_at, track.doubtful_at = False, at, None
        track.farthest, track.approached = None, True  # whoever leaves does not approach it by turning round
        self._keep(track)
        return FenceTransition("left", track.subject, track.fence_id, at, track.entered_at, confidence)

    def _left(self, track: FenceTrack, at: int, confidence: Confidence) -> list[FenceTransition]:
        left = self._leave(track, at, confidence)
        return [] if left is None else [left]

    def _known_until(self, subject: str, fence_id: str, reach_m: float) -> int:
        """Until when it is known whether the phone is in the fence; where it has no track, it is not near."""
        track = self.tracks.get(subject, {}).get(fence_id)
        if track is not None:
            return track.seen_at
        sure = (fix.at for fix in self.fixes.get(subject, ()) if fix.accuracy_m <= reach_m)
        return max(sure, default=NEVER)

    def _remember(self, subject: str, fix: Fix) -> None:
        """Whatever it is as sure as, it replaces. Of too many surer ones the surest and the newest stay."""
        surer = [one for one in self.fixes.get(subject, ()) if one.accuracy_m < fix.accuracy_m]
        if len(surer) > MOST_SURER:
            del surer[1]
        self.fixes[subject] = (*surer, fix)

    def _keep(self, track: FenceTrack) -> None:
        self.tracks.setdefault(track.subject, {})[track.fence_id] = track
        self.changed.add((track.subject, track.fence_id))

    def _drop(self, track: FenceTrack) -> None:
        mine = self.tracks.get(track.subject, {})
        if mine.pop(track.fence_id, None) is not None:
            self.changed.add((track.subject, track.fence_id))
        if not mine:
            self.tracks.pop(track.subject, None)

    def track_of(self, key: Key) -> FenceTrack | None:
        """What is remembered now; None where it was forgotten."""
        return self.tracks.get(key[0], {}).get(key[1])
