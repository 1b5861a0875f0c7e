"""One spelling for an e-mail address and a telephone number, whoever typed them into a file."""

import re
from typing import Any

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,100}@[^@\s\x00-\x1f\x7f]{1,200}")


def one_email(text: str) -> str | None:
    """The address in lower case; None for what is no address."""
    spelled = text.strip().lower()
    return spelled if _EMAIL.fullmatch(spelled) else None


def one_phone(text: str, country: str | None) -> str | None:
    """The number as E.164; None for what is none, or has no country code where no country is given."""
    phonenumbers = _phonenumbers()
    try:
        number = phonenumbers.parse(text[:60], country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def is_country(code: str) -> bool:
    """Whether numbers of this ISO 3166 country can be read."""
    return code in _phonenumbers().SUPPORTED_REGIONS


def _phonenumbers() -> Any:
    import phonenumbers  # noqa: PLC0415 - a tenth of a second that files without numbers can spare

    return phonenumbers
