"""The timeline: sources merge in one order, and pages join; filters; the API of people, and finding them."""

import json
from itertools import pairwise

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from backend.api.erasures import ERASER
from backend.api.host import Host
from backend.api.server import build
from backend.eraser import Eraser, Places
from backend.profiles.erasure import ErasureKeys, Tombstones
from backend.profiles.timeline import KINDS, Item, Position, Window, page, position
from backend.storage.queries import named_queries
from backend.storage.timeline import SOURCES, timeline_of

TAG = "altbeacon:" + "ab12" * 10


# Positions and windows --------------------------------------------------------------------------------------

places = st.one_of(
    st.builds(
        Position, st.integers(0, 6), st.sampled_from(["event", "order", "zone_visit"]), st.integers(-3, 3)
    ),
    st.builds(
        Position, st.integers(0, 6), st.sampled_from(["push", "merge"]), st.sampled_from(["a", "b", "0-1"])
    ),
)


@given(places)
def test_a_position_is_its_text(place):
    assert position(str(place)) == place


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.event", "1.event.x", "-1.event.1", "1.nothing.1", "9" * 40 + ".event.1", f"1.event.{2**63}"],
)
def test_what_is_no_position(text):
    with pytest.raises(ValueError, match=r".*"):
        position(text)


def source(items: list[Item]):
    return lambda window: window.cut(items)


def read_all(items: list[Item], limit: int, newer: bool) -> list[Position]:
    """Page by page from one end to the other."""
    by_kind = {kind: [item for item in items if item.position.kind == kind] for kind in KINDS}
    sources, found, edge = [source(each) for each in by_kind.values()], [], None
    while True:
        shown = [item.position for item in page(sources, Window(limit, edge, newer))]
        if not shown:
            return found
        assert shown == sorted(shown, key=lambda at: at[:2], reverse=True) or len(set(shown)) == len(shown)
        found = [*shown, *found] if newer else [*found, *shown]
        edge = shown[0] if newer else shown[-1]


@given(st.sets(places, max_size=20), st.integers(1, 7), st.booleans())
def test_pages_join_without_gap_or_repetition(chosen, limit, newer):
    items = [Item(place, "web", "x") for place in chosen]
    found = read_all(items, limit, newer)
    assert len(found) == len(set(found))
    assert set(found) == chosen
    assert all(later.at >= earlier.at for later, earlier in pairwise(found))


# From the database ------------------------------------------------------------------------------------------


async def lived(shop) -> str:
    """A person with something of every kind; several things at the same instant."""
    await shop.campaign()
    web = {"anonymous_id": "v-anna-1", "source": "web", "proven": False}
    events = [shop.event("page", name=f"Page {number}", **web) for number in range(5)]
    await shop.journal.append_events(events)
    await shop.person("anna-0001", TAG, traits={"email": "Anna@Example.com", "lastName": "Österreicher"})
    order = {"order_id": "o1", "total": 20, "currency": "EUR"}
    await shop.journal.append_events(
        [
            shop.event("identify", user_id="anna-0001", anonymous_id="v-anna-1"),
            shop.event("track", name="Order Completed", user_id="anna-0001", properties=order),
            shop.event("track", name="Order Refunded", user_id="anna-0001", properties={"order_id": "o1"}),
        ]
    )
    await shop.folded()
    await shop.hear(TAG, seconds=8)
    await shop.folded()
    [person] = await shop.column("select profile_id from profiles where id_type = 'user_id'")

    def more(session) -> None:
        session._connection.execute(
            "insert into segment_changes (segment_id, profile_id, version, kind, at, backfill)"
            " values ('buyers', ?, 1, 'entered', ?, 0)",
            (person, shop.clock()),
        )
        session._connection.execute(
            "insert into fence_visits (subject, profile_id, fence_id, entered_at, confidence)"
            " values ('phone:x', ?, 'square', ?, 'high')", (person, shop.clock()),
        )  # fmt: skip

    await shop.state.write(more)
    return person


async def test_every_kind_is_on_the_timeline_once(live_shop):
    shop = live_shop
    person = await lived(shop)
    items = await shop.state.read(lambda s: timeline_of(s, person, Window(200)))
    assert {item.position.kind for item in items} == set(KINDS) == set(SOURCES)
    assert len({str(item.position) for item in items}) == len(items)
    assert [item.position.at for item in items] == sorted((item.position.at for item in items), reverse=True)
    titles = [item.title for item in items]
    assert titles.count("Order completed") == titles.count("Order refunded") == 1
    assert "Order Completed" not in titles
    assert {item.channel for item in items if item.position.kind == "zone_visit"} == {"floor"}


@pytest.mark.parametrize("newer", [False, True], ids=["older", "newer"])
async def test_pages_of_the_database_join(live_shop, newer):
    shop = live_shop
    person = await lived(shop)

    async def shown(window: Window) -> list[Position]:
        return [item.position for item in await shop.state.read(lambda s: timeline_of(s, person, window))]

    whole = await shown(Window(200))
    for limit in (1, 2, 3, 7):
        found: list[Position] = []
        while edge_page := await shown(Window(limit, (found[0 if newer else -1] if found else None), newer)):
            found = [*edge_page, *found] if newer else [*found, *edge_page]
        assert found == whole
    for kind in KINDS:
        assert {at.kind for at in await shown(Window(200, kinds=frozenset({kind})))} == {kind}


# The API ----------------------------------------------------------------------------------------------------


class Api:
    def __init__(self, shop, tokens) -> None:
        keys, tombstones = ErasureKeys(b"k" * 32), Tombstones(ErasureKeys(b"k" * 32).digest)
        host = Host(shop.state, shop.journal_file, shop.clock, shop.fold.refresh, dict)
        self.app = build(host, lambda _app: None)
        places = Places(shop.state, shop.journal_file, shop.journal, shop.fold)
        self.eraser = self.app[ERASER] = Eraser(places, keys, tombstones, shop.clock)
        self.tokens, self.shop = tokens, shop

    async def call(self, method: str, path: str, role: str = "operator", **query):
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        async with self.client.request(method, path, headers=headers, params=query) as answer:
            text = await answer.text()
            return answer.status, json.loads(text)

    async def get(self, path: str, **query):
        status, body = await self.call("GET", path, **query)
        assert status == 200, body
        return body


@pytest.fixture
async def api(live_shop, make_token):
    tokens = {role: await make_token(role) for role in ("viewer", "marketer", "operator", "admin")}
    made = Api(live_shop, tokens)
    async with TestClient(TestServer(made.app)) as client:
        made.client = client
        yield made


async def test_a_profile_in_brief(api):
    person = await lived(api.shop)
    found = await api.get("/api/profiles/anonymous_id:v-anna-1")
    assert found["profile_id"] == person
    assert found["traits"]["email"] == "Anna@Example.com"
    assert found["purchases"] == {
        "orders": 1, "first_at": found["purchases"]["first_at"], "last_at": found["purchases"]["last_at"],
        "spent": [{"currency": "EUR", "orders": 1, "total": 2000, "refunded": 2000, "average": 2000}],
        "unreadable": 0,
    }  # fmt: skip
    assert found["behaviour"]["zones"][0]["zone_id"] == "a"
    assert found["behaviour"]["last_seen"]["floor"] == api.shop.clock()


async def test_identities_consents_and_orders(api):
    person = await lived(api.shop)
    identities = (await api.get("/api/profiles/user_id:anna-0001/identities"))["identities"]
    assert {(one["type"], one["id"]) for one in identities} >= {
        ("user_id", "anna-0001"), ("anonymous_id", "v-anna-1"), ("beacon", TAG),
    }  # fmt: skip
    assert any(one["type"] == "profile" for one in identities)
    consents = await api.get(f"/api/profiles/profile_id:{person}/consents")
    assert {one["purpose"]: one["granted"] for one in consents["purposes"]} == {
        "proximity": True,
        "push": True,
    }
    assert consents["history"][0]["said_by"] == "user_id:anna-0001"
    orders = await api.get("/api/profiles/user_id:anna-0001/orders")
    assert [(one["order_id"], one["refunded"]) for one in orders["orders"]] == [("o1", 2000)]


async def test_the_timeline_page_by_page_and_by_channel(api):
    await lived(api.shop)
    path = "/api/profiles/user_id:anna-0001/timeline"
    whole = await api.get(path, limit="200")
    first = await api.get(path, limit="4")
    second = await api.get(path, limit="4", before=first["older"])
    back = await api.get(path, limit="4", after=second["newer"])
    assert first["items"] + second["items"] == whole["items"][:8]
    assert back["items"] == first["items"]
    floor = await api.get(path, channel="floor", limit="200")
    assert {item["kind"] for item in floor["items"]} == {"zone_visit", "store_visit"}
    pushes = await api.get(path, kind="push")
    assert [item["details"]["state"] for item in pushes["items"]] == ["queued"]


WRONG_PAGES = [
    {"limit": "0"}, {"limit": "201"}, {"before": "x"}, {"before": "1.event.a"}, {"kind": "none"},
    {"channel": "none"}, {"before": "1.event.1", "after": "1.event.1"}, {"before": f"1.event.{2**70}"},
]  # fmt: skip
WRONG_SEARCHES = [
    {"limit": "101"}, {"after": "!"}, {"after": "abc"}, {"by": "shoe size"}, {}, {"by": "recent"},
    {"by": "email", "after": "WzFd"},
]  # fmt: skip


async def test_what_is_refused(api):
    await lived(api.shop)
    for query in WRONG_PAGES:
        status, answer = await api.call("GET", "/api/profiles/user_id:anna-0001/timeline", **query)
        assert (status, list(answer)) == (400, ["error"]), query
    for query in WRONG_SEARCHES:
        assert (await api.call("GET", "/api/profiles", **{"text": "a", **query}))[0] == 400, query
    for leaf in ("", "/timeline", "/identities", "/consents", "/orders", "/export"):
        assert (await api.call("GET", f"/api/profiles/user_id:nobody-here{leaf}"))[0] == 404, leaf
    for role in ("viewer", "marketer"):
        who = "/api/profiles/user_id:anna-0001"
        for method, path in (("DELETE", who), ("GET", f"{who}/export"), ("GET", "/api/erasures")):
            assert (await api.call(method, path, role))[0] == 403, (method, path)


# Search -----------------------------------------------------------------------------------------------------


FOUND = [
    ({"by": "identifier", "text": "anna-"}, "user_id"),
    ({"by": "identifier", "text": "v-anna"}, "anonymous_id"),
    ({"by": "identifier", "text": TAG[:20]}, "beacon"),
    ({"by": "identifier", "text": TAG[:20].upper()}, "beacon"),
    ({"by": "email", "text": "anna@"}, "email"),
    ({"by": "email", "text": "ANNA@EXAMPLE.COM"}, "email"),
    ({"by": "name", "text": "öster"}, "lastName"),
    ({"by": "name", "text": "Öster"}, "lastName"),
    ({"by": "name", "text": "ANNA-0"}, "name"),
    ({}, "last event"),
]
NOT_FOUND = [
    {"by": "email", "text": "berta"}, {"by": "email", "text": "%"}, {"by": "name", "text": "_"},
    {"by": "identifier", "text": ""}, {"by": "phone", "text": "anna"}, {"by": "name", "text": '"'},
    {"by": "identifier", "text": "nna-0001"},
]  # fmt: skip


async def test_a_person_is_found_by_beginnings(api):
    person = await lived(api.shop)
    for query, by in FOUND:
        found = (await api.get("/api/profiles", **query))["people"]
        told = [(one["profile_id"], one["by"], one["email"]) for one in found]
        assert told == [(person, by, "Anna@Example.com")], query
    for query in NOT_FOUND:
        assert await api.get("/api/profiles", **query) == {"people": [], "next": None}, query


async def test_a_name_is_found_in_whatever_case_shops_and_people_write_it(api):
    names = ["Jean-Élie Öz", "JEAN-ÉLIE ÖZ", "jean-élie öz"]
    shop = api.shop
    await shop.journal.append_events(
        [shop.event("identify", user_id=name, traits={"name": name}) for name in names]
    )
    await shop.folded()
    for text in ("jean-é", "Jean-É", "JEAN-É", "jean-élie ö", "JEAN-ÉLIE ÖZ"):
        found = (await api.get("/api/profiles", by="name", text=text))["people"]
        assert sorted(one["value"] for one in found) == sorted(names), text


async def test_pages_of_a_search_join(api):
    shop = api.shop
    mails = [f"{number % 7}mail-{number}@x.yz" for number in range(25)]
    events = [
        shop.event("identify", user_id=f"user-{number:03}", traits={"email": mail})
        for number, mail in enumerate(mails)
    ]
    await shop.journal.append_events(events)
    await shop.folded()
    for by, texts in (("identifier", ["user-"]), ("email", [*"0123456"]), ("recent", [""])):
        found: list[str] = []
        for text in texts:
            query, more = {"by": by, "limit": "4"} | ({"text": text} if text else {}), {}
            while more is not None:
                answer = await api.get("/api/profiles", **query, **more)
                assert len(answer["people"]) <= 4
                found += [one["profile_id"] for one in answer["people"]]
                more = {"after": answer["next"]} if answer["next"] else None
        assert len(found) == len(set(found)) == 25


async def test_searches_use_their_indexes(state):
    values = {"name": "email", "low": "a", "high": "b", "after_value": "", "after_profile": "", "limit": 1,
              "id_type": "user_id", "after": "", "before": 9}  # fmt: skip
    for query, *indexes in (
        ("traits_with_prefix", "traits_for_search (name=? AND <expr>>"),
        ("identifiers_with_prefix", "profiles_by_id (id_type=? AND id>", "identity_open (id_type=? AND id>"),
    ):
        sql = named_queries("state")[query]
        plan = await state.read(
            lambda s, q=sql: [row[3] for row in s._connection.execute(f"explain query plan {q}", values)]
        )
        searches = [step for step in plan if step.startswith(("SEARCH", "SCAN"))]
        assert len(searches) == len(indexes), plan
        assert all(f"INDEX {index}" in step for index, step in zip(indexes, searches, strict=True)), plan


@pytest.mark.parametrize("query", ["identifiers_of_person", "timeline_merges", "identity_history_of_person"])
async def test_edges_are_those_of_the_person(state, query):
    """With every tag of the shop, and each of the person's profiles for it, a view took half a second."""
    values = {"profile_id": "p", "limit": 10}
    sql = f"explain query plan {named_queries('state')[query]}"
    plan = await state.read(lambda s: [row[3] for row in s._connection.execute(sql, values)])
    assert "SEARCH e USING INDEX identity_of_profile (profile_id=?)" in plan, plan


@pytest.mark.parametrize("query", ["erase_identity_edges", "segment_bearers"])
async def test_edges_are_found_by_their_indexes(state, query):
    values = {"profile_id": "p", "beacons": "[]"}
    sql = f"explain query plan {named_queries('state')[query]}"
    plan = await state.read(lambda s: [row[3] for row in s._connection.execute(sql, values)])
    assert not any(step.startswith(("SCAN e", "SCAN identity_edges")) for step in plan), plan


@pytest.mark.parametrize("query", ["goal_reached", "goal_events_of"])
async def test_a_goal_is_looked_for_among_a_persons_own_events(state, query):
    values = {"profile_id": "p", "profiles": "[]", "name": "Order Completed", "since": 1, "earliest": 0}
    sql = f"explain query plan {named_queries('state')[query]}"
    plan = await state.read(lambda s: [row[3] for row in s._connection.execute(sql, values)])
    assert any("INDEX events_of_profile " in step for step in plan), plan


# Giving out, and erasing ------------------------------------------------------------------------------------


async def test_an_export_holds_everything(api):
    await lived(api.shop)
    export = await api.get("/api/profiles/user_id:anna-0001/export")
    text = json.dumps(export, ensure_ascii=False)
    for name in ("anna-0001", "v-anna-1", "Anna@Example.com", TAG, "token-anna-0001", "phone-anna-0001"):
        assert name in text
    assert len(export["events"]) == 11
    assert any(event["body"].get("name") == "Page 3" for event in export["events"])
    assert {"lastName": "Österreicher"}.items() <= {t["name"]: t["value"] for t in export["traits"]}.items()
    assert len(export["sightings"]) == 8
    assert export["orders"][0]["total"] == 2000
    assert export["pushes"][0]["content"]["title"] == "Hello anna-0001"


async def test_erasing_over_the_api(api):
    await lived(api.shop)
    status, receipt = await api.call("DELETE", "/api/profiles/user_id:anna-0001")
    assert (status, receipt["finished_at"]) == (202, None)
    assert (await api.call("GET", "/api/profiles/user_id:anna-0001"))[0] == 404
    assert (await api.call("DELETE", "/api/profiles/user_id:anna-0001"))[0] == 404
    await api.eraser.work_off()
    found = await api.get(f"/api/erasures/{receipt['receipt_id']}")
    assert found["finished_at"] == api.shop.clock()
    assert found["rows"]["events"] == 11
    assert len(found["identifiers"]) >= 5
    assert "anna" not in json.dumps(found)
    assert (await api.get("/api/erasures"))["receipts"] == [found]
    assert (await api.call("GET", f"/api/erasures/{'0' * 36}"))[0] == 404
