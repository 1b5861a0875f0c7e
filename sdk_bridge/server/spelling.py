"""One spelling for an e-mail address and a telephone number, whoever wrote it: apps, servers, files."""

import re
from typing import Any

MAX_CHARS = 254  # what an e-mail address may have at most
_ADDRESS = re.compile(r"[^\s@\"<>(),;:\\\x00-\x1f\x7f]{1,64}@[^\s@.\x00-\x1f\x7f]+(\.[^\s@.\x00-\x1f\x7f]+)+")


def one_email(text: str) -> str | None:
    """The address in lower case; None for what is no address."""
    spelled = text.strip().lower()
    return spelled if len(spelled) <= MAX_CHARS and _ADDRESS.fullmatch(spelled) else None


def one_phone(text: str, country: str | None = None) -> str | None:
    """The number as E.164; None for what nobody can have, or has no country code where no country is given.

    A made-up number would join everybody who made it up.
    """
    phonenumbers = _phonenumbers()
    try:
        number = phonenumbers.parse(text[:MAX_CHARS], country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def is_country(code: str) -> bool:
    """Whether numbers of this ISO 3166 country can be read."""
    return code in _phonenumbers().SUPPORTED_REGIONS


def _phonenumbers() -> Any:
    import phonenumbers  # noqa: PLC0415 - a tenth of a second that whoever reads no numbers can spare

    return phonenumbers
