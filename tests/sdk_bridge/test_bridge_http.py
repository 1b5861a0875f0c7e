"""The bridge over HTTP: every path, limit and answer of the Segment-compatible API, on a real server."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.server.proof import user_hash
from sdk_bridge.server.rates import Rate
from sdk_bridge.wire.app_events import BeaconSighting, FenceTransition, Location
from sdk_bridge.wire.places import BeaconRegion, FenceRegion
from simulators.bridge_alone import SECRET, ListedSources, RunningBridge, running_bridge

TRACK = {"type": "track", "event": "Product Viewed", "userId": "u1", "anonymousId": "a1", "messageId": "m1"}
GIF = b"GIF89a"
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"


@pytest.fixture
async def bridge() -> AsyncIterator[RunningBridge]:
    async with running_bridge() as running:
        yield running


@pytest.fixture
async def http(bridge: RunningBridge) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base_url=bridge.url) as session:
        yield session


async def post(
    http: aiohttp.ClientSession, path: str, body: Any, key: str | None = "server-key", **headers: str
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**(RunningBridge.basic(key) if key else {}), **headers}
    async with http.post(path, data=data, headers=sent, allow_redirects=False) as answer:
        return answer.status, json.loads(await answer.read())


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("identify", "i", {"userId": "u1", "traits": {"a": 1}}),
    ("track", "t", {"userId": "u1", "event": "x"}),
    ("page", "p", {"anonymousId": "a1", "name": "Home"}),
    ("screen", "s", {"anonymousId": "a1"}),
    ("group", "g", {"userId": "u1", "groupId": "g1"}),
    ("alias", "a", {"userId": "u1", "previousId": "a1"}),
]


@pytest.mark.parametrize(("kind", "letter", "call"), CALLS, ids=[kind for kind, *_ in CALLS])
async def test_every_call_by_every_path(
    bridge: RunningBridge, http: aiohttp.ClientSession, kind: str, letter: str, call: dict[str, Any]
) -> None:
    for path in (f"/v1/{kind}", f"/v1/{kind}/", f"/v1/{letter}", f"/v1/{letter}/"):
        assert await post(http, path, call) == (200, {"success": True})
    assert [event.kind for event in bridge.journal.events] == [kind] * 4


@pytest.mark.parametrize(
    "path", ["/v1/batch", "/v1/batch/", "/v1/b", "/v1/import", "/v1/import/", "/batch", "/batch/", "/import"]
)
async def test_batches_by_every_path(bridge: RunningBridge, http: aiohttp.ClientSession, path: str) -> None:
    assert await post(http, path, {"batch": [TRACK, {**TRACK, "messageId": "m2"}]}) == (
        200,
        {"success": True},
    )
    assert [event.message_id for event in bridge.journal.events] == ["m1", "m2"]


BODY_KEY = {**TRACK, "writeKey": "server-key"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, TRACK, 401),
        ({}, BODY_KEY, 200),
        ({"Authorization": "Bearer server-key"}, TRACK, 200),
        ({"Authorization": "Basic " + base64.b64encode(b"server-key").decode()}, TRACK, 200),
        ({"Authorization": "Basic " + base64.b64encode(b"nobody:").decode()}, TRACK, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"page:password").decode()}, BODY_KEY, 200),
        ({"Authorization": "Bearer nobody"}, {**TRACK, "writeKey": "nobody"}, 401),
        ({"Authorization": "Basic ???"}, BODY_KEY, 200),
        ({"Authorization": "Basic Og=="}, BODY_KEY, 200),  # base64 of ":", as React Native may send
        ({}, {**TRACK, "writeKey": 7}, 400),
    ],
)
async def test_write_keys(
    http: aiohttp.ClientSession, headers: dict[str, str], body: dict[str, Any], status: int
) -> None:
    for path, sent in (("/v1/track", body), ("/v1/batch", {**body, "batch": [TRACK]})):
        assert (await post(http, path, sent, key=None, **headers))[0] == status


async def test_an_unknown_key_is_looked_up_each_time(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    for _ in range(3):
        status, answer = await post(http, "/v1/track", TRACK, key="unknown")
        assert (status, answer["code"]) == (401, "invalid_write_key")
    assert bridge.sources.asked == 3


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", ""]
)
async def test_the_content_type_says_nothing(http: aiohttp.ClientSession, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert (await post(http, "/v1/t", TRACK, **headers))[0] == 200


async def test_gzip_by_header_or_by_its_first_bytes(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    for headers in ({"Content-Encoding": "gzip"}, {}):
        packed = gzip.compress(json.dumps({"batch": [TRACK]}).encode())
        assert (await post(http, "/v1/batch", packed, **headers))[0] == 200
    assert bridge.bridge.tally.duplicates == 1


ZEROES = gzip.compress(b"0" * 50_000_000, mtime=0)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/batch", b'{"batch":[' + b" " * 512_001 + b"]}", {}),
        ("/v1/track", json.dumps({**TRACK, "properties": {"x": "y" * 33_000}}).encode(), {}),
        ("/v1/batch", ZEROES, {}),
        ("/v1/batch", ZEROES, {"Content-Encoding": "gzip"}),
        ("/v1/batch", b"not gzip", {"Content-Encoding": "gzip"}),
        ("/v1/batch", json.dumps({"batch": [TRACK] * 2501}).encode(), {}),
        ("/v1/track", b"", {}),
        ("/v1/track", b"[1]", {}),
        ("/v1/track", b'{"event":NaN}', {}),
        ("/v1/track", b"[" * 100_000, {}),
        ("/v1/devices", b'{"deviceId":""}', {}),
        ("/v1/devices", b'{"deviceId":" "}', {}),
        ("/v1/devices", b'{"deviceId":"d","beaconKey":"eddystone-url:https://example.org"}', {}),
        ("/v1/devices", b'{"deviceId":"d","pushAddress":{"kind":"pigeon","value":"x"}}', {}),
        *(
            ("/v1/devices", b'{"deviceId":"d","pushAddress":{"kind":"token","value":"%b"}}' % value, {})
            for value in (b"null", b"undefined", b"   ", b"0", b"BLACKLISTED")
        ),
        ("/v1/push/opened", b"{}", {}),
        ("/v1/consent", b'{"userId":"u1","consent":{}}', {}),
        ("/v1/consent", b'{"consent":{"push":true}}', {}),
        ("/v1/consent", b'{"userId":"u1","consent":{"push":"yes"}}', {}),
    ],
)
async def test_what_no_retry_would_mend_is_400_with_a_code_and_a_message(
    http: aiohttp.ClientSession, path: str, body: bytes, headers: dict[str, str]
) -> None:
    status, answer = await post(http, path, body, **headers)
    assert status == 400
    assert answer.keys() == {"code", "message"}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("deflate", b'{"batch":[]}'), ("gzip", gzip.compress(b'{"batch":[]}', mtime=0)[:-12]), ("gzip", b"{")],
)
async def test_a_damaged_encoding_is_400(
    bridge: RunningBridge, http: aiohttp.ClientSession, encoding: str, body: bytes
) -> None:
    headers = {**bridge.basic("server-key"), "Content-Encoding": encoding}
    async with http.post("/v1/batch", data=body, headers=headers) as answer:
        assert answer.status == 400


async def test_bad_events_are_buried_and_the_others_kept(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    bad = [{"type": "nonsense", "n": n} for n in range(50)]
    assert await post(http, "/v1/batch", {"batch": [TRACK, *bad, {"type": "track"}]}) == (
        200,
        {"success": True},
    )
    assert [event.message_id for event in bridge.journal.events] == ["m1"]
    assert sorted(letter.events for letter in bridge.journal.buried) == [1, 50]
    assert {letter.source_id for letter in bridge.journal.buried} == {"server"}


async def test_a_busy_journal_is_503_with_retry_after_and_nothing_is_lost(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    body = json.dumps({"batch": [TRACK, {"type": "?"}]}).encode()
    for _ in range(2):
        bridge.journal.busy = 1
        async with http.post("/v1/batch", data=body, headers=bridge.basic("server-key")) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "0")
    assert (await post(http, "/v1/batch", body))[0] == 200
    assert (len(bridge.journal.events), len(bridge.journal.buried)) == (1, 1)


async def test_a_source_that_sends_too_much_waits() -> None:
    async with running_bridge(rate=Rate(per_second=1, burst=5)) as bridge, aiohttp.ClientSession() as http:
        batch = {"batch": [{**TRACK, "messageId": f"m{n}"} for n in range(8)]}
        url = f"{bridge.url}/v1/batch"
        assert (await post(http, url, batch))[0] == 200
        async with http.post(url, json=batch, headers=bridge.basic("server-key")) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "4")
        assert (await post(http, url, batch, key="open-key"))[0] == 200, "another source is not to blame"


async def test_a_source_may_be_granted_a_rate_of_its_own(http: aiohttp.ClientSession) -> None:
    statuses = [(await post(http, "/v1/track", TRACK, key="slow-key"))[0] for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert (await post(http, "/v1/track", TRACK))[0] == 200


SHOP = {"Origin": "https://shop.example"}
ELSEWHERE = {"Origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("key", "headers", "status", "allowed"),
    [
        ("web-key", ELSEWHERE, 200, "*"),  # no list: pages of any origin
        ("shop-key", SHOP, 200, "https://shop.example"),
        ("shop-key", {"Origin": "HTTPS://Shop.example"}, 200, "HTTPS://Shop.example"),
        ("shop-key", {}, 200, None),  # an app or a server: only browsers tell of origins
        ("shop-key", ELSEWHERE, 403, "*"),  # readable, or an SDK would take it for a broken network
        ("shop-key", {"Origin": "null"}, 403, "*"),
    ],
)
async def test_origins_of_a_source(
    bridge: RunningBridge,
    http: aiohttp.ClientSession,
    key: str,
    headers: dict[str, str],
    status: int,
    allowed: str | None,
) -> None:
    body = {**TRACK, "writeKey": key, "batch": [TRACK]}
    for path in ("/v1/track", "/v1/batch"):
        for sent in (bridge.basic(key), {}):
            async with http.post(path, json=body, headers={**headers, **sent}) as answer:
                assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (status, allowed)
    async with http.get(f"/v1/projects/{key}/settings", headers=headers) as answer:
        assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (status, allowed)
    assert bool(bridge.journal.events) is (status == 200)


async def test_preflight_and_cors_of_every_answer(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-retry-count",
    }
    for path in ("/v1/batch", "/v1/t", "/v1/devices", "/v1/projects/web-key/settings"):
        async with http.options(path, headers=asked) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-retry-count"
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    for key, status in (("server-key", 200), ("unknown", 401)):
        async with http.post("/v1/t", json=TRACK, headers=bridge.basic(key)) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
    async with http.options("/v1/t", headers={"Access-Control-Request-Headers": "a\tb" * 300}) as answer:
        assert answer.headers["Access-Control-Allow-Headers"].startswith("Authorization")


def pixel(call: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(call).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("method", "data", "kept"),
    [
        ("track", pixel({**TRACK, "writeKey": "server-key"}), True),
        ("t", pixel({**TRACK, "writeKey": "server-key"}), True),
        ("track", pixel({**TRACK, "writeKey": "unknown"}), False),
        ("nonsense", pixel({**TRACK, "writeKey": "server-key"}), False),
        ("track", "!", False),
        ("track", "%C3%A4", False),
        ("track", "", False),
    ],
)
async def test_a_pixel_is_always_an_image(
    bridge: RunningBridge, http: aiohttp.ClientSession, method: str, data: str, kept: bool
) -> None:
    async with http.get(f"/v1/pixel/{method}?data={data}") as answer:
        assert (answer.status, answer.content_type) == (200, "image/gif")
        assert (await answer.read()).startswith(GIF)
    assert len(bridge.journal.events) == kept
    assert bridge.bridge.tally.pixels_lost == (not kept)


async def test_settings_tell_sdks_where_to_send(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    host = bridge.url.removeprefix("http://")
    for path in ("/v1/projects/web-key/settings", "/v1/projects/web-key/settings/"):
        async with http.get(path) as answer:
            assert await answer.json() == {
                "integrations": {"Segment.io": {"apiKey": "web-key", "apiHost": f"{host}/v1"}},
                "metrics": {"sampleRate": 0},  # or SDKs report on themselves to somebody else
            }
    async with http.get("/v1/projects/unknown/settings") as answer:
        assert answer.status == 404
    headers = {"Host": 'evil.example/"><script>'}
    async with http.get("/v1/projects/web-key/settings", headers=headers) as answer:
        assert answer.status == 400


# Our own calls ----------------------------------------------------------------------------------------------


async def test_a_device_registers_with_proof(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    call = {
        "deviceId": "d1",
        "platform": "ios",
        "pushAddress": {"kind": "fid", "value": "f1"},
        "userId": "u1",
        "anonymousId": None,
        "userHash": user_hash(SECRET, "u1"),
        "beaconKey": TAG.upper().replace("IBEACON", "ibeacon"),
        "messageId": "d-1",
    }
    assert (await post(http, "/v1/devices", call, key="app-key"))[0] == 200
    assert (await post(http, "/v1/devices", {**call, "userHash": "0" * 64}, key="web-key"))[0] == 200
    first, forged = bridge.journal.events
    assert (first.kind, first.device_id, first.platform, first.beacon_key) == ("device", "d1", "ios", TAG)
    assert first.push_address is not None
    assert (first.push_address.kind, first.push_address.value) == ("fid", "f1")
    assert (first.proven, forged.proven) == (True, False)


async def test_logout_receipts_and_consent(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    for path, call in (
        ("/v1/devices/logout", {"deviceId": "d1"}),
        ("/v1/push/received", {"pushId": "p1", "messageId": "r1"}),
        ("/v1/push/opened/", {"pushId": "p1"}),
        ("/v1/consent", {"userId": "u1", "consent": {"proximity": True, "push": False}}),
    ):
        assert await post(http, path, call, key="app-key") == (200, {"success": True})
    logout, received, opened, consent = bridge.journal.events
    assert (logout.kind, logout.device_id) == ("logout", "d1")
    assert (received.kind, received.push_id, received.receipt, received.message_id) == (
        "push_receipt",
        "p1",
        "received",
        "r1",
    )
    assert opened.receipt == "opened"
    assert (consent.kind, consent.consent, consent.proven) == (
        "consent",
        {"proximity": True, "push": False},
        False,
    )


# What phones observe ----------------------------------------------------------------------------------------

UUID = "2f234454-cf6d-4a0f-adf2-f4911ba9ffa6"
NAMESPACE = "00112233445566778899"
OURS = frozenset({TAG, f"ibeacon:{UUID}", f"eddystone-uid:{NAMESPACE}:aabbccddeeff"})


def sighted(*sightings: Any, **more: Any) -> dict[str, Any]:
    return {"deviceId": "d1", "anonymousId": "a1", "messageId": "s1", "sightings": list(sightings), **more}


@pytest.mark.parametrize(
    ("sighting", "kept"),
    [
        ({"key": TAG.upper(), "rssi": -60}, BeaconSighting(TAG, "range", -60)),
        ({"uuid": UUID.upper(), "major": 1, "minor": 7, "proximity": "near", "accuracy": 1.5},
         BeaconSighting(TAG, "range", proximity="near", accuracy_m=1.5)),
        ({"uuid": UUID, "event": "enter"}, BeaconSighting(f"ibeacon:{UUID}", "enter")),
        ({"namespace": NAMESPACE, "instance": "AABBCCDDEEFF", "rssi": -71.4},
         BeaconSighting(f"eddystone-uid:{NAMESPACE}:aabbccddeeff", "range", -71)),
        ({"key": TAG, "rssi": 0, "accuracy": -1, "proximity": "unknown"},
         BeaconSighting(TAG, "range", proximity="unknown")),  # so iOS writes what it does not know
        ({"key": TAG, "rssi": 127}, BeaconSighting(TAG, "range")),
    ],
)  # fmt: skip
async def test_a_sighting_of_our_beacon(
    bridge: RunningBridge, http: aiohttp.ClientSession, sighting: dict[str, Any], kept: BeaconSighting
) -> None:
    bridge.places.keys = OURS
    assert await post(http, "/v1/beacons", sighted(sighting), key="app-key") == (
        200,
        {"accepted": 1, "ignored": 0, "refused": [], "success": True},
    )
    [event] = bridge.journal.events
    assert (event.kind, event.device_id, event.message_id) == ("beacon_sighting", "d1", "s1/0")
    assert event.sighting == kept


async def test_strangers_beacons_are_counted_and_nothing_of_them_is_kept(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    bridge.places.keys = OURS
    stranger, unclear = "altbeacon:" + "5a" * 20, "altbeacon:" + "7b" * 20
    call = sighted({"key": stranger}, {"key": TAG}, {"key": unclear, "rssi": "loud"}, {"key": "wlan:cafe"})
    status, answer = await post(http, "/v1/beacons", call, key="app-key")
    assert (status, answer["accepted"], answer["ignored"]) == (200, 1, 1)
    assert [refused["index"] for refused in answer["refused"]] == [2, 3]
    assert [event.message_id for event in bridge.journal.events] == ["s1/1"]
    everything = str(bridge.journal.events) + str(bridge.journal.buried)
    assert not any(secret in everything for secret in ("5a5a", "7b7b", "cafe"))
    assert bridge.bridge.tally.strangers == 1


async def test_a_repeated_call_is_kept_once_and_each_part_has_its_own_time(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    bridge.places.keys = OURS
    parts = [{"key": TAG, "timestamp": "2025-10-09T08:00:00Z"}, {"key": TAG}]
    call = sighted(*parts, timestamp="2025-10-09T08:10:00Z")
    for _ in range(2):
        assert (await post(http, "/v1/beacons", call, key="app-key"))[0] == 200
    assert [event.occurred_at // 1000 % 3600 for event in bridge.journal.events] == [0, 600]


async def test_transitions_of_fences(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    where = {"latitude": 48.2, "longitude": 16.37, "accuracy": 17_000.0, "speed": -1}
    parts = [
        {"fenceId": "market", "event": "enter", "location": where},
        {"fenceId": "market", "event": "dwell", "location": None, "messageId": "own"},
        {"fenceId": "market", "event": "explode"},
        {"fenceId": " ", "event": "leave"},
        {"fenceId": "market", "event": "leave", "location": {"latitude": 91, "longitude": 0}},
    ]
    call = {"deviceId": "d1", "userId": "u1", "messageId": "t1", "transitions": parts}
    status, answer = await post(http, "/v1/geofences", call, key="app-key")
    assert (status, answer["accepted"]) == (200, 2)
    assert [refused["index"] for refused in answer["refused"]] == [2, 3, 4]
    entered, dwelled = bridge.journal.events
    assert entered.fence == FenceTransition("market", "enter")
    assert entered.location == Location(48.2, 16.37, 17_000.0)
    assert (dwelled.fence, dwelled.location) == (FenceTransition("market", "dwell"), None)
    assert [event.message_id for event in bridge.journal.events] == ["t1/0", "own"]


async def test_what_waited_in_a_phone_is_told_in_the_order_of_its_clock(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    """Queues are kept newest first as well; whoever entered and then left must not be inside."""
    parts = [
        {"fenceId": "market", "event": what, "timestamp": 1_750_000_000_000 + 1000 * second}
        for what, second in (("leave", 30), ("dwell", 20), ("enter", 10), ("enter", 20))
    ]
    call = {"deviceId": "d1", "userId": "u1", "messageId": "t1", "transitions": parts}
    status, answer = await post(http, "/v1/geofences", call, key="app-key")
    assert (status, answer["accepted"]) == (200, 4)
    told = [(event.message_id, event.fence.what) for event in bridge.journal.events if event.fence]
    assert told == [("t1/2", "enter"), ("t1/1", "dwell"), ("t1/3", "enter"), ("t1/0", "leave")]


async def test_a_location_is_answered_with_what_to_watch(
    bridge: RunningBridge, http: aiohttp.ClientSession
) -> None:
    fences = [FenceRegion(f"f{n}", "Market", 48.2, 16.4, 150.0) for n in range(30)]
    bridge.places.regions = [BeaconRegion(f"ibeacon:{UUID}", "s1"), *fences]
    call = {"deviceId": "d1", "anonymousId": "a1", "latitude": 48.2, "longitude": 16.37, "accuracy": 12}
    status, answer = await post(http, "/v1/location", call, key="app-key")
    assert (status, answer["success"], len(answer["regions"])) == (200, True, 20)
    assert answer["regions"][:2] == [
        {"kind": "beacons", "key": f"ibeacon:{UUID}", "store_id": "s1"},
        {"kind": "fence", "fence_id": "f0", "name": "Market", "latitude": 48.2, "longitude": 16.4,
         "radius_m": 150.0},
    ]  # fmt: skip
    [event] = bridge.journal.events
    assert (event.kind, event.location) == ("location", Location(48.2, 16.37, 12.0))


# Every path, and what strangers send to it ------------------------------------------------------------------

VALID: dict[str, dict[str, Any]] = {
    "/v1/batch": {"batch": [TRACK]},
    "/v1/identify": {"userId": "u1"},
    "/v1/track": TRACK,
    "/v1/page": TRACK,
    "/v1/screen": TRACK,
    "/v1/group": {"userId": "u1", "groupId": "g1"},
    "/v1/alias": {"userId": "u1", "previousId": "a1"},
    "/v1/devices": {"deviceId": "d1", "userId": "u1"},
    "/v1/devices/logout": {"deviceId": "d1"},
    "/v1/consent": {"userId": "u1", "consent": {"push": True}},
    "/v1/push/received": {"pushId": "p1"},
    "/v1/push/opened": {"pushId": "p1"},
    "/v1/beacons": {"deviceId": "d1", "sightings": [{"key": TAG}]},
    "/v1/geofences": {"deviceId": "d1", "transitions": [{"fenceId": "f1", "event": "enter"}]},
    "/v1/location": {"deviceId": "d1", "latitude": 1.0, "longitude": 2.0},
}
NESTED = "[" * 100_000


def with_field(path: str, name: str, value: str) -> bytes:
    """The path's valid call with one field more, as JSON text."""
    return json.dumps(VALID[path]).encode()[:-1] + f', "{name}": {value}}}'.encode()


HOSTILE: list[tuple[str, Any]] = [
    ("nothing", lambda path: b""),
    ("random bytes", lambda path: bytes(range(256)) * 8),
    ("half of it", lambda path: json.dumps(VALID[path]).encode()[:-2]),
    ("a number", lambda path: b"7"),
    ("null", lambda path: b"null"),
    ("ten megabytes of traits", lambda path: with_field(path, "traits", '{"x":"' + "y" * 10_000_000 + '"}')),
    ("a zip bomb", lambda path: gzip.compress(b'{"a":"' + b"0" * 20_000_000 + b'"}', mtime=0)),
    ("a bomb in a bomb", lambda path: gzip.compress(gzip.compress(b"0" * 20_000_000, mtime=0), mtime=0)),
    ("gzip cut short", lambda path: gzip.compress(json.dumps(VALID[path]).encode(), mtime=0)[:-9]),
    ("nested without end", lambda path: with_field(path, "context", NESTED)),
    ("nested and closed", lambda path: with_field(path, "context", NESTED + "]" * 100_000)),
    ("NaN", lambda path: with_field(path, "context", '{"x": NaN, "y": -Infinity, "z": 1e999}')),
    ("a lone surrogate", lambda path: with_field(path, "context", '{"\\ud83d": "\\udc00"}')),
    ("NUL", lambda path: with_field(path, "context", '{"\\u0000": "\\u0000"}')),
    ("a huge number", lambda path: with_field(path, "context", '{"n": ' + "9" * 4000 + "}")),
    ("tomorrow's year", lambda path: with_field(path, "timestamp", '"9999-12-31T23:59:59Z"')),
    ("a year too many", lambda path: with_field(path, "timestamp", "1e300")),
    ("the year one", lambda path: with_field(path, "timestamp", '"0001-01-01T00:00:00Z"')),
    ("a nonsense time", lambda path: with_field(path, "timestamp", '"yesterday"')),
    ("a nonsense sentAt", lambda path: with_field(path, "sentAt", '"9999999999999999999999"')),
    ("a list for a user", lambda path: with_field(path, "userId", '["u1"]')),
    ("nobody's ids", lambda path: with_field(path, "userId", '"undefined"')),
    ("broken UTF-8", lambda path: with_field(path, "context", '{"x":"@"}').replace(b"@", b"\xff\xfe")),
    ("a BOM", lambda path: b"\xef\xbb\xbf" + json.dumps(VALID[path]).encode()),
    ("UTF-16", lambda path: json.dumps(VALID[path]).encode("utf-16")),
    ("the same key twice", lambda path: with_field(path, "messageId", '"a", "messageId": "b"')),
]


@pytest.mark.parametrize(("name", "make"), HOSTILE, ids=[name for name, _ in HOSTILE])
async def test_whatever_comes_it_is_answered_and_the_next_call_is_taken(
    bridge: RunningBridge, http: aiohttp.ClientSession, name: str, make: Any
) -> None:
    for number, (path, valid) in enumerate(VALID.items()):
        status, answer = await post(http, path, make(path))
        assert status in (200, 400), (path, answer)
        assert answer["success"] is True if status == 200 else answer.keys() == {"code", "message"}
        after = {**valid, "messageId": f"after-{number}"}
        assert (await post(http, path, after))[0] == 200, path
    received = [event.received_at for event in bridge.journal.events]
    assert all(event.occurred_at <= event.received_at for event in bridge.journal.events)
    assert all(event.occurred_at > 946_684_800_000 for event in bridge.journal.events)
    assert len(received) >= len(VALID) - 1


@pytest.mark.parametrize(
    "bad", ["tru", "[[[[", '{"type":"track","event":"x","userId":"null"}', "1e999", "{}"]
)
async def test_in_a_batch_the_good_are_kept_beside_the_bad(
    bridge: RunningBridge, http: aiohttp.ClientSession, bad: str
) -> None:
    good = [json.dumps({**TRACK, "messageId": f"m{n}"}) for n in range(3)]
    body = f'{{"batch":[{good[0]},{bad},{good[1]},{bad},{good[2]}]}}'.encode()
    status, _ = await post(http, "/v1/batch", body)
    if bad == "[[[[":  # nobody can tell where it ends
        assert status == 400
        return
    assert status == 200
    assert [event.message_id for event in bridge.journal.events] == ["m0", "m1", "m2"]
    assert sum(letter.events for letter in bridge.journal.buried) == 2


@pytest.mark.parametrize("path", VALID)
async def test_a_busy_journal_is_503_on_every_path(
    bridge: RunningBridge, http: aiohttp.ClientSession, path: str
) -> None:
    bridge.places.keys = OURS
    bridge.journal.busy = 1
    body = {**VALID[path], "messageId": "m1"}
    async with http.post(path, json=body, headers=bridge.basic("server-key")) as answer:
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert bridge.journal.events == []
    assert (await post(http, path, body))[0] == 200
    assert len(bridge.journal.events) == 1


@pytest.mark.parametrize("path", VALID)
async def test_a_busy_registry_is_503_and_never_401(
    bridge: RunningBridge, http: aiohttp.ClientSession, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(_: str) -> None:
        raise JournalBusy("the database is away")

    monkeypatch.setattr(ListedSources, "source_for_key", lambda _, key: busy(key))
    async with http.post(path, json=VALID[path], headers=bridge.basic("server-key")) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


# Anything at all --------------------------------------------------------------------------------------------

PATHS = [*VALID, "/v1/t", "/v1/import/"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["batch", "userId", "anonymousId", "deviceId", "pushId", "consent", "event", "context", "timestamp",
         "pushAddress", "messageId", "beaconKey", "sentAt", "traits", "writeKey", "sightings", "transitions",
         "latitude", "longitude"]  # fmt: skip
bodies = st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(NAMES), json_values | st.lists(json_values, max_size=3), max_size=6
).map(lambda body: json.dumps(body).encode())


async def test_no_body_ever_gives_5xx(bridge: RunningBridge, http: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    encodings = [{}, {"Content-Encoding": "gzip"}, {"Authorization": "Basic %%%"}]

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(PATHS), bodies, st.sampled_from(encodings), st.booleans())
    def check(path: str, body: bytes, headers: dict[str, str], packed: bool) -> None:
        sent = gzip.compress(body, mtime=0) if packed else body
        asked = post(http, path, sent, key=None, **{**bridge.basic("web-key"), **headers})
        status, answer = asyncio.run_coroutine_threadsafe(asked, loop).result(20)
        assert status in (200, 400, 401)
        assert answer == {"success": True} if status == 200 else answer.keys() == {"code", "message"}

    await asyncio.to_thread(check)
