"""Calls to events, purely: identifiers settled, times repaired, the user proven or not."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from sdk_bridge.server.beacon_keys import canonical_beacon_key
from sdk_bridge.server.bodies import Rejected, mended
from sdk_bridge.server.calls import (
    MAX_PURPOSES,
    SEGMENT_KINDS,
    Call,
    ConsentCall,
    DeviceCall,
    LogoutCall,
    ReceiptCall,
    SegmentCall,
)
from sdk_bridge.server.external_ids import external_ids_of, without_hashes
from sdk_bridge.server.id_tokens import IdClaims
from sdk_bridge.server.ports import Source
from sdk_bridge.server.proof import is_proven
from sdk_bridge.server.times import Timestamp, not_after, occurred_ms, skew_ms, unix_ms
from sdk_bridge.wire.app_events import AppEvent, ExternalId, Kind, PushAddress, encode_each
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.identifiers import usable

MAX_ID_CHARS = 512
MAX_ADDRESS_CHARS = 4096
MAX_ID_DIGITS = 90  # of an identifier that is a number: what fits where the shortest of texts may stand

_PROOFS = frozenset({"userHash", "idToken", "externalIds"})
_TELLING = _PROOFS | {"device", "consent", "traits"}  # what in a context an event says elsewhere, too
# A visitor's events come together, and a shop has some thousand visitors within minutes.
_usable_id = lru_cache(maxsize=8_192)(usable)
_USUAL: dict[str, Kind] = {"track": "track", "page": "page", "screen": "screen"}
_OCCURRED_AT = attrgetter("occurred_at")
_RECEIPTS = {"push notification received": "received", "push notification tapped": "opened"}


class Arrival(Struct, frozen=True, gc=False):
    """Where and when a request came in; `new_id` makes message ids for calls that have none.

    `identities` are the valid ID tokens that came with it, and what they say.
    """

    source: Source
    received_at: int
    new_id: Callable[[], str]
    identities: Mapping[str, IdClaims] = {}


@dataclass(frozen=True, slots=True)
class Reject:
    """An event of a batch that could not be understood, and why; `index` is its place in the batch."""

    reason: str
    raw: bytes
    index: int


Reader: TypeAlias = Callable[[SegmentCall, str | None, int], AppEvent | None]
"""Reads a call, of a kind, with its place in the request."""


class Storable(Struct, frozen=True):
    """Events as they are kept, and the bytes of each, by which it was found that they can be."""

    events: list[AppEvent]
    encoded: list[bytes]


def finished(events: list[AppEvent], *, holds_nul: bool) -> Storable:
    """The events of one request as they are kept: none in the future, none that a database cannot hold.

    JSON's integers have no bound, and its texts may have the character U+0000 (`holds_nul`).
    """
    events = _none_in_the_future(events)
    encoded = None if holds_nul else _encoded(events)
    if encoded is None:
        events = [_mended_event(event) for event in events]
        encoded = encode_each(events)
    return Storable(events, encoded)


def segment_event(call: SegmentCall, kind: str | None, arrival: Arrival, index: int) -> AppEvent:
    """One of Segment's calls as an event. Raises Rejected."""
    known = SEGMENT_KINDS.get(kind or "")
    if known is None:
        raise Rejected(f"`type` must be one of {', '.join(SEGMENT_KINDS)}")
    name = _name_of(call, known)
    properties = object_of(call.properties, "properties")
    if call.category and "category" not in properties:
        properties = {**properties, "category": call.category}
    context = context_of(call)
    traits = object_of(call.traits, "traits")
    about = _about(call, arrival, context, traits if known == "identify" else context.get("traits"))
    event = AppEvent(
        kind=known,
        message_id=about.message_id,
        source=arrival.source.source_id,
        occurred_at=about.occurred_at,
        received_at=arrival.received_at,
        original_at=about.original_at,
        index=index,
        anonymous_id=about.anonymous_id,
        user_id=about.user_id,
        previous_id=text_of(call.previous_id),
        proven=about.proven,
        name=name,
        properties=properties,
        traits=traits,
        context=about.context,
    )
    more = _more(call, about, properties, context)
    return _of_somebody(msgspec.structs.replace(event, **more) if more else event)


def usual_reader(arrival: Arrival, sent_at: Timestamp) -> Reader:
    """Finds what `segment_event` finds in a call as most are, with a third of the work: somebody did or saw
    something. What is the same for all calls of a request is settled here.

    The reader gives None where a call has proofs, a device, consent or traits, numbers or blanks for texts,
    or a fault, and raises Rejected for a time that is none. `sent_at`: what the calls mostly have.
    """
    if arrival.identities:
        return _nothing_is_usual
    received_at, source = arrival.received_at, arrival.source
    source_id, is_trusted = source.source_id, is_proven(source, "somebody", None)
    behind = skew_ms(sent_at, received_at)

    def read(call: SegmentCall, kind: str | None, index: int) -> AppEvent | None:
        context, properties, known = call.context or {}, call.properties or {}, _USUAL.get(kind or "")
        user_id = "" if call.user_id is None else call.user_id
        anonymous_id = "" if call.anonymous_id is None else call.anonymous_id
        message_id, name = call.message_id, call.event
        if (
            known is None
            or type(context) is not dict
            or type(properties) is not dict
            or type(user_id) is not str
            or type(anonymous_id) is not str
            or type(message_id) is not str
            or call.original_timestamp is not None
            or call.previous_id is not None
            or call.user_hash
            or call.traits
            or call.category
            or "push_id" in properties
            or not _TELLING.isdisjoint(context)
        ):
            return None
        user_id, anonymous_id, message_id = user_id.strip(), anonymous_id.strip(), message_id.strip()
        name = name and name.strip()
        if not message_id or "\0" in f"{user_id}{anonymous_id}{message_id}":
            return None
        if (not name and known == "track") or not (_usable_id(user_id) or _usable_id(anonymous_id)):
            return None
        original_at = unix_ms(call.timestamp)
        if original_at is None:
            return None
        skew = behind if call.sent_at is sent_at else skew_ms(call.sent_at, received_at)
        return AppEvent(
            known,
            message_id,
            source_id,
            occurred_ms(original_at, skew, received_at),
            received_at,
            original_at,
            index,
            anonymous_id or None,
            user_id or None,
            proven=is_trusted and user_id != "",
            name=name or _label(call.name),
            properties=properties,
            context=context,
        )

    return read


def _nothing_is_usual(call: SegmentCall, kind: str | None, index: int) -> None:
    del call, kind, index


def _name_of(call: SegmentCall, kind: Kind) -> str | None:
    """What happened, of which group, on which page. Raises Rejected for a call that lacks what it needs."""
    if kind == "group":
        return _needed(text_of(call.group_id), kind, "groupId")
    if kind == "alias":
        _needed(_someone(call.user_id), kind, "userId")
        _needed(_someone(call.previous_id), kind, "previousId")
    happened = _label(call.event)
    if kind == "track":
        return _needed(happened, kind, "event")
    return happened or _label(call.name)


def _needed(value: str | None, kind: Kind, spelling: str) -> str:
    """Raises Rejected for none."""
    if value is None:
        raise Rejected(f"{kind} needs `{spelling}`")
    return value


def _more(
    call: SegmentCall, about: "_About", properties: dict[str, Any], context: dict[str, Any]
) -> dict[str, Any]:
    """The fields of which few of Segment's calls say anything. Raises Rejected."""
    more: dict[str, Any] = {}
    if "device" in context:
        device = _device_of(context)
        more.update(device_id=device.device_id, push_address=device.address, platform=device.platform)
    if call.event and call.event.lower() in _RECEIPTS:
        push_id, receipt = _receipt_of(call, properties)
        more.update(push_id=push_id, receipt=receipt)
    if "consent" in context:
        more["consent"] = _preferences(context)
    if about.external_ids:
        more["external_ids"] = about.external_ids
    return more


def device_event(call: DeviceCall, arrival: Arrival) -> AppEvent:
    """A registration of a device. Raises Rejected."""
    beacon_key = None
    if call.beacon_key:
        beacon_key = canonical_beacon_key(call.beacon_key)
        if beacon_key is None:
            raise Rejected("`beaconKey` is not the key of a beacon that a person can carry")
    if call.push_address is not None:
        if "\0" in call.push_address.value:
            raise Rejected("`pushAddress` contains NUL")
        if not _is_address(call.push_address.value):
            raise Rejected("`pushAddress` is no address: such values come from many devices")
    context = context_of(call)
    return event_of(
        call,
        "device",
        arrival,
        context,
        device_id=device_id_of(call.device_id),
        push_address=call.push_address,
        platform=_label(call.platform),
        beacon_key=beacon_key,
        consent=_preferences(context),
    )


def logout_event(call: LogoutCall, arrival: Arrival) -> AppEvent:
    """The end of a session on a device. Raises Rejected."""
    return event_of(call, "logout", arrival, context_of(call), device_id=device_id_of(call.device_id))


def receipt_event(call: ReceiptCall, receipt: Literal["received", "opened"], arrival: Arrival) -> AppEvent:
    """What became of a push on its device. Raises Rejected."""
    push_id = text_of(call.push_id)
    if push_id is None:
        raise Rejected("`pushId` is blank")
    told = {"device_id": text_of(call.device_id), "push_id": push_id, "receipt": receipt}
    return event_of(call, "push_receipt", arrival, context_of(call), **told)


def consent_event(call: ConsentCall, arrival: Arrival) -> AppEvent:
    """A statement of consent. Raises Rejected."""
    if any("\0" in purpose for purpose in call.consent):
        raise Rejected("a purpose contains NUL")
    said = {"device_id": text_of(call.device_id), "consent": call.consent}
    return _of_somebody(event_of(call, "consent", arrival, context_of(call), **said))


def event_of(call: Call, kind: Kind, arrival: Arrival, context: dict[str, Any], **more: Any) -> AppEvent:
    """The event with what all kinds share, and what is `more` about this one. Raises Rejected."""
    about = _about(call, arrival, context, context.get("traits"))
    return AppEvent(
        kind=kind,
        source=arrival.source.source_id,
        received_at=arrival.received_at,
        **msgspec.structs.asdict(about),
        **more,
    )


class _About(Struct, frozen=True, gc=False):
    """What every kind of event says: the fields of AppEvent that have these names."""

    message_id: str
    occurred_at: int
    original_at: int
    anonymous_id: str | None
    user_id: str | None
    proven: bool
    context: dict[str, Any]
    external_ids: list[ExternalId]


def _about(call: Call, arrival: Arrival, context: dict[str, Any], traits: object) -> _About:
    """`traits` are the person's: an identify's, else Segment's `context.traits`; a group's are no person's.
    Raises Rejected."""
    received_at = arrival.received_at
    user_id, proven, claims = _user_of(call, arrival, context)
    original = unix_ms(call.original_timestamp or call.timestamp)
    if original is None:
        occurred_at = received_at
    else:
        occurred_at = occurred_ms(original, skew_ms(call.sent_at, received_at), received_at)
    return _About(
        text_of(call.message_id) or arrival.new_id(),
        occurred_at,
        original or 0,
        text_of(call.anonymous_id),
        user_id,
        proven,
        _without_proofs(context),
        external_ids_of(arrival.source, traits, context, claims),
    )


def _user_of(
    call: Call, arrival: Arrival, context: dict[str, Any]
) -> tuple[str | None, bool, IdClaims | None]:
    """The user, whether that is proven, and what an ID token says of them. Raises Rejected."""
    user_id = text_of(call.user_id)
    if arrival.identities:
        token = call.id_token or context.get("idToken")
        claims = arrival.identities.get(token) if isinstance(token, str) else None
        if claims is not None and user_id in (None, claims.user_id):
            return claims.user_id, True, claims
    return user_id, is_proven(arrival.source, user_id, call.user_hash or context.get("userHash")), None


def _without_proofs(context: dict[str, Any]) -> dict[str, Any]:
    """A hash stays valid for ever, a token for an hour: they are not kept where readers could take them."""
    if _PROOFS.isdisjoint(context):
        return context
    kept = {key: value for key, value in context.items() if key not in _PROOFS}
    if "externalIds" in context:
        kept["externalIds"] = without_hashes(context["externalIds"])
    return kept


def _of_somebody(event: AppEvent) -> AppEvent:
    """The event, if it names anybody. Raises Rejected."""
    if usable(event.user_id) or usable(event.anonymous_id) or event.external_ids:
        return event
    if event.user_id is None and event.anonymous_id is None:
        raise Rejected("neither `userId` nor `anonymousId` is given")
    raise Rejected("neither `userId` nor `anonymousId` names anybody: such values come from many people")


@dataclass(frozen=True, slots=True)
class _Device:
    device_id: str | None = None
    platform: str | None = None
    address: PushAddress | None = None


_NO_DEVICE = _Device()


def _device_of(context: dict[str, Any]) -> _Device:
    """`context.device`: its id, type and push token. A token without an id stands for its own device."""
    device = context.get("device")
    if not isinstance(device, dict):
        return _NO_DEVICE
    token = _short(device.get("token"), MAX_ADDRESS_CHARS)
    token = token if token is not None and _is_address(token) else None
    device_id = _short(device.get("id"), MAX_ID_CHARS)
    if device_id is None and token is not None:
        device_id = f"address-{hashlib.sha256(token.encode()).hexdigest()[:32]}"
    address = PushAddress("token", token) if token is not None else None
    return _Device(text_of(device_id), _short(device.get("type"), MAX_ID_CHARS), address)


def _is_address(value: str) -> bool:
    """Whether a push could go there. Android's old SDKs gave one word for every phone they distrusted."""
    return usable(value) is not None and value.strip().upper() != "BLACKLISTED"


def _receipt_of(call: SegmentCall, properties: dict[str, Any]) -> tuple[str | None, Any]:
    receipt = _RECEIPTS.get(call.event.lower()) if call.event else None
    push_id = None if receipt is None else _short(properties.get("push_id"), MAX_ID_CHARS)
    return (None, None) if push_id is None else (push_id, receipt)


def _preferences(context: dict[str, Any]) -> dict[str, bool]:
    """Segment's `context.consent.categoryPreferences`, as far as they are yes or no."""
    consent = context.get("consent")
    stated = consent.get("categoryPreferences") if isinstance(consent, dict) else None
    if not isinstance(stated, dict):
        return {}
    said = {
        key: value for key, value in stated.items() if isinstance(value, bool) and _short(key, MAX_ID_CHARS)
    }
    if len(said) > MAX_PURPOSES:
        raise Rejected(f"more than {MAX_PURPOSES} consent categories")
    return said


def context_of(call: Call) -> dict[str, Any]:
    return object_of(call.context, "context")


def object_of(value: dict[str, Any] | list[Any] | None, name: str) -> dict[str, Any]:
    """The object, `{}` for none. Raises Rejected for a list with anything in it."""
    if isinstance(value, dict):
        return value
    if value:
        raise Rejected(f"`{name}` must be an object")
    return {}


def device_id_of(value: str) -> str:
    """The device's id. Raises Rejected for one that names no device."""
    cleaned = text_of(value)
    if cleaned is None:
        raise Rejected("`deviceId` is blank")
    if usable(cleaned) is None:
        raise Rejected("`deviceId` names no device: such values come from many")
    return cleaned


def text_of(value: str | int | None) -> str | None:
    """The identifier as text, without surrounding blanks; None for an empty one.

    Raises Rejected for NUL, and for a number of thousands of digits: the decoder has bounded only texts.
    """
    if value is None:
        return None
    text = str(value)
    if type(value) is int and len(text) > MAX_ID_DIGITS:
        raise Rejected(f"an identifier is a number of more than {MAX_ID_DIGITS} digits")
    if "\0" in text:
        raise Rejected("an identifier contains NUL, which databases refuse")
    return text.strip() or None


def _label(value: str | None) -> str | None:
    """A name of something that happened, without surrounding blanks; None for an empty one."""
    return None if value is None else value.strip() or None


def _someone(value: str | int | None) -> str | None:
    return usable(text_of(value))


def _short(value: object, limit: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= limit and "\0" not in value else None


def _encoded(events: list[AppEvent]) -> list[bytes] | None:
    """The bytes of each; None where one of them has no place in MessagePack."""
    try:
        return encode_each(events)
    except WireError:
        return None


def _none_in_the_future(events: list[AppEvent]) -> list[AppEvent]:
    if not events or max(map(_OCCURRED_AT, events)) <= events[0].received_at:
        return events
    occurred = [(event.occurred_at, event.original_at, event.index) for event in events]
    times = not_after(events[0].received_at, occurred)
    return [
        event if event.occurred_at == at else msgspec.structs.replace(event, occurred_at=at)
        for event, at in zip(events, times, strict=True)
    ]


def _mended_event(event: AppEvent) -> AppEvent:
    return msgspec.structs.replace(
        event,
        name=mended(event.name),
        platform=mended(event.platform),
        properties=mended(event.properties),
        traits=mended(event.traits),
        context=mended(event.context),
    )
