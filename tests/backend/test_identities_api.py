"""Operators decide who is who, over HTTP, beside a fold that runs: merges, their undoing, reviews, tags."""

import json
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer

from backend.api.host import Host
from backend.api.server import build
from backend.storage import profiles
from backend.storage.sources import StoredSources
from sdk_bridge.server.app import Bridge
from sdk_bridge.wire.app_events import ExternalId

TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"


class Desk:
    """The API over a shop whose fold runs, and a token of every role."""

    def __init__(self, shop, client, tokens) -> None:
        self.shop, self.client, self.tokens = shop, client, tokens

    async def call(self, method, path, role="operator", **more):
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        async with self.client.request(method, path, headers=headers, **more) as answer:
            return answer.status, json.loads(await answer.text())

    async def tell(self, *events) -> None:
        await self.shop.journal.append_events(list(events))
        await self.shop.folded()

    async def see(self, who: str) -> dict:
        status, view = await self.call("GET", f"/api/profiles/{who}")
        assert status == 200, view
        return view

    async def person(self, who: str) -> str:
        return (await self.see(who))["profile_id"]

    async def own_profile(self, id_type: str, identifier: str) -> str:
        row = await self.shop.state.read(
            lambda s: s.row("profile_of_identifier", id_type=id_type, id=identifier)
        )
        return row["profile_id"]


@pytest.fixture
async def desk(live_shop, make_token, clock):
    shop = live_shop
    host = Host(shop.state, shop.journal_file, clock, shop.fold.refresh, dict)
    bridge = Bridge(shop.journal, StoredSources(shop.state, clock), clock)
    tokens = {role: await make_token(role) for role in ("viewer", "marketer", "operator", "admin")}
    async with TestClient(TestServer(build(host, bridge.add_to))) as client:
        yield Desk(shop, client, tokens)


async def test_merging_and_undoing_leaves_every_view_as_it_was(desk):
    event = desk.shop.event
    await desk.tell(
        event("identify", user_id="u1", anonymous_id="a1", traits={"city": "Graz"}),
        event("consent", user_id="u1", consent={"push": True, "proximity": True}),
        event("identify", user_id="u2", anonymous_id="a2", traits={"name": "Anna"}),
        event("consent", user_id="u2", consent={"push": False}),
    )
    before = [await desk.see(f"user_id:{user}") for user in ("u1", "u2")]
    status, merged = await desk.call(
        "POST", "/api/identities/merges", json={"who": "user_id:u2", "into": "user_id:u1"}
    )
    assert (status, merged["profile_id"]) == (200, before[1]["profile_id"])
    both = await desk.see("anonymous_id:a2")
    assert both["profile_id"] == before[0]["profile_id"]
    assert both["traits"] == {"city": "Graz", "name": "Anna"}
    assert both["consents"] == {"proximity": True, "push": False}, "the stricter stands"
    await desk.tell(event("track", user_id="u2", name="Order Completed"))
    assert await desk.person("user_id:u2") == both["profile_id"], "the fold knows of it"
    path = f"/api/identities/merges/{merged['profile_id']}"
    assert (await desk.call("DELETE", path))[0] == 200
    assert (await desk.call("DELETE", path))[0] == 404
    for user, seen in zip(("u1", "u2"), before, strict=True):
        now = await desk.see(f"user_id:{user}")
        for part in ("profile_id", "traits", "consents", "identities", "merged", "devices"):
            assert now[part] == seen[part], part


async def test_what_merged_by_itself_can_be_taken_apart_for_good(desk):
    event = desk.shop.event
    login = {"user_id": "u1", "anonymous_id": "a1"}
    await desk.tell(event("page", anonymous_id="a1"), event("identify", **login))
    assert await desk.person("anonymous_id:a1") == await desk.person("user_id:u1")
    own = await desk.own_profile("anonymous_id", "a1")
    assert (await desk.call("DELETE", f"/api/identities/merges/{own}"))[0] == 200
    await desk.tell(event("track", name="again", **login))
    assert await desk.person("anonymous_id:a1") == own


async def test_questions_wait_are_answered_once_and_come_back_when_undone(desk):
    event, mail = desk.shop.event, [ExternalId("email", "anna@x.at")]
    await desk.tell(*(event("identify", user_id=user, external_ids=mail) for user in ("u1", "u2", "u3")))
    status, page = await desk.call("GET", "/api/identities/reviews?limit=2", role="viewer")
    assert (status, len(page["reviews"]), page["next"]) == (200, 2, page["reviews"][1]["review_id"])
    _, rest = await desk.call("GET", f"/api/identities/reviews?limit=2&after={page['next']}")
    reviews = page["reviews"] + rest["reviews"]
    assert [(one["cause"], one["id"]) for one in reviews] == [("same email", "anna@x.at")] * 3
    pairs = {frozenset((one["one"]["id"], one["other"]["id"])) for one in reviews}
    assert pairs == {frozenset(pair) for pair in (("u1", "u2"), ("u1", "u3"), ("u2", "u3"))}
    first, second, _ = reviews
    decide = f"/api/identities/reviews/{first['review_id']}/decision"
    status, decided = await desk.call("POST", decide, json={"decision": "merge"})
    assert (status, decided["state"]) == (200, "merged")
    assert await desk.person(f"user_id:{first['one']['id']}") == await desk.person(
        f"user_id:{first['other']['id']}"
    )
    assert (await desk.call("POST", decide, json={"decision": "apart"}))[0] == 409
    apart = f"/api/identities/reviews/{second['review_id']}/decision"
    assert (await desk.call("POST", apart, json={"decision": "apart"}))[1]["merged"] is None
    _, merged = await desk.call("GET", "/api/identities/reviews?state=merged")
    assert [(one["review_id"], one["decided_by"]) for one in merged["reviews"]] == [
        (first["review_id"], "operator")
    ]
    assert (await desk.call("DELETE", f"/api/identities/merges/{decided['merged']}"))[0] == 200
    _, opened = await desk.call("GET", "/api/identities/reviews")
    assert first["review_id"] in {one["review_id"] for one in opened["reviews"]}
    assert (await desk.call("POST", "/api/identities/reviews/999/decision", json={"decision": "merge"}))[
        0
    ] == 404


async def test_shared_devices_are_listed_with_who_uses_them(desk):
    event = desk.shop.event
    for user in ("u1", "u2", "u3"):
        await desk.tell(event("identify", user_id=user, device_id="kiosk"))
        desk.shop.clock.forward(1000)
    await desk.tell(event("identify", user_id="u4", device_id="phone"))
    status, page = await desk.call("GET", "/api/identities/shared", role="viewer")
    assert status == 200
    ((kiosk,), following) = (page["shared"], page["next"])
    assert (kiosk["id"], kiosk["people"], following) == ("kiosk", 3, None)
    assert [user["id"] for user in kiosk["latest"]] == ["u3", "u2", "u1"]
    assert (await desk.call("GET", "/api/identities/shared?type=email"))[1]["shared"] == []


async def test_a_loyalty_tag_is_given_and_taken_away(desk):
    await desk.shop.person("u1")
    await desk.shop.person("u2")
    await desk.shop.folded()
    path = f"/api/profiles/user_id:u1/beacons/{TAG}"
    status, given = await desk.call("PUT", path)
    assert (status, given["profile_id"]) == (200, await desk.person("user_id:u1"))
    assert await desk.shop.state.read(profiles.consented_beacons) == {TAG: given["profile_id"]}
    await desk.shop.hear(TAG, seconds=3)
    await desk.shop.folded()
    assert await desk.shop.column("select profile_id from presences") == [given["profile_id"]]
    assert (await desk.call("DELETE", f"/api/profiles/user_id:u2/beacons/{TAG}"))[0] == 404
    assert (await desk.call("DELETE", path))[0] == 200
    assert await desk.shop.state.read(profiles.consented_beacons) == {}
    assert (await desk.call("DELETE", path))[0] == 404


async def test_what_hangs_on_a_wall_is_nobodys(desk):
    body = {"beacon_key": TAG, "role": "zone", "store_id": "s1", "zone_id": "a"}
    assert (await desk.call("POST", "/api/beacons", json=body))[0] == 200
    await desk.shop.person("u1")
    await desk.shop.folded()
    assert (await desk.call("PUT", f"/api/profiles/user_id:u1/beacons/{TAG}"))[0] == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/identities/merges", {"who": "user_id:no", "into": "user_id:nobody"}, 404),
        ("POST", "/api/identities/merges", {"who": "profile:x", "into": "profile_id:x"}, 404),
        ("POST", "/api/identities/merges", {"who": "nobody"}, 400),
        ("POST", "/api/identities/merges", {"who": "u:1", "into": "u:2", "more": 1}, 400),
        ("DELETE", "/api/identities/merges/0193-x", None, 404),
        ("DELETE", "/api/identities/merges/%00", None, 400),
        ("GET", "/api/identities/reviews?state=all", None, 400),
        ("GET", "/api/identities/reviews?after=-1", None, 400),
        ("GET", "/api/identities/shared?type=user_id", None, 400),
        ("PUT", "/api/profiles/user_id:no/beacons/" + TAG, None, 404),
        ("PUT", "/api/profiles/user_id:no/beacons/eddystone-tlm", None, 400),
        ("POST", "/api/identities/reviews/1/decision", {"decision": "maybe"}, 400),
    ],
)
async def test_what_cannot_be_is_said_clearly(desk, method, path, body, status):
    found, answer = await desk.call(method, path, json=body) if body else await desk.call(method, path)
    assert found == status, answer


async def test_only_operators_decide(desk):
    for role in ("viewer", "marketer"):
        body = {"who": "user_id:u1", "into": "user_id:u2"}
        assert (await desk.call("POST", "/api/identities/merges", role, json=body))[0] == 403
        assert (await desk.call("DELETE", "/api/identities/merges/x", role))[0] == 403
        assert (await desk.call("PUT", f"/api/profiles/user_id:u1/beacons/{TAG}", role))[0] == 403


async def test_every_decision_is_in_the_audit(desk):
    await desk.tell(desk.shop.event("identify", user_id="u1"), desk.shop.event("identify", user_id="u2"))
    await desk.call("POST", "/api/identities/merges", json={"who": "user_id:u1", "into": "user_id:u2"})
    _, audit = await desk.call("GET", "/api/audit", role="admin")
    found = audit["audit"][0]
    assert (found["actor"], found["action"], found["subject"]) == ("operator", "people merged", "user_id:u1")


async def test_visits_made_while_merged_go_with_the_tags_owner_when_that_is_undone(desk):
    await desk.shop.person("u1")
    await desk.shop.person("u2", TAG)
    await desk.shop.folded()
    owner = await desk.person("user_id:u2")
    body = {"who": "user_id:u2", "into": "user_id:u1"}
    merged = (await desk.call("POST", "/api/identities/merges", json=body))[1]["profile_id"]
    await desk.shop.hear(TAG, seconds=4)
    await desk.shop.folded()
    presence = "select profile_id from presences"
    assert await desk.shop.column(presence) == [await desk.person("user_id:u1")]
    assert (await desk.call("DELETE", f"/api/identities/merges/{merged}"))[0] == 200
    assert await desk.shop.column("select profile_id from zone_visits") == [owner]
    await desk.shop.hear(TAG)
    await desk.shop.folded()
    assert await desk.shop.column(presence) == [owner], "the floor knows of it"


@pytest.mark.parametrize(
    ("id_type", "stored", "asked"),
    [
        ("email", "anna@shop.example", "Anna@Shop.Example"),
        ("phone", "+436601234567", "+43 660 123-45-67"),
        ("beacon", TAG, TAG.replace("2f234454", "2F234454")),
    ],
)
async def test_an_identifier_is_found_in_any_spelling(desk, id_type, stored, asked):
    named = [] if id_type == "beacon" else [ExternalId(id_type, stored)]
    await desk.tell(desk.shop.event("identify", user_id="u1", external_ids=named))
    await desk.tell(desk.shop.event("identify", user_id="u2"))
    if id_type == "beacon":
        assert (await desk.call("PUT", f"/api/profiles/user_id:u1/beacons/{stored}"))[0] == 200
    u1 = await desk.person("user_id:u1")
    for path in ("", "/timeline", "/segments", "/rfm", "/export"):
        status, view = await desk.call("GET", f"/api/profiles/{id_type}:{quote(asked)}{path}")
        assert (status, view["profile_id"]) == (200, u1), path
    if id_type != "beacon":
        both = {"who": "user_id:u2", "into": f"{id_type}:{asked}"}
        assert (await desk.call("POST", "/api/identities/merges", json=both))[0] == 200
        assert await desk.person("user_id:u2") == u1
