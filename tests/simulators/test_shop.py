"""The simulated shop: who is where, who says what, and that the radio tells the zones apart."""

import itertools
import statistics
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.packets import compose
from simulators.shop import DWELL_S, INTERVAL_S, TELEMETRY_EVERY, WALK_M_PER_S, Shop

SEEDS = range(6)


def first_seconds(seed: int, seconds: float = 30.0) -> tuple[Shop, list]:
    shop = Shop.demo(seed)
    return shop, list(shop.transmissions(seconds))


def test_the_same_seed_is_the_same_shop():
    runs = []
    for _ in range(2):
        shop, sent = first_seconds(7, 10)
        runs.append([(t.time_s, t.source, t.address, t.frame, shop.heard_by(t)) for t in sent])
    assert runs[0] == runs[1]
    assert runs[0] != [(t.time_s, t.source, t.address, t.frame, []) for t in first_seconds(8, 10)[1]]


def test_zones_lie_well_apart_each_with_its_gateway_and_beacon():
    shop = Shop.demo(1)
    assert [zone.name for zone in shop.zones] == ["Shoes", "Coffee", "Toys"]
    for a, b in itertools.combinations(shop.zones, 2):
        assert a.gateway.at.distance(b.gateway.at) >= 10
    assert shop.gateways == ["gw-shoes", "gw-coffee", "gw-toys"]
    assert len(shop.known_keys) == 3 + 20 - 8  # those whose ids rotate are listed once they are registered


@pytest.mark.parametrize("seed", SEEDS)
def test_a_demo_of_thirty_seconds_has_people_who_dwell(seed):
    shop = Shop.demo(seed)
    early = [name for name in shop.shoppers if any(shop.true_zone(name, t) for t in range(6))]
    dwelt = [
        name
        for name, shopper in shop.shoppers.items()
        if any(min(visit.end_s, 30) - visit.start_s >= 3 for visit in shopper.visits(30))
    ]
    assert len(early) == 20
    assert sum(zone is not None for zone in shop.truth(0.0).values()) >= 10
    assert len(dwelt) >= 17


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_dwells_are_long_enough_and_nobody_flies(seed):
    shop = Shop.demo(seed, shoppers=3)
    for shopper in shop.shoppers.values():
        for visit in shopper.visits(600):
            assert DWELL_S[0] - 1e-6 <= visit.end_s - visit.start_s <= DWELL_S[1] + 1e-6
            assert shop.true_zone(shopper.name, (visit.start_s + visit.end_s) / 2) == visit.zone
        track = [shopper.position(step * 0.5) for step in range(240)]
        for before, after in itertools.pairwise(track):
            if before and after:
                assert before.distance(after) <= WALK_M_PER_S * 0.5 + 1e-6


def test_shoppers_leave_and_come_back():
    shop = Shop.demo(3)
    absent = {name: [shop.true_zone(name, t) is None for t in range(300)] for name in shop.shoppers}
    left = sum(True in track for track in absent.values())
    returned = sum(any(a and not b for a, b in itertools.pairwise(track[10:])) for track in absent.values())
    assert left == 20
    assert returned >= 10
    assert len({visit.zone for visit in shop.shoppers["shopper-01"].visits(3600)}) == 3


def test_the_true_zone_is_that_of_the_nearest_gateway_now_or_then():
    shop = Shop.demo(5)
    shop.advance(12.0)
    shop.advance(3.0)
    assert shop.now_s == 15.0
    for name, shopper in shop.shoppers.items():
        position = shopper.position(15.0)
        nearest = position and min(shop.zones, key=lambda zone: position.distance(zone.gateway.at)).name
        assert shop.true_zone(name) == shop.true_zone(name, 15.0) == nearest
    with pytest.raises(ValueError, match="backwards"):
        shop.advance(-1)


def test_transmissions_come_in_order_and_go_on_where_they_ended():
    whole = first_seconds(4, 20)[1]
    shop = Shop.demo(4)
    parts = [*shop.transmissions(7), *shop.transmissions(7), *shop.transmissions(20)]
    assert parts == whole
    assert [t.time_s for t in whole] == sorted(t.time_s for t in whole)
    assert whole[-1].time_s < 20


def test_tags_advertise_about_every_300_ms_while_they_are_inside():
    shop, sent = first_seconds(2, 60)
    times = defaultdict(list)
    for transmission in sent:
        if transmission.role == "tag":
            assert shop.true_zone(transmission.source, transmission.time_s) is not None
            times[transmission.source].append(transmission.time_s)
    gaps = [b - a for track in times.values() for a, b in itertools.pairwise(track)]
    assert statistics.median(gaps) == pytest.approx(INTERVAL_S + 0.005, abs=0.002)
    assert min(gaps) >= INTERVAL_S - 1e-9


def test_every_frame_is_what_its_role_promises_and_fits_on_the_air():
    shop, sent = first_seconds(6)
    kinds = Counter()
    for transmission in sent:
        frame = transmission.frame
        compose(frame.manufacturer_data, frame.service_data)
        listed = shop.known_keys.get(frame.key)
        kinds[transmission.role, frame.key.partition(":")[0]] += 1
        expected = {"stranger": {None}, "zone": {transmission.source}, "tag": {transmission.source, None}}
        assert listed in expected[transmission.role]
    assert {
        ("tag", "ibeacon"),
        ("tag", "eddystone-uid"),
        ("tag", "eddystone-tlm"),
        ("tag", "eddystone-eid"),
        ("zone", "ibeacon"),
    } < set(kinds)
    strangers = {kind for role, kind in kinds if role == "stranger"}
    assert {"airpods", "iphone", "ibeacon", "eddystone-uid"} <= strangers
    assert kinds["tag", "eddystone-uid"] > (TELEMETRY_EVERY - 2) * kinds["tag", "eddystone-tlm"]


def test_every_device_has_an_address_of_its_own():
    _, sent = first_seconds(6)
    addresses = {transmission.source: transmission.address for transmission in sent}
    assert len(set(addresses.values())) == len(addresses)
    assert all(int(address[:2], 16) >= 0xC0 for address in addresses.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_over_a_dwell_the_gateway_of_the_zone_hears_its_visitor_best(seed):
    """What makes the demo's zones distinguishable; single packets may well arrive stronger elsewhere."""
    shop, sent = first_seconds(seed, 60)
    right, dwells = 0, 0
    heard = defaultdict(list)
    for transmission in sent:
        if transmission.role == "tag":
            heard[transmission.source].append((transmission.time_s, shop.heard_by(transmission)))
    for name, shopper in shop.shoppers.items():
        for visit in shopper.visits(54):
            levels = defaultdict(list)
            for time, readings in heard[name]:
                if visit.start_s <= time < visit.end_s:
                    for gateway, rssi in readings:
                        levels[gateway].append(rssi)
            best = max(levels, key=lambda gateway: statistics.mean(levels[gateway]), default=None)
            dwells += 1
            right += best == f"gw-{visit.zone.lower()}"
    assert dwells >= 20
    assert right / dwells >= 0.9


def test_strangers_are_heard_too():
    shop, sent = first_seconds(1)
    assert any(shop.heard_by(t) for t in sent if t.role == "stranger")


def test_a_shop_of_many_is_simulated_far_faster_than_it_happens():
    shop = Shop.demo(1, shoppers=200)
    assert sum(1 for _ in shop.transmissions(5)) > 2000
