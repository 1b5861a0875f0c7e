"""The places of a store as cells: what is expected to be heard there, and how people walk through them. Pure.

Weights are an array of direction × cell × beacon: whatever is done to them is done to many beacons at once,
element by element, so that a beacon's numbers are the same in whatever company it is moved on.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from backend.proximity.radio import Array, FilterSettings, Wide, expected_dbm

Corner: TypeAlias = tuple[int, int]

DIRECTIONS: Final = 8
WINDOW_CELLS: Final = 13  # a side: with eight directions, a byte each, a belief stays below 2 KB


@dataclass(frozen=True, slots=True)
class View:
    """A window's cells in a row: expected dBm at each gateway (gateway × cell), and which it shows."""

    levels: Array
    inside: frozenset[str]
    nearest: tuple[str, ...]
    """The gateways that are the nearest of any cell here."""
    _order: NDArray[np.intp]
    _starts: NDArray[np.intp]

    @classmethod
    def of(
        cls, gateways: Sequence[str], levels: Wide, nearest: NDArray[np.intp], inside: frozenset[str]
    ) -> "View":
        order = np.argsort(nearest, kind="stable")
        numbers, starts = np.unique(nearest[order], return_index=True)
        names = tuple(gateways[number] for number in numbers.tolist())
        return cls(levels.astype(np.float32), inside, names, order, starts)

    def by_nearest(self, cells: Array) -> Array:
        """The sums of cells (cell × beacon) that share a nearest gateway; in the order of `nearest`."""
        result: Array = np.add.reduceat(cells[self._order], self._starts, axis=0)
        return result


class Floor(Protocol):
    """The places of a store. `mark` tells floors apart."""

    gateways: tuple[str, ...]
    index: dict[str, int]
    directions: int
    cells: int
    mark: int

    def corner_around(self, gateway: str) -> Corner:
        """The window in which to look for what a gateway heard best."""
        ...

    def view(self, corner: Corner) -> View:
        """What a window shows."""
        ...

    def walk(self, weights: Array) -> Array:
        """One second on."""
        ...

    def follow(self, corners: Sequence[Corner], weights: Array) -> list[Corner]:
        """Moves, in place, the window of each beacon that has come far off its middle; each one's corner."""
        ...


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
        self._settings = settings
        self._step = _steps(_stepping(settings, self.cell_m), self._window)
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
        turns, jumps = np.float32(self._settings.turns), np.float32(self._settings.jumps)
        turned = np.empty_like(weights)
        np.add(weights[:-2], weights[2:], out=turned[1:-1])
        np.add(weights[-1], weights[1], out=turned[0])
        np.add(weights[-2], weights[0], out=turned[-1])
        turned *= turns
        turned += weights * (1 - 2 * turns - jumps)
        turned += weights.sum(axis=0) * (jumps / DIRECTIONS)
        result: Array = self._step @ turned.reshape(-1, weights.shape[2])
        return result.reshape(weights.shape)

    def follow(self, corners: Sequence[Corner], weights: Array) -> list[Corner]:
        """Moves the window where the beacon has come three cells off its middle."""
        followed = list(corners)
        if self._window == self._whole:
            return followed
        width, height = self._window
        cells = weights.sum(axis=0).reshape(width, height, -1)
        across, along = cells.sum(axis=1), cells.sum(axis=0)
        total = across.sum(axis=0)
        x = (across * np.arange(width, dtype=np.float32)[:, None]).sum(axis=0) / total
        y = (along * np.arange(height, dtype=np.float32)[:, None]).sum(axis=0) / total
        off = np.maximum(np.abs(x - (width - 1) / 2), np.abs(y - (height - 1) / 2)) >= 3
        for one in np.flatnonzero(off).tolist():
            left, low = corners[one]
            moved = self._corner(left + float(x[one]), low + float(y[one]))
            if moved != corners[one]:
                weights[..., one] = self._shifted(weights[..., one], moved[0] - left, moved[1] - low)
                followed[one] = moved
        return followed

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
        return View.of(
            self.gateways,
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
        nearest = np.repeat(np.arange(rays), len(rings))
        self._view = View.of(self.gateways, levels, nearest, frozenset(self.gateways))

    def corner_around(self, gateway: str) -> Corner:
        return 0, 0

    def view(self, corner: Corner) -> View:
        return self._view

    def walk(self, weights: Array) -> Array:
        """One second on: to the next ring either way, and from the middle into any ray."""
        moves, rays = np.float32(self.MOVES), self._shape[0]
        old = weights.reshape(*self._shape, -1)
        new = old * (1 - 2 * moves)
        new[:, 1:] += moves * old[:, :-1]
        new[:, :-1] += moves * old[:, 1:]
        new[:, 0] += moves * old[:, 0]
        new[:, -1] += old[:, -1].sum(axis=0) * (moves / rays)
        return new.reshape(weights.shape)

    def follow(self, corners: Sequence[Corner], weights: Array) -> list[Corner]:
        return list(corners)


def _mark(*what: object) -> int:
    return zlib.crc32(repr(what).encode())


def _spacing(at: Wide) -> float:
    """The median way from a gateway to its nearest neighbour; 8 m, a small shop, if there is only one."""
    if len(at) < 2:
        return 8.0
    apart = np.hypot(at[:, :1] - at[:, 0], at[:, 1:] - at[:, 1])
    np.fill_diagonal(apart, np.inf)
    return float(median(apart.min(axis=1).tolist()))


def _stepping(settings: FilterSettings, cell_m: float) -> Wide:
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
    return kernel


def _shares(moved: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """A step of at most one cell, as the two cells between which it ends."""
    return (0, 1 - abs(moved)), (1 if moved > 0 else -1, abs(moved))


def _steps(kernel: Wide, window: tuple[int, int]) -> csr_array:
    """Everybody's steps in a window as one sparse matrix: to (row) from (column), by direction and cell."""
    width, height = window
    number = np.arange(DIRECTIONS * width * height).reshape(DIRECTIONS, width, height)
    rows, columns, shares = [], [], []
    for direction, right, up in zip(*np.nonzero(kernel), strict=True):
        to_x, from_x = _OFFSETS[right]
        to_y, from_y = _OFFSETS[up]
        to = number[direction, to_x, to_y].ravel()
        rows.append(to)
        columns.append(number[direction, from_x, from_y].ravel())
        shares.append(np.full(to.size, kernel[direction, right, up], np.float32))
    where = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(shares), where), shape=(number.size, number.size))


_OFFSETS: Final = (
    (slice(1, None), slice(None, -1)),
    (slice(None), slice(None)),
    (slice(None, -1), slice(1, None)),
)
"""Where to and where from what lies −1, 0 or 1 cells away is taken, in the kernel's order."""
