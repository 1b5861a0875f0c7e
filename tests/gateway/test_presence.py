"""Coming into and going out of range: promptly, once, and through a day of fading and loss."""

import math
import random
from collections.abc import Iterator
from functools import cache
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.presence import Presence, PresenceSettings

SECOND = 1000
DAY = 24 * 3600 * SECOND
LOSS = 0.3
FADES = 1 << 15


@cache
def fades(k_db: float) -> list[int]:
    """dB of Rician fading (K of 6 dB in sight, 0 dB out of sight) and of the 2 dB between channels."""
    rng = random.Random(7)
    k = 10 ** (k_db / 10)
    direct, scatter = math.sqrt(k / (k + 1)), math.sqrt(1 / (2 * (k + 1)))

    def fade() -> int:
        h = math.hypot(direct + scatter * rng.gauss(0, 1), scatter * rng.gauss(0, 1))
        return round(20 * math.log10(max(h, 1e-6)) + rng.gauss(0, 2))

    return [fade() for _ in range(FADES)]


def adverts(
    interval_ms: int, start: int, end: int, *, mean: int, k_db: float, seed: int
) -> Iterator[tuple[int, int]]:
    """When an advert is heard, and its RSSI: interval + up to 10 ms, 30 % lost, nothing below −95 dBm."""
    rng = random.Random(seed)
    faded = fades(k_db)
    at = float(start + rng.uniform(0, interval_ms))
    while at < end:
        rssi = mean + faded[int(rng.random() * FADES)]
        if rng.random() > LOSS and rssi >= -95:
            yield int(at), rssi
        at += interval_ms + rng.random() * 10


def transitions(presence: Presence, heard: Iterator[tuple[int, int]], until: int) -> list[tuple[int, bool]]:
    """The changes of one beacon, with a look at the clock each second."""
    changes: list[tuple[int, bool]] = []
    tick = 0
    for at, rssi in heard:
        while tick < at:
            changes += [(tick, False) for _ in presence.expire(tick)]
            tick += SECOND
        if presence.heard("tag", at, rssi):
            changes.append((at, True))
    while tick < until:
        changes += [(tick, False) for _ in presence.expire(tick)]
        tick += SECOND
    return changes


@pytest.mark.parametrize(
    ("interval_ms", "mean", "k_db"),
    [
        (100, -75, 0.0),
        (300, -84, 0.0),
        (500, -80, 6.0),
        (1000, -75, 0.0),
        (1000, -84, 6.0),
        (2000, -80, 0.0),
        (5000, -80, 0.0),
        (10_000, -75, 0.0),
        (10_000, -84, 6.0),
    ],
)
def test_a_day_in_range_is_one_coming_in(interval_ms: int, mean: int, k_db: float) -> None:
    heard = adverts(interval_ms, 0, DAY, mean=mean, k_db=k_db, seed=interval_ms)
    changes = transitions(Presence(), heard, DAY)
    assert [near for _, near in changes] == [True]


@pytest.mark.parametrize("mean", [-89, -93, -96])
def test_a_day_below_the_upper_level_is_no_coming_in(mean: int) -> None:
    heard = adverts(1000, 0, DAY, mean=mean, k_db=0.0, seed=5)
    assert transitions(Presence(), heard, DAY) == []


def test_comes_in_within_two_seconds_at_ten_hertz() -> None:
    delays = []
    for seed in range(200):
        heard = adverts(100, 0, 20 * SECOND, mean=-78, k_db=0.0, seed=seed)
        delays.append(transitions(Presence(), heard, 20 * SECOND)[0][0])
    assert quantiles(delays, n=20)[-1] <= 2 * SECOND


def test_walking_up_from_the_edge_is_noticed_within_two_seconds() -> None:
    delays = []
    for seed in range(200):
        presence = Presence()
        assert transitions(presence, adverts(100, 0, 60_000, mean=-93, k_db=6.0, seed=seed), 0) == []
        close = adverts(100, 60_000, 70_000, mean=-75, k_db=6.0, seed=seed + 1000)
        delays.append(next(at for at, rssi in close if presence.heard("tag", at, rssi)) - 60_000)
    assert quantiles(delays, n=20)[-1] <= 2 * SECOND


@pytest.mark.parametrize("interval_ms", [100, 500, 1000, 1500, 2000, 5000, 10_000])
def test_goes_out_by_its_own_rhythm(interval_ms: int) -> None:
    overruns = []
    for seed in range(100):
        presence = Presence()
        left = 60 * interval_ms + random.Random(seed).randrange(interval_ms)
        changes = transitions(presence, adverts(interval_ms, 0, left, mean=-75, k_db=0.0, seed=seed), left)
        assert [near for _, near in changes] == [True]
        interval = presence.interval_ms("tag")
        assert interval_ms <= interval <= 4 * interval_ms
        gone = next(at for at in range(left, left + DAY, SECOND) if presence.expire(at))
        overruns.append((gone - left) - max(10 * SECOND, 8 * interval))
    assert quantiles(overruns, n=20)[-1] <= 0


def test_one_stray_advert_is_nobody() -> None:
    presence = Presence()
    assert presence.heard("tag", 0, -40) is None
    assert presence.expire(300 * SECOND) == []
    assert len(presence) == 0


def test_weak_is_out_though_still_heard() -> None:
    presence = Presence()
    for at in range(0, 5000, 100):
        presence.heard("tag", at, -60)
    assert presence.near() == ["tag"]
    gone = []
    for at in range(5000, 30_000, 100):
        assert presence.heard("tag", at, -96) is None
        gone += [(at, key) for key in presence.expire(at)]
    assert [key for _, key in gone] == ["tag"]
    assert gone[0][0] < 5000 + 15 * SECOND
    assert presence.heard("tag", 30_000, -96) is None


def test_missing_strength_shows_life_only() -> None:
    presence = Presence()
    assert [presence.heard("tag", at, rssi) for at in range(0, 2000, 100) for rssi in (-127, 127)] == [
        None
    ] * 40
    assert presence.near() == []
    presence.heard("tag", 2000, -60)
    assert presence.heard("tag", 2100, -60) is True
    for at in range(2200, 60_000, 100):
        presence.heard("tag", at, -127)
        assert presence.expire(at) == []


def test_a_crowd_of_strangers_pushes_nobody_out() -> None:
    presence = Presence(PresenceSettings(max_beacons=64))
    for at in (0, 100):
        for number in range(20):
            presence.heard(f"resident-{number}", at, -60)
    for number in range(10_000):
        presence.heard(f"stranger-{number}", 200 + number // 10, -60)
    assert len(presence) <= 64
    assert {f"resident-{number}" for number in range(20)} <= set(presence.near())
    assert presence.dropped >= 10_000 - 44


def test_full_of_the_near_takes_nobody_up_until_one_leaves() -> None:
    presence = Presence(PresenceSettings(max_beacons=8))
    for at in (0, 100):
        for number in range(8):
            presence.heard(f"resident-{number}", at, -60)
    assert [presence.heard("newcomer", at, -60) for at in (200, 300)] == [None, None]
    assert presence.dropped == 2
    assert len(presence.expire(60 * SECOND)) == 8
    assert [presence.heard("newcomer", at, -60) for at in (60_100, 60_200)] == [None, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"near_dbm": -93},
        {"far_dbm": -80},
        {"least_patience_ms": 0},
        {"most_patience_ms": 1000},
        {"patience_intervals": 1.0},
        {"max_beacons": 0},
        {"forget_ms": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        PresenceSettings(**wrong)


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(-50, 20_000), st.integers(-128, 127), st.booleans()),
    max_size=200,
)


@given(STEPS)
def test_in_and_out_alternate_whatever_is_heard(steps: list[tuple[str, int, int, bool]]) -> None:
    presence = Presence(PresenceSettings(max_beacons=2))
    inside: set[str] = set()
    now = 0
    for key, passed, rssi, look in steps:
        now += passed
        if presence.heard(key, now, rssi):
            assert key not in inside
            inside.add(key)
        for gone in presence.expire(now) if look else []:
            inside.remove(gone)
        assert set(presence.near()) == inside
        assert len(presence) <= 2
