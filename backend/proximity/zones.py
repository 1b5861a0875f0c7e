"""Which zone a beacon is in: the strongest gateway's, with hysteresis and dwell on both sides. Pure.

Each gateway's signal is the mean of its last five seconds; another zone must be stronger by a margin, and
stay so, before the beacon counts as being there. Times are unix milliseconds, signals dBm.
"""

from dataclasses import dataclass, field
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """What the rule weighs.

    `window_ms`: shorter follows fading, longer lags behind a walking person (1.4 m/s).
    `margin_db`: less lets two equally near gateways take turns.
    `settle_ms`: how long a new zone must lead, against one lucky second.
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


class Track(msgspec.Struct, array_like=True):
    """All that the rule remembers of one beacon; kept with its presence so that a restart loses nothing."""

    store_id: str
    heard: dict[str, list[_Signal]] = {}
    zone_id: str | None = None
    entered_at: int = 0
    seen_at: int = 0
    rival: str | None = None
    rival_since: int = 0

    @property
    def place(self) -> Place | None:
        return None if self.zone_id is None else Place(self.store_id, self.zone_id)


_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(Track)


@dataclass(slots=True)
class ZoneEngine:
    """Every beacon's track. `zone_of` maps `store/gateway` to the zone it stands for."""

    zone_of: dict[str, Place]
    settings: ZoneSettings = field(default_factory=ZoneSettings)
    tracks: dict[str, Track] = field(default_factory=dict)
    gateway_heard_at: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

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
        track.heard.setdefault(gateway, []).append(_Signal(at, dbm, adverts))
        self.changed.add(beacon_key)
        return transitions + self._settle(beacon_key, track, at)

    def expire(self, now: int) -> list[Transition]:
        """Beacons that fell silent, and those whose gateway did."""
        gone: list[Transition] = []
        for beacon_key, track in list(self.tracks.items()):
            newest = max((rows[-1].at for rows in track.heard.values() if rows), default=track.seen_at)
            silent = max(newest, track.seen_at)
            if track.place is not None and not self._alive(track.place, now):
                gone += self._leave(beacon_key, track, max(track.seen_at, track.entered_at), "unknown")
            elif now - silent > self.settings.absent_ms:
                gone += self._leave(beacon_key, track, silent, "left")
                del self.tracks[beacon_key]
                self.changed.add(beacon_key)
        return gone

    def forget(self, beacon_key: str, at: int) -> list[Transition]:
        """Its owner withdrew: the track goes, and with it the presence."""
        track = self.tracks.pop(beacon_key, None)
        self.changed.add(beacon_key)
        return [] if track is None else self._leave(beacon_key, track, max(at, track.entered_at), "left")

    def _alive(self, place: Place, now: int) -> bool:
        """Whether any gateway of the zone gave a sign of life lately."""
        return any(
            now - self.gateway_heard_at.get(gateway, 0) <= self.settings.gateway_silent_ms
            for gateway, other in self.zone_of.items()
            if other == place
        )

    def _settle(self, beacon_key: str, track: Track, at: int) -> list[Transition]:
        strongest = self._strongest(track, at)
        if strongest is None:
            return []
        zone_id, dbm, own_dbm = strongest
        if zone_id == track.zone_id:
            track.rival = None
            track.seen_at = max(track.seen_at, at)
            return []
        if track.zone_id is not None and dbm < own_dbm + self.settings.margin_db:
            track.rival = None
            track.seen_at = max(track.seen_at, at)
            return []
        if track.rival != zone_id:
            track.rival, track.rival_since = zone_id, at
        if at - track.rival_since < self.settings.settle_ms:
            return []
        left = self._leave(beacon_key, track, track.rival_since, "left")
        track.zone_id, track.entered_at, track.seen_at = zone_id, track.rival_since, at
        track.rival = None
        entered = Transition(
            "entered", beacon_key, Place(track.store_id, zone_id), track.entered_at, track.entered_at
        )
        return [*left, entered]

    def _strongest(self, track: Track, at: int) -> tuple[str, float, float] | None:
        """The leading zone, its signal, and the signal of the zone the beacon is in; None below the floor."""
        best: dict[str, float] = {}
        for gateway, rows in list(track.heard.items()):
            while rows and rows[0].at <= at - self.settings.window_ms:
                rows.pop(0)
            place = self.zone_of.get(gateway)
            if not rows or place is None:
                del track.heard[gateway]
                continue
            adverts = sum(row.adverts for row in rows)
            mean = sum(row.dbm * row.adverts for row in rows) / adverts
            best[place.zone_id] = max(mean, best.get(place.zone_id, -999.0))
        if not best:
            return None
        zone_id = max(best, key=lambda zone: (best[zone], zone))
        if best[zone_id] < self.settings.floor_dbm:
            return None
        return zone_id, best[zone_id], best.get(track.zone_id or "", -999.0)

    def _leave(
        self, beacon_key: str, track: Track, at: int, kind: Literal["left", "unknown"]
    ) -> list[Transition]:
        place, entered_at = track.place, track.entered_at
        track.zone_id, track.rival = None, None
        self.changed.add(beacon_key)
        if place is None:
            return []
        return [Transition(kind, beacon_key, place, max(at, entered_at), entered_at)]
