"""The simulated tag: keys as the specification agrees on them, ids that rotate, in a shop and on the air."""

from collections import defaultdict

import pytest

from simulators.eid_tags import COUNTER, EidTag
from simulators.frames import ROTATING, ephemeral_id
from simulators.packets import compose
from simulators.shop import EID_EXPONENT, Shop

eid = pytest.importorskip("backend.proximity.eid")


def test_tag_and_resolver_agree():
    resolver = bytes(range(32))
    tag = EidTag(bytes(range(32, 64)), 10, 0)
    factory = tag.identity_key
    tag.provision(eid.public_key(resolver))
    assert tag.identity_key == eid.identity_key(
        own_private=resolver, peer_public=tag.public_key, own_is_resolver=True
    )
    assert tag.identity_key != factory


def test_it_shows_one_id_a_rotation_and_its_counter_turns_over():
    tag = EidTag(bytes([1] * 32), 4, COUNTER - 40)
    shown = [tag.frame(second).key for second in range(80)]
    assert shown[0] == ROTATING + ephemeral_id(tag.identity_key, COUNTER - 40, 4).hex()
    assert shown[40] == ROTATING + eid.eid_at(tag.identity_key, 4, 0).hex()
    assert len(set(shown)) == 6  # 8 s of the one it had, then 16 s each
    compose({}, tag.frame(0).service_data)


def test_in_a_shop_every_second_tag_rotates_and_is_listed_once_it_is_registered():
    shop = Shop.demo(7, strangers=7)
    assert list(shop.eid_tags) == [f"shopper-{number:02d}" for number in (1, 3, 7, 9, 11, 13, 17, 19)]
    assert len(shop.known_keys) == 3 + 12
    shop.shoppers["shopper-01"].beacon_key = "eid:anything"
    assert shop.known_keys["eid:anything"] == "shopper-01"
    shown = defaultdict(set)
    for sent in shop.transmissions(30):
        if sent.frame.key.startswith(ROTATING):
            shown[sent.source].add(sent.frame.key)
    assert set(shown) == {*shop.eid_tags, "stranger-07"}
    assert len(shown.pop("stranger-07")) == 1
    assert all(len(keys) >= 2 for keys in shown.values())
    assert len(set.union(*shown.values())) == sum(map(len, shown.values()))


def test_clocks_run_on_before_the_shop_opens():
    shop, later = Shop.demo(7), Shop.demo(7)
    later.open_after(100)
    for name, tag in shop.eid_tags.items():
        assert tag.exponent == EID_EXPONENT
        assert tag.frame(100) == later.eid_tags[name].frame(0)
