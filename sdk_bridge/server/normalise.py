"""Calls to events, purely: identifiers settled, times repaired, the user proven or not."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from sdk_bridge.server.beacon_keys import canonical_beacon_key
from sdk_bridge.server.bodies import OpenBatch, Rejected, decode, mended
from sdk_bridge.server.calls import (
    MAX_PURPOSES,
    SEGMENT_KINDS,
    Call,
    ConsentCall,
    DeviceCall,
    LogoutCall,
    ReceiptCall,
    SegmentCall,
    segment_call,
)
from sdk_bridge.server.external_ids import external_ids_of, without_hashes
from sdk_bridge.server.id_tokens import IdClaims
from sdk_bridge.server.ports import Source
from sdk_bridge.server.proof import is_proven
from sdk_bridge.server.times import not_after, occurred_ms, skew_ms, unix_ms
from sdk_bridge.wire.app_events import AppEvent, Kind, PushAddress, encode_events
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.identifiers import usable

MAX_ID_CHARS = 512
MAX_ADDRESS_CHARS = 4096

_RECEIPTS = {"push notification received": "received", "push notification tapped": "opened"}
_SPELLING = {"event": "event", "group_id": "groupId", "user_id": "userId", "previous_id": "previousId"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where and when a request came in; `new_id` makes message ids for calls that have none.

    `identities` are the valid ID tokens that came with it, and what they say.
    """

    source: Source
    received_at: int
    new_id: Callable[[], str]
    identities: Mapping[str, IdClaims] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """An event of a batch that could not be understood, and why; `index` is its place in the batch."""

    reason: str
    raw: bytes
    index: int


def read_batch(opened: OpenBatch, arrival: Arrival) -> tuple[list[AppEvent], list[Reject]]:
    """Every event of a batch that can be understood, and the others with their reasons."""
    events: list[AppEvent] = []
    rejects: list[Reject] = []
    for index, part in enumerate(opened.batch):
        raw = bytes(part)
        try:
            call = decode(raw, segment_call)
            _inherit(call, opened)
            events.append(segment_event(call, call.type, arrival, index))
        except Rejected as error:
            rejects.append(Reject(str(error), raw, index))
    return finished(events, holds_nul=opened.holds_nul), rejects


def finished(events: list[AppEvent], *, holds_nul: bool) -> list[AppEvent]:
    """The events of one request as they are kept: none in the future, none that a database cannot hold.

    JSON's integers have no bound, and its texts may have the character U+0000 (`holds_nul`).
    """
    events = _none_in_the_future(events)
    return [_mended_event(event) for event in events] if holds_nul or not _encodable(events) else events


def segment_event(call: SegmentCall, kind: str | None, arrival: Arrival, index: int) -> AppEvent:
    """One of Segment's calls as an event. Raises Rejected."""
    known = SEGMENT_KINDS.get(kind or "")
    if known is None:
        raise Rejected(f"`type` must be one of {', '.join(SEGMENT_KINDS)}")
    for name, read in _NEEDED[known]:
        if read(getattr(call, name)) is None:
            raise Rejected(f"{known} needs `{_SPELLING[name]}`")
    properties = _object(call.properties, "properties")
    if call.category and "category" not in properties:
        properties = {**properties, "category": call.category}
    context = context_of(call)
    device = _device_of(context)
    push_id, receipt = _receipt_of(call, properties)
    event = event_of(
        call,
        known,
        arrival,
        context,
        index=index,
        device_id=device.device_id,
        name=text_of(call.group_id) if known == "group" else _label(call.event) or _label(call.name),
        previous_id=text_of(call.previous_id),
        properties=properties,
        traits=_object(call.traits, "traits"),
        push_address=device.address,
        platform=device.platform,
        push_id=push_id,
        receipt=receipt,
        consent=_preferences(context),
    )
    return _of_somebody(event)


def device_event(call: DeviceCall, arrival: Arrival) -> AppEvent:
    """A registration of a device. Raises Rejected."""
    beacon_key = None
    if call.beacon_key:
        beacon_key = canonical_beacon_key(call.beacon_key)
        if beacon_key is None:
            raise Rejected("`beaconKey` is not the key of a beacon that a person can carry")
    if call.push_address is not None and "\0" in call.push_address.value:
        raise Rejected("`pushAddress` contains NUL")
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
    push_id = _clean(call.push_id)
    if push_id is None:
        raise Rejected("`pushId` is blank")
    told = {"device_id": _clean(call.device_id), "push_id": push_id, "receipt": receipt}
    return event_of(call, "push_receipt", arrival, context_of(call), **told)


def consent_event(call: ConsentCall, arrival: Arrival) -> AppEvent:
    """A statement of consent. Raises Rejected."""
    if any("\0" in purpose for purpose in call.consent):
        raise Rejected("a purpose contains NUL")
    said = {"device_id": _clean(call.device_id), "consent": call.consent}
    return _of_somebody(event_of(call, "consent", arrival, context_of(call), **said))


def event_of(call: Call, kind: Kind, arrival: Arrival, context: dict[str, Any], **more: Any) -> AppEvent:
    """The event with what all kinds share, and what is `more` about this one. Raises Rejected."""
    source, received_at = arrival.source, arrival.received_at
    user_id, proven, claims = _user_of(call, arrival, context)
    original = unix_ms(call.original_timestamp or call.timestamp)
    skew = 0 if original is None else skew_ms(call.sent_at, received_at)
    return AppEvent(
        kind=kind,
        message_id=text_of(call.message_id) or arrival.new_id(),
        source=source.source_id,
        occurred_at=received_at if original is None else occurred_ms(original, skew, received_at),
        received_at=received_at,
        original_at=original or 0,
        anonymous_id=text_of(call.anonymous_id),
        user_id=user_id,
        proven=proven,
        context=_without_proofs(context),
        external_ids=external_ids_of(source, _persons_traits(kind, more, context), context, claims),
        **more,
    )


def _user_of(
    call: Call, arrival: Arrival, context: dict[str, Any]
) -> tuple[str | None, bool, IdClaims | None]:
    """The user, whether that is proven, and what an ID token says of them. Raises Rejected."""
    user_id = text_of(call.user_id)
    token = call.id_token or context.get("idToken")
    claims = arrival.identities.get(token) if isinstance(token, str) else None
    if claims is not None and user_id in (None, claims.user_id):
        return claims.user_id, True, claims
    return user_id, is_proven(arrival.source, user_id, call.user_hash or context.get("userHash")), None


def _persons_traits(kind: Kind, more: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """An identify's traits, else Segment's `context.traits`; those of a group are no person's."""
    traits = more.get("traits") if kind == "identify" else context.get("traits")
    return traits if isinstance(traits, dict) else {}


def _without_proofs(context: dict[str, Any]) -> dict[str, Any]:
    """A hash stays valid for ever, a token for an hour: they are not kept where readers could take them."""
    kept = context
    for name in ("userHash", "idToken"):
        if name in kept:
            kept = _without(kept, name)
    if "externalIds" in kept:
        kept = {**kept, "externalIds": without_hashes(kept["externalIds"])}
    return kept


def _of_somebody(event: AppEvent) -> AppEvent:
    """The event, if it names anybody. Raises Rejected."""
    if usable(event.user_id) or usable(event.anonymous_id) or event.external_ids:
        return event
    if event.user_id is None and event.anonymous_id is None:
        raise Rejected("neither `userId` nor `anonymousId` is given")
    raise Rejected("neither `userId` nor `anonymousId` names anybody: such values come from many people")


def _inherit(call: SegmentCall, opened: OpenBatch) -> None:
    """What a batch says once counts for each event that does not say otherwise."""
    if call.sent_at in (None, ""):
        call.sent_at = opened.sent_at
    if opened.shared:
        call.context = {**opened.shared, **_object(call.context, "context")}


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
    device_id = _short(device.get("id"), MAX_ID_CHARS)
    if device_id is None and token is not None:
        device_id = f"address-{hashlib.sha256(token.encode()).hexdigest()[:32]}"
    address = PushAddress("token", token) if token is not None else None
    return _Device(_clean(device_id), _short(device.get("type"), MAX_ID_CHARS), address)


def _receipt_of(call: SegmentCall, properties: dict[str, Any]) -> tuple[str | None, Any]:
    receipt = _RECEIPTS.get((call.event or "").lower())
    push_id = _short(properties.get("push_id"), MAX_ID_CHARS)
    return (push_id, receipt) if receipt and push_id else (None, None)


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
    return _object(call.context, "context")


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _object(value: dict[str, Any] | list[Any] | None, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value:
        raise Rejected(f"`{name}` must be an object")
    return {}


def device_id_of(value: str) -> str:
    """The device's id. Raises Rejected for one that names no device."""
    cleaned = _clean(value)
    if cleaned is None:
        raise Rejected("`deviceId` is blank")
    if usable(cleaned) is None:
        raise Rejected("`deviceId` names no device: such values come from many")
    return cleaned


def text_of(value: str | int | None) -> str | None:
    """The identifier as text. Raises Rejected for NUL."""
    return None if value is None else _clean(value if isinstance(value, str) else str(value))


def _clean(value: str | None) -> str | None:
    """The identifier without surrounding blanks; None for an empty one. Raises Rejected for NUL."""
    if value is None:
        return None
    if "\0" in value:
        raise Rejected("an identifier contains NUL, which databases refuse")
    return value.strip() or None


def _label(value: str | None) -> str | None:
    """A name of something that happened, without surrounding blanks; None for an empty one."""
    return None if value is None else value.strip() or None


def _someone(value: str | int | None) -> str | None:
    return usable(text_of(value))


def _short(value: object, limit: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= limit and "\0" not in value else None


def _encodable(events: list[AppEvent]) -> bool:
    try:
        encode_events(events)
    except WireError:
        return False
    return True


def _none_in_the_future(events: list[AppEvent]) -> list[AppEvent]:
    if all(event.occurred_at <= event.received_at for event in events):
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


_NEEDED: dict[str, tuple[tuple[str, Callable[[Any], str | None]], ...]] = {
    "identify": (),
    "track": (("event", _label),),
    "page": (),
    "screen": (),
    "group": (("group_id", text_of),),
    "alias": (("user_id", _someone), ("previous_id", _someone)),
}
