"""What phones observe, to events: beacons in sight, fences crossed, where they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from sdk_bridge.server.beacon_keys import canonical_beacon_key, canonical_region_key
from sdk_bridge.server.bodies import Rejected, decode
from sdk_bridge.server.calls import (
    LocationCall,
    Part,
    SightingPart,
    SightingsCall,
    TransitionPart,
    TransitionsCall,
    sighting_part,
    transition_part,
)
from sdk_bridge.server.normalise import Arrival, Reject, context_of, device_id_of, event_of, text_of
from sdk_bridge.wire.app_events import AppEvent, BeaconSighting, FenceTransition, Location

P = TypeVar("P", bound=Part)
_LEAST_RSSI, _MOST_RSSI = -127, 20  # dBm; Bluetooth writes 127 for unknown, and iOS 0


@dataclass(slots=True)
class Parts:
    """What became of a call's parts; the events in the order of the phone's clock, then of their place."""

    events: list[AppEvent] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def read_sightings(call: SightingsCall, arrival: Arrival) -> Parts:
    """A phone's sightings, whosever the beacons are. Raises Rejected for a call that is wrong as a whole."""
    context, device_id = context_of(call), device_id_of(call.device_id)

    def event(part: SightingPart, index: int) -> AppEvent:
        said = _for_part(call, part, index)
        sighting = _sighting(part)
        more = {"index": index, "device_id": device_id, "sighting": sighting}
        return event_of(said, "beacon_sighting", arrival, context, **more)

    return _read(call.sightings, sighting_part, event)


def read_transitions(call: TransitionsCall, arrival: Arrival) -> Parts:
    """A phone's transitions. Raises Rejected for a call that is wrong as a whole."""
    context, device_id = context_of(call), device_id_of(call.device_id)

    def event(part: TransitionPart, index: int) -> AppEvent:
        said = _for_part(call, part, index)
        fence_id = text_of(part.fence_id)
        if fence_id is None:
            raise Rejected("`fenceId` is blank")
        at = part.location
        location = None if at is None else _location(at.latitude, at.longitude, at.accuracy, at.speed)
        more = {
            "index": index,
            "device_id": device_id,
            "fence": FenceTransition(fence_id, part.event),
            "location": location,
        }
        return event_of(said, "fence_transition", arrival, context, **more)

    return _read(call.transitions, transition_part, event)


def location_event(call: LocationCall, arrival: Arrival) -> AppEvent:
    """Where a phone is. Raises Rejected."""
    location = _location(call.latitude, call.longitude, call.accuracy, call.speed)
    more = {"device_id": device_id_of(call.device_id), "location": location}
    return event_of(call, "location", arrival, context_of(call), **more)


def _read(
    raws: Sequence[msgspec.Raw], decoder: "msgspec.json.Decoder[P]", event: Callable[[P, int], AppEvent]
) -> Parts:
    parts = Parts()
    for index, part in enumerate(raws):
        raw = bytes(part)
        try:
            parts.events.append(event(decode(raw, decoder), index))
        except Rejected as error:
            parts.rejects.append(Reject(str(error), raw, index))
    parts.events.sort(key=lambda event: (event.occurred_at, event.index))
    return parts


C = TypeVar("C", SightingsCall, TransitionsCall)


def _for_part(call: C, part: Part, index: int) -> C:
    """The call as if it were about one part alone: with its own id, and with its time where it has one."""
    message_id = text_of(part.message_id)
    if message_id is None and (of_all := text_of(call.message_id)) is not None:
        message_id = f"{of_all}/{index}"
    if part.timestamp is None and part.original_timestamp is None:
        return replace(call, message_id=message_id)
    times = {"timestamp": part.timestamp, "original_timestamp": part.original_timestamp}
    return replace(call, message_id=message_id, **times)


def _sighting(part: SightingPart) -> BeaconSighting:
    beacon, region = _key_of(part)
    key = beacon or region
    if key is None:
        raise Rejected("`key`, `uuid` or `namespace` must name a beacon or a region of beacons")
    if beacon is None and part.event == "range":
        raise Rejected("a region is entered or left; only a single beacon can be ranged")
    rssi = None if part.rssi is None or not _LEAST_RSSI <= part.rssi <= _MOST_RSSI else round(part.rssi)
    accuracy = _known(part.accuracy, 100_000)
    return BeaconSighting(key, part.event, rssi or None, part.proximity, accuracy)


def _key_of(part: SightingPart) -> tuple[str | None, str | None]:
    """The beacon, or else the region."""
    text = part.key or ""
    if not text and part.uuid is not None:
        numbers = (part.major, part.minor) if part.major is not None else ()
        text = ":".join(["ibeacon", part.uuid, *(str(number) for number in numbers if number is not None)])
    elif not text and part.namespace is not None:
        text = ":".join(["eddystone-uid", part.namespace, *filter(None, [part.instance])])
    return canonical_beacon_key(text), canonical_region_key(text)


def _location(latitude: float, longitude: float, accuracy: float | None, speed: float | None) -> Location:
    return Location(latitude, longitude, _known(accuracy, 1_000_000), _known(speed, 1_000))


def _known(value: float | None, most: float) -> float | None:
    """The measurement; None for a negative one, which is how phones write that they do not know."""
    return None if value is None or not 0 <= value <= most else value
