"""Segments over real HTTP, in a backend that runs: saving, trying out, members, versions, roles, latency."""

import asyncio
import sqlite3
import statistics
import time
from contextlib import asynccontextmanager, closing

import aiohttp
import pytest

from backend.app import running
from backend.clock import unix_ms
from backend.config import STATE_FILE, Config, Http
from backend.storage import registry
from backend.storage.database import open_for_writing, transaction
from simulators.backend_alone import NO_BROKER, BackendAlone, running_backend

ROLES = ("viewer", "marketer", "operator", "admin")
EVERYBODY, MARKETERS = set(ROLES), {"marketer", "admin"}
VIEWED = {"type": "event", "name": "Product Viewed"}
SEGMENT = {"name": "Viewers", "condition": VIEWED}
WHO_MAY = [
    ("GET", "/api/segments", None, EVERYBODY),
    ("PUT", "/api/segments/x", SEGMENT, MARKETERS),
    ("GET", "/api/segments/x", None, EVERYBODY),
    ("GET", "/api/segments/x/versions", None, EVERYBODY),
    ("GET", "/api/segments/x/members", None, EVERYBODY),
    ("GET", "/api/profiles/user_id:anna/segments", None, EVERYBODY),
    ("POST", "/api/segments/preview", {"condition": VIEWED}, EVERYBODY),
    ("DELETE", "/api/segments/x", None, MARKETERS),
]
WITHIN_MS = 100
"""From the answer to an event until its person is in the segment."""


class Caller:
    """A backend, asked as an admin unless told otherwise."""

    def __init__(self, http, backend, folder):
        self.http, self.backend, self.folder = http, backend, folder

    async def __call__(self, method, path, body=None, *, token=None):
        headers = {"Authorization": f"Bearer {token or self.backend.token}"}
        async with self.http.request(method, self.backend.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    async def put(self, segment_id, condition, name="A segment"):
        body = {"name": name, "condition": condition}
        status, answer = await self("PUT", f"/api/segments/{segment_id}", body)
        assert status == 200, answer
        return answer

    async def get(self, path):
        status, answer = await self("GET", path)
        assert status == 200, answer
        return answer

    async def track(self, user, name, **properties):
        body = {"userId": user, "event": name, "properties": properties}
        headers = {"Authorization": f"Bearer {self.backend.write_key}"}
        async with self.http.post(f"{self.backend.url}/v1/track", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def segments_of(self, user):
        status, answer = await self("GET", f"/api/profiles/user_id:{user}/segments")
        return {one["segment_id"] for one in answer["segments"]} if status == 200 else set()

    async def eventually(self, condition, seconds=10.0):
        deadline = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            await asyncio.sleep(0.002)

    async def live(self, segment_id):
        async def is_live():
            return (await self.get(f"/api/segments/{segment_id}"))["state"] == "live"

        await self.eventually(is_live)

    def tokens(self):
        with closing(open_for_writing(self.folder / STATE_FILE, "state")) as connection:
            return {
                role: transaction(
                    connection, "state", lambda s, role=role: registry.create_token(s, role, role, unix_ms())
                )
                for role in ROLES
            }


@asynccontextmanager
async def a_backend(folder):
    async with running_backend(folder) as backend, aiohttp.ClientSession() as http:
        yield Caller(http, backend, folder)


@pytest.fixture
async def call(tmp_path):
    async with a_backend(tmp_path) as caller:
        yield caller


async def test_roles(call):
    tokens = call.tokens()
    await call.track("anna", "Product Viewed")
    for method, path, body, may in WHO_MAY:
        for role in sorted(ROLES, key=lambda role: role in may):
            status, answer = await call(method, path, body, token=tokens[role])
            refused = status == 403
            assert refused == (role not in may), (method, path, role, status, answer)
            if method == "DELETE" and not refused:
                assert (await call("PUT", "/api/segments/x", SEGMENT))[0] == 200


async def test_membership_follows_an_event_within_a_tenth_of_a_second(call):
    await call.put("viewers", VIEWED)
    await call.live("viewers")
    took = []
    for number in range(15):
        await call.track(f"u{number}", "Product Viewed")
        answered = time.monotonic()

        async def is_in(user=f"u{number}"):
            return "viewers" in await call.segments_of(user)

        await call.eventually(is_in)
        took.append((time.monotonic() - answered) * 1000)
    assert statistics.median(took) < WITHIN_MS


async def test_saving_computes_for_whoever_is_there_and_keeps_versions(call):
    await call.track("anna", "Product Viewed", price=20)
    await call.track("berta", "Product Viewed", price=5)
    await call.put("viewers", VIEWED, "First")
    await call.live("viewers")

    async def both():
        return (await call.get("/api/segments/viewers"))["members"] == 2

    await call.eventually(both)
    dear = {**VIEWED, "where": [{"property": "price", "test": {"type": "number", "at_least": 10}}]}
    saved = await call.put("viewers", dear, "Second")
    assert (saved["version"], saved["state"]) == (2, "computing")
    await call.live("viewers")
    found = await call.get("/api/segments/viewers")
    assert (found["members"], found["name"], found["version"]) == (1, "Second", 2)
    assert found["condition"] == {"type": "event", "name": "Product Viewed", "where": dear["where"]}
    versions = (await call.get("/api/segments/viewers/versions"))["versions"]
    assert [(one["version"], one["definition"]["name"]) for one in versions] == [(2, "Second"), (1, "First")]
    assert await call.segments_of("anna") == {"viewers"}
    assert await call.segments_of("berta") == set()
    audit = await call.get("/api/audit")
    assert "segment saved" in str(audit)


async def test_members_come_in_pages(call):
    await call.put("viewers", VIEWED)
    for number in range(5):
        await call.track(f"u{number}", "Product Viewed")

    async def all_five():
        return (await call.get("/api/segments/viewers"))["members"] == 5

    await call.eventually(all_five)
    seen, after = [], ""
    while after is not None:
        page = await call.get(f"/api/segments/viewers/members?limit=2&after={after}")
        seen += [member["profile_id"] for member in page["members"]]
        after = page["next"]
    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen)


async def test_trying_out_stores_nothing(call):
    for number in range(30):
        await call.track(f"u{number}", "Product Viewed" if number < 10 else "Other")

    async def everybody_folded():
        status, answer = await call("POST", "/api/segments/preview", {"condition": VIEWED})
        assert status == 200, answer
        return answer["people"] == 30 and answer["members"] == 10

    await call.eventually(everybody_folded)
    _, answer = await call("POST", "/api/segments/preview", {"condition": VIEWED})
    assert answer["complete"]
    assert (answer["asked"], answer["share"], len(answer["sample"])) == (30, 0.3333, 10)
    assert (await call.get("/api/segments"))["segments"] == []
    with closing(sqlite3.connect(call.folder / STATE_FILE)) as connection:
        assert connection.execute("select count(*) from segment_members").fetchone() == (0,)


REFUSED = [
    (
        "PUT",
        "/api/segments/x",
        {"name": "x", "condition": {"type": "all", "of": [{**VIEWED, "within_s": 0}]}},
        400,
        "all[0].within_s",
    ),
    (
        "PUT",
        "/api/segments/x",
        {"name": "x", "condition": {"type": "segment", "segment_id": "y"}},
        400,
        "there is no segment y",
    ),
    (
        "PUT",
        "/api/segments/x",
        {"name": "x", "condition": {"type": "segment", "segment_id": "x"}},
        400,
        "x → x",
    ),
    ("PUT", "/api/segments/x", {"name": "x", "condition": {**VIEWED, "name": "a\0b"}}, 400, "U+0000"),
    (
        "POST",
        "/api/segments/preview",
        {"condition": {"type": "segment", "segment_id": "y"}},
        400,
        "no segment y",
    ),
    (
        "POST",
        "/api/segments/preview",
        {"condition": {"type": "any", "of": [{"type": "in"}]}},
        400,
        "any[0]: ",
    ),
    ("GET", "/api/segments/y", None, 404, "no segment y"),
    ("GET", "/api/segments/y/members", None, 404, "no segment y"),
    ("DELETE", "/api/segments/y", None, 404, "no segment y"),
    ("GET", "/api/profiles/user_id:nobody9/segments", None, 404, "nobody is known"),
]


async def test_what_is_refused_says_why(call):
    for method, path, body, wanted, text in REFUSED:
        status, answer = await call(method, path, body)
        assert status == wanted, answer
        assert text in answer["error"]["message"]


async def test_what_others_ask_for_is_kept(call):
    await call.put("inner", VIEWED)
    await call.put("outer", {"type": "not", "of": {"type": "segment", "segment_id": "inner"}})
    status, answer = await call("DELETE", "/api/segments/inner")
    assert status == 409
    assert "outer" in answer["error"]["message"]
    status, answer = await call(
        "PUT", "/api/segments/inner", {"name": "n", "condition": {"type": "segment", "segment_id": "outer"}}
    )
    assert status == 400
    assert "inner → outer → inner" in answer["error"]["message"]
    assert (await call("DELETE", "/api/segments/outer"))[0] == 204
    assert (await call("DELETE", "/api/segments/inner"))[0] == 204
    assert (await call.get("/api/segments"))["segments"] == []


def _all(condition):
    return {"type": "all", "of": [VIEWED, {"type": "not", "of": condition}]}


UNKNOWN = [
    ({"type": "in", "store_id": "s9"}, "all[1].not.store_id: there is no store s9"),
    ({"type": "in", "store_id": "s1", "zone_id": "z9"}, "all[1].not.zone_id: the store s1 has no zone z9"),
    ({"type": "near", "store_id": "s9"}, "all[1].not.store_id: there is no store s9"),
    ({"type": "near", "fence_id": "f9"}, "all[1].not.fence_id: there is no geofence f9"),
    ({"type": "dwelt", "at_least_s": 1, "store_id": "s9"}, "all[1].not.store_id: there is no store s9"),
    (
        {"type": "dwelt", "at_least_s": 1, "store_id": "s1", "zone_id": "z9"},
        "all[1].not.zone_id: the store s1 has no zone z9",
    ),
    ({"type": "segment", "segment_id": "y"}, "all[1].not.segment_id: there is no segment y"),
]


async def test_what_names_places_that_are_not_there_is_refused_at_the_node(call):
    await call("PUT", "/api/stores/s1", {"name": "One"})
    for condition, text in UNKNOWN:
        for method, path, body in (
            ("PUT", "/api/segments/x", {"name": "x", "condition": _all(condition)}),
            ("POST", "/api/segments/preview", {"condition": _all(condition)}),
        ):
            status, answer = await call(method, path, body)
            assert (status, answer.get("error", {}).get("message")) == (400, text), path
    assert (await call.get("/api/segments"))["segments"] == []


async def test_a_fence_that_goes_later_breaks_no_segment_that_stands(call):
    shape = {"type": "circle", "latitude": 48.2, "longitude": 16.3, "radius_m": 150}
    fence = {"fence_id": "f1", "name": "Market", "shape": shape}
    assert (await call("PUT", "/api/geofences/f1", fence))[0] == 200
    near = {"type": "any", "of": [VIEWED, {"type": "near", "fence_id": "f1"}]}
    await call.put("keen", near)
    assert (await call("DELETE", "/api/geofences/f1"))[0] == 204
    await call.track("anna", "Product Viewed")
    await call.eventually(lambda: _is_member(call, "anna", "keen"))
    assert (await call.put("keen", near, "A better name"))["version"] == 2
    await call.put("keen", {"type": "not", "of": near}, "Another condition, the same fence")
    status, answer = await call("PUT", "/api/segments/other", {"name": "x", "condition": near})
    assert (status, answer["error"]["message"]) == (400, "any[1].fence_id: there is no geofence f1")


async def test_a_correction_that_may_be_saved_may_be_tried(call):
    shape = {"type": "circle", "latitude": 48.2, "longitude": 16.3, "radius_m": 150}
    fence = {"fence_id": "f1", "name": "Market", "shape": shape}
    assert (await call("PUT", "/api/geofences/f1", fence))[0] == 200
    near = {"type": "any", "of": [VIEWED, {"type": "near", "fence_id": "f1"}]}
    await call.put("keen", near)
    await call.put("keener", VIEWED)
    assert (await call("DELETE", "/api/geofences/f1"))[0] == 204
    await call.track("anna", "Product Viewed")
    await call.eventually(lambda: _is_member(call, "anna", "keen"))
    gone = "there is no geofence f1"
    corrected = {"type": "all", "of": [near, VIEWED]}
    new = {"type": "all", "of": [corrected, {"type": "near", "fence_id": "f2"}]}
    for segment_id, condition, wrong in (
        ("keen", near, None),
        ("keen", corrected, None),
        ("keen", new, "all[1].fence_id: there is no geofence f2"),
        ("keener", corrected, f"all[0].any[1].fence_id: {gone}"),
        ("nobody's", near, "segment_id: "),
        ("new", near, f"any[1].fence_id: {gone}"),
        (None, near, f"any[1].fence_id: {gone}"),
    ):
        body = {"condition": condition, "segment_id": segment_id}
        status, answer = await call("POST", "/api/segments/preview", body)
        if wrong is None:
            assert (status, answer["members"]) == (200, 1), answer
        else:
            assert status == 400, answer
            assert answer["error"]["message"].startswith(wrong)


async def test_everything_survives_a_restart(tmp_path):
    async with a_backend(tmp_path) as call:
        await call.put("viewers", VIEWED)
        await call.track("anna", "Product Viewed")
        await call.eventually(lambda: _in(call, "anna"))
        before = call.backend
    config = Config(str(tmp_path), http=Http(port=0), mqtt=NO_BROKER)
    async with running(config) as (again, _parts), aiohttp.ClientSession() as http:
        url = f"http://{again.host}:{again.port}"
        call = Caller(http, BackendAlone(url, before.token, before.write_key), tmp_path)
        assert await call.segments_of("anna") == {"viewers"}
        await call.track("berta", "Product Viewed")
        await call.eventually(lambda: _in(call, "berta"))


async def _in(call, user):
    return await _is_member(call, user, "viewers")


async def _is_member(call, user, segment_id):
    return segment_id in await call.segments_of(user)
