"""The golden vectors, which other languages read too, hold for this code in both directions."""

import json
import re
import time
import tracemalloc
from importlib import resources

import msgspec
import pytest

from sdk_bridge.wire import codec
from sdk_bridge.wire.codec import WireError, encode, to_json_object
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.topics import GatewayAddress, parse_topic, partition_of

FOLDER = resources.files("sdk_bridge.wire") / "vectors"


def load(name: str):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


MESSAGES, INVALID, ENVELOPES, TOPICS = (
    load(name) for name in ("messages.json", "invalid.json", "envelopes.json", "topics.json")
)
DECODERS = {"up": codec.decode_up, "ack": codec.decode_ack, "status": codec.decode_status}
REASONS = {
    "malformed": r"truncated|malformed|codec can't decode",
    "depth": r"recursion depth",
    "size": r"exceeds 131072",
    "type": r"Expected `(array|int|str|object)`(, got|$| - at|.*at least length 1)",
    "tag": r"Invalid value",
    "missing": r"missing required field|of at least length",
    "range": r"Expected `(int|float)` [<>]=|out of range",
    "enum": r"Invalid enum value",
    "length": r"of length [<>]=",
    "columns": r"columns of readings differ",
    "index": r"beacon index",
    "text": r"printable ASCII|matching regex",
}


def named(cases):
    return [pytest.param(case, id=case.get("name") or case["topic"]) for case in cases]


def messages():
    return [
        pytest.param(decoder, case, id=f"{decoder}: {case['name']}")
        for decoder in DECODERS
        for case in MESSAGES[decoder]
    ]


def payload(case) -> bytes:
    then = case.get("then", {"hex": "", "times": 0})
    return bytes.fromhex(case["hex"]) + bytes.fromhex(then["hex"]) * then["times"]


@pytest.mark.parametrize(("decoder", "case"), messages())
def test_both_forms_decode_to_one_message_and_back(decoder, case):
    message = DECODERS[decoder](bytes.fromhex(case["hex"]))
    assert DECODERS[decoder](json.dumps(case["json"]).encode()) == message
    assert encode(message).hex() == case["hex"]
    assert to_json_object(message) == case["json"]


@pytest.mark.parametrize(("decoder", "case"), messages())
def test_a_field_appended_by_a_later_version_is_passed_over(decoder, case):
    message = DECODERS[decoder](bytes.fromhex(case["hex"]))
    head, *rest = bytes.fromhex(case["hex"])
    assert 0x90 <= head <= 0x9F
    longer = bytes([0xDC, 0, head - 0x90 + 1, *rest])  # as an array of more than fifteen begins
    assert DECODERS[decoder](longer + b"\x81\xa3new\x93\x01\x02\x03") == message
    later = {**case["json"], "new": {"deep": [1, 2, {"er": None}]}}
    assert DECODERS[decoder](json.dumps(later).encode()) == message


@pytest.mark.parametrize("case", named(INVALID["invalid"]))
def test_invalid_payloads_are_refused_for_their_reason(case):
    with pytest.raises(WireError) as caught:
        DECODERS[case["decoder"]](payload(case))
    assert re.search(REASONS[case["reason"]], str(caught.value)), str(caught.value)
    assert len(str(caught.value)) <= codec.MAX_REASON


def test_every_reason_is_explained_and_used():
    assert set(INVALID["reasons"]) == set(REASONS) == {case["reason"] for case in INVALID["invalid"]}


@pytest.mark.parametrize("case", named(INVALID["invalid"]))
def test_invalid_payloads_cost_little(case):
    blob, decode = payload(case), DECODERS[case["decoder"]]
    tracemalloc.start()
    try:
        started = time.perf_counter()
        with pytest.raises(WireError):
            decode(blob)
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert seconds < 0.5  # typical is below a millisecond; the rest is for a loaded machine


def test_vectors_are_named_once():
    for cases in (
        *(MESSAGES[d] for d in DECODERS),
        INVALID["invalid"],
        ENVELOPES["valid"],
        ENVELOPES["invalid"],
    ):
        names = [case["name"] for case in cases]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("case", named(ENVELOPES["valid"]))
def test_envelopes_mean_what_they_say(case):
    envelope = Envelope.from_properties([(name, value) for name, value in case["properties"]])
    assert msgspec.structs.asdict(envelope) == case["envelope"]
    assert Envelope.from_properties(envelope.properties()) == envelope


@pytest.mark.parametrize("case", named(ENVELOPES["invalid"]))
def test_invalid_envelopes_are_refused(case):
    with pytest.raises(WireError):
        Envelope.from_properties([(name, value) for name, value in case["properties"]])


@pytest.mark.parametrize("case", named(TOPICS["valid"]))
def test_topics_name_their_gateway_and_leaf(case):
    address, leaf = parse_topic(case["topic"])
    assert (address.store, address.gateway, leaf) == (case["store"], case["gateway"], case["leaf"])
    assert address.partition == case["partition"]
    assert GatewayAddress(case["store"], case["gateway"]).topic(case["leaf"]) == case["topic"]


@pytest.mark.parametrize("case", named(TOPICS["invalid"]))
def test_invalid_topics_are_refused(case):
    with pytest.raises(WireError):
        parse_topic(case["topic"])


@pytest.mark.parametrize(("text", "partition"), TOPICS["partitions"].items())
def test_partitions_never_move(text, partition):
    assert partition_of(text) == partition
