"""Topics: every gateway has its own, and a filter catches just its leaf."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.topics import (
    PARTITIONS,
    GatewayAddress,
    Leaf,
    is_id,
    parse_topic,
    partition_of,
    subscription,
)

ids = st.text("ABCXYZabcxyz0189_-", min_size=1, max_size=64)
leaves = st.sampled_from(get_args(Leaf))


def matches(pattern: str, topic: str) -> bool:
    wanted, given_ = pattern.split("/"), topic.split("/")
    return len(wanted) == len(given_) and all(w in ("+", g) for w, g in zip(wanted, given_, strict=True))


@given(ids, ids, leaves)
def test_round_trip(store, gateway, leaf):
    address = GatewayAddress(store, gateway)
    assert parse_topic(address.topic(leaf)) == (address, leaf)
    assert len(address.topic(leaf).encode()) < 200


@given(ids, ids, leaves, leaves)
def test_filters_catch_their_leaf_and_partition_only(store, gateway, leaf, other):
    address = GatewayAddress(store, gateway)
    topic = address.topic(leaf)
    assert matches(subscription(other), topic) == (leaf == other)
    assert matches(subscription(leaf, address.partition), topic)
    assert not matches(subscription(leaf, (address.partition + 1) % PARTITIONS), topic)


@given(st.text())
def test_strange_text_is_no_topic(text):
    with pytest.raises(WireError):
        parse_topic(text)


@given(
    st.lists(
        st.sampled_from(["footfall", "1", "5", "berlin", "door", "up", "down", "ack", "", "+", "#"]),
        max_size=8,
    )
)
def test_nearly_topics_parse_to_themselves_or_not_at_all(parts):
    topic = "/".join(parts)
    try:
        address, leaf = parse_topic(topic)
    except WireError:
        return
    assert address.topic(leaf) == topic


@given(st.text())
def test_ids_are_safe_in_topics_files_and_names(text):
    if is_id(text):
        assert not set(text) & set("/+#$. \n\0\\\"'")
        assert 1 <= len(text.encode()) <= 64


@given(st.text() | st.just("\ud800"))
def test_every_text_has_a_partition(text):
    assert 0 <= partition_of(text) < PARTITIONS


def test_partitions_share_stores_evenly():
    counts = [0] * PARTITIONS
    for number in range(6400):
        counts[partition_of(f"store-{number}")] += 1
    assert min(counts) > 50
    assert max(counts) < 150
