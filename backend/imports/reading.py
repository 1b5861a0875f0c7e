"""Records to rows: a contact, an order of several lines, or a product; or why a record is none."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import groupby, islice
from typing import Any, Final, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from backend.imports.mapping import ColumnMapping
from backend.imports.rows import AHEAD_MS, MAX_LINES, ContactRow, OrderRow, ProductRow, RowError
from backend.imports.tables import Record
from backend.imports.values import (
    NO,
    YES,
    DateReader,
    DecimalMark,
    ValueUnreadable,
    read_money,
    read_number,
    read_word,
)
from sdk_bridge.server.spelling import one_email, one_phone

Row: TypeAlias = ContactRow | OrderRow | ProductRow
R = TypeVar("R", ContactRow, OrderRow, ProductRow)

MAX_RECORDS = 1_000  # of one order; a file in which all have one id must not be read into memory
MAX_ORDERS = 5_000_000  # of one file; each is remembered with some 100 bytes, to find rows that stand apart
_SO_FAR: Final = "so-far"  # the refund of which a column tells: what had gone back when the file was written
_CANCELLED = frozenset({"cancelled", "canceled", "wc-cancelled", "storniert"})
_LINE = ("product_id", "sku", "brand", "category")
_AVAILABILITY = {
    "in_stock": "in_stock", "instock": "in_stock", "available": "in_stock", "available_for_order": "in_stock",
    "out_of_stock": "out_of_stock", "outofstock": "out_of_stock", "sold_out": "out_of_stock",
    "preorder": "preorder", "pre_order": "preorder",
    "backorder": "backorder", "back_order": "backorder", "on_backorder": "backorder",
    "unavailable": "unavailable", "discontinued": "unavailable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What a file does not say of itself. `as_of`: when it was true, in unix milliseconds.

    `numbered`: the start of order ids that are made from line numbers, where the file has none.
    """

    dates: DateReader
    as_of: int
    now: int
    decimal: DecimalMark = "auto"
    currency: str | None = None
    country: str | None = None
    yes: frozenset[str] = YES
    no: frozenset[str] = NO
    numbered: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """What became of one record, or of the records of one order. `present` is a product's id, where the id
    could be read though the row could not."""

    rows: tuple[Row, ...] = ()
    errors: tuple[RowError, ...] = ()
    present: str | None = None


def contacts(found: Iterable[Record], mapping: ColumnMapping, options: Options) -> Iterator[Read]:
    """A contact a record."""
    return (_one(record, lambda r: _contact(r, mapping, options)) for record in found)


def products(found: Iterable[Record], mapping: ColumnMapping, options: Options) -> Iterator[Read]:
    """A product a record."""
    for record in found:
        read = _one(record, lambda r: _product(r, mapping, options))
        known = mapping.cell(record.cells, "product_id")[:100]
        yield _with_present(read, known) if read.errors and known and known.isprintable() else read


def orders(found: Iterable[Record], mapping: ColumnMapping, options: Options) -> Iterator[Read]:
    """An order for all records that follow each other with the same order id; refunds may come later."""
    seen: set[int] = set()
    for order_id, group in groupby(found, lambda record: _order_id(record, mapping, options)):
        records = list(islice(group, MAX_RECORDS + 1))
        read = _order(order_id, records, mapping, options)
        bought = not all(isinstance(row, OrderRow) and row.refund for row in read.rows)
        if bought and hash(order_id) in seen:
            yield _refused(records, f"the order {order_id} began further up: sort the file by its order ids")
            continue
        if bought and len(seen) < MAX_ORDERS:
            seen.add(hash(order_id))
        yield read


_AT: Final = re.compile(r"(?P<text>.*) - at (?:`key` in )?`\$\.(?P<field>[^`]+)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_BEYOND: Final = re.compile(r"Expected `(int|float)` (?P<sign>[<>]=) .*")
_MUST: Final = {
    "currency": "three capital letters, such as EUR",
    "email": "an address, such as anna@shop.example",
    "phone": "a number with its country's code, such as +4366012345",
    "consent": "named in Latin letters, digits, `_`, `.` and `-`",
}


def _with_present(read: Read, product_id: str) -> Read:
    """A row that could not be read, though its product is in the feed; a feed may be all one line."""
    told = tuple(RowError(error.line, f"{product_id}: {error.reason}") for error in read.errors)
    return replace(read, errors=told, present=product_id)


def _one(record: Record, make: Any) -> Read:
    if record.error is not None:
        return _refused([record], record.error)
    try:
        return Read((make(record),))
    except (ValueUnreadable, msgspec.ValidationError) as error:
        return _refused([record], _reason(error))


def _refused(records: Iterable[Record], reason: str) -> Read:
    return Read(errors=tuple(RowError(record.line, reason) for record in records))


def _reason(error: Exception) -> str:
    """msgspec says `Expected … - at `$.email``; people read the field first, and no patterns."""
    missing = _MISSING.fullmatch(str(error))
    if missing is not None:
        return f"{missing['field']}: is empty"
    found = _AT.fullmatch(str(error))
    if found is None:
        return str(error)
    text, field = found["text"], found["field"]
    if "matching regex" in text:
        text = f"must be {_MUST.get(field, 'shorter, or without its control characters')}"
    elif beyond := _BEYOND.fullmatch(text):
        text = f"is too {'small' if beyond['sign'] == '>=' else 'large'}"
    return f"{field}: {text}"


def _made(kind: type[R], values: Mapping[str, Any]) -> R:
    return msgspec.convert({name: value for name, value in values.items() if value not in (None, "")}, kind)


def _who(cells: Mapping[str, str], mapping: ColumnMapping, options: Options) -> dict[str, Any]:
    """Every identifier in its one spelling. Raises ValueUnreadable for what cannot be one."""
    email, phone = mapping.cell(cells, "email"), mapping.cell(cells, "phone")
    found = {
        "user_id": mapping.cell(cells, "user_id"),
        "loyalty_id": mapping.cell(cells, "loyalty_id"),
        "email": one_email(email),
        "phone": one_phone(phone, options.country) if phone else None,
    }
    if email and found["email"] is None:
        raise ValueUnreadable(f"email: {email[:60]!r} is no address")
    if phone and found["phone"] is None and not any(found.values()):
        raise ValueUnreadable(f"phone: {phone[:40]!r} is no number that we can read; say --country")
    return found


# Contacts -----------------------------------------------------------------------------------------------


def _contact(record: Record, mapping: ColumnMapping, options: Options) -> ContactRow:
    cells = record.cells
    traits: dict[str, Any] = {
        name: cells[column] for name, column in mapping.free("trait.").items() if cells[column]
    }
    if phone := mapping.cell(cells, "phone"):
        traits["phone"] = phone  # as it was typed, where it cannot be read as a number
    created = _date(cells, mapping, "created_at", options)
    if created is not None:
        traits["createdAt"] = datetime.fromtimestamp(created / 1000, UTC).isoformat().replace("+00:00", "Z")
    agreed = _date(cells, mapping, "consent_at", options)
    said = {
        purpose: _word(cells[column], f"consent.{purpose}", options)
        for purpose, column in mapping.free("consent.").items()
    }
    return _made(
        ContactRow,
        {
            "line": record.line,
            **_who(cells, mapping, options),
            "as_of": options.as_of,
            "traits": traits,
            "consent": {purpose: granted for purpose, granted in said.items() if granted is not None},
            "consent_at": created if agreed is None else agreed,
        },
    )


def _word(cell: str, field: str, options: Options) -> bool | None:
    try:
        return read_word(cell, options.yes, options.no)
    except ValueUnreadable as error:
        raise ValueUnreadable(f"{field}: {error}") from error


def _date(cells: Mapping[str, str], mapping: ColumnMapping, field: str, options: Options) -> int | None:
    text = mapping.cell(cells, field)
    try:
        return options.dates.read(text) if text else None
    except ValueUnreadable as error:
        raise ValueUnreadable(f"{field}: {error}") from error


# Orders -------------------------------------------------------------------------------------------------


def _order_id(record: Record, mapping: ColumnMapping, options: Options) -> str:
    """The id, by which records are one order; a record without one stands alone, by its line."""
    if options.numbered is not None:
        return f"{options.numbered}-{record.line}"
    return mapping.cell(record.cells, "order_id") or f"\0{record.line}"


def _order(order_id: str, records: list[Record], mapping: ColumnMapping, options: Options) -> Read:
    broken = next((record for record in records if record.error is not None), None)
    if broken is not None:
        others = "" if len(records) == 1 else f"; it belongs to the order {order_id}, which is left out whole"
        return _refused(records, f"{broken.error}{others}")
    if len(records) > MAX_RECORDS:
        return _refused(records, f"the order {order_id} has more than {MAX_RECORDS} rows")
    if order_id.startswith("\0"):
        return _refused(records, "order_id: is empty")
    try:
        rows = tuple(_order_rows(order_id, records, mapping, options))
    except (ValueUnreadable, msgspec.ValidationError) as error:
        return _refused(records, _reason(error))
    return Read(rows)


@dataclass(frozen=True, slots=True)
class _Line:
    """One record of an order, its amounts in hundredths and never below zero."""

    record: Record
    amount: int | None
    total: int | None
    is_back: bool
    extra_refund: int
    currency: str | None
    product: dict[str, Any]


def _order_rows(
    order_id: str, records: list[Record], mapping: ColumnMapping, options: Options
) -> Iterator[OrderRow]:
    """What was bought, and what went back, each where there is any of it."""
    lines = [_line(record, mapping, options) for record in records]
    whose, called_off = _whose(lines, mapping, options), _called_off(lines, mapping, options)

    def row(part: list[_Line], *, is_back: bool = False) -> OrderRow:
        at = _at(part[0], mapping, options) or _at(lines[0], mapping, options)
        about = {**whose, "order_id": order_id, "ordered_at": at, "refund": is_back}
        about |= {} if is_back else called_off
        return _order_row(about, part, mapping, options)

    sold, returned = [line for line in lines if not line.is_back], [line for line in lines if line.is_back]
    if sold:
        yield row(sold)
    yield from _numbered([row(part, is_back=True) for part in _returns(returned)])
    back = _back(sold)
    if back:
        yield msgspec.structs.replace(row(sold, is_back=True), total=back, refund_id=_SO_FAR, products=[])


def _called_off(lines: list[_Line], mapping: ColumnMapping, options: Options) -> dict[str, Any]:
    """What makes the order a cancelled one, which every row may say or only one."""
    cells = [mapping.cell(line.record.cells, "cancelled") for line in lines]
    said = [_cancellation(cell, options) for cell in cells if cell]
    if len({is_off for is_off, _ in said}) > 1:
        raise ValueUnreadable("cancelled: the rows of the order differ")
    if not any(is_off for is_off, _ in said):
        return {}
    return {"cancelled": True, "cancelled_at": min((at for _, at in said if at is not None), default=None)}


def _cancellation(cell: str, options: Options) -> tuple[bool, int | None]:
    """A word, or since when."""
    if cell.casefold() in _CANCELLED:
        return True, None
    try:
        return bool(read_word(cell, options.yes, options.no)), None
    except ValueUnreadable as no_word:
        try:
            at = options.dates.read(cell)
        except ValueUnreadable:
            raise ValueUnreadable(f"cancelled: {no_word}") from None
        if at > options.now + AHEAD_MS:  # 9999-12-31 often stands for never
            told = f"cancelled: {cell[:40]!r} lies in the future: if it means no, name it with --no-word"
            raise ValueUnreadable(told) from None
        return True, _to_its_end(at, options.dates.zone)


def _to_its_end(at: int, zone: ZoneInfo) -> int:
    """Of a day that is told without a time: what the site told of an order on that day came before."""
    local = datetime.fromtimestamp(at / 1000, zone)
    if local.time() != time.min:
        return at
    return int((local + timedelta(days=1)).timestamp() * 1000) - 1


def _back(sold: list[_Line]) -> int:
    """What the column says; where the rows repeat the order's total and one refund, it is the order's."""
    repeated = {line.extra_refund for line in sold if line.total is not None}
    if len(repeated) == 1:
        return repeated.pop() + sum(line.extra_refund for line in sold if line.total is None)
    return sum(line.extra_refund for line in sold)


def _returns(returned: list[_Line]) -> list[list[_Line]]:
    """Each record is a refund of its own, so that the next file may have one more; but not where they repeat
    the total of all. Raises ValueUnreadable for more than a batch has room for."""
    if any(line.total is not None for line in returned):
        return [returned]
    if len(returned) > MAX_LINES:
        raise ValueUnreadable(f"refund: more than {MAX_LINES} rows of the order")
    return [[line] for line in returned]


def _numbered(refunds: list[OrderRow]) -> Iterator[OrderRow]:
    """Those that come to the same amount on the same day are several: two pieces went back."""
    seen: Counter[tuple[int, int]] = Counter()
    for refund in refunds:
        same = refund.ordered_at, refund.total
        seen[same] += 1
        which = None if seen[same] == 1 else f"{refund.ordered_at}-{refund.total}-{seen[same]}"
        yield msgspec.structs.replace(refund, refund_id=which)


def _line(record: Record, mapping: ColumnMapping, options: Options) -> _Line:
    cells = record.cells
    amounts = {field: _money(cells, mapping, field, options) for field in ("amount", "total", "price")}
    quantity_text = mapping.cell(cells, "quantity")
    quantity = read_number(quantity_text, options.decimal) if quantity_text else 1.0
    price, amount = amounts["price"], amounts["amount"]
    if amount is None and price is not None:
        amount = (round(price[0] * quantity), price[1])
    is_back, extra = _refund(mapping.cell(cells, "refund"), options)
    signed = [money[0] for money in (amount, amounts["total"]) if money is not None]
    named = [money[1] for money in (amount, amounts["total"]) if money is not None and money[1]]
    return _Line(
        record,
        None if amount is None else abs(amount[0]),
        None if amounts["total"] is None else abs(amounts["total"][0]),
        is_back or any(value < 0 for value in signed),
        extra,
        mapping.cell(cells, "currency").upper() or (named[0] if named else options.currency),
        _product_line(cells, mapping, price, quantity),
    )


def _refund(cell: str, options: Options) -> tuple[bool, int]:
    """A word says that the record is a refund; a number, how much of it went back later."""
    try:
        return bool(read_word(cell, options.yes, options.no)), 0
    except ValueUnreadable:
        return False, abs(read_money(cell, options.decimal).hundredths)


def _money(
    cells: Mapping[str, str], mapping: ColumnMapping, field: str, options: Options
) -> tuple[int, str | None] | None:
    text = mapping.cell(cells, field)
    try:
        return read_money(text, options.decimal) if text else None
    except ValueUnreadable as error:
        raise ValueUnreadable(f"{field}: {error}") from error


def _product_line(
    cells: Mapping[str, str], mapping: ColumnMapping, price: tuple[int, str | None] | None, quantity: float
) -> dict[str, Any]:
    told: dict[str, Any] = {field: mapping.cell(cells, field) for field in _LINE}
    told["name"] = mapping.cell(cells, "product_name")
    told["price"] = None if price is None else abs(price[0])
    found = {name: value for name, value in told.items() if value not in (None, "")}
    return {**found, "quantity": abs(quantity) or 1.0} if found else {}


def _at(line: _Line, mapping: ColumnMapping, options: Options) -> int | None:
    return _date(line.record.cells, mapping, "ordered_at", options)


def _order_row(
    about: Mapping[str, Any], lines: list[_Line], mapping: ColumnMapping, options: Options
) -> OrderRow:
    first = lines[0]
    if about["ordered_at"] is None:
        raise ValueUnreadable("ordered_at: is empty")
    return _made(
        OrderRow,
        {
            **about,
            "line": first.record.line,
            "total": _total(lines),
            "as_of": max(options.as_of, about["ordered_at"]),
            "currency": first.currency,
            "coupon": mapping.cell(first.record.cells, "coupon"),
            "products": [line.product for line in lines if line.product],
        },
    )


def _whose(lines: list[_Line], mapping: ColumnMapping, options: Options) -> dict[str, Any]:
    """The customer, whom every row may name or only one. Raises ValueUnreadable where they name two."""
    found: dict[str, Any] = {}
    for line in lines:
        for field, value in _who(line.record.cells, mapping, options).items():
            if value and found.setdefault(field, value) != value:
                raise ValueUnreadable(f"{field}: the rows of the order name two customers")
    return found


def _total(lines: list[_Line]) -> int:
    """The order's own total, which its rows repeat; else the sum of the rows."""
    totals = {line.total for line in lines} - {None}
    if len(totals) > 1:
        raise ValueUnreadable("total: the rows of the order differ; map it as amount if each row has its own")
    if totals:
        return int(totals.pop() or 0)
    amounts = [line.amount for line in lines if line.amount is not None]
    if len(amounts) < len(lines):
        raise ValueUnreadable("amount: is empty")
    return sum(amounts)


# Products -----------------------------------------------------------------------------------------------


def _product(record: Record, mapping: ColumnMapping, options: Options) -> ProductRow:
    cells = record.cells
    price, sale = (_money(cells, mapping, field, options) for field in ("price", "sale_price"))
    if sale is not None and not _holds(mapping.cell(cells, "sale_dates"), options):
        sale = None
    named = next((money[1] for money in (price, sale) if money is not None and money[1]), None)
    priced = price is not None or sale is not None
    currency = (mapping.cell(cells, "currency").upper() or named or options.currency) if priced else None
    return _made(
        ProductRow,
        {
            "line": record.line,
            **{
                field: mapping.cell(cells, field)
                for field in ("product_id", "name", "sku", "brand", "url", "image_url", "parent_id")
            },
            "price": None if price is None else price[0],
            "sale_price": None if sale is None else sale[0],
            "currency": currency,
            "category": _category(cells, mapping),
            "availability": _availability(mapping.cell(cells, "availability")),
        },
    )


def _category(cells: Mapping[str, str], mapping: ColumnMapping) -> str:
    """The shop's own category, else Google's; but not Google's as a bare number, which nobody reads."""
    googles = mapping.cell(cells, "google_category")
    return mapping.cell(cells, "category") or ("" if googles.isdigit() else googles)


def _availability(text: str) -> str:
    """A word of Google's, or of others, or how many are left. Empty: it is there."""
    word = "_".join(text.casefold().replace("-", " ").replace("_", " ").split())
    if word.lstrip("-").isdecimal():
        return "in_stock" if int(word[:9]) > 0 else "out_of_stock"
    if not word or word in YES:
        return "in_stock"
    if word in NO:
        return "out_of_stock"
    if word not in _AVAILABILITY:
        raise ValueUnreadable(f"availability: {text[:40]!r} is unknown; it may be in_stock or out_of_stock")
    return _AVAILABILITY[word]


def _holds(dates: str, options: Options) -> bool:
    """Whether now lies in "2025-06-01T00:00+02:00/2025-06-30T23:59+02:00"; without dates always."""
    if not dates:
        return True
    start, slash, end = dates.partition("/")
    if not slash:
        raise ValueUnreadable(f"sale_dates: {dates[:40]!r} are not two dates with a / between")
    return options.dates.read(start) <= options.now <= options.dates.read(end)
