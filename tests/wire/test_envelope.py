"""The envelope beside a payload, and the time that it gives to a batch."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.envelope import Envelope, boot_offset

NUMBER = st.integers(0, 2**53)
envelopes = st.builds(
    Envelope,
    lane=st.sampled_from(["live", "backlog"]),
    epoch=st.text("0123456789abcdef", min_size=8, max_size=32),
    seq=st.integers(1, 2**53),
    sent_at=NUMBER,
    boot_id=st.text("0123456789abcdef-", max_size=36),
    boot_ms=NUMBER,
    anchor=st.none() | NUMBER,
)


@given(envelopes, st.randoms())
def test_survives_in_any_order_among_strangers_properties(envelope, random):
    properties = [*envelope.properties(), ("content-language", "de"), ("", "")]
    random.shuffle(properties)
    assert Envelope.from_properties(properties) == envelope


@given(
    st.lists(st.tuples(st.sampled_from(["lane", "epoch", "seq", "anchor", "boot_ms"]) | st.text(), st.text()))
)
def test_strange_properties_end_in_wire_error_at_worst(properties):
    with contextlib.suppress(WireError):
        Envelope.from_properties(properties)


NOW, BOOT, EARLIER = 1_767_225_600_000, "aaaa", "bbbb"


@pytest.mark.parametrize(
    ("batch_boot", "anchor", "offset", "why"),
    [
        ("", None, 0, "the sender's times are unix time already"),
        (BOOT, None, NOW - 5_000, "the present boot is placed by when it arrived"),
        (BOOT, 17, NOW - 5_000, "an anchor is not asked about the present boot"),
        (EARLIER, NOW - 90_000, NOW - 90_000, "an earlier boot that was anchored"),
        (EARLIER, None, None, "an earlier boot that was never anchored"),
        (EARLIER, NOW + 1, None, "an anchor in the future is no anchor"),
    ],
)
def test_the_time_of_a_batch(batch_boot, anchor, offset, why):
    envelope = Envelope("live", "9f86d081", 1, sent_at=0, boot_id=BOOT, boot_ms=5_000, anchor=anchor)
    assert boot_offset(envelope, batch_boot, NOW) == offset, why


@given(envelopes, st.sampled_from(["", BOOT, EARLIER]), NUMBER)
def test_the_senders_wall_clock_never_matters(envelope, batch_boot, received_at):
    lying = Envelope(
        envelope.lane, envelope.epoch, envelope.seq, 0, envelope.boot_id, envelope.boot_ms, envelope.anchor
    )
    assert boot_offset(envelope, batch_boot, received_at) == boot_offset(lying, batch_boot, received_at)
