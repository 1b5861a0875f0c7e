"""Purchases in the database: statements as they come, orders as they follow; and what a person bought."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import asdict

from backend.profiles.orders import Order, OrderStatement, Purchases, order_of, purchases_of, read_order
from backend.storage.session import Row, Session
from sdk_bridge.wire.app_events import AppEvent

_FIELDS = OrderStatement.__struct_fields__
MAX_BOUGHT = 2_000  # lines read at once; a wholesaler's history must not fill the memory


@dataclass(frozen=True, slots=True)
class Bought:
    """A line of a completed order; `price` is of one, in hundredths, `at` unix milliseconds."""

    order_id: str
    product_id: str
    category: str | None
    quantity: float
    price: int | None
    at: int


def keep_order(
    session: Session, profile_id: str | None, event: AppEvent, event_id: int, event_hash: int
) -> None:
    """Keeps what an event says of an order, and the order as it stands then; in the fold's transaction."""
    read = read_order(event, event_id, event_hash) if profile_id is not None else None
    if profile_id is None or read is None:
        return
    statement, lines = read
    if not session.run("keep_order_statement", profile_id=profile_id, **_values(statement)):
        return
    key = {"profile_id": profile_id, "order_id": statement.order_id, "event_hash": event_hash}
    session.many(
        "keep_order_line", [{**key, "line": number, **asdict(line)} for number, line in enumerate(lines)]
    )
    refold(session, profile_id, statement.order_id)


def forget_order_event(session: Session, profile_id: str, event: AppEvent, event_hash: int) -> None:
    """Takes an event's word out of the order it spoke of."""
    read = read_order(event, 0, event_hash)
    if read is None:
        return
    key = {"profile_id": profile_id, "order_id": read[0].order_id}
    session.run("drop_order_lines", event_hash=event_hash, **key)
    if session.run("drop_order_statement", event_hash=event_hash, **key):
        refold(session, profile_id, read[0].order_id)


def refold(session: Session, profile_id: str, order_id: str) -> None:
    """Makes the order's row from its statements. What named no order makes none."""
    if not order_id:
        return
    rows = session.rows("order_statements", profile_id=profile_id, order_id=order_id)
    order = order_of(order_id, _statements(rows))
    if order is None:
        session.run("drop_order", profile_id=profile_id, order_id=order_id)
    else:
        session.run("put_order", profile_id=profile_id, **asdict(order))


def orders_of(session: Session, person: str) -> list[Order]:
    """A person's orders, the newest first; one that two identifiers reported is one order."""
    return _orders(_said_of_person(session, person))


def purchases(session: Session, person: str) -> Purchases:
    """A person's purchases in a few figures."""
    said = _said_of_person(session, person)
    return purchases_of(_orders(said), sum(one.unreadable for one in said))


def bought_products(session: Session, person: str, since: int = 0, limit: int = MAX_BOUGHT) -> list[Bought]:
    """What a person bought since a time (unix ms), the newest first, each order once."""
    rows = session.rows("order_lines_of_person", profile_id=person, since=since, limit=limit)
    reports: dict[str, int] = {}
    return [
        Bought(
            row["order_id"],
            row["product_id"],
            row["category"],
            row["quantity"],
            row["price"],
            row["completed_at"],
        )
        for row in rows
        if reports.setdefault(row["order_id"], row["event_hash"]) == row["event_hash"]
    ]


def _orders(said: Iterable[OrderStatement]) -> list[Order]:
    by_order: dict[str, list[OrderStatement]] = {}
    for statement in said:
        if statement.order_id:
            by_order.setdefault(statement.order_id, []).append(statement)
    orders = [order for name, one in by_order.items() if (order := order_of(name, one)) is not None]
    return sorted(
        orders, key=lambda order: (order.completed_at or order.stated_at, order.order_id), reverse=True
    )


def _said_of_person(session: Session, person: str) -> list[OrderStatement]:
    return _statements(session.rows("order_statements_of_person", profile_id=person))


def _statements(rows: Iterable[Row]) -> list[OrderStatement]:
    return [
        OrderStatement(
            **{name: row[name] for name in _FIELDS if name not in ("whole", "has_lines")},
            whole=bool(row["whole"]),
            has_lines=bool(row["has_lines"]),
        )
        for row in rows
    ]


def _values(statement: OrderStatement) -> dict[str, Any]:
    return {**asdict(statement), "whole": int(statement.whole), "has_lines": int(statement.has_lines)}
