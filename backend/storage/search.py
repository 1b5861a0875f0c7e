"""Finding people: by the beginning of an identifier, an e-mail address or a name; or who was active last."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

from backend.storage import profiles
from backend.storage.session import Session

SearchBy: TypeAlias = Literal["identifier", "email", "name", "phone", "recent"]
SEARCHES: Final[tuple[SearchBy, ...]] = ("identifier", "email", "name", "phone", "recent")
ID_TYPES: Final = (
    "user_id", "email", "loyalty_id", "phone", "anonymous_id", "device_id", "beacon", "claimed_user_id",
)  # fmt: skip
IN_LOWER_CASE: Final = ("email", "beacon")
TRAITS: Final[dict[SearchBy, tuple[str, ...]]] = {
    "email": ("email",),
    "phone": ("phone",),
    "name": ("name", "lastName", "last_name", "firstName", "first_name"),
}
RECENT_EVENTS: Final = 5_000  # looked through for one page; a busy robot must not make it endless
_BEHIND_ALL: Final = "\U0010ffff"
_FIRST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """A person that was found, by which of their identifiers or traits."""

    profile_id: str
    by: str
    value: str
    identified: bool
    name: str | None
    email: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """People on one page, each once, and where the next one begins; None: there is none."""

    people: list[Found]
    next: str | None


_Hit: TypeAlias = tuple[str, str, str, list[Any]]
"""Profile, by what, value; and where to go on behind it."""


class BadCursor(ValueError):
    """The text is not what a page gave as the beginning of the next one."""


def search(session: Session, by: SearchBy, text: str, after: str | None, limit: int) -> Page:
    """People whose identifier or trait begins with `text`; `recent` takes none. Raises BadCursor."""
    start = _opened(after)
    hits: Iterator[_Hit] = iter(())
    if by == "recent":
        hits = _recent(session, start)
    elif text:
        hits = (
            _by_identifier(session, text, start, limit)
            if by == "identifier"
            else _by_trait(session, TRAITS[by], text, start, limit)
        )
    return _page(session, hits, limit)


def _page(session: Session, hits: Iterable[_Hit], limit: int) -> Page:
    people: dict[str, Found] = {}
    behind: list[Any] | None = None
    for profile_id, by, value, here in hits:
        person = profiles.resolve(session, "profile_id", profile_id)
        if person is not None and person not in people:
            if len(people) == limit:
                return Page(list(people.values()), _closed(behind))
            people[person] = _found(session, person, by, value)
        behind = here
    return Page(list(people.values()), None)


def _found(session: Session, person: str, by: str, value: str) -> Found:
    traits = profiles.traits_of(session, person)
    parts = [
        traits.get("firstName") or traits.get("first_name"),
        traits.get("lastName") or traits.get("last_name"),
    ]
    joined = " ".join(part for part in parts if isinstance(part, str))
    named = traits.get("name")
    email = traits.get("email")
    return Found(
        profile_id=person,
        by=by,
        value=value,
        identified=any(
            row["id_type"] == "user_id" for row in session.rows("profiles_of_person", profile_id=person)
        ),
        name=named if isinstance(named, str) else joined or None,
        email=email if isinstance(email, str) else None,
    )


def _by_identifier(session: Session, text: str, start: list[Any], limit: int) -> Iterator[_Hit]:
    types, after = list(ID_TYPES), ""
    if start:
        begin, after = _texts(start, 2)
        types = types[types.index(begin) :] if begin in types else []
    for id_type in types:
        begins = text.lower() if id_type in IN_LOWER_CASE else text
        while True:
            rows = session.rows(
                "identifiers_with_prefix",
                id_type=id_type,
                low=begins,
                high=begins + _BEHIND_ALL,
                after=after,
                limit=limit + 1,
            )
            for row in rows:
                yield row["profile_id"], id_type, row["id"], [id_type, row["id"]]
            if len(rows) <= limit:
                break
            after = rows[-1]["id"]
        after = ""


def _by_trait(
    session: Session, names: tuple[str, ...], text: str, start: list[Any], limit: int
) -> Iterator[_Hit]:
    sweeps = [(name, form) for name in names for form in _forms(text)]
    behind = ("", "")
    if start:
        name, form, *rest = _texts(start, 4)
        behind = (rest[0], rest[1])
        sweeps = sweeps[sweeps.index((name, form)) :] if (name, form) in sweeps else []
    for name, form in sweeps:
        while True:
            rows = session.rows(
                "traits_with_prefix",
                name=name,
                low=form,
                high=form + _BEHIND_ALL,
                after_value=behind[0],
                after_profile=behind[1],
                limit=limit + 1,
            )
            for row in rows:
                here = [name, form, row["folded"], row["profile_id"]]
                yield row["profile_id"], name, str(msgspec.json.decode(row["value"])), here
            if len(rows) <= limit:
                break
            behind = (rows[-1]["folded"], rows[-1]["profile_id"])
        behind = ("", "")


def _forms(text: str) -> list[str]:
    """How a trait that begins so may be stored: SQLite folds the case of A to Z only."""
    given = [text, text.lower(), text.capitalize(), text.title(), text.upper()]
    return list(dict.fromkeys(_ascii_lower(_beginning(form)) for form in given))


def _beginning(text: str) -> str:
    """The beginning of a JSON text."""
    return msgspec.json.encode(text).decode()[:-1]


def _ascii_lower(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _recent(session: Session, start: list[Any]) -> Iterator[_Hit]:
    before = start[0] if start and isinstance(start[0], int) else _FIRST
    for row in session.rows("active_profiles", before=before, limit=RECENT_EVENTS):
        yield row["profile_id"], "last event", str(row["occurred_at"]), [row["event_id"]]


def _closed(behind: list[Any] | None) -> str | None:
    if behind is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(behind)).decode().rstrip("=")


def _opened(after: str | None) -> list[Any]:
    if after is None:
        return []
    try:
        raw = base64.urlsafe_b64decode(after.encode() + b"=" * (-len(after) % 4))
        return msgspec.json.decode(raw, type=list[str | int])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise BadCursor(after[:80]) from error


def _texts(start: list[Any], count: int) -> list[str]:
    if len(start) != count or not all(isinstance(part, str) for part in start):
        raise BadCursor("not of this search")
    return start
