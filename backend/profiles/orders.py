"""Purchases, pure: what an event says of an order, and the order as a function of everything said of it.

Amounts follow Segment's "Spec: V2 Ecommerce Events" and are whole hundredths of the currency's unit. An
order is worth its `total`, or else its `revenue`, `subtotal`, or the sum of its lines, the first that can be
read. Nothing here depends on the order in which events arrive.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from sdk_bridge.wire.app_events import AppEvent

What: TypeAlias = Literal["completed", "updated", "refunded", "cancelled"]
Status: TypeAlias = Literal["completed", "cancelled", "incomplete"]

ORDER_EVENTS: Final[Mapping[str, What]] = {
    "Order Completed": "completed",
    "Completed Order": "completed",  # as version 1 of the spec has it
    "Order Updated": "updated",
    "Order Refunded": "refunded",
    "Order Cancelled": "cancelled",
    "Order Canceled": "cancelled",
}
MAX_HUNDREDTHS: Final = 10**13  # beyond any shop's order; sums of millions of them still fit 64 bits
MAX_QUANTITY: Final = 1_000_000
MAX_LINES: Final = 500  # an event has 32 KB
MAX_ID: Final = 512
_AMOUNTS: Final = ("total", "revenue", "subtotal")
_PRODUCT_IDS: Final = ("product_id", "productId", "sku", "id")
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


class Unreadable(ValueError):
    """The value is no amount, count or name that we could use; the text is its beginning."""


class Line(Struct, frozen=True):
    """A product in an order; `price` is of one."""

    product_id: str
    category: str | None
    quantity: float
    price: int | None


class OrderStatement(Struct, frozen=True):
    """What one event says of an order. `order_id` is empty where it names none that could be used.

    `whole`: a refund of everything. `unreadable` counts the values that are no amounts, counts or names.
    """

    order_id: str
    event_hash: int
    event_id: int
    what: What
    occurred_at: int
    total: int | None = None
    currency: str | None = None
    refund_id: str | None = None
    whole: bool = False
    has_lines: bool = False
    unreadable: int = 0

    @property
    def stamp(self) -> tuple[int, int]:
        """The later of two by this one counts."""
        return self.occurred_at, self.event_hash


class Order(Struct, frozen=True):
    """An order as it stands. `lines_of` is the hash of the event whose lines count."""

    order_id: str
    status: Status
    completed_at: int | None
    total: int | None
    currency: str | None
    refunded: int
    stated_at: int
    stated_hash: int
    lines_of: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a person's completed orders in one currency come to; `average` is of one order."""

    currency: str | None
    orders: int
    total: int
    refunded: int
    average: int


@dataclass(frozen=True, slots=True)
class Purchases:
    """A person's purchases in a few figures; times are unix milliseconds."""

    orders: int
    first_at: int | None
    last_at: int | None
    spent: list[Spent]
    unreadable: int


# An event, read -------------------------------------------------------------------------------------------


def read_order(event: AppEvent, event_id: int, event_hash: int) -> tuple[OrderStatement, list[Line]] | None:
    """What the event says of an order and its lines; None for one that says nothing of any."""
    what = ORDER_EVENTS.get(event.name or "") if event.kind == "track" else None
    if what is None:
        return None
    reader = _Reader(event.properties)
    items = reader.lines()
    lines = [line for line in items if line.product_id]
    total = reader.amount(_AMOUNTS)
    said_nothing = total is None and not items and not reader.unreadable
    if total is None and items:
        total = None if reader.partial else _sum(items)
        reader.unreadable += what == "refunded" and total is None  # it would pass for a refund of nothing
    statement = OrderStatement(
        order_id=reader.identifier("order_id", "orderId") or "",
        event_hash=event_hash,
        event_id=event_id,
        what=what,
        occurred_at=event.occurred_at,
        total=total,
        currency=reader.currency(),
        refund_id=reader.identifier("refund_id", "refundId", needed=False),
        whole=what == "refunded" and said_nothing,
        has_lines=bool(lines),
        unreadable=reader.unreadable,
    )
    return statement, lines


def hundredths(value: object) -> int:
    """An amount in hundredths, half a hundredth rounded up; plain decimals in a string are amounts, too.

    Raises Unreadable for what is negative, not finite, beyond any order, or no number.
    """
    number = _decimal(value)
    if not 0 <= number <= MAX_HUNDREDTHS // 100:
        raise Unreadable(repr(value)[:40])
    return int((number * 100).quantize(Decimal(1), ROUND_HALF_UP))


def _decimal(value: object) -> Decimal:
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        return Decimal(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(min(value, 10**30))
        if number.is_finite():
            return number
    raise Unreadable(repr(value)[:40])


class _Reader:
    """Takes from a stranger's properties what can be used, and counts what cannot."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = properties
        self.unreadable = 0
        self.partial = False

    def amount(self, names: Sequence[str]) -> int | None:
        """The first of these that can be read."""
        for name in names:
            value = self._properties.get(name)
            if value is None:
                continue
            try:
                return hundredths(value)
            except Unreadable:
                self.unreadable += 1
        return None

    def identifier(self, *names: str, needed: bool = True) -> str | None:
        given = next((self._properties[name] for name in names if self._properties.get(name)), None)
        found = text(given)
        if found is None and (needed or given is not None):
            self.unreadable += 1
        return found

    def currency(self) -> str | None:
        given = self._properties.get("currency")
        named = given.strip().upper() if isinstance(given, str) else ""
        return named if _CURRENCY.fullmatch(named) else None

    def lines(self) -> list[Line]:
        """What was bought, without a `product_id` where it says none. `partial`: there was more of it."""
        given = self._properties.get("products")
        if given is None:
            return []
        if not isinstance(given, list):
            self.unreadable += 1
            return []
        read = [line for item in given[:MAX_LINES] if (line := self._line(item)) is not None]
        self.unreadable += len(given[MAX_LINES:])
        self.partial = len(read) < len(given)
        return read

    def _line(self, item: object) -> Line | None:
        if not isinstance(item, dict):
            self.unreadable += 1
            return None
        product_id = product_of(item)
        self.unreadable += product_id is None
        try:
            quantity = _quantity(item.get("quantity"))
        except Unreadable:
            self.unreadable += 1
            return None
        return Line(product_id or "", text(item.get("category")), quantity, self._price(item.get("price")))

    def _price(self, value: object) -> int | None:
        if value is None:
            return None
        try:
            return hundredths(value)
        except Unreadable:
            self.unreadable += 1
            return None


def product_of(properties: Mapping[str, Any]) -> str | None:
    """The product that properties name."""
    return next((found for name in _PRODUCT_IDS if (found := text(properties.get(name)))), None)


def text(value: object) -> str | None:
    """A name out of a stranger's JSON; whole numbers are names as well."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if -(10**18) < value < 10**18 else None
    if not isinstance(value, str) or "\0" in value:
        return None
    return value.strip()[:MAX_ID] or None


def _quantity(value: object) -> float:
    if value is None:
        return 1.0
    number = _decimal(value)
    if not 0 < number <= MAX_QUANTITY:
        raise Unreadable(repr(value)[:40])
    return float(number)


def _sum(lines: Iterable[Line]) -> int | None:
    """What the lines come to; None where a price is missing, for a part would pass for the whole."""
    total = Decimal(0)
    for line in lines:
        if line.price is None:
            return None
        total += Decimal(repr(line.quantity)) * line.price
    whole = int(total.quantize(Decimal(1), ROUND_HALF_UP))
    return whole if whole <= MAX_HUNDREDTHS else None


# An order, from everything said of it ---------------------------------------------------------------------


def order_of(order_id: str, said: Iterable[OrderStatement]) -> Order | None:
    """The order that these statements make, whatever their sequence; None for no statement.

    The latest amount and the latest lines count, the earliest completion is when it was bought, and a
    cancellation stands unless the order was completed again after it.
    """
    statements = sorted(said, key=lambda one: one.stamp)
    if not statements:
        return None
    buying = [one for one in statements if one.what in ("completed", "updated")]
    valued = next((one for one in reversed(buying) if one.total is not None), None)
    stated = valued or statements[-1]
    total = valued.total if valued else None
    currencies = [one.currency for one in (stated, *reversed(statements)) if one.currency]
    return Order(
        order_id=order_id,
        status=_status(statements),
        completed_at=min((one.occurred_at for one in buying), default=None),
        total=total,
        currency=currencies[0] if currencies else None,
        refunded=_refunded(statements, total),
        stated_at=stated.occurred_at,
        stated_hash=stated.event_hash,
        lines_of=next((one.event_hash for one in reversed(buying) if one.has_lines), None),
    )


def _status(statements: Sequence[OrderStatement]) -> Status:
    last = next((one.what for one in reversed(statements) if one.what in ("completed", "cancelled")), None)
    if last == "cancelled":
        return "cancelled"
    return "completed" if any(one.what in ("completed", "updated") for one in statements) else "incomplete"


def _refunded(statements: Iterable[OrderStatement], total: int | None) -> int:
    """Each refund once, by the shop's id of it or by its event; never more than was paid."""
    refunds = {one.refund_id or one.event_hash: one for one in statements if one.what == "refunded"}
    if total is not None and any(one.whole for one in refunds.values()):
        return total
    amount = sum(one.total or 0 for one in refunds.values())
    return amount if total is None else min(amount, total)


def purchases_of(orders: Iterable[Order], unreadable: int) -> Purchases:
    """What orders come to; cancelled ones, and those of which only a refund is known, do not count."""
    counted = [order for order in orders if order.status == "completed" and order.completed_at is not None]
    times = [order.completed_at for order in counted if order.completed_at is not None]
    currencies = sorted({order.currency for order in counted}, key=lambda currency: currency or "")
    return Purchases(
        orders=len(counted),
        first_at=min(times, default=None),
        last_at=max(times, default=None),
        spent=[_spent(currency, counted) for currency in currencies],
        unreadable=unreadable,
    )


def _spent(currency: str | None, orders: Iterable[Order]) -> Spent:
    theirs = [order for order in orders if order.currency == currency]
    total = sum(order.total or 0 for order in theirs)
    return Spent(
        currency, len(theirs), total, sum(order.refunded for order in theirs), round(total / len(theirs))
    )
