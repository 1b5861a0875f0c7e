"""Imported contacts and orders to events of the built-in source `import`, purely."""

import hmac
from dataclasses import dataclass
from typing import Any

import msgspec

from backend.imports.rows import ContactRow, Identified, OrderLine, OrderRow
from sdk_bridge.wire.app_events import AppEvent, ExternalId

SOURCE = "import"
"""Its rows come from the shop's own systems, through a marketer's token: what they say is proven."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a batch came, of which import, and the secret that keys the hashes."""

    received_at: int
    import_id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a row amounts to. `first` is journalled where nothing is known of its subject, `changed` where the
    last row about it said something else; where it said the same, nothing is."""

    subject_hash: int
    content_hash: int
    first: tuple[AppEvent, ...]
    changed: tuple[AppEvent, ...]


def contact(row: ContactRow, arrival: Arrival) -> Prepared:
    """A contact: an identify with every identifier and trait, and its consents."""
    subject = _hash(arrival.secret, "contact", _canonical(_identifiers(row)[0]))
    said = (_identifiers(row), row.traits, row.consent, row.consent_at)
    content = _hash(arrival.secret, "content", _canonical(said))
    stem = f"contact-{_hex(subject)}-{_hex(content)}-{row.as_of}"
    identify = _event(row, arrival, "identify", f"{stem}-i", row.as_of, traits=_traits(row))
    events = (identify, *_consents(row, arrival, stem))
    return Prepared(subject, content, events, events)


def order(row: OrderRow, arrival: Arrival) -> Prepared:
    """An order or a refund, named as in Segment's spec; one that changed since becomes `Order Updated`."""
    told = _order_properties(row)
    said = (_identifiers(row), row.ordered_at, told, *_cancellation(row))
    content = _hash(arrival.secret, "content", _canonical(said))
    if row.refund:
        return _refund(row, arrival, told, content)
    subject = _hash(arrival.secret, "order", row.order_id)
    stem = f"order-{_hex(subject)}"
    bought_at = min(row.ordered_at, arrival.received_at - 1) if row.cancelled else row.ordered_at
    completed = _event(row, arrival, "track", stem, bought_at, name="Order Completed", properties=told)
    again, at = f"{stem}-{_hex(content)}-{row.as_of}", max(row.as_of, row.ordered_at)
    updated = _event(row, arrival, "track", again, at, name="Order Updated", properties=told)
    if not row.cancelled:
        return Prepared(subject, content, (completed,), (updated,))
    first, later = (_cancelled(row, arrival, f"{one}-cancelled", told) for one in (stem, again))
    return Prepared(subject, content, (completed, first), (updated, later))


def _cancellation(row: OrderRow) -> tuple[Any, ...]:
    """What is told of it beside an order; nothing of one that stands."""
    return ("cancelled", row.cancelled_at) if row.cancelled else ()


def _cancelled(row: OrderRow, arrival: Arrival, message_id: str, told: dict[str, Any]) -> AppEvent:
    """Later than the order itself, whatever the file's clocks said; and not later than the file."""
    since = row.as_of if row.cancelled_at is None else min(row.cancelled_at, row.as_of)
    at = max(since, row.ordered_at + 1)
    return _event(row, arrival, "track", message_id, at, name="Order Cancelled", properties=told)


def _refund(row: OrderRow, arrival: Arrival, told: dict[str, Any], content: int) -> Prepared:
    """Each refund once: by its id, which may come to another amount later; else by its day and amount."""
    which = (row.ordered_at, row.total) if row.refund_id is None else (row.refund_id,)
    subject = _hash(arrival.secret, "refund", _canonical((row.order_id, *which)))
    refund_id = f"refund-{_hex(subject)}"
    properties = {**told, "refund_id": refund_id}

    def refunded(message_id: str, at: int) -> AppEvent:
        return _event(row, arrival, "track", message_id, at, name="Order Refunded", properties=properties)

    first = refunded(refund_id, row.ordered_at)
    if row.refund_id is None:
        return Prepared(subject, content, (first,), ())
    again = refunded(f"{refund_id}-{_hex(content)}-{row.as_of}", max(row.as_of, row.ordered_at))
    return Prepared(subject, content, (first,), (again,))


# Who it is ----------------------------------------------------------------------------------------------


def _identifiers(row: Identified) -> list[tuple[str, str]]:
    """Every identifier, the most telling first."""
    kinds = ("user_id", "email", "loyalty_id", "phone")
    return [(kind, value) for kind in kinds if (value := getattr(row, kind)) is not None]


def _external_ids(row: Identified) -> list[ExternalId]:
    found = (("email", row.email), ("loyalty_id", row.loyalty_id), ("phone", row.phone))
    return [ExternalId(kind, value) for kind, value in found if value is not None]  # type: ignore[arg-type]


# What it says -------------------------------------------------------------------------------------------


def _traits(row: ContactRow) -> dict[str, Any]:
    return {**row.traits, **{kind: value for kind, value in _identifiers(row) if kind != "user_id"}}


def _consents(row: ContactRow, arrival: Arrival, stem: str) -> tuple[AppEvent, ...]:
    """A refusal counts as of the file; a yes from the day it was given, where the file knows it."""
    yes_at = row.as_of if row.consent_at is None else row.consent_at
    said = (
        ("n", row.as_of, {purpose: False for purpose, granted in row.consent.items() if not granted}),
        ("y", yes_at, {purpose: True for purpose, granted in row.consent.items() if granted}),
    )
    return tuple(
        _event(row, arrival, "consent", f"{stem}-{mark}", at, consent=consent)
        for mark, at, consent in said
        if consent
    )


def _order_properties(row: OrderRow) -> dict[str, Any]:
    told = {
        "order_id": row.order_id,
        "total": row.total / 100,
        "currency": row.currency,
        "coupon": row.coupon,
        "products": [_line(line) for line in row.products],
    }
    return {name: value for name, value in told.items() if value not in (None, [])}


def _line(line: OrderLine) -> dict[str, Any]:
    told = msgspec.structs.asdict(line)
    told["price"] = None if line.price is None else line.price / 100
    told["quantity"] = int(line.quantity) if line.quantity == int(line.quantity) else line.quantity
    return {name: value for name, value in told.items() if value is not None}


def _event(row: Identified, arrival: Arrival, kind: Any, message_id: str, at: int, **more: Any) -> AppEvent:
    at = min(at, arrival.received_at)
    return AppEvent(
        kind=kind,
        message_id=message_id,
        source=SOURCE,
        occurred_at=at,
        received_at=arrival.received_at,
        original_at=at,
        index=row.line,
        user_id=row.user_id,
        proven=True,
        external_ids=_external_ids(row),
        context={"import": {"id": arrival.import_id, "line": row.line}},
        **more,
    )


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _hash(secret: str, purpose: str, text: str) -> int:
    """64 bits, signed, as databases store them; keyed, so that nobody can try out who was imported."""
    digest = hmac.digest(secret.encode(), f"{purpose}\0{text}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big", signed=True)


def _hex(number: int) -> str:
    return (number % (1 << 64)).to_bytes(8, "big").hex()
