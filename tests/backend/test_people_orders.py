"""Purchases: what an event says of an order, and orders as a function of the set of what was said."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.profiles.orders import (
    MAX_HUNDREDTHS,
    Line,
    OrderStatement,
    Unreadable,
    hundredths,
    order_of,
    purchases_of,
    read_order,
)
from backend.storage import orders
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000


def said(name: str, **properties) -> tuple[OrderStatement, list[Line]]:
    event = AppEvent("track", "m1", "web", NOON, NOON, name=name, properties=properties)
    read = read_order(event, 1, 7)
    assert read is not None
    return read


# Amounts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (49.9, 4990), (19.99, 1999), (0, 0), (100, 10_000), (0.005, 1), (0.004, 0), ("49.90", 4990),
        (" 7 ", 700), (10**11, MAX_HUNDREDTHS),
    ],
)  # fmt: skip
def test_amounts_are_hundredths(value, wanted):
    assert hundredths(value) == wanted


HOSTILE = [
    math.nan, math.inf, -math.inf, -1, -0.01, 10**12, 10**400, 1e300, True, None, "", "49,90 €", "NaN", "-5",
    "1e9", "٤٩", [], {}, "9" * 40, b"5",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_what_is_no_amount_is_unreadable(value):
    with pytest.raises(Unreadable):
        hundredths(value)


@pytest.mark.parametrize(
    ("properties", "total"),
    [
        ({"total": 50, "revenue": 40, "subtotal": 30}, 5000),
        ({"revenue": 40, "subtotal": 30}, 4000),
        ({"subtotal": 30}, 3000),
        ({"total": "much", "revenue": 40}, 4000),
        ({"products": [{"sku": "a", "price": 10, "quantity": 2}, {"product_id": 7, "price": "2.50"}]}, 2250),
        ({"products": [{"sku": "a", "price": 10}, {"sku": "b"}]}, None),
        ({"products": [{"sku": "a", "price": 10}, {"name": "gift wrapping", "price": 2}]}, 1200),
        ({"products": [{"sku": "a", "price": 10}, {"sku": "b", "price": 2, "quantity": "two"}]}, None),
        ({"products": [{"sku": "a", "price": 10}, "b"]}, None),
        ({"products": [{"sku": "salad", "price": 3.99, "quantity": 0.25}]}, 100),
        ({}, None),
    ],
)
def test_the_first_amount_that_can_be_read_counts(properties, total):
    assert said("Order Completed", order_id="o1", **properties)[0].total == total


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_hostile_values_are_counted_and_break_nothing(value):
    statement, lines = said(
        "Order Completed",
        order_id="o1",
        total=value,
        products=[{"sku": "a", "price": value}, value],
    )
    assert statement.total is None
    assert lines == [Line("a", None, 1.0, None)]
    assert statement.unreadable == (1 if value is None else 3)


@pytest.mark.parametrize(
    "products", ["all", 5, {"a": 1}, [["x"]], [{"quantity": -1, "sku": "a"}], [{"sku": "a\0"}]]
)
def test_what_are_no_products_are_none(products):
    statement, lines = said("Order Completed", order_id="o1", total=5, products=products)
    assert (statement.total, lines) == (500, [])
    assert statement.unreadable == 1


def test_goods_sent_back_without_their_price_are_counted_as_unreadable():
    """They would pass for a refund of nothing, and nobody would see that revenue is too high."""
    statement, lines = said("Order Refunded", order_id="o1", products=[{"sku": "a", "quantity": 1}])
    assert (statement.total, statement.whole, len(lines), statement.unreadable) == (None, False, 1, 1)
    priced, _ = said("Order Refunded", order_id="o1", products=[{"sku": "a", "price": 5}])
    assert (priced.total, priced.unreadable) == (500, 0)
    unnamed, kept = said("Order Refunded", order_id="o1", products=[{"name": "a", "price": 5}])
    assert (unnamed.total, unnamed.whole, kept, unnamed.unreadable) == (500, False, [], 1)


@pytest.mark.parametrize("order_id", [None, "", "  ", [], 1.5, True, "a\0b"])
def test_an_order_without_a_name_is_counted_as_unreadable(order_id):
    statement, _ = said("Order Completed", order_id=order_id, total=5)
    assert (statement.order_id, statement.unreadable) == ("", 1)


def test_other_events_say_nothing_of_orders():
    for kind, name in (("track", "Order completed soon"), ("page", "Order Completed"), ("track", None)):
        event = AppEvent(kind, "m1", "web", NOON, NOON, name=name, properties={"order_id": "1"})
        assert read_order(event, 1, 7) is None


# An order from statements -----------------------------------------------------------------------------------


def one(what: str, at: int, total: int | None = None, **more) -> OrderStatement:
    values = {"order_id": "o1", "event_hash": more.pop("event_hash", at), "event_id": at, **more}
    return OrderStatement(what=what, occurred_at=at, total=total, **values)


def twice(what: str, total: int, **more) -> list[OrderStatement]:
    return [one(what, 7, total, **more), one(what, 8, total, **more)]


@pytest.mark.parametrize(
    ("statements", "status", "completed_at", "total", "refunded"),
    [
        ([one("completed", 5, 1000)], "completed", 5, 1000, 0),
        ([one("completed", 5, 1000), one("completed", 7, 1000)], "completed", 5, 1000, 0),
        ([one("completed", 5, 1000), one("updated", 7, 800)], "completed", 5, 800, 0),
        ([one("completed", 5, 1000), one("updated", 7)], "completed", 5, 1000, 0),
        ([one("updated", 7, 800)], "completed", 7, 800, 0),
        ([one("completed", 5, 1000), one("cancelled", 7)], "cancelled", 5, 1000, 0),
        ([one("completed", 8, 1000), one("cancelled", 7)], "completed", 8, 1000, 0),
        ([one("completed", 5, 1000), one("cancelled", 7), one("updated", 9, 900)], "cancelled", 5, 900, 0),
        ([one("completed", 5, 1000), one("refunded", 7, whole=True)], "completed", 5, 1000, 1000),
        ([one("completed", 5, 1000), one("refunded", 7, 300)], "completed", 5, 1000, 300),
        ([one("completed", 5, 1000), *twice("refunded", 300)], "completed", 5, 1000, 600),
        ([one("completed", 5, 1000), *twice("refunded", 800)], "completed", 5, 1000, 1000),
        ([one("completed", 5, 1000), *twice("refunded", 300, refund_id="r")], "completed", 5, 1000, 300),
        ([one("refunded", 7, 300)], "incomplete", None, None, 300),
        ([one("cancelled", 7)], "cancelled", None, None, 0),
    ],
)  # fmt: skip
def test_what_becomes_of_an_order(statements, status, completed_at, total, refunded):
    order = order_of("o1", statements)
    assert (order.status, order.completed_at, order.total, order.refunded) == (
        status,
        completed_at,
        total,
        refunded,
    )


statements = st.lists(
    st.builds(
        OrderStatement,
        order_id=st.just("o1"),
        event_hash=st.integers(0, 50),
        event_id=st.integers(0, 9),
        what=st.sampled_from(["completed", "updated", "refunded", "cancelled"]),
        occurred_at=st.integers(0, 5),
        total=st.none() | st.integers(0, 5000),
        currency=st.none() | st.sampled_from(["EUR", "USD"]),
        refund_id=st.none() | st.sampled_from(["r1", "r2"]),
        whole=st.booleans(),
        has_lines=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda said: said.event_hash,
)


@given(statements, st.randoms(use_true_random=False))
def test_the_order_of_arrival_is_nothing(told, chance):
    shuffled = list(told)
    chance.shuffle(shuffled)
    assert order_of("o1", shuffled) == order_of("o1", told)


@given(statements)
def test_nothing_is_refunded_beyond_the_total(told):
    order = order_of("o1", told)
    if order is not None and order.total is not None:
        assert 0 <= order.refunded <= order.total


def test_purchases_go_by_currency_and_leave_out_what_was_cancelled():
    told = [
        order_of("a", [one("completed", 5, 1000, currency="EUR")]),
        order_of("b", [one("completed", 9, 3001, currency="EUR"), one("refunded", 10, 500)]),
        order_of("c", [one("completed", 7, 700, currency="USD")]),
        order_of("d", [one("completed", 1, 9999, currency="EUR"), one("cancelled", 2)]),
        order_of("e", [one("refunded", 1, 9999, currency="EUR")]),
    ]
    found = purchases_of(told, 3)
    assert (found.orders, found.first_at, found.last_at, found.unreadable) == (3, 5, 9, 3)
    assert [(s.currency, s.orders, s.total, s.refunded, s.average) for s in found.spent] == [
        ("EUR", 2, 4001, 500, 2000), ("USD", 1, 700, 0, 700),
    ]  # fmt: skip


# In the fold ------------------------------------------------------------------------------------------------


def bought(shop, user: str | None, order_id: str, name: str = "Order Completed", **more) -> AppEvent:
    who = {"user_id": user} if user else {"anonymous_id": more.pop("visitor"), "proven": False}
    at = {key: more.pop(key) for key in ("message_id", "occurred_at", "received_at") if key in more}
    return shop.event(
        "track", name=name, properties={"order_id": order_id, "currency": "EUR", **more}, **who, **at
    )


async def test_orders_stand_in_the_database(live_shop):
    shop = live_shop
    lines = [
        {"product_id": "p1", "category": "Shoes", "price": 20, "quantity": 2},
        {"sku": "p2", "price": 9.9},
    ]
    first = bought(shop, "anna", "o1", total=49.9, products=lines)
    await shop.journal.append_events(
        [
            first,
            bought(shop, "anna", "o1", "Order Refunded", total=9.9),
            bought(shop, "anna", "o2", total=5, occurred_at=shop.clock() - 1000),
            bought(shop, "anna", "o3", "Order Cancelled"),
            bought(shop, "anna", "", total="a lot"),
        ]
    )
    await shop.folded()
    rows = await shop.rows("select order_id, status, total, refunded from orders order by order_id")
    assert [tuple(row.values()) for row in rows] == [
        ("o1", "completed", 4990, 990), ("o2", "completed", 500, 0), ("o3", "cancelled", None, 0),
    ]  # fmt: skip
    [person] = await shop.column("select profile_id from profiles")
    found = await shop.state.read(lambda s: orders.purchases(s, person))
    assert (found.orders, found.unreadable, found.spent[0].total) == (2, 2, 5490)
    products = await shop.state.read(lambda s: orders.bought_products(s, person))
    assert [(line.product_id, line.category, line.quantity, line.price) for line in products] == [
        ("p1", "Shoes", 2.0, 2000), ("p2", None, 1.0, 990),
    ]  # fmt: skip


async def test_the_same_event_again_changes_nothing(live_shop):
    """Seven days later its message id is forgotten."""
    shop = live_shop
    events = [bought(shop, "anna", "o1", total=50), bought(shop, "anna", "o1", "Order Refunded", total=10)]
    await shop.journal.append_events(events)
    await shop.folded()
    before = await shop.rows("select * from orders")
    shop.clock.forward(9 * 24 * 3_600_000)
    assert await shop.journal.forget_old_messages() == 2
    assert await shop.journal.append_events(events) == 2
    await shop.folded()
    assert await shop.column("select count(*) from events") == [4]
    assert await shop.rows("select * from orders") == before


async def test_one_order_that_browser_and_server_report_is_one(live_shop):
    shop = live_shop
    lines = [{"product_id": "p1", "price": 50}]
    await shop.journal.append_events(
        [
            bought(shop, None, "o1", visitor="v-anna-1", total=50, products=lines),
            shop.event("identify", user_id="anna", anonymous_id="v-anna-1"),
            bought(shop, "anna", "o1", total=50, products=lines),
            bought(shop, "anna", "o1", "Order Refunded", total=20),
        ]
    )
    await shop.folded()
    assert await shop.column("select count(*) from orders") == [2]
    [person] = await shop.column("select profile_id from profiles where id_type = 'user_id'")
    found = await shop.state.read(lambda s: orders.purchases(s, person))
    assert (found.orders, found.spent[0].total, found.spent[0].refunded) == (1, 5000, 2000)
    assert len(await shop.state.read(lambda s: orders.bought_products(s, person))) == 1


async def test_hostile_orders_stop_no_fold(live_shop):
    shop = live_shop
    events = [
        bought(
            shop,
            "anna",
            f"o{number}",
            total=value,
            products=[{"sku": value, "price": value, "quantity": value}],
        )
        for number, value in enumerate(
            value for value in HOSTILE if not isinstance(value, bytes | int) or value == -1
        )
    ]
    for event in events:
        msgspec.msgpack.encode(event)  # the bridge would have refused anything else
    await shop.journal.append_events(events)
    await shop.folded()
    assert await shop.column("select count(*) from events") == [len(events)]
    assert await shop.column("select count(*) from orders where total is not null") == [0]
    assert (
        await shop.journal_file.read(lambda s: s._connection.execute("select * from dead_letters").fetchall())
        == []
    )


async def test_scores_read_nothing_but_the_index(state):
    sql = """select profile_id, count(*), max(completed_at), sum(total - refunded) from orders
             where status = 'completed' group by profile_id"""
    plan = await state.read(lambda s: [row[3] for row in s._connection.execute(f"explain query plan {sql}")])
    assert plan == ["SEARCH orders USING COVERING INDEX orders_for_scores (status=?)"]
