"""Geofences in the database: definitions, who is near which, who was in which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from backend.proximity.fence_tracks import FenceTrack, FenceTracks, FenceTransition
from backend.proximity.fences import Fence, Fences
from backend.storage.floor import Present
from backend.storage.ownership import Holding
from backend.storage.session import Row, Session
from sdk_bridge.wire.topics import partition_of

_REMEMBERED = tuple(each.name for each in fields(FenceTrack))


@dataclass(frozen=True, slots=True)
class StampedFences:
    """All fences as they were at a version; compare it before reading thousands again."""

    version: int = -1
    fences: Fences = field(default_factory=Fences)

    @classmethod
    def read(cls, session: Session, known: "StampedFences | None" = None) -> "StampedFences":
        """What is known, if nobody changed a fence since."""
        row = session.row("fence_stamp")
        version = int(row[0]) if row else 0
        if known is not None and known.version == version:
            return known
        return cls(version, Fences.of(_fence(row) for row in session.rows("fences")))


def put_fences(session: Session, fences: Iterable[Fence], now: int) -> None:
    """Stores fences that were checked."""
    session.many(
        "put_fence",
        [
            {
                "fence_id": fence.fence_id,
                "definition": msgspec.json.encode(fence).decode(),
                "changed_at": now,
            }
            for fence in fences
        ],
    )
    session.run("fences_changed")


def delete_fence(session: Session, fence_id: str) -> bool:
    """False if there was none."""
    found = session.run("delete_fence", fence_id=fence_id) > 0
    session.run("fences_changed")
    return found


def fence(session: Session, fence_id: str) -> Fence | None:
    """One fence."""
    row = session.row("fence", fence_id=fence_id)
    return None if row is None else _fence(row)


def fences_after(session: Session, after: str, limit: int) -> list[Fence]:
    """A page of fences in the order of their ids."""
    return [_fence(row) for row in session.rows("fences_after", after=after, limit=limit)]


def restore_tracks(
    session: Session, present: Present, holding: Holding
) -> tuple[FenceTracks, dict[str, str]]:
    """Every phone near a fence that is known from our partitions, and whose each is."""
    tracks, owners = FenceTracks(), {}
    for row in session.rows("fence_presences"):
        if present.admits(row["subject"], partition_of_row(row), holding):
            owners[row["subject"]] = row["profile_id"]
            tracks.restore([track_of(row)])
    return tracks, owners


def partition_of_row(row: Row) -> int:
    """The partition from whose events a phone is known to be near a fence."""
    return partition_of(row["subject"]) if row["partition"] is None else int(row["partition"])


def track_of(row: Row) -> FenceTrack:
    """What is remembered of a phone and a fence."""
    told = {name: row[name] for name in _REMEMBERED}
    flags = {name: bool(told[name]) for name in ("inside", "approached")}
    return FenceTrack(**{**told, **flags})


def save_tracks(
    session: Session,
    changed: Iterable[tuple[tuple[str, str], FenceTrack | None, int]],
    owners: Mapping[str, str],
) -> None:
    """Keeps what is remembered of phones and fences, given as ((phone, fence), track, partition).

    The track is None where it ended; the partition is the one whose events tell of it. `owners`: whose each
    phone is.
    """
    saved, ended = [], []
    for (subject, fence_id), track, partition in changed:
        if track is None:
            ended.append({"subject": subject, "fence_id": fence_id})
        else:
            saved.append(_presence(track, owners[subject], partition))
    session.many("end_fence_presence", ended)
    session.many("save_fence_presence", saved, together=True)


def _presence(track: FenceTrack, profile_id: str, partition: int) -> dict[str, Any]:
    return {
        "subject": track.subject,
        "fence_id": track.fence_id,
        "profile_id": profile_id,
        "inside": int(track.inside),
        "entered_at": track.entered_at,
        "seen_at": track.seen_at,
        "farthest": track.farthest,
        "doubtful_at": track.doubtful_at,
        "approached": int(track.approached),
        "partition": partition,
    }


def write_stays(session: Session, transitions: Iterable[tuple[FenceTransition, str]]) -> None:
    """Opens and closes stays in fences, given in their order, each with whose phone it was."""
    begun: list[dict[str, Any]] = []
    running: dict[tuple[str, str], dict[str, Any]] = {}
    ended: list[dict[str, Any]] = []
    for transition, profile_id in transitions:
        key = (transition.subject, transition.fence_id)
        if transition.kind == "entered":
            running[key] = _stay(transition, profile_id)
            begun.append(running[key])
        elif transition.kind == "left" and key in running:
            running.pop(key)["left_at"] = transition.at
        elif transition.kind == "left":
            ended.append({"subject": key[0], "fence_id": key[1], "left_at": transition.at})
    session.many("end_fence_visit", ended)
    session.many("begin_fence_visit", begun)


def _stay(transition: FenceTransition, profile_id: str) -> dict[str, Any]:
    return {
        "subject": transition.subject,
        "fence_id": transition.fence_id,
        "profile_id": profile_id,
        "entered_at": transition.entered_at,
        "left_at": None,
        "confidence": transition.confidence,
    }


def _fence(row: Row) -> Fence:
    return msgspec.json.decode(row["definition"], type=Fence)
