"""The calls that apps make, as their JSON says: Segment's own and ours; typed, not yet understood."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sdk_bridge.server.times import Timestamp
from sdk_bridge.wire.app_events import PushAddress, Text

Id: TypeAlias = Text | int | None
"""An identifier; some server SDKs send numbers, and all send null for none."""
Object: TypeAlias = dict[str, Any] | list[Any] | None
"""An object; PHP writes an empty one as `[]`."""
MessageId: TypeAlias = Annotated[str, Meta(max_length=99)]  # Segment's: less than a hundred characters
PartId: TypeAlias = Annotated[str, Meta(max_length=90)]  # room for the number that each part gets behind it
DeviceId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]
MAX_PURPOSES = 32  # a consent banner has a handful
MAX_PARTS = 100  # sightings or transitions in one call: minutes of a phone that hears much


# Without the collector's care: what JSON says holds no cycles.
class Call(Struct, rename="camel", kw_only=True, gc=False):
    """What every call may say of itself."""

    write_key: str | None = None
    message_id: MessageId | int | None = None
    anonymous_id: Id = None
    user_id: Id = None
    user_hash: str | None = None
    id_token: str | None = None
    context: Object = None
    timestamp: Timestamp = None
    original_timestamp: Timestamp = None
    sent_at: Timestamp = None


class SegmentCall(Call, rename="camel", kw_only=True, gc=False):
    """Identify, track, page, screen, group or alias, as in Segment's spec."""

    type: str | None = None
    event: Text | None = None
    name: Text | None = None
    category: Text | None = None
    group_id: Id = None
    previous_id: Id = None
    properties: Object = None
    traits: Object = None


class DeviceCall(Call, rename="camel", kw_only=True, gc=False):
    """A device registers or refreshes itself, where pushes reach it, and the beacon its owner carries."""

    device_id: DeviceId
    platform: Text | None = None
    push_address: PushAddress | None = None
    beacon_key: Annotated[str, Meta(max_length=160)] | None = None


class LogoutCall(Call, rename="camel", kw_only=True, gc=False):
    """Whoever held the device holds it no more."""

    device_id: DeviceId


class ReceiptCall(Call, rename="camel", kw_only=True, gc=False):
    """A push was shown, or opened; the path says which."""

    push_id: Annotated[str, Meta(min_length=1, max_length=512)]
    device_id: Text | None = None


class ConsentCall(Call, rename="camel", kw_only=True, gc=False):
    """What a person agrees to, by purpose."""

    consent: Annotated[dict[Text, bool], Meta(min_length=1, max_length=MAX_PURPOSES)]
    device_id: Text | None = None


class SightingsCall(Call, rename="camel", kw_only=True, gc=False):
    """What a phone heard of beacons. The parts are still bytes, so that each is judged by itself."""

    message_id: PartId | int | None = None
    device_id: DeviceId
    sightings: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_PARTS)]


class TransitionsCall(Call, rename="camel", kw_only=True, gc=False):
    """What a phone's system said of fences. The parts are still bytes, as above."""

    message_id: PartId | int | None = None
    device_id: DeviceId
    transitions: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_PARTS)]


class Part(Struct, rename="camel", kw_only=True, gc=False):
    """What a part may say for itself, in place of what its call says for all."""

    message_id: MessageId | int | None = None
    timestamp: Timestamp = None
    original_timestamp: Timestamp = None


class SightingPart(Part, rename="camel", kw_only=True, gc=False):
    """A beacon or a region: by its `key`, or by the parts of one as phones give them."""

    key: Annotated[str, Meta(max_length=160)] | None = None
    uuid: Annotated[str, Meta(max_length=64)] | None = None
    major: int | None = None
    minor: int | None = None
    namespace: Annotated[str, Meta(max_length=64)] | None = None
    instance: Annotated[str, Meta(max_length=64)] | None = None
    event: Literal["enter", "leave", "range"] = "range"
    rssi: float | None = None
    proximity: Literal["immediate", "near", "far", "unknown"] | None = None
    accuracy: float | None = None


Latitude: TypeAlias = Annotated[float, Meta(ge=-90, le=90)]
Longitude: TypeAlias = Annotated[float, Meta(ge=-180, le=180)]


class Fix(Struct, rename="camel", kw_only=True, gc=False):
    """A position: degrees (WGS 84), metres, metres a second. Phones write a negative number for unknown."""

    latitude: Latitude
    longitude: Longitude
    accuracy: float | None = None
    speed: float | None = None


class TransitionPart(Part, rename="camel", kw_only=True, gc=False):
    """A fence was entered or left, or the phone stays in it; where the phone thought it was then."""

    fence_id: Annotated[str, Meta(min_length=1, max_length=128)]
    event: Literal["enter", "dwell", "leave"]
    location: Fix | None = None


class LocationCall(Call, rename="camel", kw_only=True, gc=False):
    """Where a phone is, that it may hear what to watch there."""

    device_id: DeviceId
    latitude: Latitude
    longitude: Longitude
    accuracy: float | None = None
    speed: float | None = None


SegmentKind: TypeAlias = Literal["identify", "track", "page", "screen", "group", "alias"]
SEGMENT_KINDS: dict[str, SegmentKind] = {
    "identify": "identify",
    "track": "track",
    "page": "page",
    "screen": "screen",
    "group": "group",
    "alias": "alias",
}

PLAIN_LEVELS = 4  # of nesting in what a usual call says; each more doubles what the decoder has to know


class PlainBatch(Struct):
    """The calls of a batch in which all are plain, typed in one go; whatever else it says is not looked at.

    A plain call nests so little that nothing has to be counted, and what it says besides is what Segment's
    own SDKs say, of which nothing is kept.
    """

    batch: list[SegmentCall]


def _nested(levels: int) -> Any:
    """The type of JSON that nests no deeper than this."""
    kinds: Any = str | int | float | bool | None
    for _ in range(levels):
        kinds = str | int | float | bool | None | list[kinds] | dict[str, kinds]
    return kinds


def _plain_call() -> type[Struct]:
    said = _nested(PLAIN_LEVELS)
    objects = dict[str, said] | list[said] | None  # type: ignore[valid-type] # made at run time
    besides = ("integrations", "channel", "version", "project_id", "received_at")
    return msgspec.defstruct(
        "PlainCall",
        [
            *((name, objects, None) for name in ("context", "properties", "traits")),
            *((name, said, None) for name in besides),
            ("metadata", said, msgspec.field(default=None, name="_metadata")),
        ],
        bases=(SegmentCall,),
        rename="camel",
        kw_only=True,
        gc=False,
        forbid_unknown_fields=True,
    )


segment_call = msgspec.json.Decoder(SegmentCall)
plain_batch: "msgspec.json.Decoder[PlainBatch]" = msgspec.json.Decoder(
    msgspec.defstruct("PlainCalls", [("batch", list[_plain_call()])], bases=(PlainBatch,))  # type: ignore[misc]
)
device_call = msgspec.json.Decoder(DeviceCall)
logout_call = msgspec.json.Decoder(LogoutCall)
receipt_call = msgspec.json.Decoder(ReceiptCall)
consent_call = msgspec.json.Decoder(ConsentCall)
sightings_call = msgspec.json.Decoder(SightingsCall)
transitions_call = msgspec.json.Decoder(TransitionsCall)
location_call = msgspec.json.Decoder(LocationCall)
sighting_part = msgspec.json.Decoder(SightingPart)
transition_part = msgspec.json.Decoder(TransitionPart)
