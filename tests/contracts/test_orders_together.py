"""Orders kept together or one by one, with repetitions: the same rows, in both engines."""

import itertools

import pytest

from backend.storage.orders import Told, keep_orders
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000
SHOES = [{"product_id": "p1", "category": "shoes", "quantity": 2, "price": 10}, {"product_id": "p2"}]


def told(number: int, profile: str, name: str, **properties) -> Told:
    at = NOON + number
    event = AppEvent(
        "track", f"m{number}", "server", at, at, user_id=profile, name=name, properties=properties
    )
    return Told(profile, event, 100 + number, 7919 * number)


EVENTS = [
    told(1, "anna", "Order Completed", order_id="o1", total=20, currency="EUR", products=SHOES),
    told(2, "berta", "Order Completed", order_id="o1", total=7),
    told(3, "anna", "Order Refunded", order_id="o1", total=5, refund_id="r1"),
    told(4, "anna", "Order Updated", order_id="o1", total=25, products=SHOES[:1]),
    told(5, "anna", "Order Completed", total=3, products=SHOES[1:]),  # names no order, and makes none
    told(6, "anna", "Order Completed", order_id='o"2\\', total=1),
    told(7, "berta", "Order Cancelled", order_id="o1"),
    told(8, "berta", "Product Viewed", product_id="p1"),
]
TABLES = {
    "orders": "profile_id, order_id, status, completed_at, total, currency, refunded, stated_at, lines_of",
    "order_statements": "profile_id, order_id, event_hash, what, total, whole, has_lines, unreadable",
    "order_lines": "profile_id, order_id, event_hash, line, product_id, category, quantity, price",
}


def rows_of(session) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: sorted(map(tuple, session.found(f"select {columns} from {table}", {})), key=repr)
        for table, columns in TABLES.items()
    }


@pytest.mark.parametrize(
    "sizes",
    [[8], [1] * 8, [3, 5], [2, 4, 2]],
    ids=["all at once", "one by one", "in two", "in three"],
)
async def test_orders_are_the_same_however_they_come(state, sizes):
    coming = iter(EVENTS)
    for size in sizes:
        part = list(itertools.islice(coming, size))
        await state.write(lambda session, part=part: keep_orders(session, [*part, *part[:1]]))
    await state.write(lambda session: keep_orders(session, reversed(EVENTS)))  # all of it once more
    found = await state.read(rows_of)
    assert [(row[0], row[1], row[2], row[4], row[6]) for row in found["orders"]] == [
        ("anna", 'o"2\\', "completed", 100, 0),
        ("anna", "o1", "completed", 2500, 500),
        ("berta", "o1", "cancelled", 700, 0),
    ]
    assert len(found["order_statements"]) == 7
    assert {row[1:5] for row in found["order_lines"]} == {
        ("", 5 * 7919, 0, "p2"),
        ("o1", 7919, 0, "p1"),
        ("o1", 7919, 1, "p2"),
        ("o1", 4 * 7919, 0, "p1"),
    }
    lines_of = {(row[0], row[1]): row[8] for row in found["orders"]}
    assert lines_of["anna", "o1"] == 4 * 7919


@pytest.mark.parametrize("engine", ["postgres"])
async def test_an_order_of_somebody_with_thousands_does_not_read_them_all(state, raw):
    """As of a till's own account, on which a shop books whoever has no card."""
    bought = [
        told(
            number, "till" if number % 2 else f"p{number}", "Order Completed", order_id=f"o{number}", total=1
        )
        for number in range(3_000)
    ]
    await state.write(lambda session: keep_orders(session, bought[1:]))
    await state.write(lambda session: session.line.tell("analyze order_statements"))

    def keep_one_more(session):
        keep_orders(session, [told(3_001, "till", "Order Refunded", order_id="o7", total=1)])
        return raw(
            session,
            "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables"
            " where relname = 'order_statements'",
        )

    [(read,)] = await state.write(keep_one_more)
    assert read < 10
