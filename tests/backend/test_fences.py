"""Geofences: distances on the earth, looking them up one by one and many at once, and who is in which."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.proximity.fence_tracks import CONFIRM_MS, SILENT_MS, FenceTracks, Fix
from backend.proximity.fences import METRES_A_DEGREE, Fence, FenceInvalid, Fences, geometry_of, parse_fence

VIENNA = (48.2082, 16.3738)
T = 1_750_075_200_000


def circle(fence_id="f", latitude=VIENNA[0], longitude=VIENNA[1], radius_m=100.0, **more) -> Fence:
    shape = {"type": "circle", "latitude": latitude, "longitude": longitude, "radius_m": radius_m}
    return parse_fence(msgspec.json.encode({"fence_id": fence_id, "name": fence_id, "shape": shape, **more}))


def polygon(rings, fence_id="p", **more) -> Fence:
    shape = {"type": "polygon", "geometry": {"type": "Polygon", "coordinates": rings}}
    return parse_fence(msgspec.json.encode({"fence_id": fence_id, "name": fence_id, "shape": shape, **more}))


def north(metres: float, of=VIENNA) -> tuple[float, float]:
    return of[0] + metres / METRES_A_DEGREE, of[1]


def great_circle(one, other) -> float:
    """Haversine, independent of what is tested."""
    (a, b), (c, d) = ([math.radians(value) for value in place] for place in (one, other))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6_371_000 * math.asin(math.sqrt(half))


# Geometry -------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.floats(-80, 80),
    st.floats(-180, 180),
    st.floats(20, 20_000),
    st.floats(0, 2 * math.pi),
    st.floats(0, 10_000),
)
def test_the_distance_to_a_circle_is_that_on_the_sphere(latitude, longitude, radius, bearing, away):
    geometry = geometry_of(circle(latitude=latitude, longitude=longitude, radius_m=radius))
    there = (
        latitude + away * math.cos(bearing) / METRES_A_DEGREE,
        (longitude + away * math.sin(bearing) / geometry.east_metres + 180) % 360 - 180,
    )
    true = great_circle((latitude, longitude), there) - radius
    assert geometry.distance(*there) == pytest.approx(true, abs=1 + 0.02 * away)


def square(side_m: float, at=VIENNA, hole_m: float = 0):
    def ring(half):
        x, y = half / (METRES_A_DEGREE * math.cos(math.radians(at[0]))), half / METRES_A_DEGREE
        return [[at[1] + dx * x, at[0] + dy * y] for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]

    return [ring(side_m / 2), *([ring(hole_m / 2)] if hole_m else [])]


@pytest.mark.parametrize(
    ("metres", "distance"), [(0, 20), (10, 10), (30, -10), (60, -40), (100, 0), (150, 50)]
)
def test_a_polygon_has_holes(metres, distance):
    geometry = geometry_of(polygon(square(200, hole_m=40)))
    assert geometry.distance(*north(metres)) == pytest.approx(distance, abs=0.5)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "malformed|truncated"),
        (
            b'{"fence_id":"f","name":"f","shape":{"type":"circle","latitude":99,"longitude":0,"radius_m":50}}',
            "latitude",
        ),
        (
            b'{"fence_id":"f","name":"f","shape":{"type":"circle","latitude":9,"longitude":0,"radius_m":5}}',
            "radius_m",
        ),
        (
            b'{"fence_id":"f f","name":"f","shape":{"type":"circle","latitude":9,"longitude":0,"radius_m":50}}',  # noqa: E501
            "fence_id",
        ),
        (msgspec.json.encode({"fence_id": "f", "name": "f", "shape": {"type": "point"}}), "type"),
    ],
)
def test_a_fence_that_is_none_is_refused_with_what_is_wrong(body, named):
    with pytest.raises(FenceInvalid, match=f"(?i){named}"):
        parse_fence(body)


BOWTIE = [[[16, 48], [16.01, 48.01], [16.01, 48], [16, 48.01], [16, 48]]]


@pytest.mark.parametrize(
    ("rings", "named"),
    [
        (BOWTIE, "Self-intersection"),
        ([[[16, 48], [16.01, 48], [16.01, 48.01], [16, 48.01]]], "end where it begins"),
        ([[[-179, 0], [179, 0], [179, 1], [-179, 0]]], "180th"),
        ([[[16, 48], [30, 48], [30, 50], [16, 48]]], "km across"),
        ([[[16, 89], [16.01, 89], [16.01, 89.01], [16, 89]]], "latitude"),
        ([[[16, 48], [16.00001, 48], [16.00001, 48.00001], [16, 48]]], "km across"),
    ],
)
def test_rings_that_enclose_nothing_sensible_are_refused(rings, named):
    with pytest.raises(FenceInvalid, match=named):
        polygon(rings)


def shaped(shape) -> Fence:
    return parse_fence(msgspec.json.encode({"fence_id": "p", "name": "p", "shape": shape}))


def lifted(rings):
    return [[[*position, 171.5] for position in ring] for ring in rings]


PLAIN = {"type": "Polygon", "coordinates": square(200, hole_m=40)}
FEATURE = {"type": "Feature", "id": 7, "properties": {"name": "Car park"}, "geometry": PLAIN}
MULTI = {"type": "MultiPolygon", "coordinates": [square(200, hole_m=40)]}
SAME = {
    "with altitudes": {**PLAIN, "coordinates": lifted(PLAIN["coordinates"])},
    "with a bounding box": {**PLAIN, "bbox": [16.3, 48.1, 16.4, 48.3]},
    "a feature": FEATURE,
    "several polygons": MULTI,
    "a feature of several": {"type": "Feature", "properties": None, "geometry": MULTI},
}


@pytest.mark.parametrize("geometry", SAME.values(), ids=SAME)
@pytest.mark.parametrize("wrapped", [True, False])
def test_whatever_geojson_puts_around_it_it_is_the_same_place(geometry, wrapped):
    fence = shaped({"type": "polygon", "geometry": geometry} if wrapped else geometry)
    found, plain = geometry_of(fence), geometry_of(polygon(square(200, hole_m=40)))
    assert (found.latitude, found.longitude, found.reach_m) == (
        plain.latitude,
        plain.longitude,
        plain.reach_m,
    )
    for metres in (0, 10, 30, 60, 100, 150):
        assert found.distance(*north(metres)) == pytest.approx(plain.distance(*north(metres)))
    assert parse_fence(msgspec.json.encode(fence)) == fence, "as it is stored and read again"


def test_where_a_ring_crosses_itself_is_told_as_it_was_drawn():
    ring = [[16.36, 48.2], [16.38, 48.22], [16.38, 48.2], [16.36, 48.22], [16.36, 48.2]]
    body = {"fence_id": "f", "name": "f", "shape": {"type": "Polygon", "coordinates": [ring]}}
    with pytest.raises(FenceInvalid, match=r"Self-intersection\[16\.37 48\.21\d*\]"):
        parse_fence(msgspec.json.encode(body))


def test_two_polygons_are_one_fence():
    far = north(500)
    fence = shaped({"type": "MultiPolygon", "coordinates": [square(200), square(100, at=far)]})
    fences = Fences.of([fence])
    expected = {0: -100, 100: 0, 250: 150, 400: 50, 500: -50}
    for metres, distance in expected.items():
        [near] = fences.around(*north(metres))
        assert near.distance == pytest.approx(distance, abs=0.5)
        _, _, away = fences.around_all(*(np.array([value]) for value in north(metres)))
        assert away == pytest.approx([distance], abs=0.5)


def test_what_is_cut_at_the_180th_meridian_is_one_place_on_both_sides():
    def half(west, east):
        return [[[west, 0], [east, 0], [east, 0.02], [west, 0.02], [west, 0]]]

    fence = shaped({"type": "MultiPolygon", "coordinates": [half(179.99, 180), half(-180, -179.99)]})
    fences = Fences.of([fence])
    for longitude in (179.995, 180.0, -180.0, -179.995):
        [near] = fences.around(0.01, longitude)
        assert near.distance < -500, "the cut itself is no edge"
        _, _, away = fences.around_all(np.array([0.01]), np.array([longitude]))
        assert away == pytest.approx([near.distance])
    assert fences.around(0.01, 0.0) == []


@pytest.mark.parametrize(
    "shape",
    [
        {"type": "MultiPolygon", "coordinates": []},
        {"type": "MultiPolygon", "coordinates": [square(200), BOWTIE]},
        {"type": "MultiPolygon", "coordinates": [square(200), square(200, at=(10, 10))]},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [16, 48]}},
        {"type": "Feature", "geometry": None},
        {"type": "Polygon", "coordinates": [[[16], [16], [16], [16]]]},
        {"type": "Polygon", "coordinates": [[[181, 0], [181.01, 0], [181.01, 0.01], [181, 0]]]},
        {
            "type": "Polygon",
            "coordinates": [[[16, 48, 1, 2], [16.01, 48, 1, 2], [16.01, 48.01, 1, 2], [16, 48, 1, 2]]],
        },
    ],
)
def test_geojson_that_is_no_fence_is_refused(shape):
    with pytest.raises(FenceInvalid):
        shaped(shape)


# Looking up -----------------------------------------------------------------------------------------------

places = st.tuples(
    st.floats(-80, 80), st.one_of(st.floats(-180, 180), st.floats(179.9, 180), st.floats(-180, -179.9))
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(places, st.floats(20, 30_000), st.floats(0, 5_000)), min_size=1, max_size=12),
    st.data(),
)
def test_one_by_one_and_many_at_once_find_the_same(made, data):
    fences = Fences.of(
        circle(f"f{number}", *place, radius, approach_m=approach)
        for number, (place, radius, approach) in enumerate(made)
    )
    near = st.sampled_from(made).flatmap(
        lambda one: st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)).map(
            lambda by: (one[0][0] + by[0], (one[0][1] + by[1] + 180) % 360 - 180)
        )
    )
    points = data.draw(st.lists(near, min_size=1, max_size=20))
    latitudes, longitudes = np.array(points).T
    ids = list(fences.by_id)
    together = {}
    for point, fence, distance in zip(*fences.around_all(latitudes, longitudes), strict=True):
        together[int(point), ids[fence]] = distance
    alone = {
        (number, one.geometry.fence.fence_id): one.distance
        for number, point in enumerate(points)
        for one in fences.around(*point)
    }
    assert together.keys() == alone.keys()
    for key, distance in alone.items():
        assert together[key] == pytest.approx(distance, abs=1e-3)


def test_polygons_are_found_among_circles():
    fences = Fences.of([circle("c", radius_m=30), polygon(square(200, hole_m=40))])
    points = np.array([VIENNA, north(50), north(300), north(3_000)])
    found = {
        (int(p), list(fences.by_id)[f])
        for p, f, d in zip(*fences.around_all(*points.T), strict=True)
        if d <= 0
    }
    assert found == {(0, "c"), (1, "p")}


def test_the_nearest_twenty_of_many():
    fences = Fences.of(
        circle(f"f{number:04d}", *north(1_000 * number), radius_m=100) for number in range(500)
    )
    near = fences.nearest(*north(10_300), 20)
    assert [one.geometry.fence.fence_id for one in near[:3]] == ["f0010", "f0011", "f0009"]
    assert len(near) == 20
    assert [one.distance for one in near] == sorted(one.distance for one in near)
    assert Fences.of([]).nearest(*VIENNA, 20) == []


# Transitions ----------------------------------------------------------------------------------------------


class Walk:
    """A phone among fences; `at` tells where it was and how surely, and collects what follows."""

    def __init__(self, *fences: Fence) -> None:
        self.fences, self.tracks, self.now, self.seen = Fences.of(fences), FenceTracks(), T, []

    def at(self, metres: float, accuracy: float = 10.0, seconds: int = 10, late_s: int = 0) -> list[str]:
        self.now += seconds * 1000
        fix = Fix(self.now - late_s * 1000, accuracy)
        tracked = self.tracks.tracks.get("phone", ())
        found = list(self.tracks.locate("phone", fix, self.fences.around(*north(metres), tracked)))
        self.seen += found
        return [one.kind for one in found]

    def says(self, what: str, seconds: int = 10, late_s: int = 0) -> list[str]:
        """The phone's own system, of the first fence."""
        self.now += seconds * 1000
        found = list(self.tracks.report("phone", "f", what, Fix(self.now - late_s * 1000, 0.0), 100))
        self.seen += found
        return [one.kind for one in found]


def test_a_way_through_a_fence():
    walk = Walk(circle(radius_m=100, approach_m=500))
    assert walk.at(2_000) == []
    assert walk.at(480) == []
    assert walk.at(400) == ["approached"]
    assert walk.at(300) == []
    assert walk.at(60) == ["entered"]
    assert walk.at(0) == ["stayed"]
    assert walk.at(120) == [], "within the margin: fixes jump"
    assert walk.at(200) == ["left"]
    assert walk.at(150) == [], "whoever just left does not approach"
    assert walk.at(2_000) == []
    assert walk.tracks.tracks == {}, "nothing is remembered of a phone that is nowhere near"


def test_a_wild_fix_says_nothing():
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    assert walk.at(17_000, accuracy=17_000) == []
    assert walk.at(400, accuracy=150) == []
    assert walk.at(0) == ["stayed"]


@pytest.mark.parametrize("fixes", [[(17_000, 17_000)] * 5, [(900, 250)] * 2, [(9_000, 17_000), (9_000, 250)]])
def test_however_many_wild_fixes_there_are_they_say_nothing(fixes):
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    assert [walk.at(metres, accuracy) for metres, accuracy in fixes] == [[]] * len(fixes)
    assert walk.at(0) == ["stayed"]


@pytest.mark.parametrize("approach_m", [0, 20, 500])
def test_fixes_jump_as_far_where_nobody_waits_for_who_approaches(approach_m):
    walk = Walk(circle(radius_m=100, approach_m=approach_m))
    walk.at(0)
    assert [walk.at(metres) for metres in (105, 125, 95)] == [[], [], ["stayed"]]
    assert walk.at(150) == ["left"]


def test_a_fence_that_was_taken_away_holds_nobody():
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    walk.fences = Fences.of([])
    assert walk.at(0) == ["left"]
    assert walk.tracks.tracks == {}


def test_a_doubtful_fix_needs_a_second():
    walk = Walk(circle(radius_m=100))
    assert walk.at(80, accuracy=60) == []
    assert walk.at(75, accuracy=60) == ["entered"]
    assert walk.seen[-1].confidence == "medium"
    assert walk.at(160, accuracy=60) == []
    assert walk.at(160, accuracy=60) == ["left"]


def test_two_doubts_long_apart_confirm_nothing():
    walk = Walk(circle(radius_m=100))
    walk.at(80, accuracy=60)
    assert walk.at(80, accuracy=60, seconds=CONFIRM_MS // 1000 + 1) == []


def test_jitter_on_the_edge_makes_one_entering():
    walk = Walk(circle(radius_m=100))
    kinds = [kind for metres in [95, 105, 98, 110, 90, 120, 99] * 6 for kind in walk.at(metres, accuracy=15)]
    assert kinds.count("entered") == 1
    assert "left" not in kinds


def test_an_older_fix_changes_nothing():
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    assert walk.at(3_000, seconds=1, late_s=60) == []
    assert walk.at(0) == ["stayed"]


def test_what_the_phones_own_system_says():
    tracks = FenceTracks()

    def say(what, at, accuracy=20.0):
        return [one.kind for one in tracks.report("phone", "f", what, Fix(T + at, accuracy), 100)]

    assert say("enter", 0) == ["entered"]
    assert say("enter", 1) == ["stayed"]
    assert say("dwell", 2) == ["stayed"]
    assert say("leave", 3, 17_000.0) == [], "a false exit"
    assert say("leave", 1) == [], "older than what is known"
    assert say("leave", 4) == ["left"]
    assert say("leave", 5) == []
    assert say("dwell", 6) == ["entered"]


def test_what_the_system_said_of_a_moment_before_is_history():
    """A request that failed is repeated later than the one behind it: nobody enters after having left."""
    walk = Walk(circle(radius_m=100))
    assert walk.says("leave") == [], "the entering is still on its way"
    assert walk.says("enter", late_s=300) == walk.says("dwell", late_s=200) == []
    assert walk.at(0, seconds=1, late_s=60) == [], "nor does a fix of before bring them in"
    assert walk.tracks.track_of(("phone", "f")).inside is False
    assert walk.says("enter", seconds=60) == ["entered"]
    assert walk.at(3_000, seconds=1, late_s=30) == [], "nor one of before out"
    assert walk.says("leave", seconds=60) == ["left"]


def test_whoever_is_far_away_by_now_enters_nothing_of_before():
    walk = Walk(circle(radius_m=100))
    walk.at(5_000)
    assert walk.says("enter", late_s=60) == []
    walk.at(5_000, accuracy=17_000, seconds=600)
    assert walk.says("enter", late_s=60) == ["entered"], "a fix of 17 km says nothing about this fence"


@pytest.mark.parametrize(
    ("coarser", "known_s"),
    [([17_000], 10), ([17_000] * 9, 10), ([60, 65, 1_400, 3_000, 17_000], 30), (range(60, 2_000, 10), 10)],
)
def test_a_coarser_fix_does_not_undo_what_a_surer_one_said(coarser, known_s):
    walk = Walk(circle(radius_m=100))
    walk.at(5_000)
    for accuracy in coarser:
        walk.at(5_000, accuracy=accuracy)
    late_s = (walk.now - T) // 1000 - known_s
    assert walk.says("enter", seconds=0, late_s=late_s + 1) == [], "they were not near then"
    assert walk.says("enter", seconds=0, late_s=late_s) == ["entered"]


def test_little_is_remembered_of_a_phone_whose_fixes_grow_ever_coarser():
    walk = Walk(circle(radius_m=100))
    for accuracy in range(10, 1_000):
        walk.at(5_000, accuracy=accuracy)
    assert len(walk.tracks.fixes["phone"]) <= 5
    assert walk.tracks.last_at("phone") == walk.now


def test_a_silent_phone_left_when_it_was_last_seen():
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    assert list(walk.tracks.expire(walk.now + SILENT_MS)) == []
    [left] = walk.tracks.expire(walk.now + SILENT_MS + 1)
    assert (left.kind, left.at, left.confidence) == ("left", walk.now, "low")


def test_a_phone_that_is_near_no_fence_is_not_remembered_for_ever():
    walk = Walk(circle(radius_m=100))
    walk.at(5_000)
    assert list(walk.tracks.expire(walk.now + SILENT_MS)) == []
    assert walk.tracks.last_at("phone") == walk.now, "it may still tell of a moment before"
    assert list(walk.tracks.expire(walk.now + SILENT_MS + 1)) == []
    assert walk.tracks.fixes == {}


def test_whoever_withdraws_is_forgotten_at_once():
    walk = Walk(circle(radius_m=100))
    walk.at(0)
    assert [one.kind for one in walk.tracks.forget("phone", walk.now)] == ["left"]
    assert walk.tracks.tracks == {}
    assert walk.tracks.fixes == {}


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.floats(-1_500, 1_500) | st.sampled_from(("enter", "dwell", "leave")),
            st.floats(1, 400),
            st.integers(0, 900),
            st.integers(0, 120),
        ),
        max_size=60,
    )
)
def test_entering_and_leaving_take_turns_whatever_the_fixes_say(fixes):
    walk = Walk(circle(radius_m=100), circle("g", *north(900), radius_m=300))
    for said, accuracy, seconds, late_s in fixes:
        if isinstance(said, str):
            walk.says(said, seconds, late_s)
        else:
            walk.at(said, accuracy, seconds, late_s)
    list(walk.tracks.expire(walk.now))
    for fence_id in ("f", "g"):
        turns = [one for one in walk.seen if one.fence_id == fence_id and one.kind != "approached"]
        inside = False
        for one in turns:
            assert one.kind == (
                "left" if inside and one.kind == "left" else "stayed" if inside else "entered"
            )
            inside = one.kind != "left"
        assert [one.at for one in turns] == sorted(one.at for one in turns)


def test_a_restart_goes_on_where_it_stopped():
    walk = Walk(circle(radius_m=100))
    walk.at(400)
    walk.at(0)
    kept = [walk.tracks.track_of(key) for key in walk.tracks.changed]
    walk.tracks = FenceTracks()
    walk.tracks.restore(kept)
    assert walk.at(0) == ["stayed"]
    assert walk.at(400) == ["left"]
