"""The filter, calibration and the engine upon them, in a simulated radio: odds, restarts, dead gateways."""

import math
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.folding import LiveState
from backend.proximity.calibration import Level, calibrate
from backend.proximity.filter import EARS, Belief, Filter, Gain, Reading, Second, encoded
from backend.proximity.floors import GridFloor, StarFloor
from backend.proximity.places import Place
from backend.proximity.radio import FilterSettings, Hearing
from backend.proximity.zones import ZoneEngine, ZoneSettings, confidence_of
from backend.storage import floor
from simulators.radio import MEASURED, Point, RadioModel, Receiver, Transmitter, advertising_times

SQUARE = {"a": (0.0, 0.0), "b": (8.0, 0.0), "c": (0.0, 8.0), "d": (8.0, 8.0)}
ROW = {f"g{number:02d}": (7.0 * number, 0.0) for number in range(20)}
FLOORS = {
    "a square": GridFloor(SQUARE),
    "a long row": GridFloor(ROW),
    "one gateway": GridFloor({"a": (3.0, 4.0)}),
    "two at one place": GridFloor({"a": (0.0, 0.0), "b": (0.0, 0.0)}),
    "places unknown": StarFloor(list(SQUARE)),
    "one of unknown place": StarFloor(["a"]),
}
GATEWAYS = {name: floor.gateways for name, floor in FLOORS.items()}


def levels_on(floor: str) -> st.SearchStrategy:
    ears = st.tuples(st.sampled_from(GATEWAYS[floor]), st.booleans())
    return st.dictionaries(ears, st.tuples(st.integers(-126, 20), st.integers(1, 30)), min_size=1, max_size=6)


# Made once: hypothesis takes longer to make and to check a strategy than to draw from it.
floors = st.sampled_from(sorted(FLOORS))
steps_on = {name: st.tuples(st.integers(0, 70), levels_on(name)) for name in FLOORS}
several = {
    (name, most): st.lists(step, min_size=1, max_size=most)
    for name, step in steps_on.items()
    for most in (4, 12, 30)
}


@st.composite
def seconds(draw, most: int = 12):
    """A floor and what its gateways heard, second by second, with gaps."""
    name = draw(floors)
    steps = draw(several[name, most])
    told, now = [], 1000
    for gap, heard in steps:
        now += gap
        readings = [Reading(key, dbm, adverts, phone) for (key, phone), (dbm, adverts) in heard.items()]
        silent = [key for key in GATEWAYS[name] if (key, False) not in heard][:5]
        told.append((now, readings, silent))
    return name, told


def follow(name: str, told, belief: Belief | None = None) -> list[Belief]:
    model, beliefs = Filter(FLOORS[name]), []
    for now, readings, silent in told:
        belief = model.advance(belief, now, readings, silent)
        beliefs.append(belief)
    return beliefs


# Properties -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(seconds(most=4), min_size=2, max_size=70))
def test_in_company_a_belief_is_what_it_would_be_alone(cases):
    """Which beacons are weighed together depends on when a batch came; what is believed must not."""
    by_floor = {}
    for name, told in cases:
        by_floor.setdefault(name, []).append(told)
    for name, together in by_floor.items():
        model = Filter(FLOORS[name])
        alone = [follow(name, told) for told in together]
        beliefs = [None] * len(together)
        for step in range(4):
            there = [number for number, told in enumerate(together) if step < len(told)]
            moved = model.advance_all([Second(beliefs[number], *together[number][step]) for number in there])
            for number, advanced in zip(there, moved, strict=True):
                beliefs[number] = advanced.belief
                assert advanced.belief == alone[number][step]


@settings(max_examples=60)
@given(seconds())
def test_odds_are_odds_whatever_is_heard(case):
    name, told = case
    for belief in follow(name, told):
        chances = Filter(FLOORS[name]).chances(belief)
        assert all(0 < chance <= 1 for chance in chances.values())
        assert sum(chances.values()) == pytest.approx(1, abs=0.02), "the least of them are left out"
        assert all(math.isfinite(value) for value in (belief.offset, belief.offset_variance))


@settings(max_examples=60)
@given(seconds(), st.integers(0, 11))
def test_a_restored_belief_goes_on_exactly_as_if_nothing_had_been(case, at):
    name, told = case
    whole = follow(name, told)
    at = min(at, len(told) - 1)
    stored = msgspec.msgpack.encode(whole[at])
    restored = msgspec.msgpack.decode(stored, type=Belief)
    assert restored == whole[at]
    assert follow(name, told[at + 1 :], restored) == whole[at + 1 :]


@settings(max_examples=40)
@given(seconds())
def test_the_order_of_a_seconds_readings_is_nothing(case):
    """As the engine gives them: sorted. Beliefs of shuffled readings agree but for rounding."""
    name, told = case
    turned = [(now, readings[::-1], silent[::-1]) for now, readings, silent in told[:1]]
    straight, other = follow(name, told[:1])[0], follow(name, turned)[0]
    one, two = (np.frombuffer(belief.weights, np.uint8).astype(int) for belief in (straight, other))
    assert np.abs(one - two).max() <= 1
    assert abs(straight.offset - other.offset) <= 1


@settings(max_examples=40)
@given(seconds(most=30))
def test_a_belief_stays_below_two_kilobytes(case):
    name, told = case
    for belief in follow(name, told):
        assert len(belief.ears) <= EARS
        assert len(msgspec.msgpack.encode(belief)) < 2048


def test_a_whole_track_with_long_names_stays_below_two_kilobytes():
    names = {f"s/gateway-on-the-wall-{key}": at for key, at in list(ROW.items())[:12]}
    made = ZoneEngine({name: Place("s", name) for name in names}, positions=names)
    for second in range(30):
        for turn, name in enumerate(names):
            made.hear("tag", name, second * 1000 + turn, -60 - 2 * turn, 3)
    assert len(made.state_of("tag")) <= 2048


# What it believes -----------------------------------------------------------------------------------------


def heard_at(x: float, y: float, *, offset: float = 0.0, gains: dict[str, float] | None = None):
    """What the square's gateways hear of a tag at a place in a radio without noise."""
    law = FilterSettings()
    return [
        Reading(
            gateway,
            law.power_dbm
            - 10 * law.exponent * math.log10(math.hypot(x - gx, y - gy, law.above_m))
            + offset
            + (gains or {}).get(gateway, 0.0),
            3,
        )
        for gateway, (gx, gy) in SQUARE.items()
    ]


@pytest.mark.parametrize("nearest", sorted(SQUARE))
@pytest.mark.parametrize("offset", [-15, 0, 15])
def test_a_tag_is_found_beside_its_gateway_however_loud_it_is(nearest, offset):
    model, belief = Filter(FLOORS["a square"]), None
    x, y = SQUARE[nearest]
    for second in range(10):
        belief = model.advance(belief, second, heard_at(x, y, offset=offset))
    assert model.chances(belief)[nearest] > 0.85


def test_a_walk_is_followed_through_a_store_larger_than_the_window():
    model, belief, right = Filter(FLOORS["a long row"]), None, 0
    law = FilterSettings()
    for second in range(130):
        x = float(second)
        readings = [
            Reading(key, law.power_dbm - 24 * math.log10(math.hypot(x - gx, 1, 1)), 3)
            for key, (gx, _) in ROW.items()
            if abs(x - gx) < 25
        ]
        belief = model.advance(belief, second, readings)
        chances = model.chances(belief)
        right += max(chances, key=chances.__getitem__) == min(ROW, key=lambda key: abs(ROW[key][0] - x))
    assert right > 110


def test_carried_elsewhere_unheard_it_is_found_again():
    model, belief = Filter(FLOORS["a long row"]), None
    for second, keys in enumerate([("g00", "g01")] * 5 + [("g19", "g18")] * 5):
        belief = model.advance(belief, second, [Reading(keys[0], -60, 3), Reading(keys[1], -75, 3)])
    assert model.chances(belief)["g19"] > 0.5


def test_another_floor_makes_a_belief_void():
    old, new = Filter(FLOORS["a square"]), Filter(StarFloor(["a", "b"]))
    belief = old.advance(None, 1, [Reading("a", -60, 1)])
    fresh = new.advance(belief, 2, [Reading("b", -60, 1)])
    assert fresh == new.advance(None, 2, [Reading("b", -60, 1)])


def test_silence_of_those_around_is_evidence():
    model = Filter(FLOORS["places unknown"])
    alone = heard_with_others = None
    for second in range(6):
        alone = model.advance(alone, second, [Reading("a", -75, 1)], ["b", "c", "d"])
        heard_with_others = model.advance(heard_with_others, second, [Reading("a", -75, 1)])
    assert model.chances(alone)["a"] > model.chances(heard_with_others)["a"] + 0.1


def test_a_phones_word_counts_for_less_than_a_gateways():
    model, by_gateway, by_phone = Filter(FLOORS["places unknown"]), None, None
    for second in range(4):
        by_gateway = model.advance(by_gateway, second, [Reading("a", -58, 1)])
        by_phone = model.advance(by_phone, second, [Reading("a", -58, 1, phone=True)])
    assert model.chances(by_gateway)["a"] > model.chances(by_phone)["a"] > 0.4


def test_near_its_limit_a_receiver_hears_all_alike():
    hearing = Hearing(FilterSettings())
    levels = np.array([-60.0, -90.0, -110.0, -159.0], np.float32)
    mean, slope, some = hearing.of(levels, np.full(4, Hearing.HEARD))
    assert mean[0] == pytest.approx(-60, abs=0.1)
    assert -93 < mean[2] < mean[1] < -84
    assert 1 >= slope[0] > slope[1] > slope[2] >= 0.02
    assert list(some) == sorted(some, reverse=True)
    none = hearing.of(levels, np.full(4, Hearing.SILENT))[2]
    assert none[0] < none[2] <= 0
    assert list(hearing.of(levels, np.full(4, Hearing.UNTOLD))[2]) == [0] * 4


def test_what_was_one_advert_may_well_be_lost():
    hearing = Hearing(FilterSettings())
    levels = np.array([-60.0, -80.0, -93.0], np.float32)
    once, more = (hearing.of(levels, np.full(3, told))[2] for told in (Hearing.SILENT_ONCE, Hearing.SILENT))
    assert (once > more).all()
    assert (once < 0).all()


def test_chances_count_for_more_the_longer_ago_the_last_were_and_never_for_more_than_all():
    hearing = Hearing(FilterSettings())
    weights = [hearing.weight(seconds) for seconds in range(16)]
    assert weights[0] == weights[1] == pytest.approx(0.6)
    assert weights[1:] == sorted(weights[1:])
    assert 0.99 < weights[-1] <= 1
    assert Hearing(FilterSettings(hearing_weight=0.0)).weight(9) == 0
    assert Hearing(FilterSettings(hearing_weight=1.0)).weight(1) == 1


def test_weights_far_below_the_greatest_are_nothing_and_no_error():
    weights = np.array([[1.0, 0.5, 1e-12, 0.0]], np.float32)[..., None]
    assert encoded(weights) == [bytes([255, 239, 0, 0])]


# Calibration ----------------------------------------------------------------------------------------------


def levels(gains: dict[str, float], seed: int) -> list[Level]:
    """A fixed beacon beside each gateway of the square, of unlike power, in a radio with shadows."""
    dice, law = Random(seed), FilterSettings()
    powers = {key: dice.gauss(0, 4) for key in SQUARE}
    shadow = {frozenset((one, two)): dice.gauss(0, 4) for one in SQUARE for two in SQUARE}
    return [
        Level(
            f"beacon-{one}",
            one,
            two,
            law.power_dbm
            + powers[one]
            + gains[two]
            + shadow[frozenset((one, two))]
            - 24 * math.log10(math.hypot(1.5 if one == two else math.dist(SQUARE[one], SQUARE[two]), 1)),
            600,
        )
        for one in SQUARE
        for two in SQUARE
    ]


@pytest.mark.parametrize("positions", [SQUARE, None])
def test_calibration_finds_the_gateways_that_hear_better(positions):
    gains = {"a": 5.0, "b": -5.0, "c": 0.0, "d": 0.0}
    errors, raw = [], []
    for seed in range(20):
        found = calibrate(levels(gains, seed), positions)
        assert found["a"].mean_db > found["b"].mean_db
        assert all(2.0 <= gain.deviation_db <= 3.0 for gain in found.values())
        middle = sum(gain.mean_db for gain in found.values()) / 4
        errors += [(found[key].mean_db - middle - gains[key]) ** 2 for key in gains]
        raw += [gain**2 for gain in gains.values()]
    assert sum(errors) < 0.5 * sum(raw)


def test_what_was_hardly_heard_calibrates_nothing():
    assert calibrate([]) == {}
    assert calibrate([Level("x", "a", "b", -60, 29), Level("x", "a", "c", -92, 600)]) == {}


def test_a_known_gain_is_believed_from_the_first_second():
    """Without it, a gateway that hears 8 dB better draws everybody to itself."""
    gains = {"a": 8.0, "b": 0.0, "c": 0.0, "d": 0.0}
    readings = heard_at(5.5, 0.0, gains=gains)
    priors = {key: Gain(gain, 2.0) for key, gain in gains.items()}
    told, untold = (
        Filter(FLOORS["a square"], priors=known).advance(None, 1, readings) for known in (priors, None)
    )
    chances = [Filter(FLOORS["a square"]).chances(belief)["b"] for belief in (told, untold)]
    assert chances[0] > chances[1]


async def test_the_shops_fixed_beacons_calibrate_its_gateways(shop):
    """Each gateway hears its own zone's beacon and the other's; `g-b` hears everything 10 dB better."""

    def set_up(session) -> dict[str, Gain]:
        for zone in ("a", "b"):
            key = f"altbeacon:{zone * 40}"
            session.run("save_beacon", beacon_key=key, role="zone", store_id="s1", zone_id=zone)
        numbers = floor.Numbers()
        floor.add_sightings(
            session,
            numbers,
            [
                floor.Sighting(f"altbeacon:{zone * 40}", f"s1/g-{ear}", second, 2, loss, loss)
                for second in range(1000, 1060)
                for zone, ear, loss in (("a", "a", 70), ("b", "b", 60), ("a", "b", 72), ("b", "a", 82))
            ],
        )
        return LiveState.read(session, ZoneSettings()).engine.gains

    gains = await shop.state.write(set_up)
    assert gains["s1/g-b"].mean_db > gains["s1/g-a"].mean_db + 1
    assert await shop.state.write(lambda s: floor.gateway_gains(s, {"s1/g-b": Place("s1", "b")}, {})) != {}
    assert await shop.state.write(lambda s: floor.gateway_gains(s, {}, {})) == {}


# A gateway dies -------------------------------------------------------------------------------------------

DIES_S, END_S, START_MS = 30, 90, 1_000_000_000


def stand_while_a_gateway_dies(seed: int, places_known: bool):
    """Somebody stands two metres from `b` and faces it; after half a minute `b` falls silent for good."""
    dice, radio = Random(seed), RadioModel(MEASURED, seed)
    made = ZoneEngine(
        {f"s/{key}": Place("s", key) for key in SQUARE},
        positions={f"s/{key}": at for key, at in SQUARE.items()} if places_known else {},
    )
    angle, power = dice.uniform(0, math.tau), -62 + dice.gauss(0, 3)
    at = Point(SQUARE["b"][0] + 2 * math.cos(angle), SQUARE["b"][1] + 2 * math.sin(angle))
    tag = Transmitter("tag", at, power_at_1m=power, heading=angle + math.pi)
    times = advertising_times(0.4, dice)
    time_s, changes = next(times), []
    for second in range(END_S):
        heard: dict[str, list[int]] = {}
        while time_s < second + 1:
            for key, place in SQUARE.items():
                rssi = radio.hear(tag, Receiver(key, Point(*place)), time_s)
                if rssi is not None and (key != "b" or second < DIES_S):
                    heard.setdefault(key, []).append(rssi)
            time_s = next(times)
        now = START_MS + (second + 1) * 1000
        for key in SQUARE:
            if (key != "b" or second < DIES_S) and (key in heard or second % 3 == 0):
                made.gateway_alive(f"s/{key}", now)
        for key, values in heard.items():
            mean = round(sum(values) / len(values))
            changes += made.hear("tag", f"s/{key}", now - 500, mean, len(values))
        for part in range(4):
            changes += [(change, now + 250 * part) for change in made.expire(now + 250 * part)]
        changes = [change if isinstance(change, tuple) else (change, now) for change in changes]
    return [(change, (told - START_MS) / 1000) for change, told in changes]


@pytest.mark.parametrize("places_known", [True, False])
def test_a_dead_gateways_zone_is_unknown_and_nobody_confidently_elsewhere(places_known):
    seen_there = 0
    for seed in range(12):
        changes = stand_while_a_gateway_dies(seed, places_known)
        before = [change for change, told_s in changes if told_s <= DIES_S and change.kind == "entered"]
        after = [(change, told_s) for change, told_s in changes if told_s > DIES_S]
        assert not [change for change, _ in after if change.kind == "entered" and change.confidence == "high"]
        if before and before[-1].place.zone_id == "b":
            seen_there += 1
            first, told_s = after[0]
            assert (first.kind, first.place.zone_id, first.confidence) == ("unknown", "b", "none")
            assert told_s <= DIES_S + 10
    assert seen_there >= 9


def test_nobody_is_moved_out_of_a_zone_whose_gateway_may_be_dying():
    made = ZoneEngine({"s/a": Place("s", "a"), "s/b": Place("s", "b")})
    for second in range(10):
        for key, dbm in (("s/a", -60), ("s/b", -75)):
            made.hear("tag", key, START_MS + 1000 * second, dbm, 3)
    for second in range(10, 17):  # `a` says nothing any more; and at `b` someone passes who reflects
        made.hear("tag", "s/b", START_MS + 1000 * second, -75 if second < 13 else -45, 3)
        assert made.expire(START_MS + 1000 * second + 600) == []
    assert made.tracks["tag"].zone_id == "a"
    [unknown] = made.expire(START_MS + 17_500)
    assert unknown.kind == "unknown"


def test_that_we_slept_is_no_word_of_a_gateway():
    """After our own absence every gateway counts as alive for a while: not as one that heard nothing."""
    chances = []
    for awake_at in (0, START_MS):
        made = ZoneEngine({f"s/{key}": Place("s", key) for key in "abc"}, awake_at=awake_at)
        for key in "abc":
            made.gateway_alive(f"s/{key}", START_MS)
        for second in range(-8, 0):  # what lay in the journal while we slept
            made.hear("tag", "s/a", START_MS + 1000 * second, -75, 1)
        chances.append(made.tracks["tag"].probability)
    assert chances[0] > chances[1] + 0.1


@pytest.mark.parametrize(
    ("probability", "word"), [(0, "low"), (0.64, "low"), (0.65, "medium"), (0.85, "high")]
)
def test_confidence_in_words(probability, word):
    assert confidence_of(probability) == word
