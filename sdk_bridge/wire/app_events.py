"""Events of apps and sites, as the bridge hands them to the journal and the fold reads them back.

The kinds and names follow Segment's spec ("Spec: Identify", "Spec: Track" …); the bridge has already
checked sizes, repaired the time and settled whether the claimed user was proven.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sdk_bridge.wire.codec import WireError

Kind: TypeAlias = Literal[
    "identify",
    "track",
    "page",
    "screen",
    "group",
    "alias",
    "device",
    "logout",
    "push_receipt",
    "consent",
    "beacon_sighting",
    "fence_transition",
    "location",
    "link",
]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]


class PushAddress(Struct, frozen=True, omit_defaults=True):
    """Where a push goes: an FCM registration token or a Firebase installation id."""

    kind: Literal["token", "fid"]
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class BeaconSighting(Struct, frozen=True, omit_defaults=True):
    """A phone and a beacon of ours, or a region of ours: the frame and the first parts of a key.

    A phone's system tells of regions that it was asked to watch (`enter`, `leave`); an app in the foreground
    measures single beacons (`range`). `rssi` is in dBm; `accuracy_m` the phone's own estimate of the
    distance; `proximity` the word that iOS has for it.
    """

    key: Annotated[str, Meta(min_length=1, max_length=160)]
    what: Literal["enter", "leave", "range"]
    rssi: Annotated[int, Meta(ge=-127, le=20)] | None = None
    proximity: Literal["immediate", "near", "far", "unknown"] | None = None
    accuracy_m: Annotated[float, Meta(ge=0, le=100_000)] | None = None


class FenceTransition(Struct, frozen=True, omit_defaults=True):
    """A phone's system says that the phone crossed a fence that it was given to watch, or stays in it."""

    fence_id: Annotated[str, Meta(min_length=1, max_length=128)]
    what: Literal["enter", "dwell", "leave"]


class Location(Struct, frozen=True, omit_defaults=True):
    """Where a phone is: degrees (WGS 84), metres around it, metres a second; None: it did not say."""

    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    accuracy_m: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    speed_mps: Annotated[float, Meta(ge=0, le=1_000)] | None = None


class ExternalId(Struct, frozen=True, omit_defaults=True):
    """Something else that a person is known by, proven: by the shop's server, its hash, or an ID token.

    `id` is in the one spelling that everybody's is compared in: an e-mail address in lower case, a telephone
    number as E.164.
    """

    type: Literal["email", "loyalty_id", "phone"]
    id: Annotated[str, Meta(min_length=1, max_length=512)]


class Link(Struct, frozen=True, omit_defaults=True):
    """What a link token says: which visitor of which source asked for it, and who that was proven to be.

    The nonce makes it one-time; times are unix milliseconds.
    """

    nonce: Annotated[str, Meta(min_length=16, max_length=64)]
    source: Text
    anonymous_id: Text
    issued_at: int
    expires_at: int
    user_id: Text | None = None


class AppEvent(Struct, frozen=True, omit_defaults=True, gc=False):
    """One thing that happened in an app or on a site; times are unix milliseconds, UTC.

    `occurred_at` is Segment's corrected timestamp; `original_at` the device's own clock, which with `index`
    orders the events of one device; 0 where the device did not say. `name` is what happened: the tracked
    event, the page or screen, the group's id. `proven` says that the source vouches for `user_id` (a signed
    hash, or a source that is trusted); an unproven claim is kept but binds nothing to an identified profile.
    `previous_id` is alias's. `sighting` goes with the kind `beacon_sighting`, `fence` with
    `fence_transition`; `location` is where the phone was, with `location` and, if it said, with the two.
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
    sighting: BeaconSighting | None = None
    fence: FenceTransition | None = None
    location: Location | None = None
    external_ids: list[ExternalId] = []
    link: Link | None = None


_decoder = msgspec.msgpack.Decoder(list[AppEvent])
_split = msgspec.msgpack.Decoder(list[msgspec.Raw])
_decode_one = msgspec.msgpack.Decoder(AppEvent).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode = msgspec.msgpack.Encoder().encode
_MOST_IN_SHORT_ARRAY = 15


def encode_each(events: Iterable[AppEvent]) -> list[bytes]:
    """Each event as MessagePack of its own, for `joined`. Raises WireError for what that cannot hold: whole
    numbers beyond 64 bits, lone surrogates, nesting without end."""
    try:
        return [_encode(event) for event in events]
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise WireError(str(error)) from error


def joined(encoded: Sequence[bytes]) -> bytes:
    """Encoded events as one MessagePack blob, an array; what is encoded once need not be encoded again."""
    return _array_head(len(encoded)) + b"".join(encoded)


def encode_events(events: Iterable[AppEvent]) -> bytes:
    """The events as one MessagePack blob. Raises WireError, as `encode_each`."""
    return joined(encode_each(events))


def _array_head(items: int) -> bytes:
    if items <= _MOST_IN_SHORT_ARRAY:
        return bytes((0x90 | items,))
    return b"\xdd" + items.to_bytes(4, "big")


def decode_events(blob: bytes) -> list[AppEvent]:
    """The events of one blob. Raises WireError."""
    try:
        return _decoder.decode(blob)
    except _UNREADABLE as error:
        raise WireError(str(error)) from error


def decode_apart(blob: bytes) -> tuple[list[AppEvent], list[bytes]]:
    """The events of one blob that can be read, and each other as it is, for `joined`.

    Raises WireError where it cannot even be told one from the other.
    """
    good: list[AppEvent] = []
    bad: list[bytes] = []
    try:
        parts = [bytes(part) for part in _split.decode(blob)]
    except _UNREADABLE as error:
        raise WireError(str(error)) from error
    for part in parts:
        try:
            good.append(_decode_one(part))
        except _UNREADABLE:
            bad.append(part)
    return good, bad
