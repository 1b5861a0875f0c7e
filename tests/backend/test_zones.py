"""The zone rule: hysteresis, settling, floor, absence, silent gateways, restarts, replays, order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.proximity.places import Place
from backend.proximity.zones import Transition, ZoneEngine, ZoneSettings

ZONES = {"s/ga": Place("s", "a"), "s/gb": Place("s", "b"), "s/gb2": Place("s", "b"), "t/gc": Place("t", "c")}
A, B, C = Place("s", "a"), Place("s", "b"), Place("t", "c")
T = 1_000_000


def engine(**changed) -> ZoneEngine:
    made = ZoneEngine(dict(ZONES), ZoneSettings(**changed))
    for gateway in ZONES:
        made.gateway_alive(gateway, T)
    return made


def run(made: ZoneEngine, readings, silent: tuple[str, ...] = ()) -> list[tuple[str, Place, int]]:
    """Readings as (gateway, ms after T, dBm); what changed, as (kind, place, ms after T).

    Every gateway that is not silent gives a sign of life each second, and the last second is heard out.
    """
    changes: list[Transition] = []
    told = T + readings[0][1]
    for gateway, at, dbm in readings:
        for now in range(told, T + at, 1000):
            tell(made, now, silent)
        told = T + at
        tell(made, told, silent)
        changes += made.hear("tag", gateway, T + at, dbm, 1)
    end = T + (max(at for _, at, _ in readings) // 1000 + 1) * 1000
    tell(made, end, silent)
    changes += made.expire(end)
    return [(change.kind, change.place, change.at - T) for change in changes]


def tell(made: ZoneEngine, now: int, silent: tuple[str, ...] = ()) -> None:
    for gateway in made.zone_of:
        if gateway not in silent:
            made.gateway_alive(gateway, now)


def seconds(gateway: str, first: int, last: int, dbm: float):
    return [(gateway, second * 1000, dbm) for second in range(first, last + 1)]


def together(first: int, last: int, **dbm: float):
    """Several gateways hear each second, in turn."""
    return [
        (f"s/{gateway}", second * 1000 + 100 * turn, level)
        for second in range(first, last + 1)
        for turn, (gateway, level) in enumerate(dbm.items())
    ]


@pytest.mark.parametrize(
    ("why", "readings", "expected"),
    [
        ("one lucky second is not enough", seconds("s/ga", 0, 0, -60), []),
        (
            "a zone is entered after it led for settle_ms, since then",
            seconds("s/ga", 0, 1, -60),
            [("entered", A, 0)],
        ),
        ("below the floor nobody is anywhere", seconds("s/ga", 0, 20, -93), []),
        ("above it one may be", seconds("s/ga", 0, 3, -75), [("entered", A, 0)]),
        ("an unknown gateway says nothing", seconds("s/gx", 0, 5, -50), []),
        (
            "a stronger zone wins, and then at once",
            together(0, 4, ga=-60, gb=-80) + together(5, 14, ga=-80, gb=-60),
            [("entered", A, 0), ("left", A, 7100), ("entered", B, 7100)],
        ),
        (
            "a single strong second of the neighbour does not move anybody",
            [*seconds("s/ga", 0, 3, -70), ("s/gb", 3200, -60), *seconds("s/ga", 4, 9, -55)],
            [("entered", A, 0)],
        ),
        (
            "the store decides at once",
            seconds("s/ga", 0, 2, -60) + seconds("t/gc", 3, 4, -80),
            [("entered", A, 0), ("left", A, 3000), ("entered", C, 3000)],
        ),
        (
            "two gateways of a zone count together",
            [*seconds("s/gb", 0, 1, -90), *seconds("s/gb2", 1, 2, -60), *seconds("s/ga", 2, 4, -65)],
            [("entered", B, 0)],
        ),
        (
            "a candidate that was silent for long starts afresh",
            [("s/ga", 0, -60), ("s/ga", 9000, -60), ("s/ga", 10_000, -60)],
            [("entered", A, 9000)],
        ),
        (
            "so does one that faded below the floor",
            [*seconds("s/ga", 0, 0, -90), *seconds("s/ga", 1, 5, -110), *seconds("s/ga", 6, 12, -60)],
            [("entered", A, 6000)],
        ),
        (
            "whoever is heard by neighbours only is not moved by their word alone for a second or two",
            [*seconds("s/ga", 0, 5, -65), *seconds("s/gb", 6, 7, -80)],
            [("entered", A, 0)],
        ),
    ],
)
def test_cases(why, readings, expected):
    assert run(engine(), readings) == expected, why


def test_equal_neighbours_do_not_take_turns():
    changes = run(engine(), together(0, 60, ga=-70.0, gb=-70.0))
    assert len([kind for kind, _place, _at in changes if kind == "entered"]) <= 2


def test_every_entering_says_how_sure_it_is():
    made = engine()
    sure = made.hear("x", "s/ga", T, -55, 3)
    for second in range(1, 8):
        sure += made.hear("x", "s/ga", T + 1000 * second, -55, 3)
        sure += made.hear("x", "s/gb", T + 1000 * second + 1, -88, 3)
        made.hear("y", "s/ga", T + 1000 * second, -70, 3)
        unsure = made.hear("y", "s/gb", T + 1000 * second + 1, -71, 3)
    assert [(change.kind, change.confidence) for change in sure] == [("entered", "high")]
    assert 0.85 <= sure[0].probability <= 1
    assert made.tracks["y"].confidence in ("none", "low")
    assert all(change.confidence == "low" for change in unsure)


def test_the_second_is_weighed_as_soon_as_every_gateway_told_of_it():
    made = engine()
    for second in (0, 1):
        made.hear("tag", "s/ga", T + second * 1000 + 500, -60, 2)
    tell(made, T + 1999)
    assert made.expire(T + 2100) == [], "a gateway may still tell of it"
    tell(made, T + 2000)
    assert [change.kind for change in made.expire(T + 2101)] == ["entered"]


def test_a_gateway_that_told_of_a_second_is_not_waited_for_until_its_end():
    """It tells of each second once; but of many beacons in several messages, for which a moment is left."""
    made = engine()
    for second in (0, 1):
        now = T + second * 1000 + 500
        for gateway in ("s/ga", "s/gb", "s/gb2"):
            made.hear("tag", gateway, now, -60 if gateway == "s/ga" else -75, 2)
        assert made.weigh(now + 49) == [], "there may be more of it on the way"
        changes = made.weigh(now + 50)
    assert [change.kind for change in changes] == ["entered"]
    assert not made.waits


def test_who_is_gone_meanwhile_is_not_weighed():
    made = engine()
    made.hear("tag", "s/ga", T + 500, -60, 2)
    made.hear("other", "s/ga", T + 500, -60, 2)
    made.forget("tag", T + 600)
    made.hear("other", "t/gc", T + 700, -60, 2)
    assert made.waits
    assert made.weigh(T + 5_000) == []
    assert not made.waits


def test_no_gateway_is_waited_for_longer_than_half_a_second():
    made = engine()
    for second in (0, 1):
        made.hear("tag", "s/ga", T + second * 1000 + 500, -60, 2)
    assert [change.kind for change in made.expire(T + 2500)] == ["entered"]


# Phones ---------------------------------------------------------------------------------------------------

BEACONS = {
    "beacon-a": A,
    "beacon-b": B,
    "beacon-b2": B,
    "beacon-d": Place("s", "d"),
    "beacon-e": Place("e", "e"),
}
D, E = BEACONS["beacon-d"], BEACONS["beacon-e"]


def with_beacons(**places) -> ZoneEngine:
    """Of the zone d, and of the whole store e, only beacons tell."""
    return ZoneEngine(dict(ZONES), zone_beacons=BEACONS, **places)


def by_phone(made: ZoneEngine, first: int, last: int, **dbm: float) -> list[tuple[str, Place, int]]:
    changes: list[Transition] = []
    for second in range(first, last + 1):
        for key, level in dbm.items():
            changes += made.hear_by_phone("phone", f"beacon-{key}", T + 1000 * second, level, 1)
        changes += made.expire(T + 1000 * second + 900)
    changes += made.expire(T + 1000 * last + 1500)
    return [(change.kind, change.place, change.at - T) for change in changes]


@pytest.mark.parametrize("heard", ["a", "b", "d", "e"], ids="zone {}".format)
def test_a_phone_is_where_it_hears_a_fixed_beacon_and_no_gateway_need_live(heard):
    made, place = with_beacons(), BEACONS[f"beacon-{heard}"]
    assert by_phone(made, 0, 20, **{heard: -58}) == [("entered", place, 0)]
    assert made.expire(T + 30_000) == []
    assert made.expire(T + 30_001) == [Transition("left", "phone", place, T + 20_000, T)]
    assert made.tracks == {}


@pytest.mark.parametrize(
    ("near", "far"), [(near, far) for near in "abd" for far in "abd" if near != far], ids="".join
)
@pytest.mark.parametrize("positions", [{}, {name: (9.0 * n, 0.0) for n, name in enumerate(sorted(ZONES))}])
def test_a_phone_is_in_the_zone_whose_beacon_it_hears_best_with_a_gateway_or_without(near, far, positions):
    made = with_beacons(positions=positions)
    entered = by_phone(made, 0, 8, **{far: -88, near: -60})
    assert [change[:2] for change in entered] == [("entered", BEACONS[f"beacon-{near}"])]
    moved = by_phone(made, 9, 30, **{far: -60, near: -88})
    assert [change[:2] for change in moved] == [
        ("left", BEACONS[f"beacon-{near}"]),
        ("entered", BEACONS[f"beacon-{far}"]),
    ]


def test_a_phone_in_a_shop_of_many_beacons_is_at_the_near_one():
    many = {f"beacon-{number}": Place("s", f"z{number}") for number in range(40)}
    made = ZoneEngine({}, zone_beacons=many)
    assert by_phone(made, 0, 9, **{"7": -60, "8": -80})[0][:2] == ("entered", Place("s", "z7"))
    assert made.tracks["phone"].confidence in ("medium", "high")


@pytest.mark.parametrize("floor", ["places known", "places unknown"])
def test_a_phone_walks_over_where_gateways_hang_beside_beacons(floor):
    placed = (
        {"s/ga": (0.0, 0.0), "s/gb": (12.0, 0.0), "s/gb2": (14.0, 3.0)} if floor == "places known" else {}
    )
    beacons = {"beacon-a": A, "beacon-b": B}
    made = ZoneEngine(dict(ZONES), zone_beacons=beacons, positions=placed)
    walked = by_phone(made, 0, 9, a=-60, b=-85) + by_phone(made, 10, 25, a=-85, b=-60)
    assert [change[:2] for change in walked] == [("entered", A), ("left", A), ("entered", B)]
    directions = made.tracks["phone"].belief.weights
    assert (len(directions) > 8) is (floor == "places known"), "two rays of four rings, or cells of a floor"


@pytest.mark.parametrize("positions", [{}, {name: (9.0 * n, 0.0) for n, name in enumerate(sorted(ZONES))}])
def test_the_far_beacon_of_a_zone_takes_nothing_from_the_near_one(positions):
    two = {"beacon-a": A, "beacon-b": B, "beacon-b2": B}
    made = ZoneEngine(dict(ZONES), zone_beacons=two, positions=positions)
    assert [change[:2] for change in by_phone(made, 0, 9, a=-75, b=-60, b2=-92)] == [("entered", B)]
    assert len(made.tracks["phone"].belief.weights) == 3 * 4, "where the two hang nobody said: a ray for each"


def test_a_phone_and_a_tag_of_one_person_say_each_their_own():
    made, changes = with_beacons(), []
    for second in range(6):
        made.gateway_alive("s/ga", T + 1000 * second)
        changes += made.hear("tag", "s/ga", T + 1000 * second, -60, 2)
        changes += made.hear_by_phone("phone", "beacon-d", T + 1000 * second, -60, 1)
    assert {(change.kind, change.beacon_key, change.place) for change in changes} == {
        ("entered", "tag", A),
        ("entered", "phone", D),
    }


def test_a_phones_system_waits_itself_before_it_says_that_a_region_was_entered():
    made = with_beacons()
    made.hear_by_phone("phone", "beacon-d", T, -75, 1)
    assert made.expire(T + 1500) == [], "one reading of an app might be a lucky one"
    made = with_beacons()
    made.hear_by_phone("phone", "beacon-d", T, -75, 1, settled=True)
    [entered] = made.expire(T + 1500)
    assert (entered.kind, entered.place, entered.at) == ("entered", D, T)
    assert (
        made.hear_by_phone("phone", "beacon-a", T + 2000, -75, 1, settled=True) == made.expire(T + 3500) == []
    )


def test_a_phone_that_leaves_a_region_leaves_the_zone_at_once():
    made = with_beacons()
    by_phone(made, 0, 5, d=-60)
    assert made.left_by_phone("phone", "beacon-a", T + 6000) == []
    assert made.left_by_phone("phone", "beacon-d", T + 4000) == [], "heard since"
    assert made.left_by_phone("stranger", "beacon-d", T + 6000) == []
    assert made.left_by_phone("phone", "beacon-x", T + 6000) == []
    made = phones_restarted(made)
    assert made.left_by_phone("phone", "beacon-d", T + 6000) == [Transition("left", "phone", D, T + 6000, T)]
    assert made.left_by_phone("phone", "beacon-d", T + 6000) == []


def test_a_phone_stays_in_a_zone_of_which_it_hears_another_beacon():
    made = with_beacons()
    by_phone(made, 0, 5, b=-60, b2=-70)
    by_phone(made, 6, 9, b2=-60)
    assert made.left_by_phone("phone", "beacon-b", T + 10_000) == []
    by_phone(made, 25, 25, a=-90)
    assert made.left_by_phone("phone", "beacon-b2", T + 10_000) == []
    assert made.tracks["phone"].place is None, "silence had ended it"


def test_what_a_phone_left_before_its_second_was_weighed_is_no_evidence_any_more():
    made = with_beacons()
    made.hear_by_phone("phone", "beacon-d", T, -60, 1, settled=True)
    assert made.left_by_phone("phone", "beacon-d", T + 300) == []
    assert made.expire(T + 2000) == []


def phones_restarted(old: ZoneEngine) -> ZoneEngine:
    made = with_beacons()
    for phone in old.tracks:
        made.restore(phone, old.state_of(phone))
    return made


def test_a_restart_changes_nothing_for_phones():
    heard = [(second, {"b": -62 - second % 7, "d": -80 + 2 * second}) for second in range(24)]
    kept, changes, after = with_beacons(), [], []
    restarting = with_beacons()
    for second, dbm in heard:
        changes += by_phone(kept, second, second, **dbm)
        restarting = phones_restarted(restarting)
        after += by_phone(restarting, second, second, **dbm)
    assert after == changes
    assert [change[:2] for change in changes] == [("entered", B), ("left", B), ("entered", D)]


def test_silence_leaves_when_it_was_last_heard():
    made = engine(gateway_silent_ms=60_000)
    run(made, seconds("s/ga", 0, 3, -60))
    assert made.expire(T + 13_000) == []
    assert made.expire(T + 13_001) == [Transition("left", "tag", A, T + 3000, T)]
    assert made.tracks == {}


def test_whoever_is_heard_only_faintly_has_left():
    changes = run(engine(), seconds("s/ga", 0, 3, -60) + seconds("s/ga", 4, 30, -100))
    assert changes == [("entered", A, 0), ("left", A, 3000)]


def test_a_silent_gateway_makes_its_zones_unknown_within_ten_seconds():
    made = engine()
    run(made, seconds("s/ga", 0, 3, -60))
    assert made.expire(T + 12_000) == []
    made.gateway_alive("s/gb", T + 12_250)
    unknown = made.expire(T + 12_250)
    assert unknown == [Transition("unknown", "tag", A, T + 3000, T, "none", 0.0)]
    assert made.expire(T + 12_500) == [], "told once"


def test_one_living_gateway_of_the_zone_is_enough():
    made = engine()
    run(made, seconds("s/gb", 0, 3, -60))
    made.gateway_alive("s/gb2", T + 12_500)
    assert made.expire(T + 12_500) == []


def test_a_moved_gateway_takes_nobody_with_it():
    made = engine()
    run(made, seconds("s/ga", 0, 3, -60))
    made.zone_of["s/ga"] = B
    assert [change.kind for change in made.expire(T + 4_000)] == ["unknown"]


def test_our_own_absence_is_not_theirs():
    made = engine(gateway_silent_ms=600_000)
    run(made, seconds("s/ga", 0, 3, -60))
    made.awake_at = T + 60_000
    assert made.expire(T + 70_000) == []
    assert made.expire(T + 70_001) == [Transition("left", "tag", A, T + 3000, T)]


def test_evidence_is_of_the_zone_itself():
    made = engine()
    run(made, [*seconds("s/ga", 0, 3, -60), ("s/gb", 6000, -90.0)])
    assert made.tracks["tag"].seen_at == T + 3000


# Tags that are heard seldom ---------------------------------------------------------------------------------


def every(step_s: float, first_s: float, last_s: float, gateway: str = "s/ga", dbm: float = -60):
    """A gateway hears an advert every so many seconds."""
    count = int((last_s - first_s) / step_s) + 1
    return [(gateway, round(1000 * (first_s + step_s * number)), dbm) for number in range(count)]


def waits_s(made: ZoneEngine, last_s: float) -> int:
    """How many seconds of silence end the presence; every gateway goes on giving signs of life."""
    for silent_s in range(1, 200):
        now = T + round(1000 * (last_s + silent_s))
        tell(made, now)
        if any(change.kind == "left" for change in made.expire(now)):
            return silent_s
    return 200


@pytest.mark.parametrize("step_s", [0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0])
def test_a_slow_tag_is_in_its_zone_from_its_second_advert_and_stays(step_s):
    changes = run(engine(), every(step_s, 0, 100))
    assert [change[:2] for change in changes] == [("entered", A)]
    assert changes[0][2] <= 1000 * max(step_s, 1)


@pytest.mark.parametrize(
    ("step_s", "least", "most"),
    [
        (0.25, 10, 11),
        (1.0, 10, 11),
        (2.0, 10, 11),
        (3.0, 15, 16),
        (5.0, 25, 26),
        (7.0, 30, 31),
        (10.0, 30, 31),
    ],
)
def test_a_tag_has_left_when_five_of_its_adverts_are_missing(step_s, least, most):
    made = engine()
    run(made, every(step_s, 0, 60))
    assert least <= waits_s(made, 60 // step_s * step_s) <= most


def test_one_long_silence_makes_no_slow_tag():
    made = engine()
    run(made, [*every(0.5, 0, 20), *every(0.5, 29, 33)])
    assert made.tracks["tag"].pace_s < 1
    assert waits_s(made, 33) <= 11


def test_our_own_absence_makes_no_slow_tag():
    made = engine()
    run(made, every(0.5, 0, 19.5))
    made.awake_at = T + 50_000
    run(made, every(0.5, 50, 51.5))
    assert made.tracks["tag"].pace_s == pytest.approx(0.5)


def test_nor_does_that_of_the_gateways_that_hear_it():
    made = engine()
    run(made, every(0.5, 0, 19.5))
    for second in range(20, 30):
        tell(made, T + 1000 * second, silent=("s/ga",))
    run(made, every(0.5, 30, 31.5))
    assert made.tracks["tag"].pace_s == pytest.approx(0.5)


def test_what_is_heard_of_it_afterwards_is_its_pace_again():
    made = engine()
    made.awake_at = T + 50_000
    run(made, every(5.0, 40, 100))
    assert made.tracks["tag"].pace_s == pytest.approx(5)


def test_that_we_slept_does_not_wear_out_a_slow_tags_patience():
    made = engine(gateway_silent_ms=600_000)
    run(made, every(5.0, 0, 30))
    made.awake_at = T + 50_000
    assert made.expire(T + 74_000) == []
    assert [change.kind for change in made.expire(T + 76_000)] == ["left"]


@pytest.mark.parametrize("step_s", [3.0, 5.0, 10.0])
def test_a_slow_tag_that_moves_is_moved_within_two_adverts(step_s):
    made = engine()
    before, after = every(step_s, 0, 60), every(step_s, 60 + step_s, 60 + 3 * step_s, "s/gb", -55)
    changes = run(made, before + after)
    assert [change[:2] for change in changes] == [("entered", A), ("left", A), ("entered", B)]
    assert changes[-1][2] <= 1000 * (60 + 2 * step_s)


def test_a_single_advert_makes_no_presence_however_long_nobody_contradicts():
    made = engine()
    run(made, seconds("s/ga", 0, 0, -50))
    for second in range(2, 40):
        tell(made, T + 1000 * second)
        assert made.expire(T + 1000 * second) == []
    assert made.tracks == {}, "nor is it remembered for ever"


def test_what_a_phone_says_is_no_pace():
    made = with_beacons()
    by_phone(made, 0, 0, d=-60)
    by_phone(made, 5, 5, d=-60)
    assert made.tracks["phone"].pace_s == 0


def test_forgetting_leaves_at_once_and_for_good():
    made = engine()
    run(made, seconds("s/ga", 0, 3, -60))
    assert made.forget("tag", T + 3100) == [Transition("left", "tag", A, T + 3100, T)]
    assert made.forget("tag", T + 3200) == []
    assert made.tracks == {}
    assert "tag" in made.changed


def test_nothing_grows_with_time():
    made = engine()
    run(made, seconds("s/ga", 0, 600, -60) + seconds("s/gb", 0, 0, -60))
    assert len(made.state_of("tag")) < 300


# Properties -----------------------------------------------------------------------------------------------

GATEWAYS = sorted(ZONES)
READINGS = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.sampled_from(GATEWAYS),
        st.integers(0, 2500),  # after the reading before
        st.integers(0, 3000),  # how late it comes
        st.integers(-100, -40),
        st.integers(1, 9),
    ),
    max_size=60,
)


def replay(made: ZoneEngine, readings, restart_before: int = -1, expire: bool = True) -> list[Transition]:
    now, changes = T, []
    for number, (beacon, gateway, step, late, dbm, adverts) in enumerate(readings):
        if number == restart_before:
            made = restarted(made)
        now += step
        made.gateway_alive(gateway, now)
        if expire:
            changes += made.expire(now)
        changes += made.hear(beacon, gateway, now - late, float(dbm), adverts)
    return changes


def restarted(old: ZoneEngine) -> ZoneEngine:
    made = ZoneEngine(dict(ZONES), old.settings)
    made.knows_gateways_of(old)
    for beacon in old.tracks:
        made.restore(beacon, old.state_of(beacon))
    return made


@settings(max_examples=100, deadline=None)
@given(READINGS, st.integers(0, 60))
def test_a_restart_changes_nothing(readings, restart_before):
    """What is stored of beacons is all there is to know of them; gateways are heard anew."""
    assert replay(engine(), readings, restart_before) == replay(engine(), readings)


@settings(max_examples=40, deadline=None)
@given(READINGS, st.integers(0, 20_000))
def test_visits_never_overlap_and_never_run_backwards(readings, wait):
    """Whatever order the seconds of several gateways come in."""
    made = engine()
    changes = replay(made, readings)
    changes += made.expire(T + 10_000_000 + wait)
    for beacon in ("x", "y"):
        inside, free_since = None, 0
        for change in (change for change in changes if change.beacon_key == beacon):
            if change.kind == "entered":
                assert inside is None
                assert change.entered_at == change.at >= free_since
                inside = change
            else:
                assert inside is not None
                assert (change.place, change.entered_at) == (inside.place, inside.at)
                assert change.at >= inside.at
                inside, free_since = None, change.at
        assert inside is None, "silence ends every presence"
    assert made.tracks == {}


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.integers(-75, -45))
def test_a_shuffled_burst_of_one_gateway_ends_in_the_same_zone(order, dbm):
    made = engine()
    run(made, [("s/ga", 300 * number, float(dbm)) for number in order])
    run(made, seconds("s/ga", 4, 6, float(dbm)))
    assert made.tracks["tag"].place == A
