"""What is assumed of radio and people, the levels that follow, and what a receiver makes of them. Pure.

Levels are dBm, gains and deviations dB, lengths metres.
"""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Wide: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What is assumed of radio and people. None of it is fitted to one shop; docs/zones.md has the sources.

    `power_dbm` at 1 m, `exponent`, `above_m` (gateway over tag): the mean level by distance.
    `slow_db`: shadows and posture, which outlast a second; `phone_slow_db` the same for a phone's ear, which
    models and pockets spread further. `fast_db`: the fading of one advert, which averages out.
    `offset_db`: how much tags differ; `gain_db`: how much gateways do, with the shelves beside them;
    `…_drift_db`: how far either wanders in a second.
    `sensitivity_dbm`, `spread_db`: the level below which adverts are lost, and how single ones spread around
    their mean. `lost`: the share of seconds in which a gateway well in range misses a beacon, to collisions;
    `lost_once`: of those in which the beacon sent a single advert.
    `reach_db`: the spread of what decides whether a gateway hears a beacon at all: adverts, shadows, bodies.
    `hearing_weight`: how much it tells each second whether it did; one shadow makes many silent seconds, but
    not as many of a beacon that is heard more seldom.
    `walk_m_s`: the fastest shopper. `stands`, `turns`, `jumps`: the chance in a second to stand still, to
    turn by 45° (either way), to turn anywhere.
    """

    power_dbm: float = -62.0
    exponent: float = 2.4
    above_m: float = 1.0
    slow_db: float = 5.0
    phone_slow_db: float = 9.0
    fast_db: float = 5.0
    offset_db: float = 6.0
    offset_drift_db: float = 0.3
    gain_db: float = 3.0
    gain_drift_db: float = 0.2
    sensitivity_dbm: float = -93.0
    spread_db: float = 7.0
    lost: float = 0.2
    lost_once: float = 0.4
    reach_db: float = 12.0
    hearing_weight: float = 0.6
    walk_m_s: float = 1.5
    stands: float = 0.3
    turns: float = 0.1
    jumps: float = 0.02


class Hearing:
    """What a receiver makes of a level: it hears the lucky adverts only, so near its limit all sound alike.

    Tables over the level at the antenna: the mean of what is heard (a normal distribution cut off at the
    sensitivity), how far that follows the level, and the log chances to hear something or nothing.
    """

    LOWEST_DBM: Final = -160.0
    TO_THE_DB: Final = 4
    ENTRIES: Final = 160 * TO_THE_DB
    UNTOLD: Final = 0
    SILENT: Final = 1
    HEARD: Final = 2
    SILENT_ONCE: Final = 3  # nothing of what was a single advert

    def __init__(self, settings: FilterSettings) -> None:
        spread = settings.spread_db
        levels = self.LOWEST_DBM + np.arange(self.ENTRIES) / self.TO_THE_DB
        short = np.minimum((settings.sensitivity_dbm - levels) / spread, 8.0)  # further down nothing is left
        hazard = np.exp(-0.5 * short**2) / math.sqrt(math.tau) / _share_above(short)
        heard = np.where(short < 8.0, levels + spread * hazard, settings.sensitivity_dbm)
        reached = _share_above((settings.sensitivity_dbm - levels) / settings.reach_db)
        some = (1 - settings.lost) * reached
        # One advert in fifty is heard whatever the model says: it may be wrong about the place of a shelf.
        chances = (np.zeros(self.ENTRIES), np.log(1 - some), np.log(some + 0.02))
        none_once = np.log(1 - (1 - settings.lost_once) * reached)
        self._heard = heard.astype(np.float32)
        self._follows = np.clip(1 - hazard * (hazard - short), 0.02, 1.0).astype(np.float32)
        self._chances = np.concatenate([*chances, none_once]).astype(np.float32)
        self._weight = settings.hearing_weight

    def of(self, levels: Array, told: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """The mean level heard, its slope over the level, and the log chance of what was told (UNTOLD …)."""
        at = self._entry(levels)
        chances = self._chances.take(at + told * self.ENTRIES, mode="clip")
        return self._heard.take(at, mode="clip"), self._follows.take(at, mode="clip"), chances

    def weight(self, seconds: int) -> float:
        """How much the chances count, so many seconds after those before.

        A sample of what fades by the same factor every second (an AR(1) process) is worth (1 − ρᵍ) / (1 + ρᵍ)
        independent ones, g seconds after the last; the weight for one second says what ρ is.
        """
        shared = ((1 - self._weight) / (1 + self._weight)) ** max(seconds, 1)
        return (1 - shared) / (1 + shared)

    def _entry(self, levels: Array) -> NDArray[np.intp]:
        steps = (levels - np.float32(self.LOWEST_DBM)) * np.float32(self.TO_THE_DB)
        return np.clip(steps, 0, self.ENTRIES - 1, out=steps).astype(np.intp)


def expected_dbm(distances_m: Wide, settings: FilterSettings) -> Wide:
    """The log-distance law."""
    slant = np.hypot(distances_m, settings.above_m)
    result: Wide = settings.power_dbm - 10 * settings.exponent * np.log10(slant)
    return result


def _share_above(deviations: Wide) -> Wide:
    """How much of a normal distribution lies above so many standard deviations."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in deviations.tolist()])
