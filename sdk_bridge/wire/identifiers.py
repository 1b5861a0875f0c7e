"""Which texts can be the identifier of somebody: what many clients send for want of one cannot."""

import re

# One such value on many phones once merged everybody into one person.
_NOBODY = re.compile(
    r"""
    | null | nil | none | undefined | nan | [+-]?inf(inity)? | nsnull | \(null\) | <null>
    | true | false | yes | no | not[ _]set | \(not\ set\) | n/a | na | empty
    | anonymous | anon | guest | visitor | unknown | nobody | test | user | customer | default
    | object | \[object\ object\] | \[\] | \{\} | distinct_?id
    | (user|anonymous|device|customer)?_?id
    | [0\-\s:.{}+]+ | -1     # all zeroes or dashes, also in the form of a UUID
    """,
    re.VERBOSE,
)


def usable(identifier: str | None) -> str | None:
    """The identifier, or None for one that cannot stand for one person."""
    if identifier is None or "\ufffd" in identifier:  # what was broken on its way may have been two
        return None
    return None if _NOBODY.fullmatch(identifier.strip().lower()) else identifier
