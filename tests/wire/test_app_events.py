"""App events survive the journal; what it cannot hold is refused when written, not when read."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk_bridge.wire.app_events import AppEvent, PushAddress, decode_events, encode_events
from sdk_bridge.wire.codec import WireError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=4)
events = st.builds(
    AppEvent,
    kind=st.sampled_from(["identify", "track", "page", "device", "consent"]),
    message_id=st.text(min_size=1, max_size=100),
    source=st.text(max_size=20),
    occurred_at=st.integers(0, 2**53),
    received_at=st.integers(0, 2**53),
    anonymous_id=st.none() | st.text(max_size=20),
    proven=st.booleans(),
    properties=objects,
    traits=objects,
    context=objects,
    push_address=st.none() | st.builds(PushAddress, st.sampled_from(["token", "fid"]), st.text(min_size=1)),
    consent=st.dictionaries(st.text(max_size=8), st.booleans(), max_size=3),
)


@given(st.lists(events, max_size=4))
def test_round_trip(batch):
    assert decode_events(encode_events(batch)) == batch


def endless() -> list[object]:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, 10**400, "\ud800", object(), endless()], ids=lambda value: str(type(value))
)
def test_what_the_journal_cannot_hold_is_refused(value):
    event = AppEvent(
        kind="track", message_id="1", source="web", occurred_at=0, received_at=0, properties={"v": value}
    )
    with pytest.raises(WireError):
        encode_events([event])


@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_wire_error_at_worst(blob):
    with contextlib.suppress(WireError):
        decode_events(blob)


@given(st.lists(events, min_size=1, max_size=2), st.data())
def test_damaged_blobs_end_in_wire_error_at_worst(batch, data):
    blob = bytearray(encode_events(batch))
    for _ in range(3):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode_events(bytes(blob))
