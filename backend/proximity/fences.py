"""Geofences: circles and polygons on the earth, and how far a point is from their edges. Pure.

Degrees are WGS 84, lengths metres. Around each fence the earth is taken as flat (equirectangular around its
middle), which for the sizes allowed errs by less than a phone's fix does. A distance is negative inside.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import shapely
from msgspec import Meta, Struct
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Degrees: TypeAlias = Annotated[float, Meta(ge=-180, le=180)]
Position: TypeAlias = Annotated[
    tuple[float, ...],
    Meta(
        min_length=2, max_length=3, description="longitude, latitude, and an altitude that counts for nothing"
    ),
]
Ring: TypeAlias = Annotated[tuple[Position, ...], Meta(min_length=4, max_length=2_000)]
Rings: TypeAlias = Annotated[tuple[Ring, ...], Meta(min_length=1, max_length=50)]

METRES_A_DEGREE: Final = 111_195.0  # of latitude, on a sphere of 6,371 km
MOST_LATITUDE: Final = 85.0  # nearer to the poles a degree of longitude is too short to reckon with
LARGEST_M: Final = 100_000.0  # across; beyond it the flat earth is no longer flat enough
CELL_DEGREES: Final = 0.02  # some 2 km: a street's fences, not a city's
MOST_CELLS: Final = 10_000  # a fence may lie in; a larger one is asked for everywhere


class FenceInvalid(ValueError):
    """The fence cannot be used; the text names the field and what it may be."""


class Circle(Struct, frozen=True, forbid_unknown_fields=True, tag="circle"):
    """Everything within `radius_m` of a point."""

    latitude: Annotated[float, Meta(ge=-MOST_LATITUDE, le=MOST_LATITUDE)]
    longitude: Degrees
    radius_m: Annotated[float, Meta(ge=20, le=LARGEST_M / 2)]


class Polygon(Struct, frozen=True, tag_field="type", tag="Polygon"):
    """A GeoJSON polygon (RFC 7946, section 3.1.6): an outer ring, and holes in it."""

    coordinates: Rings


class MultiPolygon(Struct, frozen=True, tag_field="type", tag="MultiPolygon"):
    """Several GeoJSON polygons that are one place (RFC 7946, section 3.1.7)."""

    coordinates: Annotated[tuple[Rings, ...], Meta(min_length=1, max_length=50)]


class Feature(Struct, frozen=True, tag_field="type", tag="Feature"):
    """What drawing programs put around a geometry (RFC 7946, section 3.2); its properties are not kept."""

    geometry: Polygon | MultiPolygon


class Area(Struct, frozen=True, forbid_unknown_fields=True, tag="polygon"):
    """The inside of polygons."""

    geometry: Polygon | MultiPolygon | Feature


Shape: TypeAlias = Circle | Area | Polygon | MultiPolygon | Feature


class Fence(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A place outdoors that matters; with `store_id` the area around that store.

    `approach_m`: from how far somebody who comes nearer approaches it.
    """

    fence_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    shape: Shape
    store_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")] | None = None
    approach_m: Annotated[float, Meta(ge=0, le=20_000)] = 500.0


class Box(NamedTuple):
    """A fence's bounds in degrees."""

    west: float
    south: float
    east: float
    north: float

    def widened(self, metres: float) -> "Box":
        """Larger by so much on every side."""
        up = metres / METRES_A_DEGREE
        across = up / max(math.cos(math.radians(max(abs(self.south), abs(self.north)))), 0.05)
        return Box(self.west - across, self.south - up, self.east + across, self.north + up)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A fence as it is reckoned with: metres around its middle."""

    fence: Fence
    latitude: float
    longitude: float
    east_metres: float
    """Of a degree of longitude here."""
    radius_m: float
    """Of the circle around the middle that holds all of it."""
    reach_m: float
    """How large it is: a fix that is less accurate than this says nothing about it."""
    box: Box
    polygon: shapely.Polygon | shapely.MultiPolygon | None = None
    edge: shapely.Geometry | None = None

    def distance(self, latitude: float, longitude: float) -> float:
        """From a point to the edge; negative inside."""
        x = ((longitude - self.longitude + 180) % 360 - 180) * self.east_metres
        y = (latitude - self.latitude) * METRES_A_DEGREE
        if self.polygon is None or self.edge is None:
            return math.hypot(x, y) - self.radius_m
        point = shapely.Point(x, y)
        away = float(self.edge.distance(point))
        return -away if self.polygon.covers(point) else away


def parse_fence(body: bytes) -> Fence:
    """A fence from JSON, its geometry checked. Raises FenceInvalid."""
    try:
        fence = msgspec.json.decode(body, type=Fence)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FenceInvalid(str(error)) from error
    geometry_of(fence)
    return fence


def geometry_of(fence: Fence) -> Geometry:
    """What is reckoned with. Raises FenceInvalid for rings that enclose nothing or cross themselves."""
    if isinstance(fence.shape, Circle):
        circle = fence.shape
        point = Box(circle.longitude, circle.latitude, circle.longitude, circle.latitude)
        return Geometry(
            fence,
            circle.latitude,
            circle.longitude,
            _east_metres(circle.latitude),
            circle.radius_m,
            circle.radius_m,
            point.widened(circle.radius_m),
        )
    return _polygon_geometry(fence, _in_one_world([_degrees(rings) for rings in _parts(fence.shape)]))


def _parts(shape: Area | Polygon | MultiPolygon | Feature) -> Sequence[Rings]:
    """The polygons that a shape is made of."""
    if isinstance(shape, Polygon):
        return (shape.coordinates,)
    return shape.coordinates if isinstance(shape, MultiPolygon) else _parts(shape.geometry)


def _degrees(rings: Rings) -> list[Array]:
    """A polygon's rings, each a table of longitudes and latitudes. Raises FenceInvalid."""
    tables = [np.array([position[:2] for position in ring], np.float64) for ring in rings]
    for table in tables:
        longitudes, latitudes = np.abs(table).max(axis=0)
        if latitudes > MOST_LATITUDE or longitudes > 180:
            raise FenceInvalid(
                f"shape.geometry: latitudes may go to {MOST_LATITUDE:.0f}°, longitudes to 180°;"
                " a position is [longitude, latitude]"
            )
        if not np.array_equal(table[0], table[-1]):
            raise FenceInvalid("shape.geometry: a ring must end where it begins")
    if np.ptp(tables[0][:, 0]) > 180:
        raise FenceInvalid("shape.geometry: a polygon across the 180th meridian must be cut in two there")
    return tables


def _in_one_world(parts: list[list[Array]]) -> list[list[Array]]:
    """What was cut in two at the 180th meridian lies on one side of it again (RFC 7946, section 3.1.9)."""
    if np.ptp(np.concatenate([rings[0] for rings in parts])[:, 0]) <= 180:
        return parts
    turn = np.array([360.0, 0.0])
    return [[ring + turn if rings[0][:, 0].min() < 0 else ring for ring in rings] for rings in parts]


def _polygon_geometry(fence: Fence, parts: list[list[Array]]) -> Geometry:
    outline = np.concatenate([rings[0] for rings in parts])
    west, south = outline.min(axis=0).tolist()
    east, north = outline.max(axis=0).tolist()
    latitude, longitude = (south + north) / 2, (west + east) / 2
    scale = np.array([_east_metres(latitude), METRES_A_DEGREE])
    for rings in parts:
        _check_rings(rings)
    flat = [[(ring - (longitude, latitude)) * scale for ring in rings] for rings in parts]
    polygon = _one(shapely.Polygon(rings[0], rings[1:]) for rings in flat)
    corners = np.concatenate([rings[0] for rings in flat])
    across = float(np.hypot(*np.ptp(corners, axis=0)))
    if across > LARGEST_M or polygon.area < 400:
        raise FenceInvalid(f"shape.geometry: a fence may be 20 m to {LARGEST_M / 1000:.0f} km across")
    radius = float(np.hypot(corners[:, 0], corners[:, 1]).max())
    reach = math.sqrt(polygon.area / math.pi)
    shapely.prepare(polygon)
    box = Box(west, south, east, north)
    east_metres = _east_metres(latitude)
    return Geometry(fence, latitude, longitude, east_metres, radius, reach, box, polygon, polygon.boundary)


def _one(polygons: Iterable[shapely.Polygon]) -> shapely.Polygon | shapely.MultiPolygon:
    """The place that they are together; an edge between two of them is none."""
    found = list(polygons)
    return found[0] if len(found) == 1 else shapely.union_all(found)


def _check_rings(rings: list[Array]) -> None:
    """Raises FenceInvalid for rings that cross themselves or each other, and says where, in degrees."""
    polygon = shapely.Polygon(rings[0], rings[1:])
    if not polygon.is_valid:
        raise FenceInvalid(f"shape.geometry: {shapely.is_valid_reason(polygon)} (longitude, latitude)")


def _east_metres(latitude: float) -> float:
    """The length of a degree of longitude."""
    return METRES_A_DEGREE * math.cos(math.radians(latitude))


class Near(NamedTuple):
    """A fence around a point, and how far its edge is."""

    geometry: Geometry
    distance: float


@dataclass(slots=True)
class Fences:
    """All fences, ready to be asked: a grid for single points, a tree for many at once."""

    by_id: dict[str, Geometry] = field(default_factory=dict)
    _grid: dict[tuple[int, int], list[Geometry]] = field(default_factory=dict)
    _everywhere: list[Geometry] = field(default_factory=list)
    _columns: "_Table | None" = None

    @classmethod
    def of(cls, fences: Iterable[Fence]) -> "Fences":
        """All of them were checked before they were stored."""
        made = cls()
        for fence in fences:
            geometry = geometry_of(fence)
            made.by_id[fence.fence_id] = geometry
            cells = list(_cells(geometry.box.widened(fence.approach_m)))
            if len(cells) > MOST_CELLS:
                made._everywhere.append(geometry)
                continue
            for cell in cells:
                made._grid.setdefault(cell, []).append(geometry)
        return made

    def around(self, latitude: float, longitude: float, also: Iterable[str] = ()) -> list[Near]:
        """Every fence that holds a point, or that it is within `approach_m` of; and those of `also`, however
        far."""
        found, asked = [], set(also)
        here = self._grid.get(_cell(latitude, longitude), ())
        for geometry in (*here, *self._everywhere) if self._everywhere else here:
            distance = geometry.distance(latitude, longitude)
            if distance <= geometry.fence.approach_m:
                found.append(Near(geometry, distance))
                asked.discard(geometry.fence.fence_id)
        for fence_id in sorted(asked):
            known = self.by_id.get(fence_id)
            if known is not None:
                found.append(Near(known, known.distance(latitude, longitude)))
        return found

    def around_all(
        self, latitudes: Array, longitudes: Array
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """The same for many points: pairs of point and fence (both numbered, fences as in `by_id`), and how
        far each is."""
        table = self._table
        points, fences = table.pairs(latitudes, longitudes)
        x = (longitudes[points] - table.longitudes[fences] + 180) % 360 - 180
        x *= table.east_metres[fences]
        y = (latitudes[points] - table.latitudes[fences]) * METRES_A_DEGREE
        distances = np.hypot(x, y) - table.radii[fences]
        polygons = table.is_polygon[fences]
        if polygons.any():
            spots = shapely.points(x[polygons], y[polygons])
            shapes = table.polygons[fences[polygons]]
            edges = shapely.distance(shapely.boundary(shapes), spots)
            distances[polygons] = np.where(shapely.covers(shapes, spots), -edges, edges)
        near = distances <= table.approach[fences]
        return points[near], fences[near], distances[near]

    def nearest(self, latitude: float, longitude: float, limit: int) -> list[Near]:
        """The fences whose edges are the nearest to a point, the nearest first."""
        if not self.by_id:
            return []
        table = self._table
        rough = table.rough_distances(latitude, longitude)
        count = min(4 * limit, len(rough))
        candidates = np.argpartition(rough, count - 1)[:count]
        near = [
            Near(geometry, geometry.distance(latitude, longitude))
            for geometry in (table.geometries[number] for number in candidates.tolist())
        ]
        return sorted(near, key=lambda one: (one.distance, one.geometry.fence.fence_id))[:limit]

    def nearest_stores(self, latitude: float, longitude: float) -> list[str]:
        """Every store that has a fence, the nearest first; a polygon counts as the circle that holds it."""
        table = self._table
        if not table.stores:
            return []
        away = np.full(len(table.stores), np.inf)
        rough = table.rough_distances(latitude, longitude)
        np.minimum.at(away, table.store_of, rough[table.with_store])
        return [table.stores[number] for number in np.argsort(away, kind="stable").tolist()]

    @property
    def _table(self) -> "_Table":
        """Made when it is first asked for; a shop without phones never does."""
        if self._columns is None:
            self._columns = _Table(list(self.by_id.values()))
        return self._columns


class _Table:
    """The fences as columns, and a tree over their bounds with the approach around them."""

    def __init__(self, geometries: Sequence[Geometry]) -> None:
        self.geometries = list(geometries)
        self.latitudes = np.array([one.latitude for one in geometries])
        self.longitudes = np.array([one.longitude for one in geometries])
        self.east_metres = np.array([one.east_metres for one in geometries])
        self.radii = np.array([one.radius_m for one in geometries])
        self.approach = np.array([one.fence.approach_m for one in geometries])
        self.is_polygon = np.array([one.polygon is not None for one in geometries])
        self.polygons = np.array([one.polygon for one in geometries], dtype=object)
        numbers: dict[str, int] = {}
        of = [
            (row, one.fence.store_id) for row, one in enumerate(geometries) if one.fence.store_id is not None
        ]
        self.with_store = np.array([row for row, _ in of], np.intp)
        self.store_of = np.array([numbers.setdefault(store, len(numbers)) for _, store in of], np.intp)
        self.stores = list(numbers)

    def rough_distances(self, latitude: float, longitude: float) -> Array:
        """From a point to the circle around each fence; negative inside."""
        x = ((longitude - self.longitudes + 180) % 360 - 180) * self.east_metres
        y = (latitude - self.latitudes) * METRES_A_DEGREE
        distances: Array = np.hypot(x, y) - self.radii
        return distances

    def pairs(self, latitudes: Array, longitudes: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Points and the fences whose bounds they lie in; near the 180th meridian from both sides of it."""
        points, fences = self.tree.query(shapely.points(longitudes, latitudes))
        edge = np.flatnonzero(np.abs(longitudes) > 179)
        if not edge.size:
            return points, fences
        turned = longitudes[edge] - np.copysign(360.0, longitudes[edge])
        more_points, more_fences = self.tree.query(shapely.points(turned, latitudes[edge]))
        return np.concatenate([points, edge[more_points]]), np.concatenate([fences, more_fences])

    @cached_property
    def tree(self) -> shapely.STRtree:
        boxes = [one.box.widened(one.fence.approach_m) for one in self.geometries]
        return shapely.STRtree([shapely.box(*box) for box in boxes])


def _cell(latitude: float, longitude: float) -> tuple[int, int]:
    turned = (longitude + 180) % 360 - 180
    return math.floor(latitude / CELL_DEGREES), math.floor(turned / CELL_DEGREES)


def _cells(box: Box) -> Iterator[tuple[int, int]]:
    """The grid's cells that a box touches; one more than MOST_CELLS if there are too many."""
    rows = range(math.floor(box.south / CELL_DEGREES), math.floor(box.north / CELL_DEGREES) + 1)
    columns = range(math.floor(box.west / CELL_DEGREES), math.floor(box.east / CELL_DEGREES) + 1)
    around = round(360 / CELL_DEGREES)
    for count, (row, column) in enumerate((row, column) for row in rows for column in columns):
        yield row, (column + around // 2) % around - around // 2
        if count == MOST_CELLS:
            return
