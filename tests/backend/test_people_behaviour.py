"""What people are interested in, from their events and visits as a set; consent and its history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.profiles.behaviour import (
    DAY_MS,
    StoreVisit,
    View,
    ZoneVisit,
    category_interests,
    decayed,
    dwell_by_category,
    dwell_by_zone,
    latest_products,
    product_interests,
    read_view,
    store_visits,
)
from backend.storage import behaviour
from backend.storage.behaviour import behaviour_of, consent_history, viewed_products

NOW = 1_750_075_200_000


def view(number: int, product: str, days_ago: float = 0, category: str | None = "Shoes") -> View:
    return View(number, NOW - int(days_ago * DAY_MS), product, category)


# Rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "worth"), [(0, 1), (14, 0.5), (28, 0.25), (-3, 1), (3650, 0)])
def test_a_view_halves_in_fourteen_days(days, worth):
    assert decayed(NOW - days * DAY_MS, NOW) == pytest.approx(worth, abs=1e-6)


def test_products_and_categories_by_what_they_are_worth_now():
    views = [
        view(1, "old", 28),
        view(2, "old", 28),
        view(3, "old", 28),
        view(4, "new"),
        view(5, "hat", 1, "hats"),
    ]
    found = [(one.latest.product_id, one.views, round(one.score, 2)) for one in product_interests(views, NOW)]
    assert found == [("new", 1, 1.0), ("hat", 1, 0.95), ("old", 3, 0.75)]
    assert [(one.category, one.views) for one in category_interests(views, NOW)] == [
        ("Shoes", 4),
        ("hats", 1),
    ]


def test_categories_differ_in_more_than_case():
    views = [view(1, "a", 2, "SHOES"), view(2, "b", 1, "Shoes"), view(3, "c", 0, None)]
    assert [(one.category, one.views) for one in category_interests(views, NOW)] == [("Shoes", 2)]


def test_the_latest_products_once_each():
    views = [view(1, "a", 3), view(2, "b", 2), view(3, "a", 1), view(4, "c", 9)]
    assert [one.product_id for one in latest_products(views, 2)] == ["a", "b"]


views_of_somebody = st.lists(
    st.builds(
        view,
        st.integers(0, 20),
        st.sampled_from("abc"),
        st.integers(0, 40),
        st.sampled_from(["S", "h", None]),
    )
)


@given(views_of_somebody, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_of_views_matters(views, chance):
    views = list({one.event_hash: one for one in views}.values())
    again = views + views[: len(views) // 2]
    chance.shuffle(again)
    assert product_interests(again, NOW) == product_interests(views, NOW)
    assert category_interests(again, NOW) == category_interests(views, NOW)
    assert latest_products(again, 5) == latest_products(views, 5)


@pytest.mark.parametrize(
    "properties",
    [{}, {"product_id": []}, {"product_id": ""}, {"name": "x"}, {"product_id": True}, {"sku": "a\0"}],
)
def test_a_view_of_no_product_is_none(properties):
    assert read_view(1, NOW, properties) is None


def test_what_a_page_says_of_a_product():
    told = {"sku": 7, "price": "19.90", "category": "Shoes", "name": {"en": "x"}, "currency": "EUR"}
    assert read_view(1, NOW, told) == View(1, NOW, "7", "Shoes", None, None, 1990, "EUR")
    assert read_view(1, NOW, {"product_id": "a", "price": -1}).price is None


def stay(zone: str, start: int, end: int | None) -> ZoneVisit:
    return ZoneVisit("s1", zone, start, end)


def test_two_beacons_of_one_person_are_in_a_zone_once():
    visits = [stay("a", 0, 100), stay("a", 50, 120), stay("a", 200, 230), stay("b", 90, None)]
    found = [(one.zone_id, one.visits, one.dwell_ms, one.last_at) for one in dwell_by_zone(visits, 300)]
    assert found == [("b", 1, 210, 300), ("a", 3, 150, 230)]
    categories = {("s1", "a"): ["shoes", "bags"], ("s1", "b"): ["shoes"]}
    by_category = [(one.category, one.dwell_ms) for one in dwell_by_category(visits, categories, 300)]
    assert by_category == [("shoes", 300), ("bags", 150)]


def test_a_stay_that_ends_before_it_began_counts_nothing():
    assert [one.dwell_ms for one in dwell_by_zone([stay("a", 100, 50)], 300)] == [0]


def test_a_tag_and_a_phone_visit_a_store_together():
    visits = [
        StoreVisit("s1", 0, 100),
        StoreVisit("s1", 60, 130),
        StoreVisit("s1", 500, None),
        StoreVisit("s2", 70, 80),
    ]
    assert store_visits(visits) == [
        StoreVisit("s1", 500, None), StoreVisit("s2", 70, 80), StoreVisit("s1", 0, 130),
    ]  # fmt: skip


# From the database ------------------------------------------------------------------------------------------


def looked(shop, product: str, category: str = "Shoes", **more):
    properties = {"product_id": product, "category": category, "name": f"The {product}", "price": 9.9}
    return shop.event("track", name="Product Viewed", properties=properties, **more)


async def sources(shop) -> None:
    def write(session) -> None:
        for name, kind in (("app", "app"), ("web", "web"), ("till", "server")):
            session._connection.execute(
                "insert into sources (source_id, name, kind, key_hash, proof, proof_secret, created_at)"
                " values (?, ?, ?, ?, 'off', 'x', 1)",
                (name, name, kind, name.encode()),
            )
        session.run("save_zone", store_id="s1", zone_id="a", name="A", categories='["shoes", "bags"]')

    await shop.state.write(write)


async def person(shop) -> str:
    rows = await shop.column(
        "select profile_id from profiles where id_type = 'user_id' and merged_into is null"
    )
    return rows[0]


async def test_one_person_over_web_app_till_and_floor(live_shop):
    shop = live_shop
    await sources(shop)
    tag = "altbeacon:" + "a" * 40
    web = {"anonymous_id": "v-anna", "source": "web", "proven": False}
    began = shop.clock()
    await shop.journal.append_events([looked(shop, "runner", **web), looked(shop, "hat", "Hats", **web)])
    shop.clock.forward(60_000)
    await shop.person("anna", tag)
    await shop.journal.append_events(
        [
            shop.event("identify", user_id="anna", anonymous_id="v-anna"),
            looked(shop, "boot", user_id="anna"),
            shop.event("track", name="Paid", user_id="anna", source="till"),
        ]
    )
    await shop.folded()
    await shop.hear(tag, seconds=10)
    await shop.folded()
    root, now = await person(shop), shop.clock()
    found = await shop.state.read(lambda s: behaviour_of(s, root, now))
    assert found.last_seen.keys() == {"web", "app", "server", "floor"}
    assert found.last_seen["web"] == began
    assert found.recent[0].product_id == "boot"
    assert {one.product_id for one in found.recent} == {"boot", "hat", "runner"}
    assert [(one.category, one.views) for one in found.categories] == [("Shoes", 2), ("Hats", 1)]
    assert [(one.zone_id, one.visits) for one in found.zones] == [("a", 1)]
    assert 5_000 < found.zones[0].dwell_ms <= 10_000
    assert [one.category for one in found.zone_categories] == ["bags", "shoes"]
    assert [(one.store_id, one.left_at) for one in found.store_visits] == [("s1", None)]


async def test_viewed_products_for_an_offer(live_shop):
    shop = live_shop
    early = shop.clock() - 40 * DAY_MS
    await shop.journal.append_events(
        [
            looked(shop, "old", user_id="anna", occurred_at=early),
            looked(shop, "hat", "HATS", user_id="anna"),
            looked(shop, "boot", user_id="anna"),
        ]
    )
    await shop.folded()
    root = await person(shop)

    async def asked(**more) -> set[str]:
        found = await shop.state.read(lambda s: viewed_products(s, root, **more))
        return {one.product_id for one in found}

    assert await asked() == {"old", "hat", "boot"}
    assert await asked(since=shop.clock() - DAY_MS) == {"hat", "boot"}
    assert await asked(until=early) == {"old"}
    assert await asked(until=early - 1) == set()
    assert len(await asked(limit=1)) == 1


async def test_an_event_that_came_twice_is_one_view(live_shop):
    shop = live_shop
    event = looked(shop, "boot", user_id="anna")
    await shop.journal.append_events([event])
    await shop.folded()
    shop.clock.forward(9 * DAY_MS)
    assert await shop.journal.forget_old_messages() == 1
    await shop.journal.append_events([event])
    await shop.folded()
    root = await person(shop)
    found = await shop.state.read(lambda s: behaviour_of(s, root, shop.clock()))
    assert [one.views for one in found.products] == [1]


async def test_views_of_before_properties_had_a_column_count(live_shop):
    shop = live_shop
    event = looked(shop, "boot", user_id="anna")
    await shop.journal.append_events([event])
    await shop.folded()
    body = behaviour.msgspec.msgpack.encode(event)
    await shop.state.write(
        lambda s: s._connection.execute("update events set properties = null, body = ?", (body,))
    )
    root = await person(shop)
    assert [one.product_id for one in await shop.state.read(lambda s: viewed_products(s, root))] == ["boot"]


# Consent ----------------------------------------------------------------------------------------------------


async def test_consent_with_its_history(live_shop):
    shop = live_shop
    await sources(shop)
    web = {"anonymous_id": "v-anna", "source": "web", "proven": False}

    async def say(kind: str, consent: dict, **who) -> None:
        shop.clock.forward(1000)
        await shop.journal.append_events([shop.event(kind, consent=consent, **who)])

    await say("page", {"ads": True}, **web)
    await say("page", {"ads": True}, **web)  # a consent manager repeats itself
    await say("identify", {"ads": True, "push": True}, user_id="anna", anonymous_id="v-anna")
    await say("consent", {"push": False}, user_id="anna")
    await say("consent", {"ads": False}, anonymous_id="someone", user_id="anna", proven=False, source="web")
    await shop.folded()
    root = await person(shop)
    history = await shop.state.read(lambda s: consent_history(s, root))
    told = [(one.purpose, one.granted, one.said_by, one.proven, one.source, one.channel) for one in history]
    assert told == [
        ("ads", False, "user_id:anna", False, None, "unknown"),
        ("push", False, "user_id:anna", True, "app", "app"),
        ("push", True, "user_id:anna", True, "app", "app"),
        ("ads", True, "user_id:anna", True, "app", "app"),
        ("ads", True, "anonymous_id:v-anna", False, "web", "web"),
    ]
