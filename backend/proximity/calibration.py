"""How well each gateway of a store hears, from the fixed beacons that all of them hear all day. Pure.

What a gateway hears of a fixed beacon is the beacon's power, plus the gateway's gain, less what the way
between takes. None of the three is known, but each is known roughly, every gateway hears several beacons, and
a way is the same there and back. With Gaussian assumptions the best guess is one linear system (ridge
regression). Levels are dBm, gains dB, lengths metres.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from backend.proximity.filter import Gain
from backend.proximity.radio import FilterSettings, expected_dbm

Position: TypeAlias = tuple[float, float]

BESIDE_M: Final = 1.5  # from a zone's fixed beacon to its gateway; installers hang them within reach
UNKNOWN_WAY_M: Final = 15.0  # between gateways whose places nobody gave
_WAY_DB: Final = 6.0  # by which a known way strays from the law: shelves do not move
_UNKNOWN_WAY_DB: Final = 10.0  # half or twice as far, and the shelves
_LEAST_SECONDS: Final = 30  # heard for less, a level is a matter of luck
_ABOVE_LIMIT_DB: Final = (
    6.0  # nearer to the sensitivity, only the lucky adverts are heard, and all sound alike
)
_ROUNDING_DB: Final = 1.0  # levels come in whole dB, and a controller's dB are no standard's
_LEAST_DEVIATION_DB: Final = 2.0  # bodies and places change what calibration cannot know


@dataclass(frozen=True, slots=True)
class Level:
    """What a gateway hears of a fixed beacon on average, and the gateway beside which that beacon hangs."""

    beacon_key: str
    beside: str
    gateway: str
    mean_dbm: float
    seconds: int


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Something that shifts levels by an unknown number of dB, of which `deviation_db` is usual."""

    kind: str
    name: tuple[str, ...]
    deviation_db: float


def calibrate(
    levels: Iterable[Level],
    positions: Mapping[str, Position] | None = None,
    settings: FilterSettings | None = None,
) -> dict[str, Gain]:
    """The gain of every gateway of one store that heard its fixed beacons long and well enough."""
    settings, positions = settings or FilterSettings(), positions or {}
    heard = [level for level in levels if _counts(level, settings)]
    parts = [_parts(level, positions, settings) for level in heard]
    number: dict[_Unknown, int] = {}
    for unknown in (unknown for triple in parts for unknown in triple):
        number.setdefault(unknown, len(number))
    precision = np.diag([1 / unknown.deviation_db**2 for unknown in number])
    pull = np.zeros(len(number))
    for level, triple in zip(heard, parts, strict=True):
        at = [number[unknown] for unknown in triple]
        weight = 1 / (_ROUNDING_DB**2 + settings.fast_db**2 / level.seconds)
        precision[np.ix_(at, at)] += weight
        pull[at] += weight * (level.mean_dbm - _expected_dbm(level, positions, settings))
    covariance = np.linalg.inv(precision)
    best = covariance @ pull
    return {
        unknown.name[0]: Gain(
            float(best[index]), max(math.sqrt(float(covariance[index, index])), _LEAST_DEVIATION_DB)
        )
        for unknown, index in number.items()
        if unknown.kind == "gateway"
    }


def _counts(level: Level, settings: FilterSettings) -> bool:
    strong = level.mean_dbm >= settings.sensitivity_dbm + _ABOVE_LIMIT_DB
    return strong and level.seconds >= _LEAST_SECONDS


def _parts(
    level: Level, positions: Mapping[str, Position], settings: FilterSettings
) -> tuple[_Unknown, _Unknown, _Unknown]:
    """The unknowns that a level is made of."""
    known = level.beside == level.gateway or {level.beside, level.gateway} <= positions.keys()
    way = (level.beside, level.gateway) if level.beside < level.gateway else (level.gateway, level.beside)
    return (
        _Unknown("beacon", (level.beacon_key,), settings.offset_db),
        _Unknown("gateway", (level.gateway,), settings.gain_db),
        _Unknown("way", way, _WAY_DB if known else _UNKNOWN_WAY_DB),
    )


def _expected_dbm(level: Level, positions: Mapping[str, Position], settings: FilterSettings) -> float:
    """By the way alone; the beacon hangs a little off its gateway, whichever hears it."""
    way_m = BESIDE_M
    if level.beside != level.gateway:
        ends = positions.get(level.beside), positions.get(level.gateway)
        way_m = UNKNOWN_WAY_M if ends[0] is None or ends[1] is None else math.dist(ends[0], ends[1])
    return float(expected_dbm(np.array(way_m), settings))
