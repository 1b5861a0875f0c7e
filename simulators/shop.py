"""A shop with shoppers who walk, dwell, leave and come back, and everything in it that advertises.

Deterministic for a seed: who is where, what is sent and what each gateway hears depend on nothing else.
Times are seconds since the shop's start, lengths metres.
"""

import heapq
import math
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, TypeAlias

from simulators.eid_tags import EidTag
from simulators.frames import (
    APPLE,
    Frame,
    eddystone_eid,
    eddystone_tlm,
    eddystone_uid,
    eddystone_url,
    ibeacon,
)
from simulators.radio import Point, RadioModel, RadioSettings, Receiver, Transmitter, advertising_times

Role: TypeAlias = Literal["tag", "zone", "stranger"]
Frames: TypeAlias = Callable[[int, float], Frame]
"""The frame that a device sends, by how many it has sent and the time."""

ZONES = ("Shoes", "Coffee", "Toys")
CENTRES = (Point(6, 6), Point(22, 6), Point(14, 20))  # 16 m apart: far enough for the radio to tell them
DOOR = Point(14, 0)
FIXED_MAJOR, TAG_MAJOR = 100, 1
INTERVAL_S = 0.3
SLOW_INTERVAL_S = 1.0  # strangers' phones and earbuds; they are not there to be found
WALK_M_PER_S, STROLL_M_PER_S = 1.2, 0.4
DWELL_S = (6.0, 20.0)  # at the least twice the shortest dwell that a campaign asks for, 3 s
BROWSE_M = 2.0  # how far from its centre a shopper moves within a zone
INSIDE_AT_START = 0.75
SOON_S, LATER_S = (10.0, 40.0), (300.0, 900.0)  # until a shopper who left comes back
SOON_AGAIN = 0.75
TELEMETRY_EVERY = 10  # of an Eddystone tag's frames, one is telemetry
EID_EXPONENT = 4  # ids that rotate every 16 s, so that a demo of half a minute sees them do it


@dataclass(frozen=True, slots=True)
class Zone:
    """A named area with a gateway at its centre and a fixed beacon beside it."""

    name: str
    gateway: Receiver
    beacon_key: str


@dataclass(frozen=True, slots=True)
class Visit:
    """A shopper dwelt in a zone from one time to another."""

    zone: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Transmission:
    """One advertising event: when, by whom, from which radio address, and what."""

    time_s: float
    source: str
    role: Role
    address: str
    frame: Frame
    transmitter: Transmitter


@dataclass(frozen=True, slots=True)
class _Leg:
    """A straight stretch of a shopper's way; `zone` is where the shopper dwells, if it is a dwell."""

    start_s: float
    end_s: float
    start: Point
    end: Point
    zone: str | None = None
    outside: bool = False

    def at(self, time_s: float) -> Point:
        seconds = self.end_s - self.start_s
        return self.start.towards(self.end, (time_s - self.start_s) / seconds if seconds > 0 else 1.0)

    @property
    def heading(self) -> float:
        return math.atan2(self.end.y - self.start.y, self.end.x - self.start.x)


class Shopper:
    """One person with a tag. The way through the shop is drawn as far as it is asked for."""

    def __init__(
        self,
        name: str,
        beacon_key: str,
        zones: Sequence[Zone],
        dice: Random,
        eid_tag: EidTag | None = None,
    ) -> None:
        """`eid_tag`: whose ids rotate; its `beacon_key` is what the backend answers when it is registered."""
        self.name = name
        self.beacon_key = beacon_key
        self.eid_tag = eid_tag
        self._zones = zones
        self._dice = dice
        self._legs: list[_Leg] = []
        self._starts: list[float] = []
        self._begin()

    def position(self, time_s: float) -> Point | None:
        """Where the shopper is; None outside of the shop."""
        leg = self._leg(time_s)
        return None if leg.outside else leg.at(time_s)

    def heading(self, time_s: float) -> float:
        """The direction in radians into which the shopper looks."""
        return self._leg(time_s).heading

    def visits(self, until_s: float) -> list[Visit]:
        """The dwells that began before a time, in order."""
        self._leg(until_s)
        visits: list[Visit] = []
        for leg in self._legs:
            if leg.zone is None:
                continue
            if visits and visits[-1].zone == leg.zone and visits[-1].end_s == leg.start_s:
                visits[-1] = replace(visits[-1], end_s=leg.end_s)
            else:
                visits.append(Visit(leg.zone, leg.start_s, leg.end_s))
        return [visit for visit in visits if visit.start_s < until_s]

    def _leg(self, time_s: float) -> _Leg:
        while self._legs[-1].end_s <= time_s:
            self._trip(self._legs[-1].end_s)
        return self._legs[max(0, bisect_right(self._starts, time_s) - 1)]

    def _begin(self) -> None:
        """Most shoppers stand in a zone already; the others come in within the first five seconds."""
        if self._dice.random() < INSIDE_AT_START:
            self._round(0.0, None)
        else:
            self._add(self._dice.uniform(0, 5), DOOR, outside=True)
            self._round(self._legs[-1].end_s, DOOR)

    def _trip(self, now: float) -> None:
        """Away for a while, then once more round the shop."""
        low, high = SOON_S if self._dice.random() < SOON_AGAIN else LATER_S
        self._add(self._dice.uniform(low, high), DOOR, outside=True)
        self._round(self._legs[-1].end_s, DOOR)

    def _round(self, now: float, at: Point | None) -> None:
        """Zones in random order, from the door, or from within the first of them; then out of the door."""
        route = self._dice.sample(list(self._zones), k=self._dice.randint(1, len(self._zones)))
        for zone in route:
            arrival = self._near(zone)
            if at is None:
                self._legs.append(_Leg(now, now, arrival, arrival, zone.name))
                self._starts.append(now)
            else:
                self._walk(arrival, WALK_M_PER_S)
            at = self._browse(zone)
        self._walk(DOOR, WALK_M_PER_S)

    def _browse(self, zone: Zone) -> Point:
        """Strolls about within the zone until the dwell is over."""
        leave_s = self._legs[-1].end_s + self._dice.uniform(*DWELL_S)
        while (left_s := leave_s - self._legs[-1].end_s) > 1e-6:  # a microsecond is no stroll
            here, there = self._legs[-1].end, self._near(zone)
            stroll_s = max(1.0, here.distance(there) / STROLL_M_PER_S)
            share = min(1.0, left_s / stroll_s)
            self._add(stroll_s * share, here.towards(there, share), zone=zone.name)
        return self._legs[-1].end

    def _walk(self, to: Point, speed: float) -> None:
        self._add(self._legs[-1].end.distance(to) / speed, to)

    def _add(self, seconds: float, to: Point, *, zone: str | None = None, outside: bool = False) -> None:
        last = self._legs[-1] if self._legs else _Leg(0.0, 0.0, to, to)
        start = to if outside else last.end
        self._legs.append(_Leg(last.end_s, last.end_s + seconds, start, to, zone, outside))
        self._starts.append(last.end_s)

    def _near(self, zone: Zone) -> Point:
        angle, radius = self._dice.uniform(0, math.tau), BROWSE_M * math.sqrt(self._dice.random())
        centre = zone.gateway.at
        return Point(centre.x + radius * math.cos(angle), centre.y + radius * math.sin(angle))


@dataclass(slots=True)
class _Emitter:
    """Something that advertises: its times, its frames by number and time, and where it is."""

    source: str
    role: Role
    address: str
    times: Iterator[float]
    frames: Frames
    where: Callable[[float], Transmitter | None]
    rate: float
    sent: int = field(default=0)

    def next_frame(self, time_s: float) -> Frame:
        frame = self.frames(self.sent, time_s)
        self.sent += 1
        return frame


class Shop:
    """Zones, shoppers, strangers, and the radio between them. Make one with `Shop.demo`."""

    def __init__(
        self,
        zones: Sequence[Zone],
        shoppers: Sequence[Shopper],
        emitters: Sequence[_Emitter],
        radio: RadioModel,
        proximity_uuid: str,
        namespace: bytes,
    ) -> None:
        self.zones = tuple(zones)
        self.shoppers = {shopper.name: shopper for shopper in shoppers}
        self.proximity_uuid = proximity_uuid
        self.namespace = namespace
        self.now_s = 0.0
        self._radio = radio
        self._emitters = list(emitters)
        self._packets_per_s = sum(emitter.rate for emitter in emitters)
        self._due = [(next(emitter.times), index) for index, emitter in enumerate(self._emitters)]
        heapq.heapify(self._due)

    @classmethod
    def demo(
        cls, seed: int, shoppers: int = 20, strangers: int = 6, radio: RadioSettings | None = None
    ) -> "Shop":
        """Three zones with a gateway and a fixed beacon each; every fifth tag is an Eddystone-UID, of the
        others every second one an iBeacon and the rest Eddystone-EIDs; and strangers' devices, whose frames
        must never leave a gateway, save for the seventh's EID, which must never leave the ingest.
        """
        dice = Random(seed)
        proximity_uuid = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        namespace = dice.randbytes(10)
        zones = [_zone(index, proximity_uuid) for index in range(len(ZONES))]
        people, emitters = (
            [],
            [_fixed_beacon(zone, index, proximity_uuid, dice) for index, zone in enumerate(zones)],
        )
        for number in range(1, shoppers + 1):
            frames, key = _tag_frames(number, proximity_uuid, namespace)
            tag = _eid_tag(seed, number) if number % 5 and number % 2 else None
            way = Random(dice.getrandbits(64))
            shopper = Shopper(f"shopper-{number:02d}", key if tag is None else "", zones, way, tag)
            people.append(shopper)
            emitters.append(_tag(shopper, frames if tag is None else _rotating(tag), dice))
        emitters += [_stranger(number, dice) for number in range(strangers)]
        model = RadioModel(radio or RadioSettings(), seed)
        return cls(zones, people, emitters, model, proximity_uuid, namespace)

    @property
    def gateways(self) -> list[str]:
        """The gateways' names, in the order of the zones."""
        return [zone.gateway.name for zone in self.zones]

    @property
    def known_keys(self) -> dict[str, str]:
        """Every listed beacon's canonical key and whose it is: a shopper's name, or a zone's.

        A tag whose ids rotate is among them once it is registered.
        """
        fixed = {zone.beacon_key: zone.name for zone in self.zones}
        tags = {shopper.beacon_key: name for name, shopper in self.shoppers.items() if shopper.beacon_key}
        return fixed | tags

    @property
    def eid_tags(self) -> dict[str, EidTag]:
        """The tags that send rotating ids, by their shoppers' names."""
        return {name: shopper.eid_tag for name, shopper in self.shoppers.items() if shopper.eid_tag}

    def open_after(self, seconds: float) -> None:
        """The shop's time 0 comes so much later: meanwhile the clocks of rotating tags ran on."""
        for tag in self.eid_tags.values():
            tag.clock_s = tag.counter(seconds)

    def advance(self, dt_s: float) -> None:
        """Lets the shop's time pass."""
        if dt_s < 0:
            raise ValueError("time does not run backwards")
        self.now_s += dt_s

    def transmissions(self, until_s: float) -> Iterator[Transmission]:
        """What is sent from where the last call ended until `until_s`, in order. Those outside are silent."""
        while self._due[0][0] < until_s:
            time_s, index = self._due[0]
            emitter = self._emitters[index]
            heapq.heapreplace(self._due, (next(emitter.times), index))
            transmitter = emitter.where(time_s)
            if transmitter is not None:
                yield Transmission(
                    time_s,
                    emitter.source,
                    emitter.role,
                    emitter.address,
                    emitter.next_frame(time_s),
                    transmitter,
                )

    def heard_by(self, transmission: Transmission) -> list[tuple[str, int]]:
        """The gateways that receive it, with the RSSI in dBm of each."""
        heard = []
        for zone in self.zones:
            rssi = self._radio.hear(
                transmission.transmitter, zone.gateway, transmission.time_s, self._packets_per_s
            )
            if rssi is not None:
                heard.append((zone.gateway.name, rssi))
        return heard

    def true_zone(self, shopper: str, time_s: float | None = None) -> str | None:
        """The zone whose gateway is nearest to the shopper, now or at a time; None outside of the shop."""
        position = self.shoppers[shopper].position(self.now_s if time_s is None else time_s)
        if position is None:
            return None
        return min(self.zones, key=lambda zone: position.distance(zone.gateway.at)).name

    def truth(self, time_s: float | None = None) -> dict[str, str | None]:
        """The true zone of every shopper, now or at a time."""
        return {name: self.true_zone(name, time_s) for name in self.shoppers}


def _zone(index: int, proximity_uuid: str) -> Zone:
    name, centre = ZONES[index], CENTRES[index]
    key = ibeacon(proximity_uuid, FIXED_MAJOR, index + 1).key
    return Zone(name, Receiver(f"gw-{name.lower()}", centre), key)


def _fixed_beacon(zone: Zone, index: int, proximity_uuid: str, dice: Random) -> _Emitter:
    place = Transmitter(zone.beacon_key, Point(zone.gateway.at.x + 1.5, zone.gateway.at.y))
    frames = _in_turn([ibeacon(proximity_uuid, FIXED_MAJOR, index + 1)])
    return _emitter(zone.name, "zone", frames, lambda _time_s: place, INTERVAL_S, dice)


def _tag_frames(number: int, proximity_uuid: str, namespace: bytes) -> tuple[Frames, str]:
    """An iBeacon; or, for every fifth tag, an Eddystone-UID with telemetry between. And the tag's key."""
    if number % 5:
        named = ibeacon(proximity_uuid, TAG_MAJOR, number)
        return _in_turn([named]), named.key
    named = eddystone_uid(namespace, number.to_bytes(6, "big"))
    telemetry = eddystone_tlm(2900 + number, 21.5, 1000 * number, 300.0 * number)
    return _in_turn([named] * (TELEMETRY_EVERY - 1) + [telemetry]), named.key


def _in_turn(frames: Sequence[Frame]) -> Frames:
    return lambda sent, _time_s: frames[sent % len(frames)]


def _eid_tag(seed: int, number: int) -> EidTag:
    """With dice of its own, so that the people's ways do not depend on it."""
    dice = Random(f"eid tag {number} of shop {seed}")
    return EidTag(dice.randbytes(32), EID_EXPONENT, dice.randrange(365 * 86_400))


def _rotating(tag: EidTag) -> Frames:
    return lambda _sent, time_s: tag.frame(time_s)


def _tag(shopper: Shopper, frames: Frames, dice: Random) -> _Emitter:
    def where(time_s: float) -> Transmitter | None:
        position = shopper.position(time_s)
        if position is None:
            return None
        return Transmitter(shopper.name, position, heading=shopper.heading(time_s))

    return _emitter(shopper.name, "tag", frames, where, INTERVAL_S, dice)


def _stranger(number: int, dice: Random) -> _Emitter:
    """Somebody else's device, at rest somewhere in the shop."""
    name = f"stranger-{number + 1:02d}"
    make = _STRANGERS[number % len(_STRANGERS)]
    place = Transmitter(name, Point(dice.uniform(2, 26), dice.uniform(1, 24)))
    frames = _in_turn([make(dice)])
    return _emitter(name, "stranger", frames, lambda _time_s: place, SLOW_INTERVAL_S, dice)


def _emitter(
    source: str,
    role: Role,
    frames: Frames,
    where: Callable[[float], Transmitter | None],
    interval_s: float,
    dice: Random,
) -> _Emitter:
    times = advertising_times(interval_s, Random(dice.getrandbits(64)))
    return _Emitter(source, role, _random_address(dice), times, frames, where, 1 / interval_s)


def _random_address(dice: Random) -> str:
    """A static random address: its two highest bits are set (Core Specification, vol. 6, part B, 1.3.2.1)."""
    octets = dice.randbytes(6)
    return ":".join(f"{octet:02X}" for octet in (octets[0] | 0xC0, *octets[1:]))


def _airpods(dice: Random) -> Frame:
    return Frame("airpods", {APPLE: b"\x07\x19\x01" + dice.randbytes(24)})


def _iphone(dice: Random) -> Frame:
    return Frame("iphone", {APPLE: b"\x10\x05" + dice.randbytes(5)})


def _foreign_ibeacon(dice: Random) -> Frame:
    return ibeacon(str(uuid.UUID(int=dice.getrandbits(128), version=4)), dice.randrange(65536), 7)


def _foreign_eddystone(dice: Random) -> Frame:
    return eddystone_uid(dice.randbytes(10), dice.randbytes(6))


def _foreign_url(_dice: Random) -> Frame:
    return eddystone_url("https://example.com/")


def _laptop(dice: Random) -> Frame:
    return Frame("laptop", {0x0006: b"\x01\x09\x20\x22" + dice.randbytes(19)})


def _foreign_eid(dice: Random) -> Frame:
    return eddystone_eid(dice.randbytes(8))


_STRANGERS = (
    _airpods,
    _foreign_ibeacon,
    _iphone,
    _foreign_eddystone,
    _laptop,
    _foreign_url,
    _foreign_eid,
)
