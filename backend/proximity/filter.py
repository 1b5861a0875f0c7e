"""Where a beacon probably is: a Bayes filter over places, directions of walking and radio gains. Pure.

Places are cells of a floor; the level expected at each gateway falls with the distance. What no model can
know (a tag's power, a gateway's ear, the body between them) is learned beside the place, as gains that start
near zero. Levels are dBm, gains and deviations dB, lengths metres, times whole unix seconds. The same input
gives the same belief, and a belief is just what its bytes hold, so a restart changes nothing.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Corner: TypeAlias = tuple[int, int]

DIRECTIONS: Final = 8
WINDOW_CELLS: Final = 13  # a side: with eight directions, a byte each, a belief stays below 2 KB
EARS: Final = 12  # gateways whose gains a belief remembers; further ones hear it worse and tell little
MOST_STEPS: Final = (
    15  # seconds walked on at once; after more of silence anybody may be anywhere in the window
)
FORGET_S: Final = 60  # unheard for so long, a beacon starts anew
_CENTI: Final = 100  # gains are kept in hundredths of a dB
_TO_THE_OCTAVE: Final = 16  # steps of a stored weight: errors of 2 %, over a range of 1 to 60,000


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What is assumed of radio and people. None of it is fitted to one shop; docs/zones.md has the sources.

    `power_dbm` at 1 m, `exponent`, `above_m` (gateway over tag): the mean level by distance.
    `slow_db`: shadows and posture, which outlast a second; `phone_slow_db` the same for a phone's ear, which
    models and pockets spread further. `fast_db`: the fading of one advert, which averages out.
    `offset_db`: how much tags differ; `gain_db`: how much gateways do, with the shelves beside them;
    `…_drift_db`: how far either wanders in a second.
    `sensitivity_dbm`, `spread_db`: the level below which adverts are lost, and how single ones spread around
    their mean. `lost`: the share of seconds in which a gateway well in range misses a beacon, to collisions.
    `reach_db`: the spread of what decides whether a gateway hears a beacon at all: adverts, shadows, bodies.
    `hearing_weight`: how much it tells each second whether it did; one shadow makes many silent seconds.
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
    reach_db: float = 12.0
    hearing_weight: float = 0.6
    walk_m_s: float = 1.5
    stands: float = 0.3
    turns: float = 0.1
    jumps: float = 0.02


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a gateway hears more than the model expects, and how sure that is; both in dB."""

    mean_db: float
    deviation_db: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A second of a beacon at a gateway: mean dBm of `adverts`.

    With `phone` it is the other way round: a phone heard the fixed beacon beside that gateway.
    """

    gateway: str
    dbm: float
    adverts: int
    phone: bool = False

    @property
    def source(self) -> str:
        """The name under which the gain is learned; a phone's ear is not the gateway's."""
        return f"~{self.gateway}" if self.phone else self.gateway


class Ear(msgspec.Struct, array_like=True, frozen=True):
    """A source's learned gain and variance (hundredths of dB, of dB²), and the second it was last heard."""

    gain: int
    variance: int
    second: int


class Belief(msgspec.Struct, array_like=True, frozen=True):
    """All that is believed of one beacon at a second.

    `weights` has a byte for each direction and cell of the window at `corner`; `floor` marks the floor these
    cells belong to. `offset` and its variance are the tag's power (hundredths of dB, of dB²).
    """

    second: int
    floor: int
    corner: Corner
    weights: bytes
    offset: int
    offset_variance: int
    ears: dict[str, Ear] = {}


@dataclass(frozen=True, slots=True)
class View:
    """A window's cells in a row: expected dBm at each gateway (gateway × cell), and the nearest gateway."""

    levels: Array
    nearest: NDArray[np.intp]
    inside: frozenset[str]


class Floor(Protocol):
    """The places of a store; weights are an array of direction × cell. `mark` tells floors apart."""

    gateways: tuple[str, ...]
    index: dict[str, int]
    directions: int
    cells: int
    mark: int

    def corner_around(self, gateway: str) -> Corner: ...
    def view(self, corner: Corner) -> View: ...
    def walk(self, weights: Array) -> Array: ...
    def follow(self, corner: Corner, weights: Array) -> tuple[Corner, Array]: ...


class GridFloor:
    """Square cells around gateways whose places are known, in metres from any origin.

    Cells are a quarter of the way between neighbouring gateways, and no smaller than a second's walk. A
    belief covers a window of at most 13 × 13 cells, which follows the beacon through a larger store.
    """

    directions = DIRECTIONS

    def __init__(
        self, places: Mapping[str, tuple[float, float]], settings: FilterSettings | None = None
    ) -> None:
        settings = settings or FilterSettings()
        self.gateways = tuple(sorted(places))
        self.index = {gateway: number for number, gateway in enumerate(self.gateways)}
        at = np.array([places[gateway] for gateway in self.gateways], np.float64)
        spacing = _spacing(at)
        margin = min(max(1.2 * spacing, 5.0), 10.0)  # people go behind the outermost gateways, too
        self.cell_m = max(settings.walk_m_s, spacing / 4)
        low = at.min(axis=0) - margin
        across, along = np.ceil((at.max(axis=0) + margin - low) / self.cell_m).astype(int) + 1
        self._at = (at - low) / self.cell_m
        self._whole = (int(across), int(along))
        self._window = (min(self._whole[0], WINDOW_CELLS), min(self._whole[1], WINDOW_CELLS))
        self.cells = self._window[0] * self._window[1]
        self.mark = _mark(self.gateways, at.tolist(), settings)
        x, y = np.meshgrid(np.arange(across), np.arange(along), indexing="ij")
        distances = np.hypot(self._at[:, :1, None] - x, self._at[:, 1:, None] - y) * self.cell_m
        self._levels = expected_dbm(distances, settings)
        self._nearest = np.argmin(distances, axis=0)
        self._turn, self._step = _turning(settings), _stepping(settings, self.cell_m)
        self._views: dict[Corner, View] = {}

    def corner_around(self, gateway: str) -> Corner:
        """The window whose middle is at a gateway, as far as the floor reaches."""
        x, y = self._at[self.index[gateway]]
        return self._corner(float(x), float(y))

    def view(self, corner: Corner) -> View:
        """What a window shows; cut once for each corner."""
        if corner not in self._views:
            self._views[corner] = self._cut(*corner)
        return self._views[corner]

    def walk(self, weights: Array) -> Array:
        """One second on: people turn, then stand or go ahead. Whoever leaves the window is not followed."""
        width, height = self._window
        around = np.zeros((DIRECTIONS, 9, width, height))
        turned = (self._turn @ weights).reshape(DIRECTIONS, width, height)
        for number, (to_x, from_x, to_y, from_y) in enumerate(_NEIGHBOURS):
            around[:, number, to_x, to_y] = turned[:, from_x, from_y]
        result: Array = np.matmul(self._step, around.reshape(DIRECTIONS, 9, -1))[:, 0]
        return result

    def follow(self, corner: Corner, weights: Array) -> tuple[Corner, Array]:
        """Moves the window when the beacon has come three cells off its middle."""
        if self._window == self._whole:
            return corner, weights
        width, height = self._window
        cells = weights.sum(axis=0).reshape(width, height)
        x = float(cells.sum(axis=1) @ np.arange(width)) / float(cells.sum())
        y = float(cells.sum(axis=0) @ np.arange(height)) / float(cells.sum())
        if max(abs(x - (width - 1) / 2), abs(y - (height - 1) / 2)) < 3:
            return corner, weights
        moved = self._corner(corner[0] + x, corner[1] + y)
        if moved == corner:
            return corner, weights
        return moved, self._shifted(weights, moved[0] - corner[0], moved[1] - corner[1])

    def _corner(self, x: float, y: float) -> Corner:
        (width, height), (across, along) = self._window, self._whole
        left = min(max(round(x - (width - 1) / 2), 0), across - width)
        low = min(max(round(y - (height - 1) / 2), 0), along - height)
        return left, low

    def _cut(self, left: int, low: int) -> View:
        width, height = self._window
        window = np.s_[..., left : left + width, low : low + height]
        x, y = self._at[:, 0] - left, self._at[:, 1] - low
        inside = (x > -1) & (x < width) & (y > -1) & (y < height)
        return View(
            self._levels[window].reshape(len(self.gateways), -1),
            self._nearest[window].reshape(-1),
            frozenset(gateway for gateway, shown in zip(self.gateways, inside, strict=True) if shown),
        )

    def _shifted(self, weights: Array, right: int, up: int) -> Array:
        width, height = self._window
        old = weights.reshape(DIRECTIONS, width, height)
        new = np.zeros_like(old)
        kept = old[:, max(right, 0) : width + min(right, 0), max(up, 0) : height + min(up, 0)]
        new[:, max(-right, 0) : width - max(right, 0), max(-up, 0) : height - max(up, 0)] = kept
        return new.reshape(DIRECTIONS, -1)


class StarFloor:
    """A store whose gateways' places nobody gave: each stands at the tip of a ray, and all rays are alike.

    People walk along rays, through rings at growing distance from the gateway, and change rays in the middle.
    """

    directions = 1
    RINGS_M: Final = (1.0, 3.0, 5.0, 7.0)
    APART_M: Final = 15.0  # between gateways; half or twice as far shifts levels by 7 dB, which is learned
    MOVES: Final = 0.4  # the chance in a second for the next ring either way: 2 m at walking pace

    def __init__(self, gateways: Sequence[str], settings: FilterSettings | None = None) -> None:
        settings = settings or FilterSettings()
        self.gateways = tuple(sorted(gateways))
        self.index = {gateway: number for number, gateway in enumerate(self.gateways)}
        rays, rings = len(self.gateways), np.array(self.RINGS_M)
        self._shape = (rays, len(rings))
        self.cells = rays * len(rings)
        self.mark = _mark(self.gateways, None, settings)
        apart = self.APART_M
        others = np.sqrt(rings**2 + apart**2 - 2 * rings * apart * math.cos(math.pi / 6))  # as in a triangle
        distances = np.tile(others, (rays, rays, 1))
        distances[np.arange(rays), np.arange(rays)] = rings
        levels = expected_dbm(distances, settings).reshape(rays, -1)
        self._view = View(levels, np.repeat(np.arange(rays), len(rings)), frozenset(self.gateways))

    def corner_around(self, gateway: str) -> Corner:
        return 0, 0

    def view(self, corner: Corner) -> View:
        return self._view

    def walk(self, weights: Array) -> Array:
        """One second on: to the next ring either way, and from the middle into any ray."""
        old = weights.reshape(self._shape)
        new = (1 - 2 * self.MOVES) * old
        new[:, 1:] += self.MOVES * old[:, :-1]
        new[:, :-1] += self.MOVES * old[:, 1:]
        new[:, 0] += self.MOVES * old[:, 0]
        new[:, -1] += self.MOVES * old[:, -1].mean()
        return new.reshape(1, -1)

    def follow(self, corner: Corner, weights: Array) -> tuple[Corner, Array]:
        return corner, weights


class Hearing:
    """What a receiver makes of a level: it hears the lucky adverts only, so near its limit all sound alike.

    Tables over the level at the antenna: the mean of what is heard (a normal distribution cut off at the
    sensitivity), how far that follows the level, and the weighed log chances to hear something or nothing.
    """

    LOWEST_DBM: Final = -160.0
    TO_THE_DB: Final = 4
    ENTRIES: Final = 160 * TO_THE_DB

    def __init__(self, settings: FilterSettings) -> None:
        spread = settings.spread_db
        levels = self.LOWEST_DBM + np.arange(self.ENTRIES) / self.TO_THE_DB
        short = np.minimum((settings.sensitivity_dbm - levels) / spread, 8.0)  # further down nothing is left
        hazard = np.exp(-0.5 * short**2) / math.sqrt(math.tau) / _share_above(short)
        self._heard = np.where(short < 8.0, levels + spread * hazard, settings.sensitivity_dbm)
        self._follows = np.clip(1 - hazard * (hazard - short), 0.02, 1.0)
        reached = _share_above((settings.sensitivity_dbm - levels) / settings.reach_db)
        some = (1 - settings.lost) * reached
        # One advert in fifty is heard whatever the model says: it may be wrong about the place of a shelf.
        self._some = settings.hearing_weight * np.log(some + 0.02)
        self._none = settings.hearing_weight * np.log(1 - some)

    def of(self, levels: Array) -> tuple[Array, Array, Array]:
        """The mean level heard, its slope over the level, and the log chance to hear anything."""
        at = self._entry(levels)
        return self._heard[at], self._follows[at], self._some[at]

    def nothing(self, levels: Array) -> Array:
        """The log chance to hear nothing."""
        result: Array = self._none[self._entry(levels)]
        return result

    def _entry(self, levels: Array) -> NDArray[np.intp]:
        steps = (levels - self.LOWEST_DBM) * self.TO_THE_DB
        return np.minimum(np.maximum(steps, 0), self.ENTRIES - 1).astype(np.intp)


class Filter:
    """Moves the beliefs of one store on. `priors`: gains known from calibration, by gateway."""

    def __init__(
        self,
        floor: Floor,
        settings: FilterSettings | None = None,
        priors: Mapping[str, Gain] | None = None,
    ) -> None:
        self.floor = floor
        self._settings = settings or FilterSettings()
        self._priors = dict(priors or {})
        self._hearing = Hearing(self._settings)

    def advance(
        self, belief: Belief | None, second: int, readings: Sequence[Reading], silent: Sequence[str] = ()
    ) -> Belief:
        """The belief after a second in which these readings came and these gateways heard nothing of it.

        `readings` are of gateways of this floor, one a source, at least one.
        """
        if belief is None or self._is_lost(belief, second, readings):
            strongest = max(readings, key=lambda reading: (reading.dbm, reading.gateway))
            belief = self._start(second, strongest.gateway)
        return self._weigh(belief, self._walked(belief, second), second, readings, silent)

    def chances(self, belief: Belief) -> dict[str, float]:
        """How probable it is that each gateway is the nearest; below one in a thousand it is left out."""
        nearest = self.floor.view(belief.corner).nearest
        cells = _decoded(belief.weights, self.floor.directions).sum(axis=0)
        sums = np.bincount(nearest, cells, minlength=len(self.floor.gateways))
        shares = (sums / sums.sum()).tolist()
        return {self.floor.gateways[number]: share for number, share in enumerate(shares) if share >= 0.001}

    def _is_lost(self, belief: Belief, second: int, readings: Sequence[Reading]) -> bool:
        """Whether the belief is of another floor or of long ago, or the beacon was carried far unheard."""
        silent_s = second - belief.second
        if belief.floor != self.floor.mark or silent_s > FORGET_S:
            return True
        inside = self.floor.view(belief.corner).inside
        surely = len(readings) > 1 or silent_s > 5  # one freak reading from afar moves nobody
        return surely and not any(reading.gateway in inside for reading in readings)

    def _start(self, second: int, strongest: str) -> Belief:
        """Nothing is known but which gateway hears it best."""
        everywhere = b"\xff" * (self.floor.directions * self.floor.cells)
        variance = round(_CENTI * self._settings.offset_db**2)
        return Belief(second, self.floor.mark, self.floor.corner_around(strongest), everywhere, 0, variance)

    def _walked(self, belief: Belief, second: int) -> Array:
        weights = _decoded(belief.weights, self.floor.directions)
        for _ in range(min(second - belief.second, MOST_STEPS)):
            weights = self.floor.walk(weights)
        # Whatever the model rules out may be true all the same: nothing is ever lost for good.
        return weights * (0.999 / float(weights.sum())) + 0.001 / weights.size

    def _weigh(
        self, belief: Belief, weights: Array, second: int, readings: Sequence[Reading], silent: Sequence[str]
    ) -> Belief:
        levels = self.floor.view(belief.corner).levels
        offset, offset_variance = belief.offset / _CENTI, self._offset_variance(belief, second)
        ears = [self._ear(belief, reading.source, second) for reading in readings]
        seen = _Seen(
            self._hearing.of(
                levels[[self.floor.index[reading.gateway] for reading in readings]]
                + (_column([ear.gain / _CENTI for ear in ears]) + offset)
            ),
            _column([reading.dbm for reading in readings]),
            _column([self._noise(reading) for reading in readings]),
            _column([ear.variance / _CENTI for ear in ears]),
            offset_variance,
        )
        likelihood = seen.likelihood
        if silent:
            likelihood += self._silence(belief, levels, offset, silent)
        weights *= np.exp(likelihood - likelihood.max())
        weights /= weights.sum()
        corner, moved = self.floor.follow(belief.corner, weights)
        cells = weights.sum(axis=0)
        shift, variance = seen.learned_offset(cells)
        gains, variances = seen.learned_gains(cells)
        learned = {
            reading.source: Ear(ear.gain + round(_CENTI * gain), max(round(_CENTI * unsure), 1), second)
            for reading, ear, gain, unsure in zip(readings, ears, gains, variances, strict=True)
        }
        return Belief(
            second,
            belief.floor,
            corner,
            _encoded(moved),
            belief.offset + round(_CENTI * shift),
            max(round(_CENTI * variance), 1),
            _newest({**belief.ears, **learned}),
        )

    def _silence(self, belief: Belief, levels: Array, offset: float, silent: Sequence[str]) -> Array:
        gains = [belief.ears[name].gain / _CENTI if name in belief.ears else 0.0 for name in silent]
        rows = levels[[self.floor.index[name] for name in silent]]
        result: Array = self._hearing.nothing(rows + (_column(gains) + offset)).sum(axis=0)
        return result

    def _noise(self, reading: Reading) -> float:
        slow = self._settings.phone_slow_db if reading.phone else self._settings.slow_db
        return float(slow**2 + self._settings.fast_db**2 / max(reading.adverts, 1))

    def _offset_variance(self, belief: Belief, second: int) -> float:
        drifted = (second - belief.second) * self._settings.offset_drift_db**2
        return float(min(belief.offset_variance / _CENTI + drifted, self._settings.offset_db**2))

    def _ear(self, belief: Belief, source: str, second: int) -> Ear:
        """A source's gain as it is now: it may have drifted, but is never less known than at the start."""
        prior = self._priors.get(source, Gain(0.0, self._settings.gain_db))
        most = round(_CENTI * prior.deviation_db**2)
        known = belief.ears.get(source)
        if known is None:
            return Ear(round(_CENTI * prior.mean_db), most, second)
        drifted = round(_CENTI * (second - known.second) * self._settings.gain_drift_db**2)
        return Ear(known.gain, min(known.variance + drifted, most), second)


class _Seen:
    """One second's readings against what each cell would let expect; arrays of reading × cell.

    Within a cell all is linear and Gaussian: the offset is common to the readings, the gains are their own.
    What is learned is the mean over the cells, whose disagreement stays in the variance.
    """

    def __init__(
        self,
        hearing: tuple[Array, Array, Array],
        dbm: Array,
        noise: Array,
        gain_variance: Array,
        offset_variance: float,
    ) -> None:
        expected, self._slope, heard = hearing
        self._error = dbm - expected
        self._gain_variance = gain_variance
        square = self._slope * self._slope
        self._trust = 1 / (noise + square * gain_variance)
        pull = (self._slope * self._error * self._trust).sum(axis=0)
        self._precision = (square * self._trust).sum(axis=0) + 1 / offset_variance
        self._shift = pull / self._precision
        self._learns = gain_variance * self._slope * self._trust
        surprise = (self._error * self._error * self._trust - np.log(self._trust)).sum(axis=0)
        self.likelihood: Array = 0.5 * (self._shift * pull - surprise - np.log(self._precision)) + heard.sum(
            axis=0
        )

    def learned_offset(self, cells: Array) -> tuple[float, float]:
        """By how much the tag's power moves, and its new variance."""
        mean = float(cells @ self._shift)
        return mean, float(cells @ (1 / self._precision + self._shift * self._shift)) - mean * mean

    def learned_gains(self, cells: Array) -> tuple[list[float], list[float]]:
        """By how much each reading's gain moves, and its new variance."""
        change = self._learns * (self._error - self._slope * self._shift)
        left = (1 - self._learns * self._slope) * self._gain_variance
        mean = change @ cells
        return mean.tolist(), ((left + change * change) @ cells - mean * mean).tolist()


def expected_dbm(distances_m: Array, settings: FilterSettings) -> Array:
    """The log-distance law."""
    slant = np.hypot(distances_m, settings.above_m)
    result: Array = settings.power_dbm - 10 * settings.exponent * np.log10(slant)
    return result


def _share_above(deviations: Array) -> Array:
    """How much of a normal distribution lies above so many standard deviations."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in deviations.tolist()])


def _column(values: list[float]) -> Array:
    return np.array(values, np.float64)[:, None]


def _newest(ears: dict[str, Ear]) -> dict[str, Ear]:
    if len(ears) <= EARS:
        return ears
    kept = sorted(ears, key=lambda source: (-ears[source].second, source))[:EARS]
    return {source: ears[source] for source in kept}


def _mark(*what: object) -> int:
    return zlib.crc32(repr(what).encode())


def _spacing(at: Array) -> float:
    """The median way from a gateway to its nearest neighbour; 8 m, a small shop, if there is only one."""
    if len(at) < 2:
        return 8.0
    apart = np.hypot(at[:, :1] - at[:, 0], at[:, 1:] - at[:, 1])
    np.fill_diagonal(apart, np.inf)
    return float(median(apart.min(axis=1).tolist()))


def _turning(settings: FilterSettings) -> Array:
    """The chance of going in a direction (row) a second after another (column)."""
    numbers = np.arange(DIRECTIONS)
    turn = np.full((DIRECTIONS, DIRECTIONS), settings.jumps / DIRECTIONS)
    turn[numbers, numbers] += 1 - 2 * settings.turns - settings.jumps
    turn[numbers, (numbers + 1) % DIRECTIONS] += settings.turns
    turn[numbers, (numbers - 1) % DIRECTIONS] += settings.turns
    return turn


def _stepping(settings: FilterSettings, cell_m: float) -> Array:
    """For each direction the chances to come, in a second, from each of the nine cells around.

    Speeds are spread evenly up to the fastest, directions over 45°; a place between cells counts for both.
    """
    kernel = np.zeros((DIRECTIONS, 3, 3))
    speeds, bends = np.linspace(0, settings.walk_m_s / cell_m, 9), np.linspace(-0.5, 0.5, 5)
    share = (1 - settings.stands) / (len(speeds) * len(bends))
    for direction in range(DIRECTIONS):
        kernel[direction, 1, 1] += settings.stands
        for speed in speeds.tolist():
            for bend in bends.tolist():
                angle = math.tau * (direction + bend) / DIRECTIONS
                for x, in_x in _shares(speed * math.cos(angle)):
                    for y, in_y in _shares(speed * math.sin(angle)):
                        kernel[direction, 1 - x, 1 - y] += share * in_x * in_y
    return kernel.reshape(DIRECTIONS, 1, 9)


def _shares(moved: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """A step of at most one cell, as the two cells between which it ends."""
    return (0, 1 - abs(moved)), (1 if moved > 0 else -1, abs(moved))


_OFFSETS: Final = (
    (slice(1, None), slice(None, -1)),
    (slice(None), slice(None)),
    (slice(None, -1), slice(1, None)),
)
_NEIGHBOURS: Final = tuple((*x, *y) for x in _OFFSETS for y in _OFFSETS)
"""Where to and where from, in x and in y, what lies −1, 0 or 1 cells away is taken; in the kernel's order."""

_WEIGHTS: Final = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) / _TO_THE_OCTAVE)])


def _encoded(weights: Array) -> bytes:
    """Each weight as a byte: its logarithm, counted down from the greatest."""
    octaves = np.log2(np.maximum(weights, 1e-300)) - math.log2(float(weights.max()))
    return np.maximum(np.rint(255 + _TO_THE_OCTAVE * octaves), 0).astype(np.uint8).tobytes()


def _decoded(weights: bytes, directions: int) -> Array:
    result: Array = _WEIGHTS[np.frombuffer(weights, np.uint8)].reshape(directions, -1)
    return result
