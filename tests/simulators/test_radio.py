"""The radio model against the published figures, and its promise to depend on nothing but its arguments."""

import itertools
import math
import statistics
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.radio import (
    ADVERTISING_DELAY_S,
    CHANNELS,
    GROCERY,
    MEASURED,
    PACKET_S,
    RETAIL,
    WALLS_DB,
    Point,
    RadioModel,
    RadioSettings,
    Receiver,
    Transmitter,
    Wall,
    advertising_times,
)

GATEWAY = Receiver("gw", Point(0, 0))
STILL = RadioSettings(  # nothing but path loss: shadowing, channels and fading are away
    shadowing_db=0, channel_db=0, rice_in_sight_db=60, rice_out_of_sight_db=60, interference=0
)


def tag(distance: float = 5.0, angle: float = 0.0, **more) -> Transmitter:
    return Transmitter("tag", Point(distance * math.cos(angle), distance * math.sin(angle)), **more)


def samples(
    distance: float, settings: RadioSettings = MEASURED, models: int = 80
) -> list[tuple[float, int | None]]:
    """(strength, what was heard) at a distance, over many shops, places and times."""
    return [
        (model.strength(there, GATEWAY, step * 1.3), model.hear(there, GATEWAY, step * 1.3))
        for model in (RadioModel(settings, seed) for seed in range(models))
        for step in range(40)
        for there in (tag(distance, step * 0.7),)
    ]


@pytest.mark.parametrize(
    ("metres", "mean", "deviation"), [(1, -65.5, 5.7), (5, -78.4, 5.9), (10, -84.1, 4.5), (16, -90.8, 3.5)]
)
def test_means_and_deviations_are_the_measured_ones(metres, mean, deviation):
    """Far away the weak half is lost, so what is heard spreads less than what arrives, as was measured."""
    drawn = samples(metres)
    heard = [rssi for _, rssi in drawn if rssi is not None]
    assert statistics.mean(strength for strength, _ in drawn) == pytest.approx(mean, abs=1.7)
    assert statistics.pstdev(heard) == pytest.approx(deviation, abs=0.9)


@pytest.mark.parametrize(("settings", "exponent"), [(RETAIL, 2.2), (GROCERY, 1.8), (MEASURED, 2.0)])
def test_path_loss_follows_the_exponent(settings, exponent):
    model = RadioModel(replace(STILL, exponent=settings.exponent), 1)
    drop = model.strength(tag(1), GATEWAY, 0) - model.strength(tag(10), GATEWAY, 0)
    assert drop == pytest.approx(10 * exponent, abs=0.1)


@pytest.mark.parametrize("apart", [0.25, 1.0, 2.0, 4.0, 8.0])
def test_shadowing_is_correlated_in_space(apart):
    pairs = []
    for seed in range(1500):
        model = RadioModel(MEASURED, seed)
        pairs.append([model.shadowing(Point(3 + apart * step, 4), GATEWAY) for step in (0, 1)])
    sigma = MEASURED.shadowing_db
    assert statistics.pstdev(a for a, _ in pairs) == pytest.approx(sigma, rel=0.08)
    correlation = statistics.mean(a * b for a, b in pairs) / sigma**2
    assert correlation == pytest.approx(math.exp(-apart / 2), abs=0.08)


def test_receivers_are_shadowed_independently():
    pairs = [
        [RadioModel(MEASURED, seed).shadowing(Point(3, 4), Receiver(name, Point(0, 0))) for name in "ab"]
        for seed in range(800)
    ]
    assert abs(statistics.mean(a * b for a, b in pairs)) < 0.15 * MEASURED.shadowing_db**2


@pytest.mark.parametrize(("k_db", "deviation"), [(6, 3.3), (0, 5.1)])
def test_fading_is_rician_around_the_same_mean_in_sight(k_db, deviation):
    model = RadioModel(replace(STILL, rice_in_sight_db=k_db, coherence_s=0.1), 3)
    drawn = [model.strength(tag(5), GATEWAY, step * 0.1) for step in range(6000)]
    assert statistics.mean(drawn) == pytest.approx(-65.5 - 20 * math.log10(5), abs=0.25)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, abs=0.25)


def test_a_fade_holds_still_with_its_tag_and_ends_with_a_step_or_a_second():
    model = RadioModel(replace(STILL, rice_in_sight_db=6, scan_window_s=1e9), 5)
    there, step = Transmitter("tag", Point(3.01, 4.01)), Transmitter("tag", Point(3.11, 4.01))
    now = model.strength(there, GATEWAY, 10.0)
    assert model.strength(there, GATEWAY, 10.9) == now
    assert abs(model.strength(there, GATEWAY, 11.0) - now) > 0.01
    assert abs(model.strength(step, GATEWAY, 10.0) - now) > 0.1


def test_the_receiver_goes_round_the_three_channels_which_differ():
    model = RadioModel(replace(STILL, channel_db=2), 7)
    times = [step * STILL.scan_window_s for step in range(300)]
    channels = [model.channel(GATEWAY, time) for time in times]
    assert {channel: channels.count(channel) for channel in CHANNELS} == dict.fromkeys(CHANNELS, 100)
    strengths = {channel: [] for channel in CHANNELS}
    for time, channel in zip(times, channels, strict=True):
        strengths[channel].append(model.strength(tag(5), GATEWAY, time))
    assert all(max(values) - min(values) < 0.1 for values in strengths.values())
    means = sorted(statistics.mean(values) for values in strengths.values())
    assert min(b - a for a, b in itertools.pairwise(means)) > 0.2


@pytest.mark.parametrize(("heading", "loss"), [(math.pi, 0), (0, 12), (math.pi / 2, 6), (None, 0)])
def test_a_body_takes_what_lies_behind_it(heading, loss):
    model = RadioModel(STILL, 1)
    free = model.strength(tag(5), GATEWAY, 0)
    assert free - model.strength(tag(5, heading=heading), GATEWAY, 0) == pytest.approx(loss, abs=0.1)


@pytest.mark.parametrize(
    ("start", "end", "crosses"),
    [
        (Point(2, -1), Point(2, 1), True),
        (Point(6, -1), Point(6, 1), False),
        (Point(2, 1), Point(2, 3), False),
        (Point(1, 0.5), Point(4, 0.5), False),
    ],
)
@pytest.mark.parametrize("material", list(WALLS_DB))
def test_a_wall_takes_its_loss_from_what_crosses_it(start, end, crosses, material):
    wall = Wall(start, end, WALLS_DB[material])
    free, walled = (RadioModel(replace(STILL, walls=walls), 1) for walls in ((), (wall,)))
    loss = free.strength(tag(5), GATEWAY, 0) - walled.strength(tag(5), GATEWAY, 0)
    assert loss == pytest.approx(WALLS_DB[material] if crosses else 0, abs=0.1)


def heard_share(settings: RadioSettings, there: Transmitter, packets_per_s: float = 0.0) -> float:
    model = RadioModel(settings, 11)
    return statistics.mean(
        model.hear(there, GATEWAY, step * 0.01, packets_per_s) is not None for step in range(4000)
    )


@pytest.mark.parametrize(("beyond_db", "share"), [(-20, 1.0), (0, 0.5), (1.5, 0.27), (20, 0.0)])
def test_the_edge_of_reception_is_soft(beyond_db, share):
    there = tag(1, power_at_1m=-93 - beyond_db)
    assert heard_share(STILL, there) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("packets_per_s", [0, 200, 1000])
def test_packets_collide(packets_per_s):
    survival = math.exp(-2 * packets_per_s * PACKET_S)
    assert heard_share(STILL, tag(2), packets_per_s) == pytest.approx(survival, abs=0.03)


@pytest.mark.parametrize("share", [0.13, 0.4])
def test_interference_costs_its_share(share):
    assert heard_share(replace(STILL, interference=share), tag(2)) == pytest.approx(1 - share, abs=0.03)


def test_the_same_seed_gives_the_same_whatever_was_asked_before():
    times = [step * 0.37 for step in range(200)]
    first, second = RadioModel(MEASURED, 42), RadioModel(MEASURED, 42)
    forwards = {time: first.hear(tag(6, time), GATEWAY, time) for time in times}
    backwards = {time: second.hear(tag(6, time), GATEWAY, time) for time in reversed(times)}
    assert forwards == backwards
    other = RadioModel(MEASURED, 43)
    assert forwards != {time: other.hear(tag(6, time), GATEWAY, time) for time in times}


def test_a_golden_vector_holds_on_every_machine():
    model = RadioModel(MEASURED, 2026)
    assert [model.hear(tag(4, step), GATEWAY, step * 0.3) for step in range(8)] == GOLDEN


GOLDEN = [-84, -73, None, -73, None, -79, -85, -81]


@given(st.floats(0, 60), st.floats(0, 1e6), st.integers(-(2**62), 2**62), st.floats(-100, 20))
def test_whatever_is_heard_is_a_strength_that_a_receiver_reports(distance, time, seed, power):
    rssi = RadioModel(MEASURED, seed).hear(tag(distance, power_at_1m=power), GATEWAY, time)
    assert rssi is None or -127 < rssi <= 20


def test_advertising_events_come_at_the_interval_and_up_to_ten_milliseconds():
    times = list(itertools.islice(advertising_times(0.3, Random(1)), 500))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert 0 <= times[0] <= 0.3
    assert all(0.3 <= gap <= 0.3 + ADVERTISING_DELAY_S + 1e-9 for gap in gaps)
    assert statistics.mean(gaps) == pytest.approx(0.305, abs=0.001)
