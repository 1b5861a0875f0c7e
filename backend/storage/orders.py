"""Purchases in the database: statements as they come, orders as they follow; and what a person bought."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple

from backend.profiles.orders import Line, Order, OrderStatement, Purchases, order_of, purchases_of, read_order
from backend.storage.session import Rows, Session
from sdk_bridge.wire.app_events import AppEvent

_Key: TypeAlias = tuple[str, str]  # profile and order
_STATEMENT = ("profile_id", *OrderStatement.__struct_fields__)
_LINE = ("profile_id", "order_id", "event_hash", "line", *Line.__struct_fields__)
_ORDER = ("profile_id", *Order.__struct_fields__)
_json = msgspec.json.Encoder().encode
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


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a profile, with its number and the hash of its message id."""

    profile_id: str
    event: AppEvent
    event_id: int
    event_hash: int


def keep_orders(session: Session, told: Iterable[Told]) -> None:
    """Keeps what events say of orders, and each order as it stands then; in the fold's transaction.

    All of them at once: a statement for each row of each order took the fold most of its time.
    """
    read = [
        (one.profile_id, *found)
        for one in told
        if (found := read_order(one.event, one.event_id, one.event_hash)) is not None
    ]
    if not read:
        return
    said = _said_of(session, ((profile_id, statement.order_id) for profile_id, statement, _ in read))
    new: list[tuple[str, OrderStatement, list[Line]]] = []
    for profile_id, statement, lines in read:
        of_order = said.setdefault((profile_id, statement.order_id), {})
        if statement.event_hash not in of_order:  # the same event again changes nothing
            of_order[statement.event_hash] = statement
            new.append((profile_id, statement, lines))
    many = session.many
    many(
        "keep_order_statement",
        Rows(_STATEMENT, [_statement_row(one, statement) for one, statement, _ in new]),
    )
    rows = [
        (profile_id, statement.order_id, statement.event_hash, number, *astuple(line))
        for profile_id, statement, lines in new
        for number, line in enumerate(lines)
    ]
    many("keep_order_line", Rows(_LINE, rows))
    changed = {(profile_id, statement.order_id) for profile_id, statement, _ in new}
    orders = ((key[0], order_of(key[1], said[key].values())) for key in sorted(changed) if key[1])
    many("put_order", Rows(_ORDER, [(one, *astuple(order)) for one, order in orders if order is not None]))


def _said_of(session: Session, orders: Iterable[_Key]) -> dict[_Key, dict[int, OrderStatement]]:
    """What was said of orders, by the event. What named no order makes none, and is not looked for."""
    wanted: dict[str, dict[str, None]] = {}
    for profile_id, order_id in orders:
        if order_id:
            wanted.setdefault(profile_id, {})[order_id] = None
    said: dict[_Key, dict[int, OrderStatement]] = {}
    asked = _json({profile_id: list(theirs) for profile_id, theirs in wanted.items()}).decode()
    for profile_id, *row in session.rows("order_statements_named", wanted=asked):
        statement = _statement(row)
        said.setdefault((profile_id, statement.order_id), {})[statement.event_hash] = statement
    return said


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
    key = (profile_id, order_id)
    order = order_of(order_id, _said_of(session, [key]).get(key, {}).values())
    if order is None:
        session.run("drop_order", profile_id=profile_id, order_id=order_id)
    else:
        session.many("put_order", Rows(_ORDER, [(profile_id, *astuple(order))]))


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
    return [_statement(row) for row in session.rows("order_statements_of_person", profile_id=person)]


def _statement(row: Iterable[Any]) -> OrderStatement:
    """As the queries give them: the fields in their order."""
    *said, whole, has_lines, unreadable = row
    fields = (*said, bool(whole), bool(has_lines), unreadable)
    return OrderStatement(*fields)


def _statement_row(profile_id: str, statement: OrderStatement) -> tuple[Any, ...]:
    *said, whole, has_lines, unreadable = astuple(statement)
    return profile_id, *said, int(whole), int(has_lines), unreadable
