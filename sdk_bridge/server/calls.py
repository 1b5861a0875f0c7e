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
MAX_PURPOSES = 32  # a consent banner has a handful


class Call(Struct, rename="camel", kw_only=True):
    """What every call may say of itself."""

    write_key: str | None = None
    message_id: MessageId | None = None
    anonymous_id: Id = None
    user_id: Id = None
    user_hash: str | None = None
    context: Object = None
    timestamp: Timestamp = None
    original_timestamp: Timestamp = None
    sent_at: Timestamp = None


class SegmentCall(Call, rename="camel", kw_only=True):
    """Identify, track, page, screen, group or alias, as in Segment's spec."""

    type: str | None = None
    event: Text | None = None
    name: Text | None = None
    category: Text | None = None
    group_id: Id = None
    previous_id: Id = None
    properties: Object = None
    traits: Object = None


class DeviceCall(Call, rename="camel", kw_only=True):
    """A device registers or refreshes itself, where pushes reach it, and the beacon its owner carries."""

    device_id: Annotated[str, Meta(min_length=1, max_length=512)]
    platform: Text | None = None
    push_address: PushAddress | None = None
    beacon_key: Annotated[str, Meta(max_length=160)] | None = None


class LogoutCall(Call, rename="camel", kw_only=True):
    """Whoever held the device holds it no more."""

    device_id: Annotated[str, Meta(min_length=1, max_length=512)]


class ReceiptCall(Call, rename="camel", kw_only=True):
    """A push was shown, or opened; the path says which."""

    push_id: Annotated[str, Meta(min_length=1, max_length=512)]
    device_id: Text | None = None


class ConsentCall(Call, rename="camel", kw_only=True):
    """What a person agrees to, by purpose."""

    consent: Annotated[dict[Text, bool], Meta(min_length=1, max_length=MAX_PURPOSES)]
    device_id: Text | None = None


SegmentKind: TypeAlias = Literal["identify", "track", "page", "screen", "group", "alias"]
SEGMENT_KINDS: dict[str, SegmentKind] = {
    "identify": "identify",
    "track": "track",
    "page": "page",
    "screen": "screen",
    "group": "group",
    "alias": "alias",
}

segment_call = msgspec.json.Decoder(SegmentCall)
device_call = msgspec.json.Decoder(DeviceCall)
logout_call = msgspec.json.Decoder(LogoutCall)
receipt_call = msgspec.json.Decoder(ReceiptCall)
consent_call = msgspec.json.Decoder(ConsentCall)
