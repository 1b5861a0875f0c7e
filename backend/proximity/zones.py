"""Which zone a beacon is in: each second the filter's odds, then hysteresis, settling and absence. Pure.

A zone is where one of its gateways is the nearest. Times are unix milliseconds, signals dBm. What was heard
in a second is weighed when the second is over: when a later one is heard, or in `expire`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from backend.occurrences import Confidence
from backend.proximity.filter import FORGET_S, PHONE, Advanced, Belief, Gain, Reading, Second
from backend.proximity.floors import Corner
from backend.proximity.listeners import Listener, Listeners, of_beacons, of_gateways
from backend.proximity.places import Place
from backend.proximity.radio import FilterSettings

_CONFIDENT: Final[tuple[tuple[float, Confidence], ...]] = ((0.85, "high"), (0.65, "medium"), (0.0, "low"))
_BLIND_CHANCE: Final = 0.84  # the most that counts while a gateway around is silent: never "high"
_DEAD_SHARE: Final = 0.03  # of the odds at silent gateways: from here on nothing is confident


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """What the rule weighs beside the filter's own assumptions.

    `lead`: by how much more probable another zone must be, six to one between two; less lets two equally
    near zones take turns. `lead_pace_s`: of a tag that is heard more seldom than this, so much less is asked;
    to wait for one more advert would leave it in the wrong zone for longer.
    `enter`: how probable a zone must be for a beacon that is in none; several zones may meet where it stands.
    `sure`: how probable it must be where a zone without a living gateway is possible, too.
    `settle_ms`: how long a zone must lead, by what it heard itself, for a beacon that is in none: the odds
    have no past yet, and one lucky second would do. For a tag that is heard more seldom, its second advert.
    `rival_silent_ms`: a new zone that itself hears nothing for so long begins to lead afresh.
    `floor_dbm`: weaker than this everywhere, the beacon is somewhere outside every zone.
    `absent_ms`: silence after which it has left; several lost adverts in a row are normal. A tag that is
    heard seldom has the time of `absent_adverts`, but no more than `absent_most_ms`.
    `gateway_silent_ms`: neither batch nor heartbeat for so long means that its zones are unknown.
    `doubt_ms`: so long after the last sign of life of a zone's gateway, nobody is moved out of the zone: the
    gateway may be dying, and heartbeats come every three seconds.
    `wait_ms`: how long after its end a second waits for gateways that are late to tell of it.
    `siblings_ms`: a gateway that hears hundreds tells of a second in several messages, within so long.
    `late_s`: older readings than this say nothing about now; a gateway's live lane may lag up to 30 s.
    """

    lead: float = 0.7
    lead_pace_s: float = 0.6
    enter: float = 0.4
    sure: float = 0.7
    settle_ms: int = 1_000
    floor_dbm: float = -92.0
    absent_ms: int = 10_000
    absent_adverts: int = 5
    absent_most_ms: int = 30_000
    gateway_silent_ms: int = 8_000
    doubt_ms: int = 4_000
    wait_ms: int = 500
    siblings_ms: int = 50
    late_s: int = 5
    rival_silent_ms: int = 5_000
    filter: FilterSettings = field(default_factory=FilterSettings)


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


class Heard(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a source heard of a beacon in the second that is not weighed yet; `total` is dBm × adverts.

    `settled`: a phone's system said so, which waits itself until it is sure.
    """

    at: int
    adverts: int
    total: float
    settled: bool = False

    def __add__(self, other: "Heard") -> "Heard":
        return Heard(
            max(self.at, other.at),
            self.adverts + other.adverts,
            self.total + other.total,
            self.settled or other.settled,
        )


class Track(msgspec.Struct, array_like=True):
    """All that is remembered of one beacon; kept with its presence so that a restart loses nothing.

    `seen_at` is the newest evidence from a source of the zone it is in (or, since it left, was in) at a time
    when that zone led; `heard_at` the newest of all. `second` is the one whose readings wait in `open`.
    `pace_s` is the time from one advert that is heard to the next, 0 while nobody knows; for tags only.
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
    pace_s: float = 0.0

    @property
    def place(self) -> Place | None:
        return None if self.zone_id is None else Place(self.store_id, self.zone_id)

    @property
    def by_phone(self) -> bool:
        """Whether a phone tells of itself, by the fixed beacons it hears: no gateway need live for that."""
        return self.phone_at > 0

    def hears(self) -> dict[str, int]:
        """When each source heard it last, as far as is remembered; to the second, once that is weighed."""
        ears = self.belief.ears.items() if self.belief else ()
        return {source: ear.second * 1000 for source, ear in ears} | {
            source: heard.at for source, heard in self.open.items()
        }

    def put(self, source: str, second: int, heard: Heard) -> None:
        """Adds to the open second; what comes late counts as of now."""
        self.second = max(self.second, second)
        self.heard_at = max(self.heard_at, heard.at)
        if source.startswith(PHONE):
            self.phone_at = max(heard.at, self.phone_at)
        known = self.open.get(source)
        self.open[source] = heard if known is None else known + heard

    def close(self, awake_at: int, back_at: Mapping[str, int]) -> dict[str, Heard]:
        """Takes the open second's readings out, and learns the pace from when they came.

        The mean is of logarithms: neither a long silence nor two adverts at once make another pace.
        A silence in which we, or all that hear it now, were away is not the tag's; see ZoneEngine.
        """
        heard, self.open = self.open, {}
        gap_s = self.second - self.belief.second if self.belief and not self.by_phone else 0
        if 0 < gap_s <= FORGET_S:
            listened_since = max(awake_at, min([back_at.get(source, 0) for source in heard]))
            if listened_since > _end(self.second - gap_s):
                return heard
            between_s = gap_s / max([row.adverts for row in heard.values()])
            self.pace_s = self.pace_s**0.75 * between_s**0.25 if self.pace_s else between_s
        return heard

    def stays(self, heard_at: Mapping[str, int]) -> None:
        """No other zone leads. A rival that was not heard itself this second keeps its claim."""
        if self.rival in heard_at:
            self.rival = None
        if self.zone_id is not None:
            self.seen_at = max(self.seen_at, heard_at.get(self.zone_id, 0))

    @property
    def confidence(self) -> Confidence:
        return "none" if self.zone_id is None else confidence_of(self.probability)


@dataclass(slots=True)
class _Odds:
    """How probable each zone is after a second, and when, in it, each was heard by a source of its own.

    `dead_share` lies at gateways that are silent; `blind`: there is such a one around. `settled`: a phone's
    system waited already until it was sure.
    """

    strongest_dbm: float
    zones: dict[str, float] = field(default_factory=dict)
    heard_at: dict[str, int] = field(default_factory=dict)
    dead_share: float = 0.0
    blind: bool = False
    settled: bool = False

    def best(self, own: str | None) -> str | None:
        """The most probable of the zones that heard it and the one it is in: silence alone moves nobody."""
        best, most = own, (self.of(own), own or "")
        for zone_id in self.heard_at:
            chance = (self.zones.get(zone_id, 0.0), zone_id)
            if best is None or chance > most:
                best, most = zone_id, chance
        return best

    def of(self, zone_id: str | None) -> float:
        return 0.0 if zone_id is None else self.zones.get(zone_id, 0.0)


class _Closing(msgspec.Struct, frozen=True, gc=False):
    """A beacon whose second is over, with what was heard of it."""

    beacon_key: str
    track: Track
    heard: Mapping[str, Heard]
    second: Second


_END_OF_TIME: Final = 1 << 62
_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(Track)


@dataclass(slots=True)
class ZoneEngine:
    """Every beacon's track. `zone_of` maps `store/gateway` to the zone it stands for.

    `awake_at`: since when we listen; silence before it was our own. `gateway_back_at`: since when a gateway
    gives signs of life without a gap. `positions` are the gateways' places in metres; a store of which any is
    missing is taken as one whose gateways stand alike. `gains` is what calibration knows of gateways.
    `zone_beacons` are the beacons fixed to zones, which phones hear. They are read when a beacon of the store
    is first heard.
    """

    zone_of: dict[str, Place]
    settings: ZoneSettings = field(default_factory=ZoneSettings)
    tracks: dict[str, Track] = field(default_factory=dict)
    gateway_heard_at: dict[str, int] = field(default_factory=dict)
    gateway_back_at: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    awake_at: int = 0
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)
    zone_beacons: Mapping[str, Place] = field(default_factory=dict)
    _stores: dict[str, Listeners] = field(default_factory=dict, init=False)
    _phones: dict[str, Listeners] = field(default_factory=dict, init=False)
    _told_of: dict[str, int] = field(default_factory=dict, init=False)
    """The end of the newest second that each gateway told anything of."""
    _open: dict[tuple[str, bool], dict[str, Track]] = field(default_factory=dict, init=False)
    """By store and whether they are phones', the tracks whose second is not weighed yet."""
    _due: dict[tuple[str, bool], int] = field(default_factory=dict, init=False)
    """By store, a time before which no open second ends."""

    def restore(self, beacon_key: str, state: bytes) -> None:
        """Puts a stored track back."""
        track = self.tracks[beacon_key] = _unpack.decode(state)
        if track.open:
            self._open.setdefault((track.store_id, track.by_phone), {})[beacon_key] = track

    def state_of(self, beacon_key: str) -> bytes:
        """The track as `restore` takes it."""
        return _pack.encode(self.tracks[beacon_key])

    def knows_gateways_of(self, before: "ZoneEngine") -> None:
        """Takes over what an engine that this one replaces had heard of the gateways."""
        self.gateway_heard_at.update(before.gateway_heard_at)
        self.gateway_back_at.update(before.gateway_back_at)
        self._told_of.update(before._told_of)
        self.awake_at = before.awake_at

    def gateway_alive(self, gateway: str, at: int) -> None:
        """A batch or a heartbeat arrived from a gateway."""
        before = self.gateway_heard_at.get(gateway, 0)
        if at > before:
            self.gateway_heard_at[gateway] = at
            if at - before > self.settings.gateway_silent_ms:
                self.gateway_back_at[gateway] = at

    def listened_since(self, place: Place, now: int) -> int | None:
        """Since when a zone is listened to without a gap; None where it is not now, and nobody knows more.

        A zone that no gateway stands for any more is nobody's to wait for.
        """
        gateways = [gateway for gateway, stands_for in self.zone_of.items() if stands_for == place]
        alive_since = now - self.settings.gateway_silent_ms
        alive = [one for one in gateways if self.gateway_heard_at.get(one, -1) >= alive_since]
        if gateways and not alive:
            return None
        return max(self.awake_at, min((self.gateway_back_at.get(one, 0) for one in alive), default=0))

    def hear(self, beacon_key: str, gateway: str, at: int, dbm: float, adverts: int) -> list[Transition]:
        """One second of one beacon at one gateway; what changed through it, oldest first."""
        return self.hear_all(gateway, {beacon_key: Heard(at, adverts, dbm * adverts)})

    def hear_all(self, gateway: str, heard: Mapping[str, Heard]) -> list[Transition]:
        """What a gateway heard in one second, by beacon; what changed through it."""
        place = self.zone_of.get(gateway)
        if place is None or not heard:
            return []
        newest = max(row.at for row in heard.values())
        self.gateway_alive(gateway, newest)
        self._told_of[gateway] = max(_end(newest // 1000), self._told_of.get(gateway, 0))
        return self._take(place.store_id, gateway, heard)

    def hear_by_phone(
        self, phone: str, beacon_key: str, at: int, dbm: float, adverts: int, *, settled: bool = False
    ) -> list[Transition]:
        """A phone, known by the key of its track, heard the fixed beacon of a zone; what changed through it.

        Evidence of its own kind: it needs no gateway, alive or at all, and a phone's ear is its own.
        """
        place = self.zone_beacons.get(beacon_key)
        if place is None:
            return []
        heard = Heard(at, adverts, dbm * adverts, settled)
        return self._take(place.store_id, PHONE + beacon_key, {phone: heard})

    def left_by_phone(self, phone: str, beacon_key: str, at: int) -> list[Transition]:
        """A phone's system says that the phone is out of reach of a zone's fixed beacon; what changed.

        Who has heard it since, or another beacon of the zone lately, is still there.
        """
        place, track = self.zone_beacons.get(beacon_key), self.tracks.get(phone)
        if place is None or track is None:
            return []
        for source, heard_at in track.hears().items():
            left = source == PHONE + beacon_key
            same_zone = self.zone_beacons.get(source.removeprefix(PHONE)) == place
            if same_zone and heard_at > (at if left else at - self.settings.absent_ms):
                return []
        track.open.pop(PHONE + beacon_key, None)
        self.changed.add(phone)
        return self._leave(phone, track, at, "left") if track.place == place else []

    def expire(self, now: int) -> list[Transition]:
        """Weighs seconds that are over; ends what fell silent or faint, and silent gateways' zones."""
        gone, alive = self.weigh(now), self._alive_places(now)
        if self.awake_at >= now - self.settings.absent_ms:
            return gone
        for beacon_key, track in list(self.tracks.items()):
            place, silent_since = track.place, now - self._patience_ms(track)
            if place is not None and place not in alive and not track.by_phone:
                gone += self._leave(beacon_key, track, track.seen_at, "unknown", 0.0, "none")
            elif place is not None and max(track.seen_at, self.awake_at) < silent_since:
                gone += self._leave(beacon_key, track, track.seen_at, "left")
            if track.zone_id is None and track.heard_at < silent_since:
                del self.tracks[beacon_key]
                self.changed.add(beacon_key)
        return gone

    def weigh(self, now: int) -> list[Transition]:
        """Weighs the seconds of which everybody has told who lives; what changed through it."""
        over: list[str] = []
        for where, opened in self._open.items():
            listeners = self._listeners(where[0], by_phone=where[1])
            until = self._told_until(listeners, now) if opened else 0
            if until < self._due.get(where, 0):
                continue
            newest = until // 1000 - 1  # of the seconds that end by then
            for beacon_key in [key for key, track in opened.items() if track.second <= newest]:
                track = opened.pop(beacon_key)
                is_here = self.tracks.get(beacon_key) is track  # it may be gone, or in another store, by now
                if track.open and is_here:
                    over.append(beacon_key)
            self._due[where] = min((_end(track.second) for track in opened.values()), default=0)
        return self._close(sorted(over))  # in the same order after a restart

    @property
    def waits(self) -> bool:
        """Whether any second is not weighed yet."""
        return any(self._open.values())

    def forget(self, beacon_key: str, at: int) -> list[Transition]:
        """Its owner withdrew: the track goes, and with it the presence."""
        track = self.tracks.pop(beacon_key, None)
        self.changed.add(beacon_key)
        return [] if track is None else self._leave(beacon_key, track, at, "left")

    # Taking in ----------------------------------------------------------------------------------------

    def _take(self, store_id: str, source: str, heard: Mapping[str, Heard]) -> list[Transition]:
        """Whose second is over by this is weighed first, all at once; then the new one is taken in."""
        known = self.tracks
        transitions = self._close(
            [
                beacon_key
                for beacon_key, row in heard.items()
                if (track := known.get(beacon_key)) is not None
                and track.open
                and row.at // 1000 > track.second
            ]
        )
        where = (store_id, source.startswith(PHONE))
        opened = self._open.setdefault(where, {})
        due, oldest = self._due.get(where, 0) if opened else _END_OF_TIME, _END_OF_TIME
        for beacon_key, row in heard.items():
            track = known.get(beacon_key)
            if track is None:
                track = self.tracks[beacon_key] = Track(store_id)
            elif track.store_id != store_id:
                transitions += self._leave(beacon_key, track, row.at, "left")
                track = self.tracks[beacon_key] = Track(store_id, seen_at=max(row.at, track.seen_at))
            second = row.at // 1000
            if track.second - second <= self.settings.late_s:
                track.put(source, second, row)
                opened[beacon_key] = track
                oldest = min(oldest, second)
        self.changed.update(heard)
        self._due[where] = min(due, _end(oldest))
        return transitions

    def _close(self, beacon_keys: Iterable[str]) -> list[Transition]:
        """Weighs open seconds: where the beacons probably are, and whether that is another zone."""
        by_floor: dict[Listeners, list[_Closing]] = {}
        told: dict[tuple[str, Corner, int], list[Listener]] = {}
        for beacon_key in beacon_keys:
            track = self.tracks[beacon_key]
            heard = track.close(self.awake_at, self.gateway_back_at)
            self.changed.add(beacon_key)
            listeners = self._listeners(track.store_id, by_phone=track.by_phone)
            by_source = listeners.by_source
            readings = [
                Reading(by.short, row.total / row.adverts, row.adverts, by.phone)
                for source, row in sorted(heard.items())
                if (by := by_source.get(source)) is not None
            ]
            if readings:
                second = Second(
                    track.belief, track.second, readings, self._silent(track, heard, listeners, told)
                )
                by_floor.setdefault(listeners, []).append(_Closing(beacon_key, track, heard, second))
        return [one for listeners, closing in by_floor.items() for one in self._weigh(listeners, closing)]

    def _silent(
        self,
        track: Track,
        heard: Mapping[str, Heard],
        listeners: Listeners,
        told: dict[tuple[str, Corner, int], list[Listener]],
    ) -> list[str]:
        """Gateways around that told of this second, and nothing of this beacon. A dead one tells nothing.

        `told` remembers who did, for beacons of the same window and second.
        """
        belief, end = track.belief, _end(track.second)
        if belief is None or belief.floor != listeners.filter.floor.mark:
            return []
        if min(heard).startswith(PHONE):  # phones' names sort behind all others
            return []
        key = (track.store_id, belief.corner, end)
        if key not in told:
            around = listeners.around(belief.corner)
            told[key] = [listener for listener in around if self._has_told(listener.source, end)]
        return [listener.short for listener in told[key] if listener.source not in heard]

    def _weigh(self, listeners: Listeners, closing: Sequence["_Closing"]) -> Iterator[Transition]:
        advanced = listeners.filter.advance_all([one.second for one in closing])
        dead: dict[tuple[Corner, int], set[str]] = {}
        for one, moved in zip(closing, advanced, strict=True):
            one.track.belief = moved.belief
            key = (moved.belief.corner, one.track.second)
            if key not in dead:
                dead[key] = self._dead(listeners, *key)
            yield from self._decide(one.beacon_key, one.track, _odds(listeners, moved, one.heard, dead[key]))

    def _dead(self, listeners: Listeners, corner: Corner, second: int) -> set[str]:
        """The gateways around that gave no sign of life for long."""
        alive_since = _end(second) - self.settings.gateway_silent_ms
        return {
            listener.short
            for listener in listeners.around(corner)
            if self.gateway_heard_at.get(listener.source, 0) < alive_since
        }

    def _listeners(self, store_id: str, *, by_phone: bool = False) -> Listeners:
        known = self._phones if by_phone else self._stores
        if store_id not in known:
            settings, zones = self.settings.filter, _in_store(self.zone_of, store_id)
            known[store_id] = (
                of_beacons(_in_store(self.zone_beacons, store_id), zones, self.positions, settings)
                if by_phone
                else of_gateways(store_id, zones, self.positions, self.gains, settings)
            )
        return known[store_id]

    # Deciding -----------------------------------------------------------------------------------------

    def _decide(self, beacon_key: str, track: Track, odds: _Odds) -> list[Transition]:
        track.probability = odds.of(track.zone_id)
        if odds.strongest_dbm < self.settings.floor_dbm:
            track.rival = None
            return []
        best = odds.best(track.zone_id)
        if best is None or best == track.zone_id or odds.of(best) < self._wanted(track, odds):
            track.stays(odds.heard_at)
            return []
        if not self._may_move(track, best):
            track.rival = None
            return []
        heard_at = odds.heard_at[best]
        if track.rival != best or heard_at - track.rival_at > self.settings.rival_silent_ms:
            track.rival, track.rival_since = best, heard_at
        track.rival_at = heard_at
        settle_ms = self.settings.settle_ms
        settling = track.zone_id is None and not odds.settled and track.pace_s * 1000 <= settle_ms
        if settling and heard_at - track.rival_since < settle_ms:
            return []
        return self._move(beacon_key, track, best, odds)

    def _wanted(self, track: Track, odds: _Odds) -> float:
        """How probable another zone must be. Who is in none is where a phone's system is sure of."""
        if odds.settled and track.zone_id is None:
            return 0.0
        wanted = self.settings.enter if track.zone_id is None else track.probability + self._lead(track)
        return max(wanted, self.settings.sure) if odds.dead_share > _DEAD_SHARE else wanted

    def _lead(self, track: Track) -> float:
        settings = self.settings
        return settings.lead * settings.lead_pace_s / max(track.pace_s, settings.lead_pace_s)

    def _may_move(self, track: Track, zone_id: str) -> bool:
        """Nobody moves into a zone that is unknown, nor out of one whose gateway may just be dying."""
        if track.by_phone:
            return True
        end, settings = _end(track.second), self.settings
        if not self._lives(Place(track.store_id, zone_id), end - settings.gateway_silent_ms):
            return False
        doubted_from = end - settings.doubt_ms
        return track.place is None or doubted_from <= self.awake_at or self._lives(track.place, doubted_from)

    def _move(self, beacon_key: str, track: Track, zone_id: str, odds: _Odds) -> list[Transition]:
        """Into the leading zone, since when it leads; but not before what was known of the last one."""
        since = max(track.rival_since, track.seen_at)
        chance = odds.of(zone_id)
        confidence = _confidence(chance, odds)
        left = self._leave(beacon_key, track, since, "left", 1 - track.probability, confidence)
        track.zone_id, track.entered_at, track.probability = zone_id, since, chance
        track.seen_at = max(since, odds.heard_at[zone_id])
        place = Place(track.store_id, zone_id)
        entered = Transition("entered", beacon_key, place, since, since, confidence, round(chance, 3))
        return [*left, entered]

    def _leave(
        self,
        beacon_key: str,
        track: Track,
        at: int,
        kind: Literal["left", "unknown"],
        probability: float = 1.0,
        confidence: Confidence = "high",
    ) -> list[Transition]:
        place, entered_at = track.place, track.entered_at
        track.zone_id, track.rival = None, None
        self.changed.add(beacon_key)
        if place is None:
            return []
        at = max(at, entered_at)
        return [Transition(kind, beacon_key, place, at, entered_at, confidence, round(probability, 3))]

    # Time ---------------------------------------------------------------------------------------------

    def _patience_ms(self, track: Track) -> int:
        """How long a silence is no evidence that it left. Nobody knows the pace by a first advert."""
        settings = self.settings
        if not track.pace_s and track.zone_id is None and not track.by_phone:
            return settings.absent_most_ms
        adverts_ms = round(settings.absent_adverts * track.pace_s * 1000)
        return max(settings.absent_ms, min(adverts_ms, settings.absent_most_ms))

    def _has_told(self, gateway: str, until: int) -> bool:
        """Whether its own word reaches so far; that we just woke and take it for alive is none."""
        heard_at = self.gateway_heard_at.get(gateway, 0)
        return max(heard_at, self._told_of.get(gateway, 0)) >= until and heard_at > self.awake_at

    def _lives(self, place: Place, since: int) -> bool:
        return any(
            self.gateway_heard_at.get(gateway, 0) >= since
            for gateway, stands_for in self.zone_of.items()
            if stands_for == place
        )

    def _alive_places(self, now: int) -> set[Place]:
        """The zones of which any gateway gave a sign of life lately."""
        since = now - self.settings.gateway_silent_ms
        return {
            place
            for gateway, place in self.zone_of.items()
            if self.gateway_heard_at.get(gateway, -math.inf) >= since
        }

    def _told_until(self, listeners: Listeners, now: int) -> int:
        """Until when every living gateway of a store has told; none is waited for longer than `wait_ms`."""
        alive_since, told = now - self.settings.gateway_silent_ms, []
        for gateway in listeners.gateways:
            heard_at = self.gateway_heard_at.get(gateway, 0)
            if heard_at >= alive_since:
                whole = now - heard_at >= self.settings.siblings_ms
                told.append(max(heard_at, self._told_of.get(gateway, 0)) if whole else heard_at)
        return max(min(told, default=0), now - self.settings.wait_ms)


def _in_store(places: Mapping[str, Place], store_id: str) -> dict[str, str]:
    """The zones of what stands in a store."""
    return {name: place.zone_id for name, place in places.items() if place.store_id == store_id}


def _end(second: int) -> int:
    """The end of a unix second, in milliseconds."""
    return (second + 1) * 1000


def confidence_of(probability: float) -> Confidence:
    """A probability in words."""
    for least, word in _CONFIDENT:
        if probability >= least:
            return word
    return "low"


def _confidence(chance: float, odds: _Odds) -> Confidence:
    """Where a gateway around is silent nothing is sure, and little where the beacon may be with that one."""
    if odds.dead_share > _DEAD_SHARE:
        return "low"
    return confidence_of(min(chance, _BLIND_CHANCE) if odds.blind else chance)


def _odds(listeners: Listeners, moved: Advanced, heard: Mapping[str, Heard], dead: set[str]) -> _Odds:
    zone_of, by_source = listeners.zone_of, listeners.by_source
    zones: dict[str, float] = {}
    heard_at: dict[str, int] = {}
    strongest_dbm, dead_share, settled = -math.inf, 0.0, False
    for short, chance in moved.chances.items():
        zone_id = zone_of[short]
        zones[zone_id] = zones.get(zone_id, 0.0) + chance
        if short in dead:
            dead_share += chance
    for source, row in heard.items():
        dbm = row.total / row.adverts
        strongest_dbm = max(strongest_dbm, dbm)
        listener = by_source.get(source)
        if listener is not None:
            heard_at[listener.zone_id] = max(row.at, heard_at.get(listener.zone_id, 0))
            settled |= row.settled
    return _Odds(strongest_dbm, zones, heard_at, dead_share, bool(dead), settled)
