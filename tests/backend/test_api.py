"""The API over real HTTP: default deny, roles, cookies, errors in JSON, hostile bodies, audit, the page."""

import json
import re
from collections import Counter

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from backend.api import auth
from backend.api.auth import COOKIE, PUBLIC, ROLES
from backend.api.errors import Problem
from backend.api.host import Host
from backend.api.server import DOCUMENT, MAX_BODY_BYTES, build
from backend.storage import registry
from backend.storage.database import StorageError
from backend.storage.letters import NewLetter
from backend.storage.sources import StoredSources
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.ports import JournalBusy

OPEN_TO_ALL = {
    *("/health", "/api/session", "/api/openapi.json"),
    *("/fleet/authority", "/fleet/enrol", "/fleet/renew"),
}
"""Every one of these authenticates by itself, or says nothing of the shop. Think before you add another."""

STORE = {"name": "Shop", "timezone": "Europe/Vienna"}
ZONE = {"name": "Coffee", "categories": ["coffee"]}
BEACON = {"beacon_key": "altbeacon:" + "a" * 40, "role": "tag"}
CAMPAIGN = {
    "campaign_id": "c1",
    "name": "Coffee",
    "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 5},
    "offer": {"title": "Hello", "body": "Coffee"},
    "state": "live",
}
EVERYBODY, MARKETERS = {"viewer", "marketer", "operator", "admin"}, {"marketer", "admin"}
OPERATORS, ADMINS = {"operator", "admin"}, {"admin"}
WHO_MAY = [
    ("GET", "/floor", None, EVERYBODY),
    ("GET", "/api/floor", None, EVERYBODY),
    ("GET", "/api/stores", None, EVERYBODY),
    ("GET", "/api/zones", None, EVERYBODY),
    ("GET", "/api/gateways", None, EVERYBODY),
    ("GET", "/api/beacons", None, EVERYBODY),
    ("GET", "/api/campaigns", None, EVERYBODY),
    ("GET", "/api/campaigns/c1", None, EVERYBODY),
    ("GET", "/api/profiles/user_id:1", None, EVERYBODY),
    ("GET", "/api/sources", None, OPERATORS),
    ("GET", "/api/dead-letters", None, OPERATORS),
    ("GET", "/api/audit", None, ADMINS),
    ("PUT", "/api/stores/s1", STORE, OPERATORS),
    ("PUT", "/api/stores/s1/zones/a", ZONE, OPERATORS),
    ("PUT", "/api/stores/s1/gateways/g1", {"zone_id": "a"}, OPERATORS),
    ("POST", "/api/beacons", BEACON, OPERATORS),
    ("PUT", "/api/campaigns/c1", CAMPAIGN, MARKETERS),
    ("PUT", "/api/sources/web", {"name": "Site", "kind": "web"}, ADMINS),
    ("DELETE", "/api/sources/web", None, ADMINS),
]


class Api:
    """The whole application on a free port, and a token of every role."""

    def __init__(self, state, journal_file, journal, clock) -> None:
        self.state, self.changes, self.health = state, 0, {"status": "ok"}
        self.heard = Counter(accept=3)
        host = Host(
            *(state, journal_file, clock, self._changed, lambda: self.health),
            tally=lambda: {"bridge": self.bridge.tally, "gateways": self.heard, "traits_left_out": 2},
        )
        self.bridge = Bridge(journal, StoredSources(state, clock), clock)
        self.app = build(host, self.bridge.add_to)
        self.tokens: dict[str, str] = {}

    def _changed(self) -> None:
        self.changes += 1

    async def call(self, method: str, path: str, role: str | None = "admin", **more):
        """Status and body; JSON where it is."""
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.tokens[role]}"
        async with self.client.request(
            method, path, headers=headers, allow_redirects=False, **more
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json and text else text

    async def set_up(self) -> None:
        for path, body in (
            ("/api/stores/s1", STORE),
            ("/api/stores/s1/zones/a", ZONE),
            ("/api/stores/s1/gateways/g1", {"zone_id": "a"}),
            ("/api/campaigns/c1", CAMPAIGN),
        ):
            status, answer = await self.call("PUT", path, json=body)
            assert status == 200, answer


@pytest.fixture
async def api(state, journal_file, journal, clock, make_token):
    made = Api(state, journal_file, journal, clock)
    made.tokens = {role: await make_token(role) for role in ROLES}
    async with TestClient(TestServer(made.app)) as client:
        made.client = client
        yield made


def routes_of(app: web.Application) -> set[tuple[str, str]]:
    return {(route.method, route.resource.canonical) for route in app.router.routes()}


# Default deny ---------------------------------------------------------------------------------------------


async def test_every_route_refuses_whoever_brings_no_token(api):
    bridge = web.Application()
    api.bridge.add_to(bridge)
    theirs = routes_of(bridge)
    asked = 0
    for method, path in sorted(routes_of(api.app) - theirs):
        if path in OPEN_TO_ALL:
            continue
        status, _ = await api.call(method, re.sub(r"\{\w+\}", "x", path), role=None)
        assert status == 401, f"{method} {path}"
        asked += 1
    assert asked > 20
    public = {(route.method, route.resource.canonical) for route in api.app[PUBLIC]}
    assert {path for _method, path in public - theirs} == OPEN_TO_ALL


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api", "/api/", "/api/nothing", "/floor/", "/floor/x", "/v1", "/.env"]
)
async def test_what_does_not_exist_says_so_only_to_those_who_may_ask(api, path):
    assert (await api.call("GET", path, role=None))[0] == 401
    status, answer = await api.call("GET", path, role="viewer")
    assert status == 404
    assert answer["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/trak", 404, "unknown_call"),
        ("GET", "/v1/", 404, "unknown_call"),
        ("GET", "/v1/track", 405, "method_not_allowed"),
        ("DELETE", "/v1/batch/", 405, "method_not_allowed"),
    ],
)
async def test_apps_and_sites_are_told_of_calls_that_there_are_not(api, method, path, status, code):
    found = await api.call(method, path, role=None)
    assert (found[0], found[1]["code"]) == (status, code)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic YTpi",
        "Bearer " + "x" * 5000,
        "Bearer \xff",
        "Bearer null",
    ],
)
async def test_a_wrong_token_is_no_token(api, header):
    status, answer = await api.call("GET", "/api/stores", role=None, headers={"Authorization": header})
    assert status == 401
    assert answer["error"]["code"] == "no_token"


async def test_a_token_is_kept_only_as_its_hash(api):
    stored = await api.state.read(lambda s: [tuple(row) for row in s.rows("tokens")])
    dump = await api.state.read(
        lambda s: "\n".join(str(tuple(r)) for r in s._connection.execute("select * from api_tokens"))
    )
    assert len(stored) == 4
    assert not any(token in dump for token in api.tokens.values())


async def test_a_revoked_token_is_refused_at_once(api, clock):
    assert (await api.call("GET", "/api/stores", role="viewer"))[0] == 200
    await api.state.write(lambda s: registry.revoke_token(s, "viewer", clock()))
    assert (await api.call("GET", "/api/stores", role="viewer"))[0] == 401


def test_a_route_that_says_nothing_is_never_served(api):
    async def forgotten(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app[PUBLIC] = set()
    app.add_routes([web.get("/forgotten", forgotten)])
    with pytest.raises(RuntimeError, match="/forgotten"):
        auth.check_every_route(app)


def short(value: object) -> str:
    """The same in every process, where the order of a set is not."""
    return "-".join(sorted(value)) if isinstance(value, set) else str(value)[:40]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), WHO_MAY, ids=short)
async def test_roles(api, method, path, body, allowed):
    await api.set_up()
    for role in ROLES:
        status, answer = await api.call(method, path, role=role, json=body)
        if role in allowed:
            assert status not in (401, 403), (role, answer)
        else:
            assert (status, answer["error"]["code"]) == (403, "role"), role


async def test_every_call_is_open_to_the_roles_that_its_page_names(api):
    """docs/calls.md shows the least role of every call, so whoever changes one sees it in the difference."""
    allowed = {"viewer": EVERYBODY, "marketer": MARKETERS, "operator": OPERATORS, "admin": ADMINS}
    asked = 0
    for path, item in json.loads(api.app[DOCUMENT])["paths"].items():
        for method, said in item.items():
            if said["x-role"] == "public":
                continue
            asked += 1
            for role in ROLES:
                status, _ = await api.call(method.upper(), re.sub(r"\{\w+\}", "1", path), role=role)
                assert (status == 403) == (role not in allowed[said["x-role"]]), (method, path, role, status)
    assert asked > 30


# Cookies --------------------------------------------------------------------------------------------------


async def test_signing_in_gives_a_cookie_that_only_reads(api):
    status, answer = await api.call("POST", "/api/session", role=None, json={"token": api.tokens["admin"]})
    assert (status, answer) == (200, {"name": "admin", "role": "admin"})
    cookie = api.client.session.cookie_jar.filter_cookies(api.client.make_url("/"))[COOKIE]
    assert cookie.value == api.tokens["admin"]
    assert (await api.call("GET", "/api/stores", role=None))[0] == 200
    assert (await api.call("HEAD", "/api/stores", role=None))[0] == 200
    for method, path, body in (
        ("PUT", "/api/stores/s1", STORE),
        ("POST", "/api/beacons", BEACON),
        ("DELETE", "/api/sources/web", None),
        ("PATCH", "/api/stores/s1", STORE),
    ):
        assert (await api.call(method, path, role=None, json=body))[0] == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(api):
    async with api.client.post("/api/session", json={"token": api.tokens["viewer"]}) as answer:
        header = answer.headers["Set-Cookie"].lower()
    for attribute in ("httponly", "samesite=strict", "path=/", "max-age=43200"):
        assert attribute in header


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"token": "fft_wrong"}', 401),
        ('{"token": ""}', 401),
        ('{"token": "\\ud800"}', 400),
        ('{"token": 7}', 400),
        ('{"token": null}', 400),
        ('{"token": "x", "role": "admin"}', 400),
        ("{}", 400),
        ("", 400),
        ("[" * 200_000, 400),
    ],
)
async def test_signing_in_with_something_else(api, body, status):
    found, answer = await api.call("POST", "/api/session", role=None, data=body)
    assert found == status
    assert set(answer["error"]) == {"code", "message"}


# The page -------------------------------------------------------------------------------------------------


async def test_the_page_answers_401_with_a_way_in_and_keeps_to_itself(api):
    for role, status in ((None, 401), ("viewer", 200)):
        headers = {} if role is None else {"Authorization": f"Bearer {api.tokens[role]}"}
        async with api.client.get("/floor", headers=headers) as answer:
            text = await answer.text()
            assert answer.status == status
            assert answer.content_type == "text/html"
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert ('<input name="token"' in text) is (role is None)
        assert "http://" not in text
        assert "https://" not in text, "nothing is loaded from elsewhere"


async def test_the_floor_tells_who_asks_and_names_nobody(api):
    await api.set_up()
    status, floor = await api.call("GET", "/api/floor?store=s1", role="viewer")
    assert status == 200
    assert floor["signed_in_as"] == {"name": "viewer", "role": "viewer"}
    assert [zone["zone_id"] for zone in floor["zones"]] == ["a"]
    assert floor["people"] == []


async def test_health_is_open_and_says_nothing_of_the_shop(api):
    assert await api.call("GET", "/health", role=None) == (200, {"status": "ok"})


async def test_what_came_in_is_counted(api):
    _, made = await api.call("PUT", "/api/sources/web", json={"name": "Site", "kind": "server"})
    key = made["write_key"]
    track = {"type": "track", "event": "Seen", "userId": "anna", "messageId": "m1"}
    for batch in ([track, {"type": "track"}], [track]):
        status, _ = await api.call("POST", "/v1/batch", role=None, json={"writeKey": key, "batch": batch})
        assert status == 200
    assert (await api.call("POST", "/v1/batch", role=None, json={"writeKey": key}))[0] == 400
    told = {"accepted": 1, "duplicates": 1, "buried": 1, "strangers": 0, "pixels_lost": 0}
    assert await api.call("GET", "/api/tally", role="operator") == (
        200,
        {
            "bridge": {**told, "refused": {"invalid_batch": 1}},
            "gateways": {"accept": 3},
            "traits_left_out": 2,
        },
    )


# Changes, their audit, and conflicts ----------------------------------------------------------------------


async def test_setting_up_a_shop_is_read_back_audited_and_told_to_the_fold(api):
    await api.set_up()
    assert api.changes == 4
    assert (await api.call("GET", "/api/stores"))[1] == {"stores": [{"store_id": "s1", **STORE}]}
    [zone] = (await api.call("GET", "/api/zones"))[1]["zones"]
    assert zone["categories"] == ["coffee"]
    [gateway] = (await api.call("GET", "/api/gateways"))[1]["gateways"]
    assert (gateway["gateway_id"], gateway["zone_id"], gateway["name"]) == ("g1", "a", "g1")
    lines = (await api.call("GET", "/api/audit?limit=4"))[1]["audit"]
    assert [(line["actor"], line["action"]) for line in lines] == [
        ("admin", "campaign saved"),
        ("admin", "gateway saved"),
        ("admin", "zone saved"),
        ("admin", "store saved"),
    ]


async def test_what_it_belongs_to_must_exist_first(api):
    for path, body, code in (
        ("/api/stores/s9/zones/a", ZONE, "store"),
        ("/api/stores/s9/gateways/g1", {"zone_id": "a"}, "zone"),
    ):
        status, answer = await api.call("PUT", path, json=body)
        assert (status, answer["error"]["code"]) == (409, code)
    assert api.changes == 0
    assert len((await api.call("GET", "/api/audit"))[1]["audit"]) == 4, "the tokens' lines only"


async def test_saving_again_replaces_and_a_campaigns_version_rises(api):
    await api.set_up()
    for name in ("Tea", "Cake"):
        assert (await api.call("PUT", "/api/stores/s1/zones/a", json={"name": name}))[0] == 200
    [zone] = (await api.call("GET", "/api/zones"))[1]["zones"]
    assert (zone["name"], zone["categories"]) == ("Cake", [])
    status, answer = await api.call("PUT", "/api/campaigns/c1", json={**CAMPAIGN, "state": "paused"})
    assert (status, answer) == (200, {"campaign_id": "c1", "version": 2, "state": "paused"})
    found = (await api.call("GET", "/api/campaigns/c1"))[1]
    assert (found["state"], found["decisions"], found["pushes"]) == ("paused", [], [])


FENCE = {
    "fence_id": "f1",
    "name": "Market",
    "shape": {"type": "circle", "latitude": 48.2, "longitude": 16.3, "radius_m": 150},
}


async def test_a_campaign_names_only_what_is_there_and_outlives_what_goes(api):
    await api.set_up()
    near = {"type": "any", "of": [{"type": "near", "fence_id": "f1"}]}
    fenced = {**CAMPAIGN, "trigger": {"type": "fence_entered", "fence_id": "f1"}, "audience": near}
    at_market = {**CAMPAIGN, "audience": near}
    for body, field in ((fenced, "trigger"), (at_market, "audience.any[0]")):
        status, answer = await api.call("PUT", "/api/campaigns/c1", json=body)
        assert (status, answer["error"]["message"]) == (400, f"{field}.fence_id: there is no geofence f1")
    assert (await api.call("PUT", "/api/geofences/f1", json=FENCE))[0] == 200
    assert (await api.call("PUT", "/api/campaigns/c1", json=fenced))[0] == 200
    draft = {**fenced, "campaign_id": "c2", "state": "draft"}
    assert (await api.call("PUT", "/api/campaigns/c2", json=draft))[0] == 200
    assert (await api.call("DELETE", "/api/geofences/f1"))[0] == 204
    assert (await api.call("PUT", "/api/campaigns/c1", json={**fenced, "name": "Market"}))[0] == 200
    for state in ("paused", "live", "ended"):
        assert (await api.call("POST", "/api/campaigns/c1/state", json={"state": state}))[0] == 200
    status, answer = await api.call("POST", "/api/campaigns/c2/state", json={"state": "live"})
    assert (status, answer["error"]["code"]) == (400, "reference"), "what begins needs all it names"
    assert (await api.call("POST", "/api/campaigns/c2/state", json={"state": "ended"}))[0] == 200


async def test_a_source_is_made_once_shown_once_and_can_be_revoked(api):
    status, made = await api.call("PUT", "/api/sources/web", json={"name": "Site", "kind": "web"})
    assert status == 201
    assert set(made) == {"source_id", "write_key", "proof_secret"}
    again = await api.call("PUT", "/api/sources/web", json={"name": "Site", "kind": "web"})
    assert (again[0], again[1]["error"]["code"]) == (409, "source")
    everything = json.dumps([(await api.call("GET", path))[1] for path in ("/api/sources", "/api/audit")])
    assert made["write_key"] not in everything
    assert made["proof_secret"] not in everything
    body = {"writeKey": made["write_key"], "event": "Seen", "anonymousId": "a1"}
    assert (await api.call("POST", "/v1/track", role=None, json=body))[0] == 200
    assert await api.call("DELETE", "/api/sources/web") == (200, {"revoked": "web"})
    assert (await api.call("DELETE", "/api/sources/web"))[0] == 404
    lines = [line["action"] for line in (await api.call("GET", "/api/audit"))[1]["audit"]]
    assert lines.count("source revoked") == 1, "what changed nothing is not in the audit"


@pytest.mark.parametrize(
    ("kind", "given", "proof"),
    [("web", None, "required"), ("app", None, "required"), ("server", None, "off"), ("web", "off", "off")],
)
async def test_proof_is_on_where_keys_are_public(api, kind, given, proof):
    body = {"name": "S", "kind": kind} | ({"proof": given} if given else {})
    await api.call("PUT", "/api/sources/one", json=body)
    assert [source["proof"] for source in (await api.call("GET", "/api/sources"))[1]["sources"]] == [proof]


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ({"beacon_key": "altbeacon:" + "A" * 40, "role": "zone"}, "altbeacon:" + "a" * 40),
        ({"beacon_key": "eddystone-url:https://x.y", "role": "asset"}, "eddystone-url:https://x.y"),
        ({"beacon_key": "eddystone-url:https://x.y", "role": "tag"}, None),
        ({"beacon_key": "eddystone-tlm", "role": "zone"}, None),
        ({"beacon_key": "mac:01:02", "role": "zone"}, None),
        ({**BEACON, "zone_id": "a/b"}, None),
        ({**BEACON, "role": "person"}, None),
    ],
)
async def test_beacons_are_kept_by_their_canonical_key(api, body, stored):
    status, answer = await api.call("POST", "/api/beacons", json=body)
    assert status == (200 if stored else 400), answer
    found = [beacon["beacon_key"] for beacon in (await api.call("GET", "/api/beacons"))[1]["beacons"]]
    assert found == ([stored] if stored else [])


async def test_nobody_is_known_yet(api):
    for who, status in (("user_id:1", 404), ("user_id:", 400), ("anna", 400), ("user_id:" + "x" * 600, 400)):
        assert (await api.call("GET", f"/api/profiles/{who}"))[0] == status


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 500_000,
        b'{"name": "\xed\xa0\x80"}',
        b"{}" * 2,
    ],
    ids=lambda body: f"{body[:10]!r} of {len(body)}",
)
@pytest.mark.parametrize("path", ["/api/stores/s1", "/api/campaigns/c1", "/api/stores/s1/zones/a"])
async def test_hostile_bodies_are_answered_in_json(api, path, body):
    status, answer = await api.call("PUT", path, data=body)
    assert status == 400
    assert set(answer["error"]) == {"code", "message"}
    assert api.changes == 0


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"),
    [
        ("PUT", "/api/stores/s1", {"data": b"x" * (MAX_BODY_BYTES + 1)}, 413, "request_entity_too_large"),
        ("DELETE", "/api/stores", {}, 405, "method_not_allowed"),
        ("PUT", "/api/stores/a%2Fb", {"json": STORE}, 400, "store"),
        ("PUT", "/api/stores/" + "x" * 65, {"json": STORE}, 400, "store"),
        ("PUT", "/api/stores/s1", {"json": {**STORE, "timezone": "Mars"}}, 400, "timezone"),
        ("PUT", "/api/stores/s1", {"json": {**STORE, "timezone": "../../etc/passwd"}}, 400, "timezone"),
        ("PUT", "/api/stores/s1", {"json": {**STORE, "timezone": "Europe"}}, 400, "timezone"),
        ("PUT", "/api/stores/s1", {"json": {**STORE, "colour": "red"}}, 400, "body"),
        ("PUT", "/api/campaigns/c2", {"json": CAMPAIGN}, 400, "campaign_id"),
        ("PUT", "/api/campaigns/c1", {"json": {**CAMPAIGN, "state": "on"}}, 400, "campaign"),
        ("GET", "/api/campaigns/c9", {}, 404, "campaign"),
        ("GET", "/api/audit?limit=0", {}, 400, "limit"),
        ("GET", "/api/audit?limit=1001", {}, 400, "limit"),
        ("GET", "/api/audit?limit=00000000199999", {}, 400, "limit"),
        ("GET", "/api/audit?limit=-1", {}, 400, "limit"),
        ("GET", "/api/audit?limit=%C2%B2", {}, 400, "limit"),
        ("GET", "/api/audit?limit=" + "9" * 5000, {}, 400, "limit"),
    ],
)
async def test_errors_name_what_is_wrong(api, method, path, more, status, code):
    found, answer = await api.call(method, path, **more)
    assert (found, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"]


async def test_a_wrong_method_is_told_the_right_ones(api):
    headers = {"Authorization": f"Bearer {api.tokens['admin']}"}
    async with api.client.delete("/api/stores", headers=headers) as answer:
        assert answer.headers["Allow"] == "GET,HEAD"


async def test_whoever_is_not_known_is_told_how_to_be(api):
    async with api.client.get("/api/stores") as answer:
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="footfall"'


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageError("state: database or disk is full"), 503, "storage"),
        (JournalBusy("wait"), 503, "busy"),
        (Problem(418, "teapot", "short and stout"), 418, "teapot"),
        (ZeroDivisionError("secret inside"), 500, "internal"),
    ],
)
async def test_what_goes_wrong_inside_stays_inside(api, monkeypatch, error, status, code):
    async def fails(_work):
        raise error

    token = api.tokens["viewer"]
    working = api.state.read

    async def fails_after_the_token(work):
        return await (working(work) if not failing.pop() else fails(work))

    failing = [True, False]
    monkeypatch.setattr(api.state, "read", fails_after_the_token)
    async with api.client.get("/api/stores", headers={"Authorization": f"Bearer {token}"}) as answer:
        body = await answer.json()
        assert (answer.status, body["error"]["code"]) == (status, code)
        assert "secret" not in json.dumps(body)
        assert ("Retry-After" in answer.headers) is (status == 503)


async def test_the_bridge_is_mounted_and_asks_for_a_write_key(api):
    status, answer = await api.call("POST", "/v1/track", role=None, json={"event": "x", "anonymousId": "a"})
    assert status == 401
    assert "code" in json.dumps(answer)


async def test_dead_letters_are_listed_without_their_content(api, journal):
    await journal.bury(NewLetter(1, "s1/g1", "not readable", b"secret", "message"))
    [letter] = (await api.call("GET", "/api/dead-letters"))[1]["dead_letters"]
    assert (letter["origin"], letter["reason"], letter["bytes"]) == ("s1/g1", "not readable", 6)
    assert "secret" not in json.dumps(letter)


async def test_a_gateway_may_say_where_it_hangs_but_only_whole(api):
    await api.call("PUT", "/api/stores/s1", json=STORE)
    await api.call("PUT", "/api/stores/s1/zones/a", json=ZONE)
    status, _ = await api.call(
        "PUT", "/api/stores/s1/gateways/g1", json={"zone_id": "a", "x_m": 6, "y_m": -2.5}
    )
    assert status == 200
    known = await api.state.read(registry.gateways)
    assert known["s1/g1"].position == (6, -2.5)
    status, body = await api.call("PUT", "/api/stores/s1/gateways/g1", json={"zone_id": "a", "x_m": 6})
    assert status == 400
    assert "belong together" in body["error"]["message"]
