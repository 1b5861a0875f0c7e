"""The codec over everything it may be given: any message survives, any bytes end in WireError at worst."""

import datetime
import json
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdk_bridge.wire import codec
from sdk_bridge.wire.codec import WireError, decode_ack, decode_status, decode_up, encode, to_json_object
from sdk_bridge.wire.messages import (
    MAX_PAYLOAD_BYTES,
    MAX_ROWS,
    Ack,
    Batch,
    BeaconHealth,
    Heartbeat,
    RangeChange,
    Readings,
    Skip,
    SkipCounts,
    Status,
)

MILLIS = st.integers(0, 2**53)
COUNT = st.integers(0, 2**32)


def ascii_text(least: int, most: int):
    return st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=least, max_size=most)


@st.composite
def batches(draw):
    keys = draw(st.lists(ascii_text(1, 160), max_size=8))
    index = st.integers(0, len(keys) - 1) if keys else st.nothing()
    rows = draw(st.lists(st.tuples(index, *_ROW), max_size=20)) if keys else []
    return Batch(
        draw(ascii_text(0, 36)),
        draw(MILLIS),
        keys,
        Readings(*([row[column] for row in rows] for column in range(5))),
        draw(st.lists(st.builds(RangeChange, index, MILLIS, st.booleans()), max_size=8)) if keys else [],
        draw(st.lists(_healths(index), max_size=8)) if keys else [],
    )


_ROW = (st.integers(0, 65535), st.integers(1, 65535), st.integers(0, 127), st.integers(0, 127))


def _healths(index):
    return st.builds(
        BeaconHealth,
        index,
        MILLIS,
        st.none() | st.integers(0, 65535),
        st.none() | st.floats(-128, 128),
        st.none() | COUNT,
        st.none() | st.floats(0, 2**32),
    )


heartbeats = st.builds(
    Heartbeat,
    ascii_text(0, 36),
    MILLIS,
    st.sampled_from(["starting", "hearing", "quiet", "deaf"]),
    st.none() | MILLIS,
    *[COUNT] * 5,
    st.booleans(),
    ascii_text(0, 32),
)
skips = st.builds(Skip, st.integers(1, 2**53), ascii_text(0, 64), st.builds(SkipCounts, COUNT, COUNT))
acks = st.builds(Ack, ascii_text(1, 32), st.sampled_from(["live", "backlog"]), MILLIS, st.booleans(), MILLIS)
statuses = st.builds(Status, st.booleans(), ascii_text(0, 32), ascii_text(0, 32))
DECODERS = (decode_up, decode_ack, decode_status)


@pytest.mark.parametrize(
    ("messages", "decode"),
    [
        pytest.param(batches() | heartbeats | skips, decode_up, id="up"),
        pytest.param(acks, decode_ack, id="ack"),
        pytest.param(statuses, decode_status, id="status"),
    ],
)
@given(st.data())
def test_any_message_survives_both_forms(messages, decode, data):
    message = data.draw(messages)
    assert decode(encode(message)) == message
    assert decode(json.dumps(to_json_object(message)).encode()) == message


# --- hostile bytes


def only_wire_errors(payload: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(payload)
        except WireError as error:
            assert len(str(error)) <= codec.MAX_REASON


@given(st.binary(max_size=300))
@example(b"")
@example(b"{")
def test_random_bytes(payload):
    only_wire_errors(payload)


@settings(max_examples=300)
@given(batches() | heartbeats | skips | acks | statuses, st.data())
def test_a_valid_payload_with_some_bytes_changed(message, data):
    as_json = data.draw(st.booleans())
    payload = bytearray(json.dumps(to_json_object(message)).encode() if as_json else encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not payload:
            break
    only_wire_errors(bytes(payload))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(datetime.UTC)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
TAGS = ("batch", "heartbeat", "skip", "ack", "status", "other")


@settings(max_examples=300)
@given(st.sampled_from(TAGS), st.lists(anything, max_size=12))
def test_wrong_types_in_every_place(tag, values):
    only_wire_errors(msgspec.msgpack.encode([tag, *values]))


@settings(max_examples=300)
@given(st.sampled_from(TAGS), st.data())
def test_wrong_types_in_every_field_of_json(tag, data):
    names = sorted({name for form in codec.OBJECT_FORMS for name in form.__struct_fields__})
    fields = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=8), anything, max_size=12))
    only_wire_errors(msgspec.json.encode({"type": tag, **fields}))


def test_the_largest_payloads_stay_cheap():
    """What a stranger's 128 KiB may cost: some milliseconds and a few megabytes, whatever it holds."""
    rows = [0] * MAX_ROWS
    columns = [rows, rows, [1] * MAX_ROWS, rows, rows]
    largest = [
        msgspec.msgpack.encode(["batch", "", 0, ["k"], columns]),
        msgspec.msgpack.encode(["batch", "", 0, ["k"], [[], [], [], [], []], [[0, 0, True]] * MAX_ROWS]),
        msgspec.msgpack.encode(["batch", "", 0, ["k" * 29] * 4096, [[], [], [], [], []]]),
        b'{"type":"batch","boot_id":"","base_ms":0,"keys":["k"],"readings":{"beacon":['
        + b"0," * (MAX_ROWS - 1)
        + b"0]}}",
        b'{"type":"batch","boot_id":"","base_ms":0,"keys":["k"],"readings":{},"ranges":['
        + b'{"beacon":0,"after_ms":0,"near":true},' * 3000
        + b'{"beacon":0,"after_ms":0,"near":true}]}',
        b'{"type":"batch","nothing":[' + b"{}," * 43_000 + b"{}]}",
        b'{"type":"batch",' + b'"a":1,' * 21_000 + b'"b":1}',
    ]
    for payload in largest:
        assert MAX_PAYLOAD_BYTES // 4 < len(payload) <= MAX_PAYLOAD_BYTES
        tracemalloc.start()
        try:
            started = time.perf_counter()
            only_wire_errors(payload)
            assert time.perf_counter() - started < 1.0
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()


# --- size


def ibeacon(minor: int) -> str:
    return f"ibeacon:f7826da6-4fa2-4e98-8024-bc5b71e0893e:10001:{minor}"


def test_an_event_takes_at_most_90_bytes():
    """A hundred tags come into range within a minute, each with its key."""
    batch = Batch(
        "6f1f7a52-0c1b-4e0e-9b0c-2d7c1f7c5a11",
        183_204_117,
        [ibeacon(10_000 + number) for number in range(100)],
        Readings(),
        [RangeChange(number, number * 600, True) for number in range(100)],
    )
    assert len(encode(batch)) / 100 <= 90


@pytest.mark.parametrize("beacons", [5, 40, 120])
def test_a_reading_takes_at_most_6_bytes(beacons):
    """A minute of a shop floor, less the keys, which a batch names once."""
    heard = [(beacon, second) for second in range(60) for beacon in range(beacons)]
    readings = Readings(
        [beacon for beacon, _ in heard],
        [second for _, second in heard],
        [1 + (beacon + second) % 10 for beacon, second in heard],
        [60 + (beacon * 7 + second) % 35 for beacon, second in heard],
        [57 + (beacon * 7 + second) % 35 for beacon, second in heard],
    )
    keys = [ibeacon(number) for number in range(beacons)]
    whole = len(encode(Batch("6f1f7a52-0c1b-4e0e-9b0c-2d7c1f7c5a11", 183_204_117, keys, readings)))
    assert (whole - len(msgspec.msgpack.encode(keys))) / len(heard) <= 6
