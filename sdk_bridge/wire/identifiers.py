"""Which texts can be the identifier of somebody: what many clients send for want of one cannot."""

import re

# One such value on many phones once merged everybody into one person.
_NOBODY = frozenset(
    """
    null nil none undefined nan inf +inf -inf infinity +infinity -infinity nsnull (null) <null>
    true false yes no not_set (not_set) n/a na empty
    anonymous anon guest visitor unknown nobody test user customer default
    object [] {} distinctid distinct_id
    id _id userid user_id anonymousid anonymous_id deviceid device_id customerid customer_id email
    not_authenticated #n/a <nil> (none)
    9774d56d682e549c 02:00:00:00:00:00
    """.split()  # noqa: SIM905 - words, read as words
) | {"", "not set", "(not set)", "[object object]", "[object undefined]", "[object null]", "-1"}
# The two numbers are what whole series of phones give for their own. And many a value comes with the quotes
# that it had in somebody's code, or with characters that nobody sees.
_AROUND = " \u200b\u200c\u200d\u2060\ufeff'\"`"
# All zeroes or dashes, also in the form of a UUID.
_NOTHING = re.compile(r"[0\-\s:.{}+]+")
_SOMETHING_BEGINS = frozenset("123456789abcdefghijklmnopqrstuvwxyz")  # asked first, for nearly all do so


def usable(identifier: str | None) -> str | None:
    """The identifier, or None for one that cannot stand for one person."""
    if identifier is None or "\ufffd" in identifier:  # what was broken on its way may have been two
        return None
    plain = identifier.strip().strip(_AROUND).lower()
    if plain in _NOBODY or (plain[0] not in _SOMETHING_BEGINS and _NOTHING.fullmatch(plain)):
        return None
    return identifier
