"""Which zone a beacon is in: each second the filter's odds, then hysteresis, settling and absence. Pure.

A zone is where one of its gateways is the nearest. Times are unix milliseconds, signals dBm. What was heard in a
second is weighed when the second is over: when a later one is heard, or in `expire`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from backend.proximity.filter import Belief, Filter, FilterSettings, Gain, GridFloor, Reading, StarFloor

Confidence: TypeAlias = Literal["none", "low", "medium", "high"]

_CONFIDENT: Final[tuple[tuple[float, Confidence], ...]] = ((0.85, "high"), (0.65, "medium"), (0.0, "low"))
_DEAD_SHARE: Final = 0.05  # of the odds in zones whose gateway is silent: from here on nothing is confident


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """What the rule weighs beside the filter's own assumptions.

    `lead`: by how much more probable another zone must be; less lets two equally near zones take turns.
    `enter`: how probable a zone must be for a beacon that is in none; several zones may meet where it stands.
    `settle_ms`: how long a new zone must lead, by what it heard itself, against one lucky second.
    `floor_dbm`: weaker than this everywhere, the beacon is somewhere outside every zone.
    `absent_ms`: silence after which it has left; several lost adverts in a row are normal.
    `gateway_silent_ms`: neither batch nor heartbeat for so long means that its zones are unknown.
    `doubt_ms`: so long after the last sign of life of a zone's gateway, nobody is moved out of the zone: the
    gateway may be dying, and heartbeats come every three seconds.
    `wait_ms`: how long after its end a second waits for gateways that are late to tell of it.
    `late_s`: older readings than this say nothing about now; a gateway's live lane may lag up to 30 s.
    """

    lead: float = 0.2
    enter: float = 0.4
    settle_ms: int = 1_000
    floor_dbm: float = -92.0
    absent_ms: int = 10_000
    gateway_silent_ms: int = 8_000
    doubt_ms: int = 4_000
    wait_ms: int = 500
    late_s: int = 5
    filter: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True)
class Place:
    """A zone of a store."""

    store_id: str
    zone_id: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A beacon entered or left a zone. `unknown` leaves because the zone's gateway fell silent.

    `probability` is how probable what it says is, and `confidence` the same in words; `none` for `unknown`.
    """

    kind: Literal["entered", "left", "unknown"]
    beacon_key: str
    place: Place
    at: int
    entered_at: int
    confidence: Confidence = "high"
    probability: float = 1.0


class Heard(msgspec.Struct, array_like=True):
    """What a source heard of a beacon in the second that is not weighed yet."""

    at: int
    adverts: int = 0
    total: float = 0.0

    @property
    def dbm(self) -> float:
        return self.total / self.adverts


class Track(msgspec.Struct, array_like=True):
    """All that is remembered of one beacon; kept with its presence so that a restart loses nothing.

    `seen_at` is the newest evidence from a source of the zone it is in (or, since it left, was in) at a time
    when that zone led; `heard_at` the newest of all. `second` is the one whose readings wait in `open`.
    """

    store_id: str
    zone_id: str | None = None
    entered_at: int = 0
    seen_at: int = 0
    heard_at: int = 0
    phone_at: int = 0
    rival: str | None = None
    rival_since: int = 0
    rival_at: int = 0
    probability: float = 0.0
    second: int = 0
    open: dict[str, Heard] = {}
    belief: Belief | None = None

    @property
    def place(self) -> Place | None:
        return None if self.zone_id is None else Place(self.store_id, self.zone_id)

    @property
    def confidence(self) -> Confidence:
        return "none" if self.zone_id is None else confidence_of(self.probability)


@dataclass(frozen=True, slots=True)
class _Odds:
    """How probable each zone is after a second, and when each was last heard by a source of its own in it."""

    zones: Mapping[str, float]
    heard_at: Mapping[str, int]
    best: str
    strongest_dbm: float
    dead_share: float

    def of(self, zone_id: str | None) -> float:
        return 0.0 if zone_id is None else self.zones.get(zone_id, 0.0)


_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(Track)


@dataclass(slots=True)
class ZoneEngine:
    """Every beacon's track. `zone_of` maps `store/gateway` to the zone it stands for.

    `awake_at`: since when we listen. Silence before it was our own. `positions` are the gateways' places in
    metres; a store of which any is missing is taken as one whose gateways stand alike. `gains` is what
    calibration knows of gateways. Both are read when a beacon of the store is first heard.
    """

    zone_of: dict[str, Place]
    settings: ZoneSettings = field(default_factory=ZoneSettings)
    tracks: dict[str, Track] = field(default_factory=dict)
    gateway_heard_at: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    awake_at: int = 0
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)
    _filters: dict[str, Filter] = field(default_factory=dict, init=False)

    def restore(self, beacon_key: str, state: bytes) -> None:
        """Puts a stored track back."""
        self.tracks[beacon_key] = _unpack.decode(state)

    def state_of(self, beacon_key: str) -> bytes:
        """The track as `restore` takes it."""
        return _pack.encode(self.tracks[beacon_key])

    def gateway_alive(self, gateway: str, at: int) -> None:
        """A batch or a heartbeat arrived from a gateway."""
        if at > self.gateway_heard_at.get(gateway, 0):
            self.gateway_heard_at[gateway] = at

    def hear(self, beacon_key: str, gateway: str, at: int, dbm: float, adverts: int) -> list[Transition]:
        """One second of one beacon at one gateway; what changed through it, oldest first."""
        place = self.zone_of.get(gateway)
        if place is None:
            return []
        self.gateway_alive(gateway, at)
        return self._take(beacon_key, place.store_id, gateway, Heard(at, adverts, dbm * adverts))

    def hear_by_phone(
        self, beacon_key: str, place: Place, at: int, dbm: float, adverts: int
    ) -> list[Transition]:
        """A phone, known by the key of its track, heard the fixed beacon of a zone; what changed through it.

        Evidence of its own kind: it needs no gateway to be alive, and a phone's ear is its own.
        """
        beside = min((name for name, stands_for in self.zone_of.items() if stands_for == place), default=None)
        if beside is None:
            return []
        return self._take(beacon_key, place.store_id, f"~{beside}", Heard(at, adverts, dbm * adverts))

    def expire(self, now: int) -> list[Transition]:
        """Seconds that are over; beacons that fell silent or faded below the floor; silent gateways' zones."""
        gone: list[Transition] = []
        alive, over = self._alive_places(now), self._over_until(now)
        for beacon_key, track in list(self.tracks.items()):
            if track.open and (track.second + 1) * 1000 <= over.get(track.store_id, 0):
                gone += self._close(beacon_key, track)
            place = track.place
            if place is not None and place not in alive and self._is_absent(track.phone_at, now):
                gone += self._leave(beacon_key, track, track.seen_at, "unknown", 0.0)
            elif place is not None and self._is_absent(track.seen_at, now):
                gone += self._leave(beacon_key, track, track.seen_at, "left")
            if track.zone_id is None and self._is_absent(track.heard_at, now):
                del self.tracks[beacon_key]
                self.changed.add(beacon_key)
        return gone

    def forget(self, beacon_key: str, at: int) -> list[Transition]:
        """Its owner withdrew: the track goes, and with it the presence."""
        track = self.tracks.pop(beacon_key, None)
        self.changed.add(beacon_key)
        return [] if track is None else self._leave(beacon_key, track, at, "left")

    # Taking in ----------------------------------------------------------------------------------------

    def _take(self, beacon_key: str, store_id: str, source: str, heard: Heard) -> list[Transition]:
        transitions: list[Transition] = []
        track = self.tracks.get(beacon_key)
        if track is not None and track.store_id != store_id:
            transitions += self._leave(beacon_key, track, heard.at, "left")
            track = None
        if track is None:
            track = self.tracks[beacon_key] = Track(store_id)
        self.changed.add(beacon_key)
        second = heard.at // 1000
        if track.open and second > track.second:
            transitions += self._close(beacon_key, track)
        if track.second - second > self.settings.late_s:
            return transitions
        track.second = max(second, track.second)
        track.heard_at = max(heard.at, track.heard_at)
        known = track.open.get(source)
        if known is not None:
            heard = Heard(max(heard.at, known.at), heard.adverts + known.adverts, heard.total + known.total)
        track.open[source] = heard
        return transitions

    def _close(self, beacon_key: str, track: Track) -> list[Transition]:
        """Weighs the open second: where it probably is, and whether that is another zone."""
        heard, track.open = track.open, {}
        self.changed.add(beacon_key)
        model, inside = self._filter(track.store_id), len(track.store_id) + 1
        readings = [
            Reading(source.lstrip("~")[inside:], row.dbm, row.adverts, source.startswith("~"))
            for source, row in sorted(heard.items())
            if source.lstrip("~") in self.zone_of
        ]
        readings = [reading for reading in readings if reading.gateway in model.floor.index]
        if not readings:
            return []
        silent = self._silent(track, heard, model) if any(not reading.phone for reading in readings) else []
        track.belief = model.advance(track.belief, track.second, readings, silent)
        return self._decide(beacon_key, track, self._odds(track, model, heard, readings))

    def _silent(self, track: Track, heard: Mapping[str, Heard], model: Filter) -> list[str]:
        """Gateways around that told of this second, and of this beacon nothing. A dead one tells nothing."""
        if track.belief is None or track.belief.floor != model.floor.mark:
            return []
        end = (track.second + 1) * 1000
        return [
            gateway
            for gateway in sorted(model.floor.view(track.belief.corner).inside)
            if (name := f"{track.store_id}/{gateway}") not in heard and self.gateway_heard_at.get(name, 0) >= end
        ]

    def _filter(self, store_id: str) -> Filter:
        model = self._filters.get(store_id)
        if model is None:
            model = self._filters[store_id] = self._new_filter(store_id)
        return model

    def _new_filter(self, store_id: str) -> Filter:
        """Inside a store, gateways go by their short names: they are in every belief."""
        names = {
            name: name[len(store_id) + 1 :] for name, place in self.zone_of.items() if place.store_id == store_id
        }
        settings = self.settings.filter
        gains = {short: self.gains[name] for name, short in names.items() if name in self.gains}
        if all(name in self.positions for name in names):
            places = {short: self.positions[name] for name, short in names.items()}
            return Filter(GridFloor(places, settings), settings, gains)
        return Filter(StarFloor(list(names.values()), settings), settings, gains)

    # Deciding -----------------------------------------------------------------------------------------

    def _odds(
        self, track: Track, model: Filter, heard: Mapping[str, Heard], readings: Iterable[Reading]
    ) -> _Odds:
        zones: dict[str, float] = {}
        dead = 0.0
        assert track.belief is not None
        for gateway, chance in model.chances(track.belief).items():
            place = self.zone_of.get(f"{track.store_id}/{gateway}")
            if place is not None:
                zones[place.zone_id] = zones.get(place.zone_id, 0.0) + chance
    def _is_absent(self, since: int, now: int) -> bool:
        return now - max(since, self.awake_at) > self.settings.absent_ms
