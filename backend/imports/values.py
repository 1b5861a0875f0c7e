"""Cells to values: amounts, dates, yes and no, as people and programs of many countries write them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

DecimalMark: TypeAlias = Literal["auto", "comma", "point"]

_SYMBOLS = {"€": "EUR", "£": "GBP", "¥": "JPY", "zł": "PLN", "Kč": "CZK", "US$": "USD"}
_AMOUNT = re.compile(
    r"(?P<before>[^\d\s(+.,'’-]{1,4})?\s*(?P<open>\()?(?P<sign>[+-])?\s*(?P<second>[^\d\s(+.,'’-]{1,4})?\s*"
    r"(?P<number>[\d.,'’ ]{1,30}?)(?P<behind>-)?\)?\s*(?P<after>[^\d\s(+.,'’-]{1,4}\.?)?"
)
_MINUSES = str.maketrans({"−": "-", "–": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_NO_CENTS = re.compile(r"(?<=\d)(?P<mark>[.,])[-—]{1,2}")  # "99,-" is a price in whole euros, and no refund
_CODE = re.compile("[A-Z]{3}")
_GROUPED = re.compile(r"\d{1,3}(?:[.,'’ ]\d{3})+")
_LONGEST = 60  # characters of an amount or a date; anything longer is a text in the wrong column

YES = frozenset({
    "1", "true", "t", "yes", "y", "ja", "j", "x", "wahr", "oui", "si", "sí", "tak", "ano", "on", "ok",
    "optin", "opt-in", "subscribed", "granted",
})  # fmt: skip
NO = frozenset({
    "0", "false", "f", "no", "n", "nein", "falsch", "non", "nie", "off", "none", "-",
    "optout", "opt-out", "unsubscribed", "denied",
})  # fmt: skip


class ValueUnreadable(ValueError):
    """A cell cannot be understood; the text says what it may be."""


class Money(NamedTuple):
    """Hundredths of the currency's unit, below zero for what went back; and the currency, if named."""

    hundredths: int
    currency: str | None


def read_money(text: str, mark: DecimalMark = "auto") -> Money:
    """An amount such as "12.50 EUR", "€ 1.234,56", "99,-", "(5,00)" or "12,5-". Raises ValueUnreadable."""
    plain = _NO_CENTS.sub(r"\g<mark>00", text.strip().translate(_MINUSES))
    found = _AMOUNT.fullmatch(plain) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueUnreadable(f"{text[:40]!r} is no amount")
    number = _decimal(found["number"].strip(), mark, text)
    negative = found["sign"] == "-" or found["behind"] or found["open"]
    hundredths = int((number * 100).to_integral_value(ROUND_HALF_UP))
    named = found["before"] or found["second"] or found["after"]
    return Money(-hundredths if negative else hundredths, _currency(named, text))


def read_number(text: str, mark: DecimalMark = "auto") -> float:
    """A plain number, such as a quantity. Raises ValueUnreadable."""
    cleaned = text.strip().translate(_MINUSES)
    if len(text) > _LONGEST or not re.fullmatch(r"[+-]?[\d.,'’ ]+", cleaned):
        raise ValueUnreadable(f"{text[:40]!r} is no number")
    number = float(_decimal(cleaned.lstrip("+-"), mark, text))
    return -number if cleaned.startswith("-") else number


def _decimal(digits: str, mark: DecimalMark, text: str) -> Decimal:
    try:
        return Decimal(_with_point(digits, mark))
    except InvalidOperation as error:
        raise ValueUnreadable(f"{text[:40]!r} is no number") from error
    except _Ambiguous as error:
        raise ValueUnreadable(
            f"{text[:40]!r} may be a thousand or a decimal: say --decimal comma or --decimal point"
        ) from error


class _Ambiguous(ValueError):
    """One separator with three digits behind it."""


def _with_point(digits: str, mark: DecimalMark) -> str:
    """The number with a decimal point and nothing else; whatever is left over Decimal refuses."""
    comma, point = digits.rfind(","), digits.rfind(".")
    if mark == "auto":
        if comma >= 0 and point >= 0:
            mark = "comma" if comma > point else "point"
        elif max(comma, point) >= 0:
            separator = "," if comma >= 0 else "."
            if digits.count(separator) > 1:  # only thousands repeat
                mark = "point" if separator == "," else "comma"
            elif len(digits) - 1 - max(comma, point) == 3 and digits[:1] != "0":
                raise _Ambiguous
            else:
                mark = "comma" if separator == "," else "point"
    own, other = (",", ".") if mark == "comma" else (".", ",")
    whole, _, fraction = digits.partition(own)
    for grouping in (other, "'", "’", " "):
        if grouping in whole:
            if not _GROUPED.fullmatch(whole):
                return ""
            whole = whole.replace(grouping, "")
    return f"{whole}.{fraction}" if fraction else whole


def _currency(named: str | None, text: str) -> str | None:
    if named is None or named == "$":  # dollars of which country is not told
        return None
    code = _SYMBOLS.get(named, named.upper())
    if not _CODE.fullmatch(code):
        raise ValueUnreadable(f"{text[:40]!r} is no amount")
    return code


def read_word(text: str, yes: frozenset[str] = YES, no: frozenset[str] = NO) -> bool | None:
    """Yes or no; None for an empty cell, which says nothing. Raises ValueUnreadable."""
    word = text.strip().casefold()
    if not word:
        return None
    if word in yes:
        return True
    if word in no:
        return False
    raise ValueUnreadable(f"{text[:40]!r} is neither yes nor no: name it with --yes-word or --no-word")


# Dates --------------------------------------------------------------------------------------------------

_FORMATS = (
    (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}"), "%d.%m.%Y"),
    (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d{2}"), "%d.%m.%Y %H:%M"),
    (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d{2}:\d{2}"), "%d.%m.%Y %H:%M:%S"),
    (re.compile(r"\d{4}/\d{1,2}/\d{1,2}"), "%Y/%m/%d"),
    (re.compile(r"\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}:\d{2}"), "%Y/%m/%d %H:%M:%S"),
    (re.compile(r"\d{8}"), "%Y%m%d"),
)
_UNIX = re.compile(r"\d{10}(\d{3})?")
_SLASHES = re.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{4}.*")


@dataclass(frozen=True, slots=True)
class DateReader:
    """Reads dates in one format, or in any that cannot be mistaken; without an offset they are `zone`'s."""

    zone: ZoneInfo
    format: str | None = None

    def read(self, text: str) -> int:
        """Unix milliseconds. Raises ValueUnreadable."""
        cleaned = text.strip()
        if len(cleaned) > _LONGEST:
            raise ValueUnreadable(f"{text[:40]!r} is no date")
        try:
            moment = self._moment(cleaned)
            local = moment if moment.tzinfo else moment.replace(tzinfo=self.zone)
            at = int(local.timestamp() * 1000)
        except (ValueError, OverflowError) as error:
            if isinstance(error, ValueUnreadable):
                raise
            raise ValueUnreadable(f"{text[:40]!r} is no date{self._expected()}") from error
        if at < 0:
            raise ValueUnreadable(f"{text[:40]!r} lies before 1970")
        return at

    def _expected(self) -> str:
        return f" in the format {self.format}" if self.format else " that we know: say --date-format"

    def _moment(self, text: str) -> datetime:
        if self.format is not None:
            return datetime.strptime(text, self.format)  # noqa: DTZ007 - `read` adds the zone
        if _SLASHES.fullmatch(text):
            raise ValueUnreadable(f"{text[:40]!r} may begin with the day or the month: say --date-format")
        if _UNIX.fullmatch(text):
            return datetime.fromtimestamp(int(text) / (1000 if len(text) == 13 else 1), UTC)
        for pattern, known in _FORMATS:
            if pattern.fullmatch(text):
                return datetime.strptime(text, known)  # noqa: DTZ007 - `read` adds the zone
        return datetime.fromisoformat(text)
