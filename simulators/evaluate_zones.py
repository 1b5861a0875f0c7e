"""Judges the production zone engine on real recordings, with other projects' rules beside it in the same run.

A recording is a moving beacon heard by several receivers, with its true way. Rules are told what was heard,
never where it truly was; ours hears it as a gateway tells it, aggregated by second, and knows the receivers'
places. Each second from five after the start a rule says which gateway is nearest. Times are seconds from
the recording's own zero, lengths metres, signals dBm.
"""

import csv
import math
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from backend.proximity.places import Place
from backend.proximity.zones import ZoneEngine
from gateway.aggregate import Aggregator

FIRST_DECISION_S: Final = 5.0  # every rule may fill its windows first
CLEAR_M: Final = 2.0
NOT_TOLD: Final = 127  # what a controller says that does not know the level (Bluetooth Core 5.4, 7.7.65.2)
LONGEST_S: Final = 86_400.0  # a column in milliseconds would be decided upon for hours
OURS: Final = "Footfall"
OURS_WITHOUT_PLACES: Final = "Footfall, places unknown"
Point: TypeAlias = tuple[float, float]
Which: TypeAlias = Literal["gateways", "all"]
Row = TypeVar("Row")
_WORDS: Final = {"true": "1", "false": "0", "yes": "1", "no": "0"}


class DatasetError(ValueError):
    """A dataset that cannot be read; the text says which file and why."""


@dataclass(frozen=True, slots=True)
class Hall:
    """Where the receivers in use are; each stands for a zone of its own."""

    places: Mapping[str, Point]

    def nearest(self, at: Point) -> tuple[str, bool]:
        """The nearest receiver, and whether it is so by more than two metres."""
        ranked = sorted((math.dist(at, place), name) for name, place in self.places.items())
        return ranked[0][1], len(ranked) < 2 or ranked[1][0] - ranked[0][0] > CLEAR_M


@dataclass(frozen=True, slots=True)
class Heard:
    """One advert at one receiver, and where the beacon truly was."""

    time_s: float
    receiver: str
    rssi: int
    at: Point


@dataclass(frozen=True, slots=True)
class Recording:
    """One walk, in order of time."""

    name: str
    heard: Sequence[Heard]

    def decision_times(self) -> Iterator[float]:
        first = self.heard[0].time_s + FIRST_DECISION_S
        for number in range(max(0, math.floor(self.heard[-1].time_s - first) + 1)):
            yield first + number

    def position(self, time_s: float) -> Point:
        """Where the beacon was when it was last heard."""
        index = bisect_right(self.heard, time_s, key=lambda heard: heard.time_s)
        return self.heard[max(index - 1, 0)].at


@dataclass(slots=True)
class Score:
    """How often a rule was right, in all and where one receiver is nearest by more than two metres."""

    decisions: int = 0
    right: int = 0
    clear: int = 0
    clear_right: int = 0
    switches: int = 0
    true_changes: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def accuracy(self) -> float | None:
        return self.right / self.decisions if self.decisions else None

    @property
    def accuracy_clear(self) -> float | None:
        return self.clear_right / self.clear if self.clear else None

    def figures(self) -> dict[str, Any]:
        return {
            "decisions": self.decisions,
            "accuracy": _rounded(self.accuracy),
            "clear_decisions": self.clear,
            "accuracy_clear": _rounded(self.accuracy_clear),
            "switches": self.switches,
            "true_changes": self.true_changes,
        }


class Rule(Protocol):
    """Told of every advert in order; names the receiver that is nearest (None: it cannot tell)."""

    def hear(self, time_s: float, receiver: str, rssi: int) -> None: ...
    def zone(self, time_s: float) -> str | None: ...


# Ours -----------------------------------------------------------------------------------------------------


class Footfall:
    """The production engine behind the production gateway's aggregation."""

    STORE: Final = "hall"
    BEACON: Final = "walker"
    START_MS: Final = 1_700_000_000_000  # a whole second; any would do

    def __init__(self, hall: Hall, *, places_known: bool = True) -> None:
        self._gateways = {receiver: Aggregator() for receiver in hall.places}
        self.engine = ZoneEngine(
            {f"{self.STORE}/{name}": Place(self.STORE, name) for name in hall.places},
            positions={f"{self.STORE}/{name}": at for name, at in hall.places.items()}
            if places_known
            else {},
        )
        self._told_s = 0
        self.confidence: str = "none"

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        self._tell(time_s)
        self._gateways[receiver].add(self.BEACON, round(time_s * 1000), rssi)

    def zone(self, time_s: float) -> str | None:
        self._tell(time_s)
        track = self.engine.tracks.get(self.BEACON)
        self.confidence = "none" if track is None else track.confidence
        return None if track is None else track.zone_id

    def _tell(self, time_s: float) -> None:
        """Every whole second, each gateway sends what it has; no more is known until the next."""
        while self._told_s + 1 <= time_s:
            self._told_s += 1
            now = self.START_MS + self._told_s * 1000
            for receiver, aggregator in self._gateways.items():
                self._send(receiver, aggregator, now)
            self.engine.expire(now)

    def _send(self, receiver: str, aggregator: Aggregator, now: int) -> None:
        name = f"{self.STORE}/{receiver}"
        self.engine.gateway_alive(name, now)
        for batch in aggregator.close(now - self.START_MS, ""):
            rows = batch.readings
            for second, count, loss in zip(rows.second, rows.count, rows.loss, strict=True):
                at = self.START_MS + batch.base_ms + second * 1000 + 500
                self.engine.hear(self.BEACON, name, at, -float(loss), count)


# Others' rules, re-implemented from their descriptions ----------------------------------------------------


class StrongestLast:
    """The receiver whose last advert was the strongest."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        self._last[receiver] = rssi

    def zone(self, time_s: float) -> str | None:
        return _strongest(self._last)


class KalmanNearest:
    """room-assistant: a scalar Kalman filter a receiver, process noise 0.008, measurement noise 4."""

    def __init__(self) -> None:
        self._level: dict[str, float] = {}
        self._variance: dict[str, float] = {}

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        if receiver not in self._level:
            self._level[receiver], self._variance[receiver] = rssi, 4.0
            return
        before = self._variance[receiver] + 0.008
        gain = before / (before + 4.0)
        self._level[receiver] += gain * (rssi - self._level[receiver])
        self._variance[receiver] = (1 - gain) * before

    def zone(self, time_s: float) -> str | None:
        return _strongest(self._level)


class FencedMean:
    """ESPresense: the mean of 15 s within Tukey's fences."""

    def __init__(self) -> None:
        self._window: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        self._window[receiver].append((time_s, rssi))

    def zone(self, time_s: float) -> str | None:
        means = {}
        for receiver, window in self._window.items():
            while window and window[0][0] < time_s - 15:
                window.popleft()
            if window:
                means[receiver] = _fenced_mean([rssi for _, rssi in window])
        return _strongest(means)


class SmoothedWithMargin:
    """habluetooth: an exponential mean of weight 0.3, and 16 dB to take over."""

    def __init__(self) -> None:
        self._level: dict[str, float] = {}
        self._zone: str | None = None

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        known = self._level.get(receiver, rssi)
        self._level[receiver] = level = 0.3 * rssi + 0.7 * known
        if self._zone is None or level > self._level[self._zone] + 16:
            self._zone = receiver

    def zone(self, time_s: float) -> str | None:
        return self._zone


class Bermuda:
    """Bermuda: distances (n = 3, −55 dBm at 1 m) by cycle, means that hug the minimum, percentages to switch.

    A retreat faster than 3 m/s is dropped. 30 % closer wins, or 15 % where the last five do not overlap.
    """

    CYCLE_S: Final = 1.05

    def __init__(self) -> None:
        self._new: dict[str, int] = {}
        self._history: dict[str, deque[float]] = {}
        self._heard_s: dict[str, float] = {}
        self._distance: dict[str, float] = {}
        self._next_s: float | None = None
        self._zone: str | None = None

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        self._cycle(time_s)
        self._new[receiver] = rssi

    def zone(self, time_s: float) -> str | None:
        self._cycle(time_s)
        return self._zone

    def _cycle(self, time_s: float) -> None:
        if self._next_s is None:
            self._next_s = time_s + self.CYCLE_S
        while self._next_s <= time_s:
            self._measure(self._next_s)
            self._choose()
            self._next_s += self.CYCLE_S

    def _measure(self, now_s: float) -> None:
        for receiver, rssi in self._new.items():
            raw = 10 ** ((-55 - rssi) / 30)
            history = self._history.setdefault(receiver, deque(maxlen=20))
            retreat = (raw - history[0]) / (now_s - self._heard_s[receiver]) if history else 0.0
            self._heard_s[receiver] = now_s
            if retreat > 3:
                continue
            history.appendleft(raw)
            self._distance[receiver] = min(raw, _hugging_mean(history))
        self._new = {}

    def _choose(self) -> None:
        for receiver in sorted(self._distance, key=self._distance.__getitem__):
            if self._zone is None or self._wins(receiver, self._zone):
                self._zone = receiver

    def _wins(self, challenger: str, holder: str) -> bool:
        near, far = self._distance[challenger], self._distance[holder]
        closer = (far - near) / ((far + near) / 2)
        if closer < 0.15:
            return False
        disjoint = max(list(self._history[challenger])[:5]) < min(list(self._history[holder])[:5])
        return closer >= 0.30 or disjoint


class FiveSecondMean:
    """The mean of five seconds, 2 dB to take over, for one second."""

    def __init__(self) -> None:
        self._window: dict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._zone: str | None = None
        self._rival: str | None = None
        self._since_s = 0.0

    def hear(self, time_s: float, receiver: str, rssi: int) -> None:
        self._window[receiver].append((time_s, rssi))
        means = {}
        for name, window in self._window.items():
            while window and window[0][0] <= time_s - 5:
                window.popleft()
            if window:
                means[name] = fmean(rssi for _, rssi in window)
        self._settle(time_s, means)

    def _settle(self, time_s: float, means: Mapping[str, float]) -> None:
        best = _strongest(means)
        if self._zone is None or best is None:
            self._zone = best
        elif best == self._zone or means[best] < means.get(self._zone, -math.inf) + 2:
            self._rival = None
        else:
            if self._rival != best:
                self._rival, self._since_s = best, time_s
            if time_s - self._since_s >= 1:
                self._zone, self._rival = best, None

    def zone(self, time_s: float) -> str | None:
        return self._zone


RULES: Final[Mapping[str, Callable[[Hall], Rule]]] = {
    OURS: Footfall,
    OURS_WITHOUT_PLACES: lambda hall: Footfall(hall, places_known=False),
    "strongest last RSSI": lambda _: StrongestLast(),
    "Kalman, nearest (room-assistant)": lambda _: KalmanNearest(),
    "15 s Tukey-fenced mean (ESPresense)": lambda _: FencedMean(),
    "EWMA 0.3, 16 dB (habluetooth)": lambda _: SmoothedWithMargin(),
    "Bermuda": lambda _: Bermuda(),
    "5 s mean, 2 dB, 1 s": lambda _: FiveSecondMean(),
}


# Judging --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What came of it: a score for each rule and recording; for ours also right and all by confidence."""

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    by_confidence: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def total(self, rule: str) -> Score:
        return sum(self.scores[rule].values(), start=Score())

    def figures(self) -> dict[str, Any]:
        total = self.total(OURS)
        return {
            **total.figures(),
            "tracks": {name: score.figures() for name, score in self.scores[OURS].items()},
            "confidence": {
                word: {"decisions": counts["all"], "accuracy": _rounded(counts["right"] / counts["all"])}
                for word, counts in sorted(self.by_confidence.items())
            },
            "rules": {rule: self.total(rule).figures() for rule in self.scores},
        }


def evaluate(folder: Path, which: Which = "gateways") -> Report:
    """Every rule on every recording of a dataset. With `all`, receivers that are no gateways count as such.

    Raises DatasetError.
    """
    hall, recordings = read_dataset(folder, which)
    report = Report()
    for name, make in RULES.items():
        scores = report.scores[name] = {}
        for recording in recordings:
            seen = report.by_confidence if name == OURS else None
            scores[recording.name] = judge(make(hall), recording, hall, seen)
    return report


def judge(
    rule: Rule, recording: Recording, hall: Hall, by_confidence: dict[str, Counter[str]] | None = None
) -> Score:
    """One rule on one recording."""
    score, waiting = Score(), deque(recording.heard)
    before: tuple[str | None, str] | None = None
    for time_s in recording.decision_times():
        while waiting and waiting[0].time_s <= time_s:
            heard = waiting.popleft()
            rule.hear(heard.time_s, heard.receiver, heard.rssi)
        zone = rule.zone(time_s)
        truth, clear = hall.nearest(recording.position(time_s))
        right = zone == truth
        switched = before is not None and before[0] != zone
        changed = before is not None and before[1] != truth
        score += Score(1, right, clear, clear and right, switched, changed)
        before = zone, truth
        if by_confidence is not None and isinstance(rule, Footfall):
            by_confidence[rule.confidence].update({"all": 1, "right": int(right)})
    return score


def table(report: Report) -> str:
    """The figures for a person to read."""
    ours = report.total(OURS)
    lines = [
        f"{ours.decisions} decisions, {ours.clear} of them clear; {ours.true_changes} true changes",
        "",
        f"{'rule':<38}{'accuracy':>10}{'accuracy_clear':>16}{'switches':>10}",
    ]
    lines += [_line(rule, report.total(rule)) for rule in report.scores]
    lines += ["", f"{OURS}, by recording"]
    lines += [_line(name, score) for name, score in report.scores[OURS].items()]
    lines += ["", f"{OURS}, by its own confidence"]
    for word, counts in sorted(report.by_confidence.items()):
        lines.append(f"{word:<38}{_percent(counts['right'] / counts['all']):>10}  of {counts['all']}")
    return "\n".join(lines)


def _line(name: str, score: Score) -> str:
    accuracy, clear = _percent(score.accuracy), _percent(score.accuracy_clear)
    return f"{name:<38}{accuracy:>10}{clear:>16}{score.switches:>10}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


# Reading --------------------------------------------------------------------------------------------------


def read_dataset(folder: Path, which: Which = "gateways") -> tuple[Hall, list[Recording]]:
    """`receivers.csv` and every `track_*.csv`. Raises DatasetError."""
    rows = _rows(folder / "receivers.csv", _receiver if which == "gateways" else _any_receiver)
    if len({name for name, _, _ in rows}) < len(rows):
        raise DatasetError(f"{folder / 'receivers.csv'} names a receiver twice")
    hall = Hall({name: at for name, at, is_used in rows if is_used})
    if not hall.places:
        raise DatasetError(f"{folder / 'receivers.csv'} names no gateway")
    recordings = [_recording(path, hall) for path in sorted(folder.glob("track_*.csv"))]
    if not recordings:
        raise DatasetError(f"{folder} has no track_*.csv")
    return hall, recordings


def _recording(path: Path, hall: Hall) -> Recording:
    """Its clock begins with its first row, whoever heard it: some count from the epoch."""
    rows = sorted(_rows(path, _heard), key=lambda row: row.time_s)
    heard = [
        replace(row, time_s=row.time_s - rows[0].time_s)
        for row in rows
        if row.receiver in hall.places and row.rssi != NOT_TOLD
    ]
    if not heard:
        raise DatasetError(f"in {path} no receiver in use hears anything")
    if heard[-1].time_s > LONGEST_S:
        raise DatasetError(f"{path} is longer than a day; t_s counts seconds")
    return Recording(path.stem.removeprefix("track_"), heard)


def _receiver(row: Mapping[str, str]) -> tuple[str, Point, bool]:
    return row["receiver"], _point(row), _number(_WORDS.get(said := row["is_gateway"].lower(), said)) != 0


def _any_receiver(row: Mapping[str, str]) -> tuple[str, Point, bool]:
    return row["receiver"], _point(row), True


def _heard(row: Mapping[str, str]) -> Heard:
    return Heard(_number(row["t_s"]), row["receiver"], round(_number(row["rssi_dbm"])), _point(row))


def _point(row: Mapping[str, str]) -> Point:
    return _number(row["x_m"]), _number(row["y_m"])


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number to reckon with")
    return number


def _rows(path: Path, parse: Callable[[Mapping[str, str]], Row]) -> list[Row]:
    """Columns in any order, with what spreadsheets put around them."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = [name.strip() for name in next(reader, [])]
            parsed = []
            for cells in reader:
                line = reader.line_num
                if cells:
                    parsed.append(parse(_Cells(zip(columns, map(str.strip, cells), strict=False))))
            return parsed
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise DatasetError(f"{path}, line {line} is not of the expected form: {error}") from error


class _Cells(dict[str, str]):
    """A row by its columns' names."""

    def __missing__(self, column: str) -> str:
        known = ", ".join(self)
        raise ValueError(f"there is nothing in the column {column}; there is in {known}")


def _strongest(levels: Mapping[str, float]) -> str | None:
    return max(levels, key=lambda name: levels[name], default=None)


def _fenced_mean(values: Sequence[int]) -> float:
    if len(values) < 2:
        return fmean(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    reach = 1.5 * (high - low)
    return fmean(value for value in values if low - reach <= value <= high + reach)


def _hugging_mean(newest_first: Sequence[float] | deque[float]) -> float:
    """The mean of the least so far, from the newest backwards."""
    least, total = math.inf, 0.0
    for value in newest_first:
        least = min(least, value)
        total += least
    return total / len(newest_first)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
