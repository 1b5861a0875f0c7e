"""Bytes of strangers to events: the pure half of the bridge, as tables and over any bytes."""

import base64
import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk_bridge.server.batches import read_batch
from sdk_bridge.server.beacon_keys import canonical_beacon_key, canonical_region_key, regions_of
from sdk_bridge.server.bodies import (
    MAX_BATCH_BYTES,
    MAX_DEPTH,
    Rejected,
    decode,
    inflate,
    may_hold_nul,
    open_batch,
)
from sdk_bridge.server.calls import segment_call
from sdk_bridge.server.keys import key_of_header
from sdk_bridge.server.letters import letters_of, read_again
from sdk_bridge.server.normalise import Arrival, Reject, finished, segment_event
from sdk_bridge.server.ports import Source
from sdk_bridge.server.proof import is_proven, user_hash
from sdk_bridge.server.rates import Buckets, Rate
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.server.times import not_after, occurred_ms, skew_ms, unix_ms
from sdk_bridge.wire.app_events import AppEvent, decode_events, encode_events, joined

NOW = 1_760_000_000_000  # 2025-10-09T08:53:20Z
WEB = Source("shop-site", "web", "required", "secret")
SERVER = Source("shop-server", "server", "required", "secret")
MINUTE = 60_000
LONG_AGO = NOW - 70 * MINUTE


def arrival(source: Source = SERVER) -> Arrival:
    return Arrival(source, NOW, lambda: "made-here")


def read(body: Any, source: Source = SERVER) -> tuple[list[AppEvent], list[str]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kept, rejects = read_batch(open_batch(raw), arrival(source))
    assert joined(kept.encoded) == encode_events(kept.events)
    return kept.events, [reject.reason for reject in rejects]


def one(call: dict[str, Any], source: Source = SERVER) -> AppEvent:
    events, reasons = read({"batch": [call]}, source)
    assert reasons == []
    return events[0]


TRACK = {"type": "track", "event": "Product Viewed", "userId": "u1", "messageId": "m1"}


# Times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        (None, None), ("", None),
        ("2025-10-09T08:53:20.000Z", NOW), ("2025-10-09T08:53:20", NOW), ("2025-10-09T10:53:20+02:00", NOW),
        ("2025-10-09T08:53:20.000123456Z", NOW), ("20251009T085320Z", NOW), ("2025-10-09t08:53:20z", NOW),
        (str(NOW), NOW), (str(NOW // 1000), NOW), ("1710101010123", 1_710_101_010_123),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000), ("2016-12-31T23:59:60.5Z", 1_483_228_799_500),
        (NOW, NOW), (NOW / 1000, NOW), (1_760_000_000, NOW), ("0001-01-01T00:00:00Z", 0), (-5, 0), (0, 0),
    ],
)  # fmt: skip
def test_timestamps_that_sdks_write(stamp: Any, at: int | None) -> None:
    assert unix_ms(stamp) == at


@pytest.mark.parametrize(
    "stamp", ["yesterday", "2025-13-01", 1e300, "12025-01-01T00:00:00Z", "2025-10-09T12:60:00Z", "1" * 12]
)
def test_what_is_no_time(stamp: Any) -> None:
    with pytest.raises(Rejected):
        unix_ms(stamp)


@pytest.mark.parametrize(
    ("sent_at", "skew"),
    [
        (None, 0), ("nonsense", 0), (NOW, 0), (NOW - 2 * MINUTE, 0), (NOW - 3 * MINUTE, 5 * MINUTE),
        (NOW - 60 * MINUTE, 60 * MINUTE), (NOW + 61 * MINUTE, -61 * MINUTE),
        (NOW + 59 * MINUTE, -60 * MINUTE), (NOW + 1_500, -1_500), (0, round(NOW / (5 * MINUTE)) * 5 * MINUTE),
    ],
)  # fmt: skip
def test_skew_goes_in_steps_so_that_a_slow_network_is_none(sent_at: Any, skew: int) -> None:
    assert skew_ms(sent_at, NOW) == skew


@pytest.mark.parametrize("original", [0, 5, 946_684_799_999])
def test_a_clock_that_was_never_set_says_nothing(original: int) -> None:
    assert occurred_ms(original, 0, NOW) == NOW
    assert occurred_ms(original, NOW - MINUTE, NOW) >= NOW - MINUTE


@pytest.mark.parametrize(
    ("occurred", "times"),
    [
        ([NOW - 2, NOW - 1, NOW], [NOW - 2, NOW - 1, NOW]),
        ([NOW + 5], [NOW]),
        ([NOW + 5, NOW + 9, NOW - MINUTE], [NOW - 1, NOW, NOW - MINUTE]),
        ([NOW, NOW + 9], [NOW - 1, NOW]),
        ([NOW + 9, NOW + 9, NOW + 9], [NOW - 2, NOW - 1, NOW]),
    ],
)
def test_what_would_lie_in_the_future_comes_at_the_arrival_in_its_own_order(
    occurred: list[int], times: list[int]
) -> None:
    assert not_after(NOW, [(at, at, index) for index, at in enumerate(occurred)]) == times


def test_the_order_of_one_device_stays_though_its_clock_runs_ahead() -> None:
    said = [{**TRACK, "messageId": f"m{n}", "timestamp": NOW + 1000 * n} for n in (3, 1, 2)]
    for around in ({}, {"sentAt": NOW + 4000}, {"sentAt": NOW}):
        events, _ = read({"batch": said, **around})
        by_time = sorted(events, key=lambda event: event.occurred_at)
        assert [event.message_id for event in by_time] == ["m1", "m2", "m3"]
        assert len({event.occurred_at for event in events}) == 3


def test_an_event_without_a_time_of_its_own_says_so() -> None:
    """Its copy that comes an hour later must be known for one: see the journal's message ids."""
    assert (one(TRACK).original_at, one(TRACK).occurred_at) == (0, NOW)


@pytest.mark.parametrize(
    ("event", "batch", "occurred_at", "original_at"),
    [
        ({}, {}, NOW, 0),
        ({"timestamp": 0}, {}, NOW, 0),
        ({"timestamp": "1970-01-02"}, {"sentAt": "1970-01-02T00:03:20Z"}, NOW - 200_000, 86_400_000),
        ({"timestamp": NOW - MINUTE}, {}, NOW - MINUTE, NOW - MINUTE),
        ({"timestamp": LONG_AGO}, {"sentAt": NOW - 60 * MINUTE}, NOW - 10 * MINUTE, LONG_AGO),
        ({"timestamp": LONG_AGO, "sentAt": NOW}, {"sentAt": NOW - 60 * MINUTE}, LONG_AGO, LONG_AGO),
        ({"originalTimestamp": NOW - 5, "timestamp": LONG_AGO}, {}, NOW - 5, NOW - 5),
    ],
)
def test_when_an_event_happened(event: Any, batch: Any, occurred_at: int, original_at: int) -> None:
    events, _ = read({"batch": [{**TRACK, **event}], **batch})
    assert (events[0].occurred_at, events[0].original_at) == (occurred_at, original_at)


# Proof and keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "claimed", "proven"),
    [
        (WEB, None, False),
        (WEB, user_hash("secret", "u1"), True),
        (WEB, user_hash("secret", "u1").upper(), True),
        (WEB, user_hash("other", "u1"), False),
        (WEB, user_hash("secret", "u2"), False),
        (WEB, 7, False),
        (WEB, "ä" * 64, False),
        (Source("s", "web", "required", ""), user_hash("", "u1"), False),
        (Source("s", "web", "off", "secret"), None, True),
        (SERVER, None, True),
    ],
)
def test_proof_of_the_user(source: Source, claimed: object, proven: bool) -> None:
    assert is_proven(source, "u1", claimed) is proven
    assert is_proven(source, None, claimed) is False


def test_the_hash_may_stand_in_the_context_and_is_not_kept() -> None:
    proof = user_hash("secret", "u1")
    for call in ({"userHash": proof}, {"context": {"userHash": proof, "locale": "de"}}):
        event = one({**TRACK, **call}, WEB)
        assert event.proven
        assert proof not in str(event)
    assert not one(TRACK, WEB).proven


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (basic("key:"), "key"), (basic("key"), "key"), (basic("key:secret"), "key"),
        (basic("key:").rstrip("="), "key"), ("basic " + basic("key:")[6:], "key"),
        ("Bearer key", "key"), ("bearer  key ", "key"),
        (None, None), ("", None), ("Basic", None), ("Basic !!!", None), ("Basic /////w==", None),
        (basic(":"), None), ("Digest key", None), ("Bearer " + "k" * 201, None), ("Bearer a\x00b", None),
    ],
)  # fmt: skip
def test_the_key_of_a_header(header: str | None, key: str | None) -> None:
    assert key_of_header(header) == key


# Calls to events --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (TRACK, {"kind": "track", "name": "Product Viewed", "user_id": "u1", "message_id": "m1"}),
        ({**TRACK, "userId": 4711}, {"user_id": "4711"}),
        ({**TRACK, "userId": None, "anonymousId": " a1 "}, {"user_id": None, "anonymous_id": "a1"}),
        ({**TRACK, "messageId": None}, {"message_id": "made-here"}),
        ({**TRACK, "messageId": 17}, {"message_id": "17"}),
        ({**TRACK, "userId": 10**30}, {"user_id": f"1{'0' * 30}"}),
        ({**TRACK, "event": "Bad\0 Name", "userId": "u1"}, {"name": "Bad\ufffd Name"}),
        ({**TRACK, "properties": {"a\0": ["\0", {"b": "x\0y"}]}},
         {"properties": {"a\ufffd": ["\ufffd", {"b": "x\ufffdy"}]}}),
        ({**TRACK, "properties": {"path": "C:\\u0000"}}, {"properties": {"path": "C:\\u0000"}}),
        ({**TRACK, "userId": "null", "anonymousId": "a1"}, {"user_id": "null", "anonymous_id": "a1"}),
        ({**TRACK, "properties": [], "context": None}, {"properties": {}, "context": {}}),
        ({**TRACK, "type": "page", "name": "Home", "category": "Start"},
         {"kind": "page", "properties": {"category": "Start"}}),
        ({"type": "group", "userId": "u1", "groupId": 8, "traits": {"plan": "x"}},
         {"name": "8", "traits": {"plan": "x"}}),
        ({"type": "alias", "userId": "u1", "previousId": "a1"}, {"kind": "alias", "previous_id": "a1"}),
        ({**TRACK, "context": {"device": {"id": "d1", "token": "t1", "type": "ios"}}},
         {"device_id": "d1", "platform": "ios"}),
        ({**TRACK, "context": {"device": {"id": 7, "token": ["x"], "type": None}}},
         {"device_id": None, "push_address": None, "platform": None}),
        ({**TRACK, "context": {"device": "phone"}}, {"device_id": None}),
        ({**TRACK, "context": {"consent": {"categoryPreferences": {"push": True, "ads": False, "x": "yes"}}}},
         {"consent": {"push": True, "ads": False}}),
        ({**TRACK, "context": {"consent": {"categoryPreferences": []}}}, {"consent": {}}),
        ({**TRACK, "event": "Push Notification Tapped", "properties": {"push_id": "p1"}},
         {"kind": "track", "push_id": "p1", "receipt": "opened"}),
        ({**TRACK, "event": "Push Notification Received", "properties": {"push_id": "p1"}},
         {"push_id": "p1", "receipt": "received"}),
        ({**TRACK, "event": "Push Notification Tapped", "properties": {"push_id": 9}},
         {"push_id": None, "receipt": None}),
    ],
)  # fmt: skip
def test_what_a_call_becomes(call: dict[str, Any], expected: dict[str, Any]) -> None:
    event = one(call)
    assert {name: getattr(event, name) for name in expected} == expected


@pytest.mark.parametrize(
    "token", ["null", "undefined", " ", "", "0", "0000-0000", "BLACKLISTED", "blacklisted "]
)
def test_what_is_no_address_is_none_and_makes_no_device(token: str) -> None:
    assert one({**TRACK, "context": {"device": {"id": "d1", "token": token}}}).push_address is None
    assert one({**TRACK, "context": {"device": {"token": token}}}).device_id is None


def test_a_token_without_a_device_id_stands_for_its_own_device() -> None:
    event = one({**TRACK, "context": {"device": {"token": "t1"}}})
    assert event.push_address is not None
    assert event.push_address.value == "t1"
    assert event.device_id is not None
    assert event.device_id.startswith("address-")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({**TRACK, "type": "purchase"}, "`type` must be"),
        ({**TRACK, "type": None}, "`type` must be"),
        ({**TRACK, "event": None}, "track needs `event`"),
        ({**TRACK, "event": " "}, "track needs `event`"),
        ({**TRACK, "event": "e" * 513}, "length"),
        ({**TRACK, "userId": ""}, "neither `userId` nor `anonymousId`"),
        ({**TRACK, "userId": "u\0"}, "NUL"),
        ({**TRACK, "messageId": "u\0"}, "NUL"),
        ({**TRACK, "userId": "null"}, "names anybody"),
        ({**TRACK, "userId": "00000000-0000-0000-0000-000000000000", "anonymousId": "[object Object]"},
         "names anybody"),
        ({**TRACK, "userId": "\ud83d"}, "names anybody"),
        ({"type": "alias", "userId": "u1", "previousId": "undefined"}, "alias needs `previousId`"),
        ({**TRACK, "userId": {"id": 1}}, "$.userId"),
        ({**TRACK, "messageId": "m" * 100}, "length"),
        ({**TRACK, "messageId": 10**90}, "digits"),
        ({**TRACK, "userId": 10**600}, "digits"),
        ({**TRACK, "anonymousId": 10**4000}, "digits"),
        ({"type": "alias", "userId": "u1", "previousId": -(10**600)}, "digits"),
        ({"type": "group", "userId": "u1", "groupId": 10**600}, "digits"),
        ({**TRACK, "properties": ["x"]}, "`properties` must be an object"),
        ({**TRACK, "timestamp": "yesterday"}, "ISO 8601"),
        ({**TRACK, "properties": {"x": "y" * 33_000}}, "exceeds 32 KB"),
        ({"type": "group", "userId": "u1"}, "group needs `groupId`"),
        ({"type": "alias", "previousId": "a"}, "alias needs `userId`"),
        ("text", "object"),
        (None, "object"),
        ({**TRACK, "context": {"consent": {"categoryPreferences": {str(n): True for n in range(40)}}}},
         "consent categories"),
    ],
)  # fmt: skip
def test_one_bad_event_never_loses_the_others(call: Any, reason: str) -> None:
    events, reasons = read({"batch": [{**TRACK, "messageId": "first"}, call, {**TRACK, "messageId": "last"}]})
    assert [event.message_id for event in events] == ["first", "last"]
    assert [event.index for event in events] == [0, 2]
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert decode_events(encode_events(events)) == events


DEEP = "[" * 40 + "]" * 40
VERY_DEEP = "[" * 100_000 + "]" * 100_000


def with_value(text: str) -> str:
    return f'{{"type":"track","event":"x","userId":"u","properties":{{"x":{text}}}}}'


@pytest.mark.parametrize(
    ("broken", "kept"),
    [
        (with_value("NaN"), {"x": None}),
        (with_value("-Infinity"), {"x": None}),
        (with_value("1e999"), {"x": None}),
        (with_value('"\\ud83d"'), {"x": "\ufffd"}),
        (with_value(str(2**70)), {"x": float(2**70)}),
        (with_value(DEEP), None),
        (with_value(VERY_DEEP), None),
        (with_value("9" * 5000), None),
        ('{"type":"track","event":"x,]}","userId":"u",}', None),
        ("tru", None),
    ],
)
def test_what_is_not_strict_json_is_mended_or_rejected_alone(broken: str, kept: Any) -> None:
    good = json.dumps({**TRACK, "properties": {"brackets": '}],["\\'}})
    events, reasons = read(f'{{"sentAt": null, "batch": [{good}, {broken} ,{good}]}}'.encode())
    assert len(events) + len(reasons) == 3
    assert events[0].properties == events[-1].properties == {"brackets": '}],["\\'}
    assert reasons == [] if kept is not None else len(reasons) == 1
    if kept is not None:
        assert events[1].properties == kept
    assert decode_events(encode_events(events)) == events


def test_broken_utf8_is_replaced() -> None:
    events, _ = read(b'{"batch":[{"type":"track","event":"M\xffller","userId":"u"}]}')
    assert events[0].name == "M\ufffdller"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{}", b'{"batch":{}}', b'{"batch":[', b'{"batch":[NaN', b"\xff\xfe", b'"batch":[]',
     b'{"batch":[],"context":3}', b'{"batch":[],"context":[3]}', VERY_DEEP.encode(),
     b'{"a":' + DEEP.encode() + b',"batch":[NaN]}'],
)  # fmt: skip
def test_a_batch_that_is_none_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        open_batch(body)
    assert refused.value.status == 400


@pytest.mark.parametrize("none", [None, {}, []])  # PHP writes an empty object as `[]`
def test_a_batch_may_have_no_context_to_share(none: Any) -> None:
    events, reasons = read({"batch": [TRACK], "context": none})
    assert (len(events), reasons) == (1, [])


def test_a_batch_may_hold_2500_events() -> None:
    assert len(read({"batch": [TRACK] * 2500})[0]) == 2500
    with pytest.raises(Refusal, match="2500"):
        read({"batch": [TRACK] * 2501})


def test_the_context_of_a_batch_counts_for_each_event_and_is_bounded() -> None:
    events, _ = read(
        {"batch": [TRACK, {**TRACK, "context": {"locale": "de"}}], "context": {"locale": "en", "ip": "::1"}}
    )
    assert [event.context for event in events] == [
        {"locale": "en", "ip": "::1"},
        {"locale": "de", "ip": "::1"},
    ]
    with pytest.raises(Refusal, match="context"):
        read({"batch": [TRACK] * 200, "context": {"x": "y" * 20_000}})
    with pytest.raises(Refusal, match="deeper"):
        read(b'{"batch":[],"context":{"x":' + DEEP.encode() + b"}}")


def test_integers_of_the_batch_context_are_mended_too() -> None:
    events, _ = read({"batch": [TRACK], "context": {"n": 2**80}})
    assert events[0].context == {"n": float(2**80)}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b"x" * 600_000, mtime=0), 400),
        (gzip.compress(b"{}", mtime=0)[:-4], 400),
        (b"\x1f\x8bgarbage", 400),
    ],
)
def test_gzip_that_is_too_large_or_damaged(body: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        inflate(body, MAX_BATCH_BYTES)
    assert refused.value.status == status


def test_gzip_of_several_members_is_one_body() -> None:
    members = gzip.compress(b'{"batch":', mtime=0) + gzip.compress(b"[]}", mtime=0)
    assert inflate(members, 100) == b'{"batch":[]}'
    with pytest.raises(Refusal):
        inflate(gzip.compress(b"x" * 60, mtime=0) * 2, 100)


def test_gzip_is_told_by_its_first_bytes() -> None:
    assert inflate(gzip.compress(b"{}", mtime=0), 100) == b"{}" == inflate(b"{}", 100)


UUID = "2F234454-CF6D-4A0F-ADF2-F4911BA9FFA6"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"ibeacon:{UUID}:1:65535", f"ibeacon:{UUID.lower()}:1:65535"),
        ("altbeacon:" + "Ab" * 20, "altbeacon:" + "ab" * 20),
        ("eddystone-uid:" + "0" * 20 + ":" + "1" * 12, "eddystone-uid:" + "0" * 20 + ":" + "1" * 12),
        (f"eid:{UUID}", f"eid:{UUID.lower()}"), ("eddystone-eid:0123456789abcdef", None), ("eid:1", None),
        (f"ibeacon:{UUID}:1:65536", None), (f"ibeacon:{UUID}:01:2", None), (f"ibeacon:{UUID}:1:٢", None),
        (f"ibeacon:{UUID}:1", None), ("ibeacon:1:2:3", None), ("eddystone-url:https://example.org", None),
        ("eddystone-tlm", None), ("", None), ("altbeacon:zz", None),
    ],
)  # fmt: skip
def test_keys_of_beacons_that_a_person_can_carry(text: str, key: str | None) -> None:
    assert canonical_beacon_key(text) == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"ibeacon:{UUID}", f"ibeacon:{UUID.lower()}"), (f"iBeacon:{UUID}:7", f"ibeacon:{UUID.lower()}:7"),
        (f"ibeacon:{UUID}:70000", None), (f"ibeacon:{UUID}:1:2", None),
        ("altbeacon:" + "ab" * 16, "altbeacon:" + "ab" * 16),
        ("eddystone-uid:" + "0" * 20, "eddystone-uid:" + "0" * 20), (f"eid:{UUID}", None), ("", None),
    ],
)  # fmt: skip
def test_keys_of_regions(text: str, key: str | None) -> None:
    assert canonical_region_key(text) == key


def test_a_beacon_lies_in_the_regions_that_its_key_begins_with() -> None:
    low = UUID.lower()
    assert regions_of(f"ibeacon:{low}:1:2") == (f"ibeacon:{low}", f"ibeacon:{low}:1")
    assert regions_of("altbeacon:" + "ab" * 20) == ("altbeacon:" + "ab" * 16,)
    assert regions_of("eddystone-uid:" + "0" * 20 + ":" + "1" * 12) == ("eddystone-uid:" + "0" * 20,)
    assert regions_of(f"eid:{low}") == regions_of("eddystone-url:https://a.example") == ()


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    buckets, rate = Buckets(), Rate(per_second=10, burst=20)
    assert buckets.wait_s("s", rate, NOW) == 0
    buckets.take("s", rate, 60, NOW)
    assert buckets.wait_s("other", rate, NOW) == 0
    wait = buckets.wait_s("s", rate, NOW)
    assert wait == 5
    assert buckets.wait_s("s", rate, NOW + wait * 1000) == 0
    assert buckets.wait_s("s", Rate(per_second=0.01, burst=20), NOW) == 300, "nobody waits for a day"


def test_whoever_waits_while_the_clock_is_set_back_waits_no_longer() -> None:
    buckets, rate = Buckets(), Rate(per_second=10, burst=20)
    buckets.take("s", rate, 50, NOW)
    earlier = NOW - 86_400_000
    wait = buckets.wait_s("s", rate, earlier)
    assert buckets.wait_s("s", rate, earlier + wait * 1000) == 0


# Dead letters -----------------------------------------------------------------------------------------------


def test_a_letter_read_again_says_what_its_batch_would_have_said() -> None:
    """As if a later version understood what this one does not: the same events, of the same time."""
    body = {
        "sentAt": NOW - 60 * MINUTE,
        "context": {"locale": "de"},
        "batch": [{**TRACK, "timestamp": LONG_AGO}, {**TRACK, "messageId": "m2", "properties": {"x": "y"}}],
    }
    opened = open_batch(json.dumps(body).encode())
    rejects = [Reject("not yet", bytes(raw), index) for index, raw in enumerate(opened.batch)]
    [letter] = letters_of(rejects, opened, arrival(WEB))
    events, rest = read_again(letter.payload, WEB, letter.received_at, lambda: "made-here")
    assert (letter.source_id, letter.events, rest) == ("shop-site", 2, [])
    assert events == read(body, WEB)[0]


@pytest.mark.parametrize("broken", [with_value("9" * 5000), "tru", '{"a":"x,]}",}', "[1}"])
def test_a_letter_of_what_is_not_json_stays_one(broken: str) -> None:
    opened = open_batch(f'{{"batch": [{broken}, {broken}]}}'.encode())
    _, rejects = read_batch(opened, arrival())
    letters = letters_of(rejects, opened, arrival())
    assert [letter.events for letter in letters] == [2]
    events, rest = read_again(letters[0].payload, SERVER, NOW, lambda: "made-here")
    assert (events, rest) == ([], letters)


# Any bytes --------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "type",
    "event",
    "name",
    "category",
    "userId",
    "anonymousId",
    "previousId",
    "groupId",
    "messageId",
    "properties",
    "traits",
    "context",
    "timestamp",
    "originalTimestamp",
    "sentAt",
    "userHash",
]
plausible = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8).flatmap(
    lambda call: st.sampled_from([{**call, **TRACK}, {**TRACK, **call}, call])
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(plausible | values, max_size=4),
    st.dictionaries(st.sampled_from(["sentAt", "context", "writeKey"]), values),
)
def test_whatever_the_batch_every_accepted_event_can_be_stored(
    batch: list[Any], around: dict[str, Any]
) -> None:
    body = json.dumps({**around, "batch": batch}).encode()
    try:
        kept, rejects = read_batch(open_batch(body), arrival())
    except Refusal as refusal:
        assert refusal.status == 400
        return
    assert len(kept.events) + len(rejects) == len(batch)
    assert decode_events(joined(kept.encoded)) == decode_events(encode_events(kept.events)) == kept.events
    assert all(0 <= event.occurred_at <= NOW for event in kept.events)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.text(alphabet='{}[],:"\\batch0eN ', max_size=80).map(str.encode))
def test_random_bytes_are_refused_or_read_never_worse(body: bytes) -> None:
    for wrapped in (body, b'{"batch":[' + body + b"]}"):
        try:
            read_batch(open_batch(inflate(wrapped, MAX_BATCH_BYTES)), arrival())
        except Refusal as refusal:
            assert refusal.status == 400
    try:
        event = segment_event(decode(body, segment_call), "track", arrival(), 0)
        finished([event], holds_nul=may_hold_nul(body))
    except Rejected as rejected:
        assert str(rejected)


def test_depth_is_measured_not_guessed_from_the_number_of_brackets() -> None:
    wide = {**TRACK, "properties": {"products": [{"sku": str(n)} for n in range(200)]}}
    assert one(wide).properties["products"][199] == {"sku": "199"}
    assert MAX_DEPTH < 40
