"""Events of apps and sites, as the bridge hands them to the journal and the fold reads them back.

The kinds and names follow Segment's spec ("Spec: Identify", "Spec: Track" …); the bridge has already
checked sizes, repaired the time and settled whether the claimed user was proven.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sdk_bridge.wire.codec import WireError

Kind: TypeAlias = Literal[
    "identify", "track", "page", "screen", "group", "alias", "device", "logout", "push_receipt", "consent"
]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]


class PushAddress(Struct, frozen=True, omit_defaults=True):
    """Where a push goes: an FCM registration token or a Firebase installation id."""

    kind: Literal["token", "fid"]
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class AppEvent(Struct, frozen=True, omit_defaults=True):
    """One thing that happened in an app or on a site; times are unix milliseconds, UTC.

    `occurred_at` is Segment's corrected timestamp; `original_at` the device's own clock, which with `index`
    orders the events of one device. `name` is what happened: the tracked event, the page or screen, the
    group's id. `proven` says that the source vouches for `user_id` (a signed hash, or a source that is
    trusted); an unproven claim is kept but binds nothing to an identified profile. `previous_id` is alias's.
    """

    kind: Kind
    message_id: Annotated[str, Meta(min_length=1, max_length=100)]
    source: Text
    occurred_at: int
    received_at: int
    original_at: int = 0
    index: int = 0
    anonymous_id: Text | None = None
    user_id: Text | None = None
    previous_id: Text | None = None
    proven: bool = False
    name: Text | None = None
    properties: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    context: dict[str, Any] = {}
    device_id: Text | None = None
    push_address: PushAddress | None = None
    platform: Text | None = None
    beacon_key: Annotated[str, Meta(max_length=160)] | None = None
    push_id: Text | None = None
    receipt: Literal["received", "opened"] | None = None
    consent: dict[Text, bool] = {}


_decoder = msgspec.msgpack.Decoder(list[AppEvent])


def encode_events(events: list[AppEvent]) -> bytes:
    """The events as one MessagePack blob. Raises WireError for what it cannot hold: whole numbers beyond 64
    bits, lone surrogates, nesting without end."""
    try:
        return msgspec.msgpack.encode(events)
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise WireError(str(error)) from error


def decode_events(blob: bytes) -> list[AppEvent]:
    """The events of one blob. Raises WireError."""
    try:
        return _decoder.decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from error
