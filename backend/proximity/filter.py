"""Where beacons probably are: a Bayes filter over places, directions of walking and radio gains. Pure.

Places are cells of a floor; the level expected at each gateway falls with the distance. What no model can
know (a tag's power, a gateway's ear, the body between them) is learned beside the place, as gains that start
near zero. Levels are dBm, gains and deviations dB, times whole unix seconds. The same input gives the same
belief, alone or among a thousand others, and a belief is just what its bytes hold, so a restart changes
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.proximity.floors import Corner, Floor
from backend.proximity.radio import Array, FilterSettings, Hearing

AT_ONCE: Final = 64  # beacons in one array: more would not fit the processor's cache
AT_LEAST: Final = 2  # numpy adds up a single column in another order than several, with another rounding
EARS: Final = 12  # gateways whose gains a belief remembers; further ones hear it worse and tell little
MOST_STEPS: Final = 15  # seconds walked on; after more of silence anybody may be anywhere in the window
FORGET_S: Final = 60  # unheard for so long, a beacon starts anew
_CENTI: Final = 100  # gains are kept in hundredths of a dB
_TO_THE_OCTAVE: Final = 16  # steps of a stored weight: errors of 2 %, over a range of 1 to 60,000
PHONE: Final = "~"  # before a gateway's name: the ear of a phone that heard the beacon beside it


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a gateway hears more than the model expects, and how sure that is; both in dB."""

    mean_db: float
    deviation_db: float


class Reading(NamedTuple):
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
        return PHONE + self.gateway if self.phone else self.gateway


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


class Second(NamedTuple):
    """What came of one beacon in a second: readings, one a source and at least one; and who heard nothing."""

    belief: Belief | None
    second: int
    readings: Sequence[Reading]
    silent: Sequence[str] = ()


class Advanced(NamedTuple):
    """A belief moved on, and how probable it is that each gateway is the nearest.

    Chances below one in a thousand are left out.
    """

    belief: Belief
    chances: dict[str, float]


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
        """One belief after one second; see `advance_all`."""
        return self.advance_all([Second(belief, second, readings, silent)])[0].belief

    def advance_all(self, seconds: Sequence[Second]) -> list[Advanced]:
        """The beliefs after a second each, in the order given. Readings are of gateways of this floor."""
        groups: dict[tuple[Corner, int], list[tuple[int, Belief, Second]]] = {}
        for number, second in enumerate(seconds):
            belief = self._known(second)
            steps = min(second.second - belief.second, MOST_STEPS)
            groups.setdefault((belief.corner, steps), []).append((number, belief, second))
        advanced: dict[int, Advanced] = {}
        for (corner, steps), members in groups.items():
            for start in range(0, len(members), AT_ONCE):
                some = members[start : start + AT_ONCE]
                together = _Together(self, corner, [(belief, second) for _, belief, second in some])
                advanced.update(zip((number for number, _, _ in some), together.moved_on(steps), strict=True))
        return [advanced[number] for number in range(len(seconds))]

    def chances(self, belief: Belief) -> dict[str, float]:
        """How probable it is that each gateway is the nearest."""
        view = self.floor.view(belief.corner)
        weights = decoded([belief.weights] * AT_LEAST, self.floor.directions)
        return _named(view.nearest, view.by_nearest(weights.sum(axis=0))[:, 0].tolist())

    def _known(self, second: Second) -> Belief:
        """What was believed until now, or what may be believed of one heard for the first time."""
        belief, readings = second.belief, second.readings
        if belief is not None and not self._is_lost(belief, second.second, readings):
            return belief
        strongest = max(readings, key=lambda reading: (reading.dbm, reading.gateway))
        return self._start(second.second, strongest.gateway)

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

    def noise(self, reading: Reading) -> float:
        """The variance of a second's mean level around what the model expects, dB²."""
        slow = self._settings.phone_slow_db if reading.phone else self._settings.slow_db
        return slow**2 + self._settings.fast_db**2 / max(reading.adverts, 1)

    def offset_variance(self, belief: Belief, second: int) -> float:
        """How unsure a tag's power is by now, dB²."""
        drifted = (second - belief.second) * self._settings.offset_drift_db**2
        return min(belief.offset_variance / _CENTI + drifted, self._settings.offset_db**2)

    def ear(self, belief: Belief, source: str, second: int) -> Ear:
        """A source's gain as it is now: it may have drifted, but is never less known than at the start."""
        prior = self._priors.get(source)
        mean, deviation = (prior.mean_db, prior.deviation_db) if prior else (0.0, self._settings.gain_db)
        most = round(_CENTI * deviation**2)
        known = belief.ears.get(source)
        if known is None:
            return Ear(round(_CENTI * mean), most, second)
        drifted = round(_CENTI * (second - known.second) * self._settings.gain_drift_db**2)
        return Ear(known.gain, min(known.variance + drifted, most), second)

    @property
    def hearing(self) -> Hearing:
        return self._hearing


class _Together:
    """Beacons whose beliefs lie in the same window, moved on at once; arrays of source × cell × beacon.

    Within a cell all is linear and Gaussian: a tag's offset is common to its readings, the gains are their
    own. What is learned is the mean over the cells, whose disagreement stays in the variance. A source that
    told nothing of a beacon has slope and error 0 there and noise 1, which is no evidence.
    """

    def __init__(self, model: Filter, corner: Corner, members: list[tuple[Belief, Second]]) -> None:
        self._model = model
        self._corner = corner
        self._members = members
        self._view = model.floor.view(corner)
        self._ears: list[list[Ear]] = []
        lanes = max(len(members), AT_LEAST)
        sources = {reading.source for _, second in members for reading in second.readings}
        sources.update(*(second.silent for _, second in members))
        self._row = {source: row for row, source in enumerate(sorted(sources))}
        shape = (len(self._row), 1, lanes)
        self._told = np.full(shape, Hearing.UNTOLD, np.intp)
        self._dbm, self._gain = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._noise, self._unsure = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        self._offset, self._offset_variance = np.zeros(lanes, np.float32), np.ones(lanes, np.float32)
        self._enter_offsets()
        self._enter_silence(lanes)
        self._enter_readings(lanes)

    def _enter_offsets(self) -> None:
        members, model = self._members, self._model
        self._offset[: len(members)] = [belief.offset / _CENTI for belief, _ in members]
        self._offset_variance[: len(members)] = [
            model.offset_variance(belief, second.second) for belief, second in members
        ]

    def _enter_silence(self, lanes: int) -> None:
        at: list[int] = []
        gains: list[float] = []
        for lane, (belief, second) in enumerate(self._members):
            for name in second.silent:
                known = belief.ears.get(name)
                at.append(self._row[name] * lanes + lane)
                gains.append(known.gain / _CENTI if known else 0.0)
        self._told.reshape(-1)[at] = Hearing.SILENT
        self._gain.reshape(-1)[at] = gains

    def _enter_readings(self, lanes: int) -> None:
        """Cell by cell an array is slow to fill, so columns of numbers are made first."""
        at: list[int] = []
        table: list[tuple[float, float, float, float]] = []
        for lane, (belief, second) in enumerate(self._members):
            ears = []
            for reading in second.readings:
                source = reading.source
                ear = self._model.ear(belief, source, second.second)
                ears.append(ear)
                at.append(self._row[source] * lanes + lane)
                table.append(
                    (reading.dbm, self._model.noise(reading), ear.gain / _CENTI, ear.variance / _CENTI)
                )
            self._ears.append(ears)
        columns = np.array(table, np.float32)
        self._told.reshape(-1)[at] = Hearing.HEARD
        for column, array in enumerate((self._dbm, self._noise, self._gain, self._unsure)):
            array.reshape(-1)[at] = columns[:, column]

    def moved_on(self, steps: int) -> list[Advanced]:
        """Everybody walks, what was heard is weighed, and what it teaches is kept."""
        weights = self._walked(steps)
        expected, slope, chance = self._expected()
        heard = self._told == Hearing.HEARD
        error, slope = (
            np.where(heard, self._dbm - expected, np.float32(0)),
            np.where(heard, slope, np.float32(0)),
        )
        followed = slope * self._unsure
        spread = slope * followed
        spread += self._noise
        trusted = slope / spread
        pull = (trusted * error).sum(axis=0)
        precision = (trusted * slope).sum(axis=0) + 1 / self._offset_variance
        shift = pull / precision
        surprise = (error * error / spread + np.log(spread)).sum(axis=0)
        likelihood = 0.5 * (shift * pull - surprise - np.log(precision)) + chance.sum(axis=0)
        weights *= np.exp(likelihood - likelihood.max(axis=0))
        weights /= weights.sum(axis=0).sum(axis=0)
        cells = weights.sum(axis=0)
        mean = (cells * shift).sum(axis=0)
        variance = (cells * (1 / precision + shift * shift)).sum(axis=0) - mean * mean
        learns = followed / spread
        change = learns * (error - slope * shift)
        gain = (change * cells).sum(axis=1)
        left = (1 - learns * slope) * self._unsure + change * change
        unsure = (left * cells).sum(axis=1) - gain * gain
        nearest = self._view.by_nearest(cells)
        corners = self._model.floor.follow(self._corner, weights)
        return self._kept(weights, corners, nearest, (mean, variance), (gain, unsure))

    def _walked(self, steps: int) -> Array:
        floor = self._model.floor
        stored = [belief.weights for belief, _ in self._members]
        stored += stored[-1:] * (AT_LEAST - len(stored))
        weights = decoded(stored, floor.directions)
        for _ in range(steps):
            weights = floor.walk(weights)
        # Whatever the model rules out may be true all the same: nothing is ever lost for good.
        weights *= np.float32(0.999) / weights.sum(axis=0).sum(axis=0)
        weights += np.float32(0.001 / (weights.shape[0] * weights.shape[1]))
        return weights

    def _expected(self) -> tuple[Array, Array, Array]:
        index = self._model.floor.index
        rows = [index[source.removeprefix(PHONE)] for source in self._row]
        levels = self._view.levels[rows][:, :, None] + (self._gain + self._offset)
        return self._model.hearing.of(levels, self._told)

    def _kept(
        self,
        weights: Array,
        corners: list[Corner],
        nearest: Array,
        offsets: tuple[Array, Array],
        gains: tuple[Array, Array],
    ) -> list[Advanced]:
        shifts, variances = (array.tolist() for array in offsets)
        changes, unsures = (array.T.tolist() for array in gains)
        chances, packed = nearest.T.tolist(), encoded(weights)
        return [
            Advanced(
                Belief(
                    second.second,
                    belief.floor,
                    corners[lane],
                    packed[lane],
                    belief.offset + round(_CENTI * shifts[lane]),
                    max(round(_CENTI * variances[lane]), 1),
                    self._learned(lane, changes[lane], unsures[lane]),
                ),
                _named(self._view.nearest, chances[lane]),
            )
            for lane, (belief, second) in enumerate(self._members)
        ]

    def _learned(self, lane: int, changes: list[float], unsures: list[float]) -> dict[str, Ear]:
        belief, second = self._members[lane]
        ears = dict(belief.ears)
        for reading, ear in zip(second.readings, self._ears[lane], strict=True):
            source = reading.source
            row = self._row[source]
            gain = ear.gain + round(_CENTI * changes[row])
            ears[source] = Ear(gain, max(round(_CENTI * unsures[row]), 1), second.second)
        return _newest(ears)


def _named(gateways: Sequence[str], sums: list[float]) -> dict[str, float]:
    total = sum(sums)
    return {name: share for name, one in zip(gateways, sums, strict=True) if (share := one / total) >= 0.001}


def _newest(ears: dict[str, Ear]) -> dict[str, Ear]:
    if len(ears) <= EARS:
        return ears
    kept = sorted(ears, key=lambda source: (-ears[source].second, source))[:EARS]
    return {source: ears[source] for source in kept}


_WEIGHTS: Final = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) / _TO_THE_OCTAVE)]).astype(
    np.float32
)
_LEAST: Final = np.float32(1e-37)  # the logarithm of less would leave single precision


def encoded(weights: Array) -> list[bytes]:
    """Each beacon's weights, a byte each: the logarithm, counted down from the greatest."""
    flat = weights.reshape(-1, weights.shape[2])
    steps = np.log2(np.maximum(flat, _LEAST))
    steps -= np.log2(flat.max(axis=0))
    steps *= _TO_THE_OCTAVE
    steps += 255
    rows: NDArray[np.uint8] = np.ascontiguousarray(np.maximum(np.rint(steps), 0).astype(np.uint8).T)
    return [row.tobytes() for row in rows]


def decoded(weights: Sequence[bytes], directions: int) -> Array:
    """The weights as an array of direction × cell × beacon."""
    rows = np.frombuffer(b"".join(weights), np.uint8).reshape(len(weights), directions, -1)
    result: Array = _WEIGHTS[np.ascontiguousarray(rows.transpose(1, 2, 0))]
    return result
