"""Records to contacts and orders: identifiers, consents, lines of one order, refunds; and to events."""

from dataclasses import replace
from zoneinfo import ZoneInfo

import msgspec
import pytest

from backend.import_desk import news
from backend.imports import people, reading
from backend.imports.mapping import guess, told
from backend.imports.people import Arrival
from backend.imports.reading import Options
from backend.imports.rows import MAX_LINES, MAX_ROWS, ContactRow, OrderLine, OrderRow
from backend.imports.run import MAX_BYTES, batches
from backend.imports.tables import Record
from backend.imports.values import DateReader
from backend.profiles.orders import order_of, read_order
from sdk_bridge.wire.app_events import AppEvent

AS_OF, NOW = 1_740_000_000_000, 1_750_000_000_000
OPTIONS = Options(DateReader(ZoneInfo("Europe/Vienna")), AS_OF, NOW, country="AT", currency="EUR")
ARRIVAL = Arrival(NOW, "run-1", "secret")


def records(*rows):
    """Each row as a record of its own line, from line 2."""
    return [Record(line, row) for line, row in enumerate(rows, start=2)]


def read(kind, mapping, *rows, options=OPTIONS):
    chosen = told(kind, mapping.split())
    cells = [dict.fromkeys(chosen.columns.values(), "") | row for row in rows]
    read = {"contacts": reading.contacts, "orders": reading.orders}[kind]
    reads = list(read(records(*cells), chosen, options))
    return [row for r in reads for row in r.rows], [(e.line, e.reason) for r in reads for e in r.errors]


# Contacts -------------------------------------------------------------------------------------------------

CONTACT = (
    "user_id=id email=mail phone=tel loyalty_id=card created_at=since consent_at=agreed "
    "trait.city=city consent.push=push consent.email=news"
)


def test_a_contact_with_everything():
    row = {
        "id": "4711", "mail": "Anna@Example.com", "tel": "0664 1234567", "card": "C-9", "since": "2019-03-01",
        "agreed": "2020-05-05", "city": "Graz", "push": "Ja", "news": "nein",
    }  # fmt: skip
    [contact], errors = read("contacts", CONTACT, row)
    assert errors == []
    assert contact == ContactRow(
        line=2,
        user_id="4711",
        email="anna@example.com",
        phone="+436641234567",
        loyalty_id="C-9",
        as_of=AS_OF,
        traits={"phone": "0664 1234567", "city": "Graz", "createdAt": "2019-02-28T23:00:00Z"},
        consent={"push": True, "email": False},
        consent_at=1_588_629_600_000,
    )


def test_what_is_empty_says_nothing():
    [contact], _ = read("contacts", CONTACT, {"id": "1"})
    assert contact == ContactRow(line=2, user_id="1", as_of=AS_OF)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"city": "Graz"}, "nobody"),
        ({"id": "null"}, "cannot stand for one person"),
        ({"id": "x" * 201}, "user_id: must be shorter"),
        ({"mail": "anna"}, "email: 'anna' is no address"),
        ({"tel": "see above"}, "say --country"),
        ({"id": "1", "since": "03/04/2019"}, "created_at: '03/04/2019' may begin with"),
        ({"id": "1", "push": "perhaps"}, "consent.push: 'perhaps' is neither"),
        ({"id": "1", "city": "x" * 2001}, "traits[...]: must be shorter"),
    ],
)
def test_a_contact_that_cannot_be_imported(row, reason):
    rows, [(line, told_reason)] = read("contacts", CONTACT, row)
    assert (rows, line) == ([], 2)
    assert reason in told_reason
    assert "regex" not in told_reason


def test_a_number_that_cannot_be_read_stays_a_trait():
    [contact], _ = read("contacts", CONTACT, {"id": "1", "tel": "ask Anna"})
    assert (contact.phone, contact.traits) == (None, {"phone": "ask Anna"})


def test_since_when_a_customer_dates_a_yes_that_has_no_date():
    [contact], _ = read("contacts", CONTACT, {"id": "1", "since": "2019-03-01", "push": "ja"})
    assert contact.consent_at == 1_551_394_800_000


# Orders ---------------------------------------------------------------------------------------------------

LINES = (
    "order_id=o user_id=c ordered_at=d amount=a product_id=p quantity=q price=each refund=back currency=cur"
)
DAY = {"c": "7", "d": "2020-01-01"}


def test_lines_of_one_order_are_one_order():
    rows, errors = read(
        "orders",
        LINES,
        {**DAY, "o": "A", "a": "10,00", "p": "tea", "q": "2", "each": "5,00"},
        {**DAY, "o": "A", "a": "2,50", "p": "milk"},
        {**DAY, "o": "B", "a": "1", "cur": "usd"},
    )
    assert errors == []
    first, second = rows
    assert (first.order_id, first.total, first.currency, first.line) == ("A", 1_250, "EUR", 2)
    assert first.products == [
        OrderLine(product_id="tea", quantity=2.0, price=500),
        OrderLine(product_id="milk"),
    ]
    assert (second.order_id, second.total, second.currency, second.products) == ("B", 100, "USD", [])


def test_a_price_and_a_quantity_are_an_amount():
    [order], _ = read("orders", LINES, {**DAY, "o": "A", "p": "tea", "q": "1,5", "each": "4,20"})
    assert order.total == 630


@pytest.mark.parametrize(
    ("rows", "orders"),
    [
        ([{"o": "A", "a": "-5"}], [("A", 500, True)]),
        ([{"o": "A", "a": "10"}, {"o": "A", "a": "-4"}], [("A", 1_000, False), ("A", 400, True)]),
        ([{"o": "A", "a": "10", "back": "ja"}], [("A", 1_000, True)]),
        ([{"o": "A", "a": "10", "back": "nein"}], [("A", 1_000, False)]),
        ([{"o": "A", "a": "10", "back": "2,50"}], [("A", 1_000, False), ("A", 250, True)]),
        ([{"o": "A", "a": "9"}, {"o": "B", "a": "1"}, {"o": "A", "a": "-9"}],
         [("A", 900, False), ("B", 100, False), ("A", 900, True)]),
    ],
)  # fmt: skip
def test_what_went_back_is_a_refund(rows, orders):
    found, errors = read("orders", LINES, *({**DAY, **row} for row in rows))
    assert errors == []
    assert [(row.order_id, row.total, row.refund) for row in found] == orders


SALE = {"o": "A", "a": "50"}


@pytest.mark.parametrize(
    ("before", "after", "refunded"),
    [
        ([{**SALE, "back": "10"}], [{**SALE, "back": "15"}], 1_500),
        ([{**SALE, "back": "15"}], [{**SALE, "back": "10"}], 1_000),
        ([SALE], [{**SALE, "back": "10"}], 1_000),
        ([SALE, {"o": "A", "a": "-10"}], [SALE, {"o": "A", "a": "-10"}, {"o": "A", "a": "-5"}], 1_500),
        ([SALE, {"o": "A", "a": "-10"}], [SALE, {"o": "A", "a": "-10"}, {"o": "A", "a": "-10"}], 2_000),
        ([SALE, {"o": "A", "a": "-10", "c": "", "d": ""}], [SALE, {"o": "A", "a": "-10"}], 1_000),
        ([{"o": "A", "a": "-10"}], [SALE, {"o": "A", "a": "-5"}, {"o": "A", "a": "-10"}], 1_500),
    ],
)
def test_a_later_file_says_how_much_has_gone_back_by_then(before, after, refunded):
    said: list[tuple[AppEvent, int]] = []
    known: dict[int, int] = {}
    for as_of, rows in ((NOW - 2, before), (NOW - 1, after), (NOW - 1, after)):
        found, errors = read("orders", LINES, *({**DAY, **row} for row in rows))
        assert errors == []
        prepared = [people.order(msgspec.structs.replace(row, as_of=as_of), ARRIVAL) for row in found]
        events, _ = news(prepared, known)
        said += [(event, len(said) + number) for number, event in enumerate(events)]
        known |= {row.subject_hash: row.content_hash for row in prepared}
    statements = [read_order(event, number, number) for event, number in said]
    order = order_of("A", [one[0] for one in statements if one is not None])
    assert (order.total, order.refunded) == (5_000, refunded)


CANCELLED = "order_id=o ordered_at=at user_id=who total=sum cancelled=off"
BOUGHT = {"o": "A-1", "at": "2025-01-10", "who": "4711", "sum": "20.00"}
OFF = 1_736_895_600_000  # midnight of 2025-01-15 in Vienna
WHOLE = 86_400_000 - 1


@pytest.mark.parametrize(
    ("said", "cancelled", "at"),
    [
        ((""), False, None),
        (("no"), False, None),
        (("yes"), True, None),
        (("Canceled"), True, None),
        (("wc-cancelled"), True, None),
        (("2025-01-15"), True, OFF + WHOLE),
        (("2025-01-15 00:00:00"), True, OFF + WHOLE),
        (("2025-01-15 00:00:01"), True, OFF + 1_000),
        (("2025-01-15", ""), True, OFF + WHOLE),
        (("2024-10-27"), True, 1_730_070_000_000 - 1),  # a day of 25 hours
        (("", "yes"), True, None),
    ],
)
def test_an_order_that_was_called_off(said, cancelled, at):
    rows = [BOUGHT | {"off": cell} for cell in ([said] if isinstance(said, str) else said)]
    [order], errors = read("orders", CANCELLED, *rows)
    assert errors == []
    assert (order.cancelled, order.cancelled_at, order.total) == (cancelled, at, 2000)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (("shipped",), "cancelled: 'shipped' is neither yes nor no: name it with --yes-word or --no-word"),
        (("yes", "no"), "cancelled: the rows of the order differ"),
        (
            ("9999-12-31",),
            "cancelled: '9999-12-31' lies in the future: if it means no, name it with --no-word",
        ),
    ],
)
def test_a_cancellation_that_cannot_be_read(said, reason):
    found, errors = read("orders", CANCELLED, *(BOUGHT | {"off": cell} for cell in said))
    assert found == []
    assert {told for _, told in errors} == {reason}


@pytest.mark.parametrize("first", ["", "yes", "2025-01-15"])
@pytest.mark.parametrize("at", ["2025-01-10", "2025-06-15T20:00:00Z"])  # the latter is later than now
def test_what_was_called_off_is_not_bought_whichever_file_says_so(first, at):
    """Applied in any order; the second file is a day younger."""
    told = []
    for cell, as_of in ((first, AS_OF), ("yes", AS_OF + 86_400_000)):
        options = replace(OPTIONS, as_of=as_of)
        [order], _ = read("orders", CANCELLED, BOUGHT | {"off": cell, "at": at}, options=options)
        told.append(people.order(order, ARRIVAL))
    events = [*told[0].first, *(told[1].changed if told[0].content_hash != told[1].content_hash else ())]
    said = [read_order(event, number, number)[0] for number, event in enumerate(events, start=1)]
    for statements in (said, said[::-1]):
        assert order_of("A-1", statements).status == "cancelled"
    assert all(event.occurred_at <= ARRIVAL.received_at for event in events)


@pytest.mark.parametrize("as_of", [AS_OF, OFF + 18 * 3_600_000])  # the latter on that very day
def test_what_was_called_off_on_the_day_it_was_bought_is_not_bought_though_the_site_told_the_hour(as_of):
    options = replace(OPTIONS, as_of=as_of)
    row = BOUGHT | {"at": "2025-01-15", "off": "2025-01-15"}
    [order], _ = read("orders", CANCELLED, row, options=options)
    at = OFF + 10 * 3_600_000
    on_the_site = AppEvent(
        "track", "m", "web", at, at, name="Order Completed", properties={"order_id": "A-1"}
    )
    events = [on_the_site, *people.order(order, ARRIVAL).first]
    said = [read_order(event, number, number)[0] for number, event in enumerate(events, start=1)]
    assert order_of("A-1", said).status == "cancelled"
    assert all(event.occurred_at <= as_of for event in events)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"cancelled_at": OFF}, "cancelled_at: the order is not cancelled"),
        ({"cancelled": True, "refund": True}, "cancelled: a refund cannot be called off"),
        ({"cancelled": True, "user_id": None}, "nobody: "),
    ],
)
def test_what_an_api_says_of_no_cancelled_order_is_refused_and_not_passed_over(said, reason):
    sent = {"line": 2, "user_id": "7", "order_id": "A", "ordered_at": 1, "total": 1, "as_of": 1, **said}
    with pytest.raises(msgspec.ValidationError, match=f"^{reason}"):
        msgspec.convert(sent, OrderRow)


def test_more_refunds_than_a_batch_takes_are_refused():
    _, errors = read("orders", LINES, *({**DAY, "o": "A", "a": "-1"} for _ in range(MAX_LINES + 1)))
    assert len(errors) == MAX_LINES + 1


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        ([{"a": "1"}], {2: "order_id: is empty"}),
        ([{"o": "A"}], {2: "amount: is empty"}),
        ([{"o": "A", "a": "1", "d": ""}], {2: "ordered_at: is empty"}),
        ([{"o": "A", "a": "1", "c": ""}], {2: "nobody"}),
        ([{"o": "A", "a": "1.234"}], {2: "amount: '1.234' may be a thousand"}),
        ([{"o": "A", "a": "1"}, {"o": "A", "a": "x"}], {2: "amount", 3: "amount"}),  # never half an order
        ([{"o": "A", "a": "1"}, {"o": "B", "a": "1"}, {"o": "A", "a": "1"}], {4: "began further up"}),
        ([{"o": "A", "a": "1", "q": "many"}], {2: "'many' is no number"}),
        ([{"o": "A", "a": "1", "cur": "Kronen"}], {2: "currency: must be three capital letters"}),
        ([{"o": "A", "a": "9" * 15}], {2: "total: is too large"}),
        ([{"o": "A", "a": "1"}, {"o": "A", "a": "1", "c": "8"}], {2: "two customers", 3: "two customers"}),
    ],
)
def test_an_order_that_cannot_be_imported(rows, reasons):
    found, errors = read("orders", LINES, *({**DAY, **row} for row in rows))
    assert len(found) == len({row.get("o") for row in rows}) - (0 if 4 in reasons else 1)
    assert [line for line, _ in errors] == list(reasons)
    assert all(reason in said for (_, said), reason in zip(errors, reasons.values(), strict=True))


def test_the_customer_may_stand_on_one_line_of_an_order():
    mapping = "order_id=o user_id=c email=m ordered_at=d amount=a"
    lines = [{"c": "", "m": "a@b.example"}, {"c": "7"}, {"c": ""}]
    [order], errors = read("orders", mapping, *({**DAY, "o": "A", "a": "1", **line} for line in lines))
    assert (order.user_id, order.email, order.total, errors) == ("7", "a@b.example", 300, [])


def test_a_total_repeated_on_each_line_counts_once():
    mapping = "order_id=o user_id=c ordered_at=d total=t"
    [order], _ = read("orders", mapping, {**DAY, "o": "A", "t": "9"}, {**DAY, "o": "A", "t": "9"})
    assert order.total == 900
    _, errors = read("orders", mapping, {**DAY, "o": "A", "t": "9"}, {**DAY, "o": "A", "t": "8"})
    assert "differ" in errors[0][1]


@pytest.mark.parametrize(
    ("amounts", "backs", "refunded"),
    [
        (("t", "t"), ("5", "5"), 500),
        (("t", ""), ("5", ""), 500),
        (("t", "t"), ("5", "0"), 500),
        (("t", "t"), ("5", "4"), 900),
        (("t", "t", "t"), ("5", "5", ""), 1_000),
        (("a", "a"), ("5", "5"), 1_000),
    ],
)
def test_a_refund_repeated_beside_the_total_counts_once(amounts, backs, refunded):
    mapping = "order_id=o user_id=c ordered_at=d total=t amount=a refund=back"
    rows = [
        {**DAY, "o": "A", **({column: "30"} if column else {}), "back": back}
        for column, back in zip(amounts, backs, strict=True)
    ]
    (_, refund), errors = read("orders", mapping, *rows)
    assert (refund.total, refund.refund, errors) == (refunded, True, [])


def test_rows_without_order_ids_stay_apart():
    options = Options(OPTIONS.dates, AS_OF, NOW, numbered="till")
    rows, _ = read(
        "orders", "user_id=c ordered_at=d amount=a", {**DAY, "a": "1"}, {**DAY, "a": "1"}, options=options
    )
    assert [row.order_id for row in rows] == ["till-2", "till-3"]


def test_a_file_of_one_endless_order_is_refused_and_not_kept():
    rows = ({**DAY, "o": "A", "a": "1"} for _ in range(5_000))
    chosen = told("orders", ["order_id=o", "user_id=c", "ordered_at=d", "amount=a"])
    reads = list(reading.orders(records(*rows), chosen, OPTIONS))
    assert len(reads) == 1
    assert "more than" in reads[0].errors[0].reason


# Events ---------------------------------------------------------------------------------------------------


def contact(**more):
    return ContactRow(**{"line": 2, "user_id": "7", "as_of": AS_OF, **more})


def order(**more):
    return OrderRow(
        **{
            "line": 2,
            "user_id": "7",
            "order_id": "A",
            "ordered_at": 10**12,
            "total": 1_250,
            "as_of": AS_OF,
            **more,
        }
    )


def test_a_contact_is_an_identify_and_its_consents_each_with_its_time():
    row = contact(
        email="a@b.c", traits={"city": "Graz"}, consent={"push": True, "email": False}, consent_at=5
    )
    identify, refused, agreed = people.contact(row, ARRIVAL).first
    assert {(e.source, e.user_id, e.proven) for e in (identify, refused, agreed)} == {("import", "7", True)}
    assert (identify.kind, identify.occurred_at) == ("identify", AS_OF)
    assert identify.traits == {"city": "Graz", "email": "a@b.c"}
    assert [(one.type, one.id) for one in agreed.external_ids] == [("email", "a@b.c")]
    assert (refused.consent, refused.occurred_at) == ({"email": False}, AS_OF)
    assert (agreed.consent, agreed.occurred_at) == ({"push": True}, 5)


def test_an_order_keeps_its_own_day():
    [event] = people.order(
        order(products=[OrderLine(product_id="tea", price=625, quantity=2)]), ARRIVAL
    ).first
    assert (event.kind, event.name, event.occurred_at, event.received_at) == (
        "track",
        "Order Completed",
        10**12,
        NOW,
    )
    assert event.properties == {
        "order_id": "A",
        "total": 12.5,
        "products": [{"product_id": "tea", "price": 6.25, "quantity": 2}],
    }


def test_message_ids_follow_from_the_row_alone():
    rows = [contact(), contact(user_id="8"), contact(traits={"a": "b"}), contact(as_of=AS_OF + 1)]
    messages = [people.contact(row, ARRIVAL).first[0].message_id for row in rows]
    again = Arrival(NOW + 10**9, "run-2", "secret")
    assert messages == [people.contact(row, again).first[0].message_id for row in rows]
    assert len(set(messages)) == len(rows)
    assert all(len(message) <= 100 for message in messages)
    other_shop = Arrival(NOW, "run-1", "another secret")
    assert messages[0] != people.contact(rows[0], other_shop).first[0].message_id


def test_nobody_can_see_from_a_hash_who_was_imported():
    one, other = (people.contact(contact(), Arrival(NOW, "r", secret)) for secret in ("a", "b"))
    assert one.subject_hash != other.subject_hash


@pytest.mark.parametrize(
    ("rows", "names", "fresh"),
    [
        ([order()], ["Order Completed"], 1),
        ([order(), order(line=9, as_of=AS_OF + 5)], ["Order Completed"], 1),
        ([order(), order(total=1)], ["Order Completed", "Order Updated"], 2),
        ([order(), order(refund=True, total=5)], ["Order Completed", "Order Refunded"], 2),
        ([order(refund=True, total=5), order(refund=True, total=5)], ["Order Refunded"], 1),
        ([order(refund=True, total=5), order(refund=True, total=6)], ["Order Refunded", "Order Refunded"], 2),
        ([order(), order(total=1), order()], ["Order Completed", "Order Updated", "Order Updated"], 3),
    ],
)  # fmt: skip
def test_what_is_news_of_an_order(rows, names, fresh):
    prepared = [people.order(row, ARRIVAL) for row in rows]
    events, counted = news(prepared, {})
    assert ([event.name for event in events], counted) == (names, fresh)
    known = {row.subject_hash: row.content_hash for row in prepared}
    assert news(prepared[-1:], known) == ([], 0)


def test_an_order_of_the_future_happens_no_later_than_now():
    [event] = people.order(order(ordered_at=NOW + 1_000), ARRIVAL).first
    assert event.occurred_at == NOW


# Batches --------------------------------------------------------------------------------------------------


def test_batches_are_what_the_api_takes_and_lose_nothing():
    texts = ["x" * (n % 7) * 300 for n in range(2_345)]
    chosen = told("contacts", ["user_id=id", "trait.t=t", "email=mail"])
    cells = [{"id": f"u{n}", "t": text, "mail": "bad" if n % 5 == 4 else ""} for n, text in enumerate(texts)]
    reads = list(reading.contacts(records(*cells), chosen, OPTIONS))
    made = list(batches(reads))
    assert all(len(batch.rows) <= MAX_ROWS and batch.size <= MAX_BYTES for batch in made)
    assert [bytes(row) for batch in made for row in batch.rows] == [
        msgspec.json.encode(row) for read in reads for row in read.rows
    ]
    assert sum(len(batch.errors) for batch in made) == 469
    for done in (made[0].done, made[1].done):
        rest = list(batches(reads, done))
        assert sum(len(b.rows) for b in rest) == sum(len(b.rows) for b in made if b.done > done)


def test_a_guess_of_a_real_header_reads_its_rows():
    header = ["KdNr", "E-Mail", "Newsletter"]
    [read_] = reading.contacts(
        records({"KdNr": "1", "E-Mail": "a@b.c", "Newsletter": "ja"}), guess("contacts", header), OPTIONS
    )
    assert read_.rows[0].consent == {"email": True}
