"""Which beacons are in range: smoothed strength, hysteresis, and patience learned from each one's rhythm.

A beacon comes in once two adverts running leave its smoothed RSSI at `near_dbm` or above. It goes out when it
was last heard well (smoothed RSSI at `far_dbm` or above) longer ago than its patience; silence and a signal
that has gone weak are the same case. Patience is a number of learned intervals, within bounds.

The learned interval is what the gap between two *heard* adverts is expected to stay under: its mean plus its
mean deviation, as TCP sizes its timer (RFC 6298). The mean alone would do for a perfect link, but at 30 %
loss a beacon of 1 Hz is silent for eight mean gaps every ten days, and a shop has a hundred of them.
"""

from dataclasses import dataclass
from typing import Final

_WARM_UP: Final = 64  # gaps until the learned interval moves at its slowest; lucky runs hardly bend it
_SMOOTHING_MS: Final = 1500  # time constant of the smoothed RSSI: a step shows in a second, a fade does not
_QUICKEST: Final = 0.15  # weight of one advert however slow the beacon; a fade of 20 dB then moves 3 dB
_AVERAGED: Final = 7  # first adverts are simply averaged, so that a newcomer's level is known at once
_UNHEARD: Final = -1000.0  # dBm
_NOT_MEASURED: Final = -127  # what BlueZ gives when the controller told no RSSI
_STRONGEST: Final = 20  # dBm; controllers give 127 for "not available"
_WEIGHTS: Final = (0.0, *(1 / gaps for gaps in range(1, _WARM_UP + 1)))  # of a new gap, by adverts before it


@dataclass(frozen=True, slots=True)
class PresenceSettings:
    """Levels in dBm, times in milliseconds. Raises ValueError for settings that could never work.

    The levels are about 10 m and 16 m of open shop; between them a beacon keeps the state it has.
    """

    near_dbm: int = -85
    far_dbm: int = -93
    patience_intervals: float = 7.0  # and a tick of a second: out within eight
    least_patience_ms: int = 8500  # a shopper's body hides a tag for seconds; with a tick a second under 10 s
    most_patience_ms: int = 240_000  # keeps a beacon that spoke twice in an hour from staying for hours
    forget_ms: int = 120_000  # a beacon not in range and silent for so long starts anew
    max_beacons: int = 4096

    def __post_init__(self) -> None:
        if self.far_dbm >= self.near_dbm:
            raise ValueError(f"far_dbm {self.far_dbm} must lie below near_dbm {self.near_dbm}")
        if not 0 < self.least_patience_ms <= self.most_patience_ms:
            raise ValueError("least_patience_ms must be above zero and no more than most_patience_ms")
        if self.patience_intervals < 2 or self.max_beacons < 1 or self.forget_ms < 1:
            raise ValueError("patience_intervals must be at least 2, max_beacons and forget_ms at least 1")


class _Record:
    """What is known of one beacon."""

    __slots__ = (
        "adverts",
        "deviation_ms",
        "gap_ms",
        "last_gap_ms",
        "last_ms",
        "level",
        "near",
        "strong",
        "well_ms",
    )

    def __init__(self, at_ms: int) -> None:
        self.last_ms = at_ms  # last heard
        self.well_ms = at_ms  # last heard well
        self.adverts = 0  # heard, counted as far as the warm-up needs
        self.last_gap_ms = 0
        self.gap_ms = 0.0  # mean gap between heard adverts
        self.deviation_ms = 0.0  # mean deviation of the gaps
        self.level = _UNHEARD  # smoothed RSSI in dBm
        self.strong = False  # the advert before was strong enough to come in
        self.near = False

    def learn_gap(self, at_ms: int) -> None:
        passed = at_ms - self.last_ms
        gap = passed if passed > 0 else 0  # callbacks may cross by a millisecond
        self.last_gap_ms = gap
        self.last_ms += gap
        weight = _WEIGHTS[self.adverts]
        if self.adverts < _WARM_UP:
            self.adverts += 1
        error = gap - self.gap_ms
        self.gap_ms += weight * error
        self.deviation_ms += weight * ((error if error > 0 else -error) - self.deviation_ms)

    def learn_level(self, rssi: int) -> None:
        if self.level == _UNHEARD:
            self.level = float(rssi)
            return
        gap = self.last_gap_ms
        weight = gap / (gap + _SMOOTHING_MS)
        if self.adverts <= _AVERAGED:
            weight = 1 / self.adverts
        elif weight > _QUICKEST:
            weight = _QUICKEST
        self.level += weight * (rssi - self.level)


class Presence:
    """The beacons in range of one gateway. Time is any monotonic clock's milliseconds, given by the caller.

    Holds at most `max_beacons`. When full it forgets those out of range, longest silent first; beacons in
    range are never pushed out by strangers, rather a newcomer is not taken up. `dropped` counts both.
    """

    def __init__(self, settings: PresenceSettings | None = None) -> None:
        self.adopt(settings or PresenceSettings())
        self._records: dict[str, _Record] = {}
        self._crowded = False
        self.dropped = 0

    def adopt(self, settings: PresenceSettings) -> None:
        """Other settings from now on; who is in range stays so until heard, or not heard, otherwise."""
        self.settings = settings
        self._near_dbm = float(settings.near_dbm)
        self._far_dbm = float(settings.far_dbm)

    def __len__(self) -> int:
        return len(self._records)

    def is_near(self, key: str) -> bool:
        """Whether the beacon is in range."""
        record = self._records.get(key)
        return record is not None and record.near

    def near(self) -> list[str]:
        """The keys in range."""
        return [key for key, record in self._records.items() if record.near]

    def interval_ms(self, key: str) -> float | None:
        """The learned interval; None for a beacon unknown or heard only once."""
        record = self._records.get(key)
        return record.gap_ms + record.deviation_ms if record and record.adverts > 1 else None

    def heard(self, key: str, at_ms: int, rssi: int) -> bool | None:
        """An advert of the beacon: True if that brings it into range, None if nothing changed.

        `rssi` is in dBm; −127 says that it was heard and not how well.
        """
        record = self._records.get(key) or self._take_up(key, at_ms)
        if record is None:
            return None
        record.learn_gap(at_ms)
        if _NOT_MEASURED < rssi <= _STRONGEST:
            record.learn_level(rssi)
        level = record.level
        if level < self._far_dbm:
            record.strong = False
            return None
        record.well_ms = record.last_ms
        if record.near or level < self._near_dbm:
            record.strong = False
            return None
        record.near = record.strong
        record.strong = True
        return record.near or None

    def expire(self, now_ms: int) -> list[str]:
        """The keys that went out of range; to be called about once a second."""
        self._crowded = False
        gone: list[str] = []
        forgotten: list[str] = []
        for key, record in self._records.items():
            silent_ms = now_ms - record.last_ms
            if record.near:
                patience_ms = self._patience_ms(record)
                if now_ms - record.well_ms <= patience_ms:
                    continue
                gone.append(key)
                record.near = record.strong = False
                if silent_ms > patience_ms:
                    forgotten.append(key)
            elif silent_ms > self.settings.forget_ms:
                forgotten.append(key)
        for key in forgotten:
            del self._records[key]
        return gone

    def _patience_ms(self, record: _Record) -> float:
        settings = self.settings
        wanted = settings.patience_intervals * (record.gap_ms + record.deviation_ms)
        return min(max(wanted, settings.least_patience_ms), settings.most_patience_ms)

    def _take_up(self, key: str, at_ms: int) -> _Record | None:
        if len(self._records) >= self.settings.max_beacons and not self._make_room():
            self.dropped += 1
            return None
        record = self._records[key] = _Record(at_ms)
        return record

    def _make_room(self) -> bool:
        if self._crowded:  # as found since the last expire; to search at each advert would cost too much
            return False
        away = sorted((record.last_ms, key) for key, record in self._records.items() if not record.near)
        for _, key in away[: max(1, self.settings.max_beacons // 16)]:
            del self._records[key]
            self.dropped += 1
        self._crowded = not away
        return bool(away)
