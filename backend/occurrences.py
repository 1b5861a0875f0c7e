"""What happens to people, in the words that segments, campaigns and journeys are written in."""

from typing import Literal, TypeAlias

from msgspec import Struct

from sdk_bridge.wire.app_events import AppEvent

OccurrenceKind: TypeAlias = Literal[
    "event",
    "zone_entered",
    "zone_stayed",
    "zone_left",
    "zone_unknown",
    "store_entered",
    "store_left",
    "fence_entered",
    "fence_stayed",
    "fence_left",
    "fence_approached",
    "segment_entered",
    "segment_left",
]
Confidence: TypeAlias = Literal["none", "low", "medium", "high"]


class Occurrence(Struct, frozen=True, gc=False):
    """Something that happened to a person, made by the fold and handed upwards, never stored as it is.

    `subject` is what was observed: a beacon's key, a phone's device id, or for an event its message id; a
    person may carry several. `profile_id` is the person. `at` is when it happened and `received_at` when we
    learned of it, unix milliseconds: what arrives late builds history, and never makes an offer older than
    its life. `…_stayed` is fresh evidence that the subject is still where it entered at `entered_at`; it
    comes only for subjects whose stay somebody waits for. `event` and `event_id` go with the kind `event`.
    """

    kind: OccurrenceKind
    profile_id: str
    subject: str
    at: int
    received_at: int
    store_id: str | None = None
    zone_id: str | None = None
    fence_id: str | None = None
    segment_id: str | None = None
    entered_at: int = 0
    confidence: Confidence = "high"
    event: AppEvent | None = None
    event_id: int = 0
