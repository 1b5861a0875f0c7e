"""Which zone a beacon is in: the strongest gateway's, with hysteresis and dwell on both sides. Pure.

Each gateway's signal is the mean of its last five seconds; another zone must be stronger by a margin, and
stay so, before the beacon counts as being there. Times are unix milliseconds, signals dBm.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """What the rule weighs.

    `window_ms`: shorter follows fading, longer lags behind a walking person (1.4 m/s). A candidate that is
    not heard for so long starts afresh.
    `margin_db`: less lets two equally near gateways take turns.
    `settle_ms`: how long a new zone must lead, by what it heard itself, against one lucky second.
    `floor_dbm`: weaker than this the beacon is somewhere outside every zone.
    `absent_ms`: silence after which it has left; several lost adverts in a row are normal.
    `gateway_silent_ms`: neither batch nor heartbeat for so long means that its zones are unknown.
    """

    window_ms: int = 5_000
    margin_db: float = 2.0
    settle_ms: int = 1_000
    floor_dbm: float = -92.0
    absent_ms: int = 10_000
    gateway_silent_ms: int = 8_000


@dataclass(frozen=True, slots=True)
class Place:
    """A zone of a store."""

    store_id: str
    zone_id: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A beacon entered or left a zone. `unknown` leaves because the zone's gateway fell silent."""

    kind: Literal["entered", "left", "unknown"]
    beacon_key: str
    place: Place
    at: int
    entered_at: int


class _Signal(msgspec.Struct, array_like=True):
    at: int
    dbm: float
    adverts: int


class _Window(msgspec.Struct, array_like=True):
    """What one gateway heard lately, and the sums of its mean; decibels come whole, so sums stay exact."""

    rows: list[_Signal] = []
    adverts: int = 0
    total: float = 0.0

    def add(self, signal: _Signal) -> None:
        self.rows.append(signal)
        self.adverts += signal.adverts
        self.total += signal.dbm * signal.adverts

    def drop_until(self, at: int) -> None:
        while self.rows and self.rows[0].at <= at:
            oldest = self.rows.pop(0)
            self.adverts -= oldest.adverts
            self.total -= oldest.dbm * oldest.adverts


class Track(msgspec.Struct, array_like=True):
    """All that the rule remembers of one beacon; kept with its presence so that a restart loses nothing.

    `seen_at` is the newest evidence from a gateway of the zone it is in (or, since it left, was in).
    """

    store_id: str
    heard: dict[str, _Window] = {}
    zone_id: str | None = None
    entered_at: int = 0
    seen_at: int = 0
    rival: str | None = None
    rival_since: int = 0
    rival_at: int = 0

    @property
    def place(self) -> Place | None:
        return None if self.zone_id is None else Place(self.store_id, self.zone_id)


@dataclass(slots=True)
class _Lead:
    """The strongest zone; and how strong, and when last heard, the zone is that the beacon counts as in."""

    zone_id: str = ""
    dbm: float = -math.inf
    at: int = 0
    own_dbm: float = -math.inf
    own_at: int = 0


_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(Track)


@dataclass(slots=True)
class ZoneEngine:
    """Every beacon's track. `zone_of` maps `store/gateway` to the zone it stands for.

    `awake_at`: since when we listen. Silence before it was our own.
    """

    zone_of: dict[str, Place]
    settings: ZoneSettings = field(default_factory=ZoneSettings)
    tracks: dict[str, Track] = field(default_factory=dict)
    gateway_heard_at: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    awake_at: int = 0

    def restore(self, beacon_key: str, state: bytes) -> None:
        """Puts a stored track back."""
        self.tracks[beacon_key] = _unpack.decode(state)

    def state_of(self, beacon_key: str) -> bytes:
        """The track as `restore` takes it."""
        return _pack.encode(self.tracks[beacon_key])

    def gateway_alive(self, gateway: str, at: int) -> None:
        """A batch or a heartbeat arrived from a gateway."""
        self.gateway_heard_at[gateway] = max(at, self.gateway_heard_at.get(gateway, 0))

    def hear(self, beacon_key: str, gateway: str, at: int, dbm: float, adverts: int) -> list[Transition]:
        """One second of one beacon at one gateway; what changed through it, oldest first."""
        place = self.zone_of.get(gateway)
        if place is None:
            return []
        transitions: list[Transition] = []
        track = self.tracks.get(beacon_key)
        if track is not None and track.store_id != place.store_id:
            transitions += self._leave(beacon_key, track, at, "left")
            track = None
        if track is None:
            track = self.tracks[beacon_key] = Track(place.store_id)
        window = track.heard.get(gateway)
        if window is None:
            window = track.heard[gateway] = _Window()
        window.add(_Signal(at, dbm, adverts))
        self.changed.add(beacon_key)
        return transitions + self._settle(beacon_key, track, at)

    def expire(self, now: int) -> list[Transition]:
        """Beacons that fell silent, or faded below the floor, and those whose gateway did."""
        gone: list[Transition] = []
        alive = self._alive_places(now)
        for beacon_key, track in list(self.tracks.items()):
            place = track.place
            if place is not None and place not in alive:
                gone += self._leave(beacon_key, track, track.seen_at, "unknown")
            elif place is not None and self._is_absent(track.seen_at, now):
                gone += self._leave(beacon_key, track, track.seen_at, "left")
            if track.zone_id is None and self._is_absent(_last_heard(track), now):
                del self.tracks[beacon_key]
                self.changed.add(beacon_key)
        return gone

    def forget(self, beacon_key: str, at: int) -> list[Transition]:
        """Its owner withdrew: the track goes, and with it the presence."""
        track = self.tracks.pop(beacon_key, None)
        self.changed.add(beacon_key)
        return [] if track is None else self._leave(beacon_key, track, at, "left")

    def _is_absent(self, since: int, now: int) -> bool:
        return now - max(since, self.awake_at) > self.settings.absent_ms

    def _alive_places(self, now: int) -> set[Place]:
        """The zones of which any gateway gave a sign of life lately."""
        since = now - self.settings.gateway_silent_ms
        return {
            place
            for gateway, place in self.zone_of.items()
            if self.gateway_heard_at.get(gateway, -math.inf) >= since
        }

    def _settle(self, beacon_key: str, track: Track, at: int) -> list[Transition]:
        lead = self._lead(track, at)
        if lead.dbm < self.settings.floor_dbm:
            track.rival = None
            return []
        if track.zone_id is not None and (
            lead.zone_id == track.zone_id or lead.dbm < lead.own_dbm + self.settings.margin_db
        ):
            track.rival = None
            track.seen_at = max(track.seen_at, lead.own_at)
            return []
        if track.rival != lead.zone_id or lead.at - track.rival_at > self.settings.window_ms:
            track.rival, track.rival_since = lead.zone_id, at
        track.rival_at = lead.at
        if lead.at - track.rival_since < self.settings.settle_ms:
            return []
        return self._move(beacon_key, track, lead)

    def _move(self, beacon_key: str, track: Track, lead: _Lead) -> list[Transition]:
        """Into the leading zone, since when it leads; but not before what was known of the last one."""
        since = max(track.rival_since, track.seen_at)
        left = self._leave(beacon_key, track, since, "left")
        track.zone_id, track.entered_at, track.seen_at = lead.zone_id, since, max(since, lead.at)
        place = Place(track.store_id, lead.zone_id)
        return [*left, Transition("entered", beacon_key, place, since, since)]

    def _lead(self, track: Track, at: int) -> _Lead:
        """Weighs every gateway's window at a time; what is older than that leaves it."""
        lead, since, silent = _Lead(), at - self.settings.window_ms, []
        for gateway, window in track.heard.items():
            rows, place = window.rows, self.zone_of.get(gateway)
            if rows[0].at <= since:
                window.drop_until(since)
            if not rows or place is None:
                silent.append(gateway)
                continue
            mean, zone_id = window.total / window.adverts, place.zone_id
            if zone_id == track.zone_id:
                lead.own_dbm, lead.own_at = max(mean, lead.own_dbm), max(rows[-1].at, lead.own_at)
            if mean > lead.dbm or (mean == lead.dbm and zone_id > lead.zone_id):
                lead.zone_id, lead.dbm, lead.at = zone_id, mean, rows[-1].at
        for gateway in silent:
            del track.heard[gateway]
        return lead

    def _leave(
        self, beacon_key: str, track: Track, at: int, kind: Literal["left", "unknown"]
    ) -> list[Transition]:
        place, entered_at = track.place, track.entered_at
        track.zone_id, track.rival = None, None
        self.changed.add(beacon_key)
        if place is None:
            return []
        return [Transition(kind, beacon_key, place, max(at, entered_at), entered_at)]


def _last_heard(track: Track) -> int:
    return max((window.rows[-1].at for window in track.heard.values()), default=track.seen_at)
