"""Reading and writing a PUBLISH: the same as paho does, and one clear error for whatever is none."""

import contextlib
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from sdk_bridge.publish_packet import MalformedPublish, Publish, pack_publish, parse_publish, whole_publish

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
OTHERS = {
    "PayloadFormatIndicator": 1,
    "MessageExpiryInterval": 77,
    "TopicAlias": 3,
    "ResponseTopic": "answer/here",
    "CorrelationData": b"\x26\x00",
    "ContentType": "text/plain",
    "SubscriptionIdentifier": 70_000,
}


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def body(topic: bytes, mid: int | None, properties: bytes, payload: bytes = b"") -> bytes:
    return sized(topic) + (b"" if mid is None else mid.to_bytes(2, "big")) + properties + payload


@given(
    TEXTS,
    st.none() | st.integers(1, 65_535),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=8),
    st.sets(st.sampled_from(sorted(OTHERS))),
    st.binary(max_size=40),
)
def test_what_paho_packs_is_read_as_it_was_meant(topic, mid, pairs, others, payload):
    packed = Properties(PacketTypes.PUBLISH)
    for name in others:
        setattr(packed, name, OTHERS[name])
    if pairs:
        packed.UserProperty = pairs
    read = parse_publish(0 if mid is None else 1, body(topic.encode(), mid, packed.pack(), payload))
    assert read == Publish(topic, mid or 0, tuple(pairs), payload)


PAIR = b"\x26" + sized(b"lane") + sized(b"live")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x00",
        sized(b"topic"),
        body(b"topic", 1, b""),
        body(b"topic", 1, b"\x80\x80\x80\x80\x01"),
        body(b"topic", 1, b"\x05" + b"\x26\x00\x01a"),
        body(b"topic", 1, b"\x02" + b"\x02\x00", b"more"),
        body(b"topic", 1, b"\x02" + b"\x1f\x00"),
        body(b"topic", 1, bytes([len(PAIR) - 1]) + PAIR),
        body(b"topic", 1, bytes([len(PAIR) + 1]) + PAIR),
        body(b"topic", 1, b"\x07" + b"\x26" + sized(b"\xff") + sized(b"a")),
    ],
)
def test_what_is_no_publish_is_refused(packet):
    with pytest.raises(MalformedPublish):
        parse_publish(1, packet)


@given(st.integers(0, 1), st.binary(max_size=60))
def test_nothing_else_is_raised_for_any_bytes(qos, packet):
    with contextlib.suppress(MalformedPublish):
        parse_publish(qos, packet)


def test_a_topic_that_is_no_text_is_empty():
    assert parse_publish(0, body(b"\xff\xfe", None, b"\x00", b"x")) == Publish("", 0, (), b"x")


@pytest.mark.parametrize(
    "name", ["_sock_recv", "_packet_read", "_handle_publish", "_packet_queue", "_mid_generate"]
)
def test_paho_still_has_the_private_names_that_our_connection_stands_on(name):
    assert callable(getattr(paho.Client, name))


def test_paho_still_knows_when_bytes_came_last_by_this_name():
    """What our connection sets, so that a broker that talks is not taken for dead."""
    before = time.monotonic()
    assert before <= paho.Client(paho.CallbackAPIVersion.VERSION2)._last_bytes_received <= time.monotonic()


@given(TEXTS, st.binary(max_size=20_000), st.booleans(), st.binary(max_size=40), st.binary(max_size=40))
def test_what_we_pack_is_found_in_a_stream_and_read_as_it_was_meant(topic, payload, retain, before, behind):
    assume(topic and not set(topic) & set("+#"))
    packet = pack_publish(topic, payload, retain=retain)
    begins, ends = whole_publish(before + packet + behind, len(before))
    assert (packet[0], ends) == (0x30 + retain, len(before) + len(packet))
    assert parse_publish(0, (before + packet)[begins:ends]) == Publish(topic, 0, (), payload)
    for cut in {1, 2, len(packet) // 2, len(packet) - 1}:
        assert whole_publish(before + packet[:cut], len(before)) is None


@pytest.mark.parametrize("data", [b"", b"\x40\x02\x00\x01", b"\x30", b"\x30\x80\x80\x80\x80\x01x"])
def test_what_is_no_whole_publish_is_left_to_others(data):
    assert whole_publish(data, 0) is None


@pytest.mark.parametrize("topic", ["", "a/+", "a/#"])
def test_nobody_publishes_to_a_filter(topic):
    with pytest.raises(ValueError, match="no topic"):
        pack_publish(topic, b"", retain=False)
