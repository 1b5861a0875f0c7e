"""Imported contacts and orders to events of the built-in source `import`, purely."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from backend.imports.rows import ContactRow, Identified, OrderLine, OrderRow
from sdk_bridge.wire.app_events import AppEvent

SOURCE = "import"
"""Its rows come from the shop's own systems through a token of a marketer: what they say is proven."""

_SECONDARY = ("loyalty_id", "email", "phone")
_NO_DIGITS = re.compile(r"[^0-9]")


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a batch came, of which import, and the secret that keys what is derived from identifiers."""

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
    """A contact: an identify, its consents, and a link for every further identifier."""
    who = _Who.of(row, arrival)
    subject = _hash(arrival.secret, "contact", who.subject)
    content = _hash(
        arrival.secret, "content", _canonical((who.links, row.traits, row.consent, row.consent_at))
    )
    stem = f"contact-{_hex(subject)}-{_hex(content)}-{row.as_of}"
    identify = _event(row, arrival, who, "identify", f"{stem}-i", row.as_of, traits=_traits(row))
    events = (identify, *_consents(row, arrival, who, stem), *_links(row, arrival, who, stem))
    return Prepared(subject, content, events, events)


def order(row: OrderRow, arrival: Arrival) -> Prepared:
    """An order or a refund, named as in Segment's spec; one that changed since becomes `Order Updated`."""
    who = _Who.of(row, arrival)
    content = _hash(
        arrival.secret, "content", _canonical((who.subject, row.ordered_at, _order_properties(row)))
    )
    if row.refund:
        subject = _hash(arrival.secret, "refund", f"{row.order_id}\0{row.ordered_at}\0{row.total}")
        refunded = _order_event(
            row, arrival, who, "Order Refunded", f"refund-{_hex(subject)}", row.ordered_at
        )
        return Prepared(subject, content, (refunded,), ())
    subject = _hash(arrival.secret, "order", row.order_id)
    stem = f"order-{_hex(subject)}"
    completed = _order_event(row, arrival, who, "Order Completed", stem, row.ordered_at)
    again = f"{stem}-{_hex(content)}-{row.as_of}"
    updated = _order_event(row, arrival, who, "Order Updated", again, max(row.as_of, row.ordered_at))
    return Prepared(subject, content, (completed,), (updated,))


def normal(kind: str, value: str) -> str:
    """One spelling of an identifier: an e-mail address in lower case, a telephone number's digits."""
    if kind == "email":
        return value.strip().casefold()
    if kind == "phone":
        return ("+" if value.strip().startswith("+") else "") + _NO_DIGITS.sub("", value)
    return value.strip()


# Who it is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Who:
    """Whose row it is: `user_id`, and an unguessable anonymous id for each further identifier.

    The order that names only an e-mail address and the contact with this address get the same anonymous id;
    a contact that also has a user id claims it, and the usual rules of identity do the rest. The ids are
    keyed: a stranger with a public write key cannot speak for them.
    """

    user_id: str | None
    links: tuple[str, ...]
    subject: str

    @classmethod
    def of(cls, row: Identified, arrival: Arrival) -> "_Who":
        known = [(kind, value) for kind in _SECONDARY if (value := getattr(row, kind))]
        links = tuple(_anonymous(arrival.secret, kind, value) for kind, value in known)
        return cls(row.user_id, links, f"user_id:{row.user_id}" if row.user_id else links[0])

    @property
    def anonymous_id(self) -> str | None:
        return self.links[0] if self.links else None


def _anonymous(secret: str, kind: str, value: str) -> str:
    text = f"{kind}\0{normal(kind, value)}".encode()
    return f"import-{kind}-{hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:32]}"


def _links(row: ContactRow, arrival: Arrival, who: _Who, stem: str) -> tuple[AppEvent, ...]:
    """The identify links the first; an alias each of the others, where there is a user to link them to."""
    if who.user_id is None:
        return ()
    return tuple(
        _event(row, arrival, who, "alias", f"{stem}-a{number}", row.as_of, previous_id=link)
        for number, link in enumerate(who.links[1:])
    )


# What it says -------------------------------------------------------------------------------------------


def _traits(row: ContactRow) -> dict[str, Any]:
    own = {kind: value for kind in _SECONDARY if (value := getattr(row, kind))}
    return {**row.traits, **own}


def _consents(row: ContactRow, arrival: Arrival, who: _Who, stem: str) -> tuple[AppEvent, ...]:
    """A refusal counts as of the file; a yes from the day it was given, where the file knows it."""
    yes_at = row.as_of if row.consent_at is None else row.consent_at
    said = (
        ("n", row.as_of, {purpose: False for purpose, granted in row.consent.items() if not granted}),
        ("y", yes_at, {purpose: True for purpose, granted in row.consent.items() if granted}),
    )
    return tuple(
        _event(row, arrival, who, "consent", f"{stem}-{mark}", at, consent=consent)
        for mark, at, consent in said
        if consent
    )


def _order_event(row: OrderRow, arrival: Arrival, who: _Who, name: str, message: str, at: int) -> AppEvent:
    properties = _order_properties(row)
    return _event(row, arrival, who, "track", message, at, name=name, properties=properties)


def _order_properties(row: OrderRow) -> dict[str, Any]:
    told = {
        "order_id": row.order_id,
        "total": row.total / 100,
        "revenue": row.total / 100,
        "currency": row.currency,
        "coupon": row.coupon,
        "products": [_line(line) for line in row.products],
    }
    return {name: value for name, value in told.items() if value not in (None, [])}


def _line(line: OrderLine) -> dict[str, Any]:
    told = msgspec.structs.asdict(line)
    told["price"] = None if line.price is None else line.price / 100
    told["quantity"] = int(line.quantity) if line.quantity.is_integer() else line.quantity
    return {name: value for name, value in told.items() if value is not None}


def _event(
    row: Identified, arrival: Arrival, who: _Who, kind: Any, message_id: str, at: int, **more: Any
) -> AppEvent:
    at = min(at, arrival.received_at)
    return AppEvent(
        kind=kind,
        message_id=message_id,
        source=SOURCE,
        occurred_at=at,
        received_at=arrival.received_at,
        original_at=at,
        index=row.line,
        user_id=who.user_id,
        anonymous_id=who.anonymous_id,
        proven=True,
        context={"import": {"id": arrival.import_id, "line": row.line}},
        **more,
    )


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _hash(secret: str, purpose: str, text: str) -> int:
    """64 bits, signed, as databases store them; keyed, so that nobody can try out who was imported."""
    digest = hmac.new(secret.encode(), f"{purpose}\0{text}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _hex(number: int) -> str:
    return (number % (1 << 64)).to_bytes(8, "big").hex()
