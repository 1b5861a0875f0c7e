"""Where beacons probably are: a Bayes filter over places, directions of walking and radio gains. Pure.

Places are cells of a floor; the level expected at each gateway falls with the distance. What no model can
know (a tag's power, a gateway's ear, the body between them) is learned beside the place, as gains that start
near zero. Levels are dBm, gains and deviations dB, times whole unix seconds. The same input gives the same
belief, alone or among a thousand others, and a belief is just what its bytes hold, so a restart changes
nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.proximity.floors import Corner, Floor
from backend.proximity.radio import Array, FilterSettings, Hearing, Wide

AT_ONCE: Final = 128  # beacons in one array: more would not fit the processor's cache
AT_LEAST: Final = 2  # numpy adds up a single column in another order than several, with another rounding
EARS: Final = 12  # gateways whose gains a belief remembers; further ones hear it worse and tell little
MOST_STEPS: Final = 15  # seconds walked on; after more of silence anybody may be anywhere in the window
FORGET_S: Final = 60  # unheard for so long, a beacon starts anew
_CENTI: Final = 100  # gains are kept in hundredths of a dB
_TO_THE_OCTAVE: Final = 16  # steps of a stored weight: errors of 2 %, over a range of 1 to 60,000
PHONE: Final = "~"  # before a fixed beacon's key: the ear of a phone that heard it


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a gateway hears more than the model expects, and how sure that is; both in dB."""

    mean_db: float
    deviation_db: float


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A second of a beacon at a gateway: mean dBm of `adverts`.

    With `phone` it is the other way round: a phone heard the fixed beacon that is named instead.
    """

    gateway: str
    dbm: float
    adverts: int
    phone: bool = False

    @property
    def source(self) -> str:
        """The name under which the gain is learned; a phone's ear is not the gateway's."""
        return PHONE + self.gateway if self.phone else self.gateway


class Ear(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A source's learned gain and variance (hundredths of dB, of dB²), and the second it was last heard."""

    gain: int
    variance: int
    second: int


class Belief(msgspec.Struct, array_like=True, frozen=True, gc=False):
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


class Second(msgspec.Struct, frozen=True, gc=False):
    """What came of one beacon in a second: readings, one a source and at least one; and who heard nothing."""

    belief: Belief | None
    second: int
    readings: Sequence[Reading]
    silent: Sequence[str] = ()


class Advanced(msgspec.Struct, frozen=True, gc=False):
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
        groups: dict[int, list[tuple[int, Belief, Second]]] = {}
        for number, second in enumerate(seconds):
            belief = self._known(second)
            steps = min(second.second - belief.second, MOST_STEPS)
            groups.setdefault(steps, []).append((number, belief, second))
        advanced: dict[int, Advanced] = {}
        for steps, members in groups.items():
            members.sort(key=lambda member: member[1].corner)  # neighbours are heard by the same gateways
            for start in range(0, len(members), AT_ONCE):
                some = members[start : start + AT_ONCE]
                together = _Together(self, [(belief, second) for _, belief, second in some])
                advanced.update(zip((number for number, _, _ in some), together.moved_on(steps), strict=True))
        return [advanced[number] for number in range(len(seconds))]

    def chances(self, belief: Belief) -> dict[str, float]:
        """How probable it is that each gateway is the nearest."""
        view = self.floor.view(belief.corner)
        weights = decoded([belief.weights] * AT_LEAST, self.floor.directions)
        shares = view.by_nearest(weights.sum(axis=0))[:, 0].astype(np.float64)
        return _named(view.nearest, (shares / shares.sum()).tolist())

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

    def noise(self, adverts: Wide, phone: NDArray[np.bool_]) -> Wide:
        """The variance of a second's mean level around what the model expects, dB²."""
        settings = self._settings
        slow = np.where(phone, settings.phone_slow_db**2, settings.slow_db**2)
        result: Wide = slow + settings.fast_db**2 / np.maximum(adverts, 1)
        return result

    def offset_variance(self, belief: Belief, second: int) -> float:
        """How unsure a tag's power is by now, dB²."""
        drifted = (second - belief.second) * self._settings.offset_drift_db**2
        return min(belief.offset_variance / _CENTI + drifted, self._settings.offset_db**2)

    def unknown(self, source: str) -> tuple[int, int]:
        """Gain and variance of a source that nothing is known of yet, as `Ear` has them."""
        prior = self._priors.get(source)
        mean, deviation = (prior.mean_db, prior.deviation_db) if prior else (0.0, self._settings.gain_db)
        return round(_CENTI * mean), round(_CENTI * deviation**2)

    def drifted(self, variance: Wide, seconds: Wide, most: Wide) -> Wide:
        """The variance of gains by now: they may have drifted, but are never less known than at the start."""
        result: Wide = np.minimum(
            variance + np.rint(_CENTI * seconds * self._settings.gain_drift_db**2), most
        )
        return result

    @property
    def hearing(self) -> Hearing:
        return self._hearing


class _Together:
    """Beacons that are moved on at once, each in its window; arrays of source × cell × beacon.

    Within a cell all is linear and Gaussian: a tag's offset is common to its readings, the gains are their
    own. What is learned is the mean over the cells, whose disagreement stays in the variance. A source that
    told nothing of a beacon has slope and error 0 there and noise 1, which is no evidence.
    """

    def __init__(self, model: Filter, members: list[tuple[Belief, Second]]) -> None:
        self._model = model
        self._members = members
        lanes = max(len(members), AT_LEAST)
        self._corners = [belief.corner for belief, _ in members]
        self._corners += self._corners[-1:] * (lanes - len(members))
        self._views = {corner: model.floor.view(corner) for corner in self._corners}
        self._sources = [reading.source for _, second in members for reading in second.readings]
        sources = set(self._sources).union(*[second.silent for _, second in members])
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
        told: list[int] = []
        gains: list[float] = []
        for lane, (belief, second) in enumerate(self._members):
            if second.silent:
                told += [_silence(second.readings)] * len(second.silent)
            for name in second.silent:
                known = belief.ears.get(name)
                at.append(self._row[name] * lanes + lane)
                gains.append(known.gain / _CENTI if known else 0.0)
        self._told.reshape(-1)[at] = told
        self._gain.reshape(-1)[at] = gains

    def _enter_readings(self, lanes: int) -> None:
        """Cell by cell an array is slow to fill, so columns of numbers are made first."""
        unknown = {source: self._model.unknown(source) for source in self._row}
        at: list[int] = []
        table: list[float] = []
        for lane, (belief, second) in enumerate(self._members):
            now, ears = second.second, belief.ears
            for reading in second.readings:
                source = reading.source
                gain, most = unknown[source]
                ear = ears.get(source) or Ear(gain, most, now)
                at.append(self._row[source] * lanes + lane)
                elapsed = now - ear.second
                table += (reading.dbm, reading.adverts, reading.phone, ear.gain, ear.variance, elapsed, most)
        columns = np.array(table, np.float64).reshape(len(at), -1).T
        dbm, adverts, phone, gains, variances, silent_s, mosts = columns
        self._heard_at = np.array(at, np.intp)
        self._gains = gains
        self._told.reshape(-1)[at] = Hearing.HEARD
        self._dbm.reshape(-1)[at] = dbm
        self._noise.reshape(-1)[at] = self._model.noise(adverts, phone > 0)
        self._gain.reshape(-1)[at] = gains / _CENTI
        self._unsure.reshape(-1)[at] = self._model.drifted(variances, silent_s, mosts) / _CENTI

    def moved_on(self, steps: int) -> list[Advanced]:
        """Everybody walks, what was heard is weighed, and what it teaches is kept."""
        weights = self._walked(steps)
        expected, slope, chance = self._expected()
        error = self._dbm - expected
        if len(self._heard_at) < self._told.size:
            heard = (self._told == Hearing.HEARD).astype(np.float32)
            error *= heard
            slope *= heard
        followed = slope * self._unsure
        spread = slope * followed
        spread += self._noise
        trusted = slope / spread
        pull = (trusted * error).sum(axis=0)
        precision = (trusted * slope).sum(axis=0) + 1 / self._offset_variance
        shift = pull / precision
        surprise = (error * error / spread + np.log(spread)).sum(axis=0)
        likelihood = 0.5 * (shift * pull - surprise - np.log(precision))
        likelihood += self._model.hearing.weight(steps) * chance.sum(axis=0)
        weights *= np.exp(likelihood - likelihood.max(axis=0))
        cells = weights.sum(axis=0)
        total = cells.sum(axis=0)
        weights /= total
        cells /= total
        mean = (cells * shift).sum(axis=0)
        variance = (cells * (1 / precision + shift * shift)).sum(axis=0) - mean * mean
        learns = followed / spread
        change = learns * (error - slope * shift)
        gain = (change * cells).sum(axis=1)
        left = (1 - learns * slope) * self._unsure + change * change
        unsure = (left * cells).sum(axis=1) - gain * gain
        chances = self._chances(cells)
        corners = self._model.floor.follow(self._corners, weights)
        return self._kept(weights, corners, chances, (mean, variance), (gain, unsure))

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
        shown = np.stack([view.levels[rows] for view in self._views.values()], axis=-1)
        if len(self._views) > 1:
            shown = shown[..., self._numbers()]
        return self._model.hearing.of(shown + (self._gain + self._offset), self._told)

    def _numbers(self) -> list[int]:
        """Which of the views each beacon has."""
        numbers = {corner: number for number, corner in enumerate(self._views)}
        return [numbers[corner] for corner in self._corners]

    def _chances(self, cells: Array) -> list[dict[str, float]]:
        """How probable it is for each beacon that each gateway is the nearest."""
        lanes: dict[Corner, list[int]] = {}
        for lane, corner in enumerate(self._corners):
            lanes.setdefault(corner, []).append(lane)
        found: dict[int, dict[str, float]] = {}
        for corner, here in lanes.items():
            view = self._views[corner]
            theirs = cells if len(lanes) == 1 else cells[:, here + here[-1:] * (AT_LEAST - len(here))]
            shares = view.by_nearest(theirs).astype(np.float64)
            shares /= shares.sum(axis=0)
            for lane, row in zip(here, shares.T[: len(here)].tolist(), strict=True):
                found[lane] = _named(view.nearest, row)
        return [found[lane] for lane in range(len(self._members))]

    def _kept(
        self,
        weights: Array,
        corners: list[Corner],
        chances: list[dict[str, float]],
        offsets: tuple[Array, Array],
        gains: tuple[Array, Array],
    ) -> list[Advanced]:
        shifts, variances = (array.tolist() for array in offsets)
        packed, learned = encoded(weights), self._learned(*gains)
        return [
            Advanced(
                Belief(
                    second.second,
                    belief.floor,
                    corners[lane],
                    packed[lane],
                    belief.offset + round(_CENTI * shifts[lane]),
                    max(round(_CENTI * variances[lane]), 1),
                    learned[lane],
                ),
                chances[lane],
            )
            for lane, (belief, second) in enumerate(self._members)
        ]

    def _learned(self, changes: Array, unsures: Array) -> list[dict[str, Ear]]:
        """Each beacon's ears, with what was learned of those that heard it."""
        at, new = self._heard_at, []
        gains = self._gains + np.rint(_CENTI * changes.reshape(-1)[at].astype(np.float64))
        variances = np.maximum(np.rint(_CENTI * unsures.reshape(-1)[at].astype(np.float64)), 1)
        told = zip(self._sources, _whole(gains), _whole(variances), strict=True)
        for belief, second in self._members:
            ears, now = dict(belief.ears), second.second
            for source, gain, variance in islice(told, len(second.readings)):
                ears[source] = Ear(gain, variance, now)
            new.append(_newest(ears))
        return new


def _whole(numbers: Wide) -> list[int]:
    result: list[int] = numbers.astype(np.int64).tolist()
    return result


def _silence(readings: Sequence[Reading]) -> int:
    """What it is to hear nothing where others heard these: the luckiest tells how much the beacon sent."""
    return Hearing.SILENT if max(reading.adverts for reading in readings) > 1 else Hearing.SILENT_ONCE


def _named(gateways: Sequence[str], shares: list[float]) -> dict[str, float]:
    return {name: share for name, share in zip(gateways, shares, strict=True) if share >= 0.001}


def _newest(ears: dict[str, Ear]) -> dict[str, Ear]:
    if len(ears) <= EARS:
        return ears
    kept = sorted(ears, key=lambda source: (-ears[source].second, source))[:EARS]
    return {source: ears[source] for source in kept}


_WEIGHTS: Final = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) / _TO_THE_OCTAVE)]).astype(
    np.float32
)


def encoded(weights: Array) -> list[bytes]:
    """Each beacon's weights, a byte each: the logarithm, counted down from the greatest."""
    with np.errstate(divide="ignore"):  # the logarithm of nothing lies below all others, and is kept as 0
        steps = np.log(weights.reshape(-1, weights.shape[2]))  # many at once, unlike log2
    steps -= np.log(weights.max(axis=0).max(axis=0))
    steps *= np.float32(_TO_THE_OCTAVE / math.log(2))
    steps += 255
    np.rint(steps, out=steps)
    np.clip(steps, 0, 255, out=steps)  # many at once, unlike maximum
    rows: NDArray[np.uint8] = np.ascontiguousarray(steps.astype(np.uint8).T)
    return [row.tobytes() for row in rows]


def decoded(weights: Sequence[bytes], directions: int) -> Array:
    """The weights as an array of direction × cell × beacon."""
    rows = np.frombuffer(b"".join(weights), np.uint8).reshape(len(weights), directions, -1)
    result: Array = _WEIGHTS.take(np.ascontiguousarray(rows.transpose(1, 2, 0)), mode="clip")  # a byte fits
    return result
