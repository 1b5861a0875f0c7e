"""Cells to values: amounts, dates, words and identifiers as many countries write them."""

from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.imports.values import DateReader, Money, ValueUnreadable, read_money, read_number, read_word
from sdk_bridge.server.spelling import is_country, one_email, one_phone


@pytest.mark.parametrize(
    ("text", "money"),
    [
        ("12.50 EUR", (1250, "EUR")),
        ("EUR 12.50", (1250, "EUR")),
        ("€ 1.234,56", (123456, "EUR")),
        ("1,234.56", (123456, None)),
        ("1.234.567", (123456700, None)),
        ("1'234.50 CHF", (123450, "CHF")),
        ("1\u00a0234,50", (123450, None)),
        ("(5,00)", (-500, None)),
        ("12,5-", (-1250, None)),
        ("99,-", (9900, None)),  # whole euros, as shops write them; no refund
        ("€ 1.234,–", (123400, "EUR")),
        ("CHF 1'234.—", (123400, "CHF")),
        ("-5,-- EUR", (-500, "EUR")),
        ("−3,20 €", (-320, "EUR")),
        ("-£4", (-400, "GBP")),
        ("$5.00", (500, None)),  # of which country is not told
        ("5 zł", (500, "PLN")),
        ("0.125", (13, None)),
        ("1200", (120000, None)),
    ],
)
def test_amounts(text, money):
    assert read_money(text) == Money(*money)


@pytest.mark.parametrize(
    "text",
    ["", "abc", "1.234", "1,234", "12..5", "12,34,56.7", "1.2.3", "1e5", "NaN", "--5", "9" * 70, "5 EUROS"],
)
def test_what_is_no_amount_or_may_be_two(text):
    with pytest.raises(ValueUnreadable):
        read_money(text)


@pytest.mark.parametrize(("mark", "hundredths"), [("comma", 123400), ("point", 123)])
def test_the_ambiguous_is_settled_by_the_option(mark, hundredths):
    assert read_money("1.234", mark).hundredths == hundredths


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=2), st.sampled_from([",", "."]), st.booleans())
def test_every_amount_is_read_as_it_was_written(value, mark, grouped):
    whole, _, fraction = f"{value:,.2f}".partition(".")
    other = "." if mark == "," else ","
    text = (whole.replace(",", other) if grouped else whole.replace(",", "")) + mark + fraction
    assert read_money(text).hundredths == int(Decimal(value) * 100)


@pytest.mark.parametrize(("text", "number"), [("3", 3.0), ("-2", -2.0), ("0,75", 0.75), ("1 000", 1000.0)])
def test_quantities(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "three", "1.5.2", "∞"])
def test_no_quantities(text):
    with pytest.raises(ValueUnreadable):
        read_number(text)


@pytest.mark.parametrize(
    ("said", "texts"),
    [(True, ["Ja", " yes ", "1", "x", "opt-in"]), (False, ["NEIN", "0", "-"]), (None, ["", " "])],
)
def test_words(said, texts):
    assert {read_word(text) for text in texts} == {said}


def test_an_unknown_word_is_neither_until_it_is_named():
    with pytest.raises(ValueUnreadable, match="--yes-word"):
        read_word("subscribed!")
    assert read_word("Aktiv", frozenset({"aktiv"})) is True


VIENNA = DateReader(ZoneInfo("Europe/Vienna"))
NOON = 1_551_438_000_000  # 1 March 2019, 12:00 in Vienna


@pytest.mark.parametrize(
    "text",
    [
        "2019-03-01 12:00",
        "2019-03-01T12:00:00",
        "2019-03-01T11:00:00Z",
        "2019-03-01T06:00:00-05:00",
        "01.03.2019 12:00",
        "1.3.2019 12:00:00",
        "2019/03/01 12:00:00",
        "1551438000",
        "1551438000000",
    ],
)
def test_dates_of_one_moment(text):
    assert VIENNA.read(text) == NOON


@pytest.mark.parametrize("text", ["2019-03-01", "01.03.2019", "20190301", "2019/03/01"])
def test_days_begin_at_midnight_there(text):
    assert VIENNA.read(text) == NOON - 12 * 3_600_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "03/04/2019",
        "3-4-2019",
        "31.02.2019",
        "20191301",
        "1955-01-01",
        "9" * 61,
        "10000-01-01",
    ],
)
def test_what_is_no_date_or_may_be_two(text):
    with pytest.raises(ValueUnreadable):
        VIENNA.read(text)


def test_a_format_settles_it():
    american, british = (DateReader(ZoneInfo("UTC"), f"{first}/%Y") for first in ("%m/%d", "%d/%m"))
    assert (american.read("03/04/2019"), british.read("03/04/2019")) == (1_551_657_600_000, 1_554_249_600_000)
    with pytest.raises(ValueUnreadable, match="%m/%d/%Y"):
        american.read("13/13/2019")


def test_identifiers_have_one_spelling():
    assert one_email(" Anna@Example.COM ") == "anna@example.com"
    assert one_email("anna") is one_email("a b@c") is None
    assert one_phone("0664 123 45 67", "AT") == one_phone("+43 (664) 1234567", None) == "+436641234567"
    assert (
        one_phone("0664 123 45 67", None) is one_phone("ask Anna", "AT") is one_phone("1" * 90, "AT") is None
    )
    assert is_country("AT")
    assert not is_country("XX")
