"""Both ways through a batch find the same: all of its events at once, and one after the other."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk_bridge.server.batches import all_at_once, one_by_one, read_batch
from sdk_bridge.server.bodies import MAX_EVENT_BYTES, Rejected, decode, open_batch
from sdk_bridge.server.calls import SegmentCall, plain_batch, segment_call
from sdk_bridge.server.id_tokens import IdClaims
from sdk_bridge.server.normalise import Arrival, finished, segment_event, usual_reader
from sdk_bridge.server.ports import Source
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import AppEvent

NOW = 1_760_000_000_000  # 2025-10-09T08:53:20Z
WHEN = "2025-10-09T08:53:19.123Z"
WEB = Source("shop-site", "web", "required", "secret")
SERVER = Source("shop-server", "server", "required", "secret")
KNOWN = {"token-1": IdClaims("u1", "u1@example.com")}
TRACK = {
    "type": "track",
    "event": "Product Viewed",
    "userId": "u1",
    "anonymousId": "a1",
    "messageId": "m1",
    "timestamp": WHEN,
    "properties": {"sku": "A", "price": 9.5, "products": [{"sku": "B"}]},
    "context": {"page": {"path": "/shoes"}, "library": {"name": "x", "version": "1"}},
    "integrations": {"All": True, "Other": {"on": False}},
    "_metadata": {"bundled": ["Segment.io"]},
}


def arrival(source: Source = SERVER, **more: Any) -> Arrival:
    return Arrival(source, NOW, lambda: "made-here", **more)


def compare(body: bytes, came: Arrival) -> list[AppEvent] | None:
    """What was found at once, which has to be what is found one by one."""
    opened = open_batch(body)
    at_once, (events, rejects) = all_at_once(opened, came), one_by_one(opened, came)
    if at_once is not None:
        assert (at_once, rejects) == (events, [])
    kept, refused = read_batch(opened, came)
    assert refused == rejects
    assert kept == finished(events, holds_nul=opened.holds_nul)
    return at_once


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


TEXTS = ["x", "", "  ", " x ", "null", "0", "a\0b", "\ud800", 0, 7, None, True, [], {}, "x" * 600]
TIMES = [WHEN, "", None, 0, 1_760_000_000, "1760000000", "yesterday", "1969-01-01", "2039-01-01T00Z", {}]
OBJECTS = [
    {},
    [],
    None,
    "text",
    [1],
    nested(3),
    nested(5),
    nested(40),
    {"n": 2**70, "f": 1e300, "nul": "\0", "lone": "\udfff"},
    {"category": "c", "push_id": "p", "email": "A@example.com", "email_verified": True},
    {"device": {"id": "d1", "type": "ios", "token": "t"}},
    {"device": None, "consent": {"categoryPreferences": {"ads": True}}},
    {"consent": {"categoryPreferences": {str(n): True for n in range(40)}}},
    {"traits": {"email": "b@example.com", "email_verified": True}},
    {"externalIds": [{"type": "email", "id": "c@example.com", "hash": "x"}], "userHash": "x"},
    {"idToken": "token-1"},
]
FIELDS: dict[str, list[Any]] = {
    "type": ["track", "page", "screen", "identify", "group", "alias", "Track", "", None, 1],
    **dict.fromkeys(("userId", "anonymousId", "previousId", "groupId", "category", "name"), TEXTS),
    "messageId": [*TEXTS, "m" * 99, "m" * 100],
    "event": [*TEXTS, "Push Notification Tapped"],
    "userHash": [user_hash("secret", "u1"), "x", "", None, 1],
    "idToken": ["token-1", "other", None, 1],
    **dict.fromkeys(("timestamp", "originalTimestamp", "sentAt"), TIMES),
    **dict.fromkeys(("properties", "context", "traits", "integrations", "_metadata", "unheardOf"), OBJECTS),
    "channel": ["web", None, nested(40)],
}
ONE_ODD = [(name, value) for name, values in FIELDS.items() for value in values]
changed = st.lists(st.sampled_from(ONE_ODD), max_size=3).map(dict)
missing = st.sets(st.sampled_from(sorted(TRACK)), max_size=2)
calls = st.builds(
    lambda without, odd: {**{key: TRACK[key] for key in TRACK if key not in without}, **odd}, missing, changed
)
CAME = [arrival(), arrival(WEB), arrival(WEB, identities=KNOWN), arrival(Source("app", "app", "off", ""))]


@pytest.mark.parametrize(("name", "value"), ONE_ODD, ids=lambda value: repr(value)[:24])
def test_whatever_one_call_of_a_batch_says_both_ways_find_the_same(name: str, value: Any) -> None:
    batch = [TRACK, {**TRACK, name: value}, {**TRACK, "type": "page", name: value}]
    for came in CAME:
        compare(json.dumps({"batch": batch}).encode(), came)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(calls, max_size=4),
    st.sampled_from(CAME),
    st.sampled_from([{}, {"sentAt": WHEN}, {"sentAt": 0}, {"sentAt": "soon"}, {"context": {"ip": "::1"}}]),
)
def test_both_ways_find_the_same(batch: list[Any], came: Arrival, around: dict[str, Any]) -> None:
    compare(json.dumps({**around, "batch": batch}).encode(), came)


@settings(max_examples=400, deadline=None)
@given(calls, st.sampled_from(["track", "page", "screen", "identify", "group", "alias", "x", None]))
def test_a_usual_call_is_what_it_would_be_if_all_were_asked(call: Any, kind: str | None) -> None:
    try:
        decoded = decode(json.dumps(call).encode(), segment_call)
    except Rejected:
        return
    for came in CAME:
        for sent_at in (None, decoded.sent_at, WHEN):
            read = usual_reader(came, sent_at)
            usual = attempted(read, decoded, kind, 2)
            assert usual in (None, attempted(segment_event, decoded, kind, came, 2))


def attempted(understand: Any, *asked: Any) -> AppEvent | str | None:
    try:
        found: AppEvent | None = understand(*asked)
    except Rejected as rejected:
        return str(rejected)
    return found


@pytest.mark.parametrize(
    "call",
    [
        TRACK,
        {**TRACK, "type": "page", "event": None, "name": "Home"},
        {**TRACK, "type": "screen", "event": None},
        {**TRACK, "type": "identify", "traits": {"name": "x"}},
        {**TRACK, "userId": None, "context": {"device": {"id": "d1"}}},
        {**TRACK, "event": "Push Notification Tapped", "properties": {"push_id": "p"}},
    ],
)
def test_what_sdks_send_is_read_at_once(call: dict[str, Any]) -> None:
    found = compare(json.dumps({"batch": [call, TRACK], "sentAt": WHEN, "writeKey": "k"}).encode(), arrival())
    assert found is not None


@pytest.mark.parametrize(
    "odd",
    [
        {**TRACK, "properties": {"text": "x" * MAX_EVENT_BYTES}},
        {**TRACK, "unheardOf": nested(40)},
        {**TRACK, "context": nested(40)},
        {**TRACK, "messageId": "m" * 100},
        {**TRACK, "userId": None, "anonymousId": "null"},
        {**TRACK, "timestamp": "yesterday"},
        5,
    ],
    ids=lambda odd: repr(odd)[-24:],
)
def test_one_bad_event_is_buried_and_its_neighbours_live(odd: Any) -> None:
    body = json.dumps({"batch": [TRACK, odd, TRACK]}).encode()
    assert compare(body, arrival()) is None
    kept, rejects = read_batch(open_batch(body), arrival())
    assert [event.index for event in kept.events] == [0, 2]
    assert [reject.index for reject in rejects] == [1]


def test_a_batch_may_be_far_larger_than_one_event_may_be() -> None:
    batch = [{**TRACK, "properties": {"text": "x" * 1000}}] * 100
    found = compare(json.dumps({"batch": batch}).encode(), arrival())
    assert found is not None
    assert len(found) == 100


def test_half_the_work_is_for_usual_calls_alone() -> None:
    """Or everything would go the long way, and nobody would see."""
    call = open_calls({"batch": [TRACK]})
    read = usual_reader(arrival(), None)
    event = read(call, "track", 3)
    assert event == segment_event(call, "track", arrival(), 3)
    with pytest.raises(Rejected, match="ISO 8601"):
        read(open_calls({"batch": [{**TRACK, "timestamp": "soon"}]}), "track", 0)


def open_calls(body: Any) -> SegmentCall:
    return plain_batch.decode(json.dumps(body).encode()).batch[0]
