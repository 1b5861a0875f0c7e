"""Where a beacon probably is: a Bayes filter over places, directions of walking and radio gains. Pure.

Places are cells of a floor; the signal expected at each gateway falls with the distance. What the model
cannot know (the tag's power, each gateway's ear, the body between) is learned beside the place, as gains that
start near zero. Powers are dBm, gains dB, lengths metres, times whole seconds. The same input gives the same
belief, and a belief holds just what its bytes hold, so a restart changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

DIRECTIONS: Final = 8
WINDOW_CELLS: Final = 13  # a side; with eight directions and a byte each, a belief stays below 2 KB
HEARD = 1.0
EARS: Final = 8  # gateways whose gains a belief remembers; further ones hear it worse and tell little
MOST_STEPS: Final = 15  # seconds of walking at the most; beyond, a person may be anywhere in the window
FORGET_S: Final = 60  # unheard for so long, a beacon starts anew
_STEPS_AN_OCTAVE: Final = 16  # of a stored weight: errors of 2 %, and a range of 1 to 65,000
_CENTI: Final = 100  # gains are kept in hundredths of a dB


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What is assumed of radio and people; none of it is fitted to a shop.

    `power_dbm` at 1 m and `exponent`: Strzoda 2022 (doi 10.1145/3551662.3560933), about −65.5 in the median
    of tags; a wrong power is learned within seconds. `slow_db` is shadow, body and posture, which last longer
    than a second; `fast_db` the fading of one advert, which averages out. `offset_db`: how much tags differ.
    `gain_db`: how much gateways do, with the body and shelves beside them; `gain_drift_db` a second. `lost`:
    the share of seconds a gateway in range misses a beacon all the same. `walk_m_s`: the fastest shopper.
    `stands`, `turns`, `jumps`: the chance a second to stand, to turn by 45° either way, to turn anywhere.
    """

    power_dbm: float = -62.0
    exponent: float = 2.0
    slow_db: float = 6.0
    fast_db: float = 6.0
    phone_slow_db: float = 9.0
    offset_db: float = 6.0
    offset_drift_db: float = 0.3
    gain_db: float = 5.0
    gain_drift_db: float = 0.2
    above_m: float = 1.0
    sensitivity_dbm: float = -93.0
    spread_db: float = 7.0
    lost: float = 0.3
    walk_m_s: float = 1.5
    stands: float = 0.3
    turns: float = 0.1
    jumps: float = 0.02


@dataclass(frozen=True, slots=True)
class Gain:
    """What a gateway hears more (or less) than the model expects, and how sure that is; both in dB."""

    mean_db: float = 0.0
    deviation_db: float = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One second of a beacon: mean dBm of `adverts`. `phone`: a phone heard the anchor's fixed beacon."""

    gateway: str
    dbm: float
    adverts: int
    phone: bool = False

    @property
    def source(self) -> str:
        return f"~{self.gateway}" if self.phone else self.gateway


class Ear(msgspec.Struct, array_like=True):
    """A source's learned gain and its variance (hundredths of dB, of dB²), and when it was last used."""

    gain: int
    variance: int
    second: int


class Belief(msgspec.Struct, array_like=True):
    """All that is believed of one beacon. `weights` has a byte for each direction and cell of the window."""

    second: int
    corner: tuple[int, int]
    weights: bytes
    offset: int
    offset_variance: int
    ears: dict[str, Ear] = {}


class Floor(Protocol):
    """The places of a store. `levels` and `faint` have a row for each gateway, then the window's cells."""

    @property
    def gateways(self) -> Sequence[str]: ...
    @property
    def index(self) -> Mapping[str, int]: ...
    @property
    def directions(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def corner_around(self, gateway: int) -> tuple[int, int]: ...
    def view(self, corner: tuple[int, int]) -> "View": ...
    def walk(self, weights: Array) -> Array: ...
    def follow(self, corner: tuple[int, int], weights: Array) -> tuple[tuple[int, int], Array]: ...


@dataclass(frozen=True, slots=True)
class View:
    """What a window shows: expected dBm and log chance of silence (gateway × cell), nearest gateway."""

    levels: Array
    nearest: NDArray[np.int64]
    inside: NDArray[np.bool_]


def expected_dbm(distance_m: Array, settings: FilterSettings) -> Array:
    """The log-distance law, for a gateway `above_m` over the beacon."""
    slant = np.sqrt(distance_m**2 + settings.above_m**2)
    result: Array = settings.power_dbm - 10 * settings.exponent * np.log10(slant)
    return result


class Hearing:
    """What a receiver makes of a level: it hears the lucky adverts only, so near its limit all sound alike.

    Tables over the level at the antenna, in quarters of a dB: the mean of what is heard (of a normal
    distribution cut off at the sensitivity), how far that follows the level, and the logarithms of the
    chances to hear something and nothing in a second.
    """

    LOWEST: Final = -160.0
    STEPS: Final = 4
    ENTRIES: Final = 4 * 160

    def __init__(self, settings: FilterSettings) -> None:
        spread, levels = settings.spread_db, self.LOWEST + np.arange(self.ENTRIES) / self.STEPS
        short = (settings.sensitivity_dbm - levels) / spread
        above = np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in short])
        hazard = np.where(short < 6, np.exp(-0.5 * short**2) / math.sqrt(math.tau) / np.maximum(above, 1e-12), short + 1 / np.maximum(short,1))
        self._heard = levels + spread * hazard
        self._follows = np.clip(1 - hazard * (hazard - short), 0.02, 1)
        some = np.maximum((1 - settings.lost) * above, 0.0)
        self._some, self._none = np.log(some + 0.02), np.log(1 - some)

    def _at(self, levels: Array) -> NDArray[np.intp]:
        result: NDArray[np.intp] = np.clip((levels - self.LOWEST) * self.STEPS, 0, self.ENTRIES - 1).astype(np.intp)
        return result

    def hears(self, levels: Array) -> tuple[Array, Array, Array]:
        """Mean level heard, its slope over the level, and the log chance to hear anything."""
        at = self._at(levels)
        return self._heard[at], self._follows[at], self._some[at]

    def misses(self, levels: Array) -> Array:
        """The log chance to hear nothing."""
        result: Array = self._none[self._at(levels)]
        return result


class GridFloor:
    """Square cells around gateways whose places are known, in metres from any origin.

    Cells are a quarter of the distance between neighbouring gateways, and never smaller than a second's
    walk. A belief covers a window of at most 13 × 13 cells, which follows the beacon.
    """

    directions = DIRECTIONS

    def __init__(
        self, positions: Mapping[str, tuple[float, float]], settings: FilterSettings | None = None
    ) -> None:
        settings = settings or FilterSettings()
        self.gateways = tuple(sorted(positions))
        self.index = {gateway: number for number, gateway in enumerate(self.gateways)}
        places = np.array([positions[gateway] for gateway in self.gateways], dtype=np.float64)
        spacing = _spacing(places)
        margin = min(max(1.2 * spacing, 5.0), 10.0)
        self.cell_m = max(settings.walk_m_s, spacing / 4)
        self._origin = places.min(axis=0) - margin
        across = (places.max(axis=0) + margin - self._origin) / self.cell_m
        self._cells = (math.ceil(across[0]) + 1, math.ceil(across[1]) + 1)
        self.size = (min(self._cells[0], WINDOW_CELLS), min(self._cells[1], WINDOW_CELLS))
        self._places = (places - self._origin) / self.cell_m
        distances = self._distances()
        self._levels = expected_dbm(distances, settings)
        self._nearest = np.argmin(distances, axis=0)
        self._turn = _turning(settings)
        self._step = _stepping(settings, self.cell_m)
        self._views: dict[tuple[int, int], View] = {}

    def _distances(self) -> Array:
        x, y = np.meshgrid(np.arange(self._cells[0]), np.arange(self._cells[1]), indexing="ij")
        dx = self._places[:, 0, None, None] - x
        dy = self._places[:, 1, None, None] - y
        result: Array = np.hypot(dx, dy) * self.cell_m
        return result

    def corner_around(self, gateway: int) -> tuple[int, int]:
        """The window whose middle is at a gateway, as far as the floor reaches."""
        return self._within(self._places[gateway, 0], self._places[gateway, 1])

    def _within(self, x: float, y: float) -> tuple[int, int]:
        (width, height), (across, along) = self.size, self._cells
        left = min(max(round(x - (width - 1) / 2), 0), across - width)
        low = min(max(round(y - (height - 1) / 2), 0), along - height)
        return left, low

    def view(self, corner: tuple[int, int]) -> View:
        """What a window shows; cut once for each corner."""
        if corner not in self._views:
            self._views[corner] = self._cut(corner)
        return self._views[corner]

    def _cut(self, corner: tuple[int, int]) -> View:
        (left, low), (width, height) = corner, self.size
        rows, columns = slice(left, left + width), slice(low, low + height)
        gateways = len(self.gateways)
        x, y = self._places[:, 0] - left, self._places[:, 1] - low
        return View(
            np.ascontiguousarray(self._levels[:, rows, columns]).reshape(gateways, -1),
            self._nearest[rows, columns].reshape(-1),
            (x > -1) & (x < width) & (y > -1) & (y < height),
        )

    def walk(self, weights: Array) -> Array:
        """One second on: people turn, then stand or walk ahead. Whoever leaves the window is not followed."""
        width, height = self.size
        padded = np.zeros((DIRECTIONS, width + 2, height + 2))
        padded[:, 1:-1, 1:-1] = (self._turn @ weights).reshape(DIRECTIONS, width, height)
        around = sliding_window_view(padded, (3, 3), axis=(1, 2)).reshape(DIRECTIONS, -1, 9)  # type: ignore[call-overload]
        result: Array = np.matmul(around, self._step)[:, :, 0]
        return result

    def follow(self, corner: tuple[int, int], weights: Array) -> tuple[tuple[int, int], Array]:
        """Moves the window when the beacon has come three cells off its middle."""
        if self.size == self._cells:
            return corner, weights
        width, height = self.size
        cells = weights.sum(axis=0).reshape(width, height)
        cells /= cells.sum()
        x = float(cells.sum(axis=1) @ np.arange(width))
        y = float(cells.sum(axis=0) @ np.arange(height))
        if max(abs(x - (width - 1) / 2), abs(y - (height - 1) / 2)) < 3:
            return corner, weights
        moved = self._within(corner[0] + x, corner[1] + y)
        return moved, self._shift(weights, moved[0] - corner[0], moved[1] - corner[1])

    def _shift(self, weights: Array, right: int, up: int) -> Array:
        width, height = self.size
        old = weights.reshape(DIRECTIONS, width, height)
        new = np.zeros_like(old)
        kept = old[:, max(right, 0) : width + min(right, 0), max(up, 0) : height + min(up, 0)]
        new[:, max(-right, 0) : width - max(right, 0), max(-up, 0) : height - max(up, 0)] = kept
        return new.reshape(DIRECTIONS, -1)


class StarFloor:
    """Zones of a store whose gateways' places nobody gave: every gateway at the tip of a ray, all rays alike.

    Each ray has rings at growing distance from its gateway; people walk along rays and change them in the
    middle, where no gateway is near.
    """

    directions = 1
    RINGS_M: Final = (1.0, 3.0, 5.0, 7.0)
    APART_M: Final = 15.0  # between gateways; twice as far or half as far shifts levels by 6 dB, which is learned
    MOVES: Final = 0.4  # a second, to the next ring either way: 2 m rings, a stroll with stops

    def __init__(self, gateways: Sequence[str], settings: FilterSettings | None = None) -> None:
        settings = settings or FilterSettings()
        self.gateways = tuple(sorted(gateways))
        self.index = {gateway: number for number, gateway in enumerate(self.gateways)}
        rays, rings = len(self.gateways), len(self.RINGS_M)
        self.size = (rays, rings)
        own = np.array(self.RINGS_M)
        distances = np.broadcast_to(self.APART_M - own / 2, (rays, rays, rings)).copy()
        distances[np.arange(rays), np.arange(rays)] = own
        levels = expected_dbm(distances, settings).reshape(rays, -1)
        self._view = View(
            levels,
            np.repeat(np.arange(rays), rings),
            np.ones(rays, np.bool_),
        )

    def corner_around(self, gateway: int) -> tuple[int, int]:
        return 0, 0

    def view(self, corner: tuple[int, int]) -> View:
        return self._view

    def walk(self, weights: Array) -> Array:
        """One second on: to the next ring either way, and in the middle to any ray."""
        old = weights.reshape(self.size)
        new = (1 - 2 * self.MOVES) * old
        new[:, 1:] += self.MOVES * old[:, :-1]
        new[:, :-1] += self.MOVES * old[:, 1:]
        new[:, 0] += self.MOVES * old[:, 0]
        new[:, -1] += self.MOVES * old[:, -1].mean()
        return new.reshape(1, -1)

    def follow(self, corner: tuple[int, int], weights: Array) -> tuple[tuple[int, int], Array]:
        return corner, weights


@dataclass(frozen=True, slots=True)
class Filter:
    """Moves beliefs of one store on. `priors`: gains known from calibration, by gateway."""

    floor: Floor
    settings: FilterSettings = field(default_factory=FilterSettings)
    priors: Mapping[str, Gain] = field(default_factory=dict)
    hearing: Hearing = field(default_factory=lambda: Hearing(FilterSettings()))

    def start(self, second: int, strongest: str) -> Belief:
        """Nothing is known but which gateway hears it best."""
        corner = self.floor.corner_around(self.floor.index[strongest])
        width, height = self.floor.size
        everywhere = b"\xff" * (self.floor.directions * width * height)
        variance = round(_CENTI * self.settings.offset_db**2)
        return Belief(second, corner, everywhere, 0, variance)

    def advance(
        self, belief: Belief | None, second: int, readings: Sequence[Reading], silent: Sequence[str] = ()
    ) -> Belief:
        """The belief at a second in which these readings came, and these gateways told of others only.

        `readings` are of gateways of the floor, one for each source, and not empty.
        """
        strongest = max(readings, key=lambda reading: (reading.dbm, reading.gateway))
        if belief is None or second - belief.second > FORGET_S or self._is_elsewhere(belief, strongest.gateway):
            belief = self.start(second, strongest.gateway)
        weights = self._predict(belief, second)
        return self._update(belief, weights, second, readings, silent)

    def chances(self, belief: Belief) -> dict[str, float]:
        """How probable it is that each gateway is the nearest; those below one in a thousand are left out."""
        nearest = self.floor.view(belief.corner).nearest
        cells = _decoded(belief.weights, self.floor.directions).sum(axis=0)
        sums = np.bincount(nearest, cells, minlength=len(self.floor.gateways))
        shares = (sums / sums.sum()).tolist()
        return {self.floor.gateways[number]: share for number, share in enumerate(shares) if share >= 0.001}

    def _is_elsewhere(self, belief: Belief, strongest: str) -> bool:
        """Whether it was carried out of the window unheard."""
        return not self.floor.view(belief.corner).inside[self.floor.index[strongest]]

    def _predict(self, belief: Belief, second: int) -> Array:
        weights = _decoded(belief.weights, self.floor.directions)
        weights /= weights.sum()
        for _ in range(min(second - belief.second, MOST_STEPS)):
            weights = self.floor.walk(weights)
        total = float(weights.sum())
        weights *= 0.999 / total
        weights += 0.001 / weights.size  # whatever the model ruled out may be true all the same
        return weights

    def _update(
        self, belief: Belief, weights: Array, second: int, readings: Sequence[Reading], silent: Sequence[str]
    ) -> Belief:
        view, seconds = self.floor.view(belief.corner), second - belief.second
        rows = [self.floor.index[reading.gateway] for reading in readings]
        ears = [self._ear(belief, reading, second) for reading in readings]
        noise = np.array([self._noise(reading) for reading in readings])[:, None]
        gain_variance = np.array([ear.variance / _CENTI for ear in ears])[:, None]
        offset_variance = self._offset_variance(belief, seconds)
        offset = belief.offset / _CENTI
        gain = np.array([ear.gain / _CENTI for ear in ears])[:, None]
        expected, slope, heard = self.hearing.hears(view.levels[rows] + (gain + offset))
        error = np.array([reading.dbm for reading in readings])[:, None] - expected
        trust = 1 / (noise + slope * slope * gain_variance)
        pull = (slope * error * trust).sum(axis=0)
        precision = (slope * slope * trust).sum(axis=0) + 1 / offset_variance
        shift = pull / precision
        # The offset is common to all readings: integrated out of each cell's likelihood.
        likelihood = 0.5 * (shift * pull - (error * error * trust).sum(axis=0) - np.log(precision)+np.log(trust).sum(axis=0))
        likelihood += HEARD*heard.sum(axis=0)
        if silent:
            rows = [self.floor.index[gateway] for gateway in silent]
            known = [belief.ears[gateway].gain / _CENTI if gateway in belief.ears else 0.0 for gateway in silent]
            likelihood += HEARD*self.hearing.misses(view.levels[rows] + (np.array(known)[:, None] + offset)).sum(axis=0)
        weights *= np.exp(likelihood - likelihood.max())
        weights /= weights.sum()
        cells = weights.sum(axis=0)
        mean_shift = float(cells @ shift)
        shrunk = float(cells @ (1 / precision + shift * shift)) - mean_shift**2
        learns = gain_variance * slope / (slope * slope * gain_variance + noise)
        change = learns * (error - slope * shift)
        gains = change @ cells
        variances = ((1 - learns * slope) * gain_variance + change * change) @ cells - gains * gains
        for ear, more, variance in zip(ears, gains.tolist(), variances.tolist(), strict=True):
            ear.gain += round(_CENTI * more)
            ear.variance = max(round(_CENTI * variance), 1)
        corner, weights = self.floor.follow(belief.corner, weights)
        return Belief(
            second,
            corner,
            _encoded(weights),
            belief.offset + round(_CENTI * mean_shift),
            max(round(_CENTI * shrunk), 1),
            _newest(belief.ears, {r.source: ear for r, ear in zip(readings, ears, strict=True)}),
        )

    def _noise(self, reading: Reading) -> float:
        slow = self.settings.phone_slow_db if reading.phone else self.settings.slow_db
        return slow**2 + self.settings.fast_db**2 / max(reading.adverts, 1)

    def _offset_variance(self, belief: Belief, seconds: int) -> float:
        grown = belief.offset_variance / _CENTI + seconds * self.settings.offset_drift_db**2
        return min(grown, self.settings.offset_db**2)

    def _ear(self, belief: Belief, reading: Reading, second: int) -> Ear:
        """A source's gain as it is now: it may have drifted, but never gets less known than at the start."""
        prior = self.priors.get(reading.source, Gain(0.0, self.settings.gain_db))
        most = round(_CENTI * prior.deviation_db**2)
        known = belief.ears.get(reading.source)
        if known is None:
            return Ear(round(_CENTI * prior.mean_db), most, second)
        drifted = round(_CENTI * (second - known.second) * self.settings.gain_drift_db**2)
        return Ear(known.gain, min(known.variance + drifted, most), second)


def _newest(old: dict[str, Ear], new: dict[str, Ear]) -> dict[str, Ear]:
    ears = {**old, **new}
    if len(ears) <= EARS:
        return ears
    kept = sorted(ears, key=lambda source: (-ears[source].second, source))[:EARS]
    return {source: ears[source] for source in kept}


def _spacing(places: Array) -> float:
    """The median distance from a gateway to its nearest neighbour; 8 m, a small shop, if there is but one."""
    if len(places) < 2:
        return 8.0
    apart = np.hypot(
        places[:, 0, None] - places[None, :, 0], places[:, 1, None] - places[None, :, 1]
    )
    np.fill_diagonal(apart, np.inf)
    return float(median(apart.min(axis=1).tolist()))


def _turning(settings: FilterSettings) -> Array:
    """Chances of walking in a direction (row), a second after another (column)."""
    numbers = np.arange(DIRECTIONS)
    turn = np.full((DIRECTIONS, DIRECTIONS), settings.jumps / DIRECTIONS)
    turn[numbers, numbers] += 1 - 2 * settings.turns - settings.jumps
    turn[numbers, (numbers + 1) % DIRECTIONS] += settings.turns
    turn[numbers, (numbers - 1) % DIRECTIONS] += settings.turns
    return turn


def _stepping(settings: FilterSettings, cell_m: float) -> Array:
    """For each direction, from which of the nine cells around (and with what chance) one comes in a second.

    Speeds are spread evenly up to the fastest, directions over 45°; a place between cells counts for both.
    """
    kernel = np.zeros((DIRECTIONS, 3, 3))
    speeds, bends = np.linspace(0, settings.walk_m_s, 9), np.linspace(-0.5, 0.5, 5)
    share = (1 - settings.stands) / (len(speeds) * len(bends))
    for direction in range(DIRECTIONS):
        kernel[direction, 1, 1] += settings.stands
        for speed in speeds / cell_m:
            for bend in bends:
                angle = math.tau * (direction + bend) / DIRECTIONS
                for x, in_x in _shares(speed * math.cos(angle)):
                    for y, in_y in _shares(speed * math.sin(angle)):
                        kernel[direction, 1 - x, 1 - y] += share * in_x * in_y
    return kernel.reshape(DIRECTIONS, 9, 1)


def _shares(moved: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """A step of at most one cell as the two cells it ends between."""
    return (0, 1 - abs(moved)), (1 if moved > 0 else -1, abs(moved))


_WEIGHTS: Final = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) / _STEPS_AN_OCTAVE)])


def _encoded(weights: Array) -> bytes:
    """Each weight as a byte, its logarithm below the greatest."""
    with np.errstate(divide="ignore"):
        octaves = np.log2(weights / weights.max())
    codes: NDArray[np.float64] = np.maximum(np.rint(255 + _STEPS_AN_OCTAVE * octaves), 0)
    return codes.astype(np.uint8).tobytes()


def _decoded(weights: bytes, directions: int) -> Array:
    result: Array = _WEIGHTS[np.frombuffer(weights, np.uint8)].reshape(directions, -1)
    return result
