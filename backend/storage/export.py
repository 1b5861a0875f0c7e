"""Everything that is kept about a person, as one JSON document in parts."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from backend.storage import profiles
from backend.storage.personal import AT_ONCE, HISTORY
from backend.storage.session import Database, Row, Session

PAGE: Final = 500  # rows in memory at once, or up to twice as many
SIGHTINGS_S: Final = 3_600  # of all sightings of a shop; there is no index by tag
TABLES: Final = tuple(dict.fromkeys(one.table for one in (*AT_ONCE, *HISTORY) if one.exported))
"""What the document has a part for, beside the sightings of the person's beacons."""
Place: TypeAlias = tuple[int, int]
"""Which of the person's profiles comes next, and how many of its rows were read before."""
_JSON_COLUMNS: Final = frozenset({"properties", "value", "content"})


@dataclass(frozen=True, slots=True)
class Export:
    """Whose document it is: the root's profile, and all profiles that are the person's."""

    person: str
    profiles: tuple[str, ...]

    @classmethod
    def of(cls, session: Session, person: str) -> "Export":
        return cls(person, tuple(profiles.profiles_of_person(session, person)))

    async def parts(self, state: Database, now: int) -> AsyncIterator[bytes]:
        """The document's bytes, each part read in a view of its own. Raises StorageError."""
        head = {"profile_id": self.person, "exported_at": now, "profiles": self.profiles}
        yield msgspec.json.encode(head)[:-1]
        for table in TABLES:
            yield b', "%b": [' % table.encode()
            async for part in _listed(self._table(state, table)):
                yield part
            yield b"]"
        yield b', "sightings": ['
        async for part in _listed(self._sightings(state)):
            yield part
        yield b"]}"

    async def _table(self, state: Database, table: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Many profiles in one view: each view is a connection, and a person may have a thousand browsers."""
        place: Place | None = (0, 0)
        while place is not None:
            rows, place = await asyncio.to_thread(state.view, partial(self._page, table=table, place=place))
            yield rows

    def _page(
        self, session: Session, *, table: str, place: Place
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """The rows behind a place, fewer than twice PAGE, and the next page's place."""
        (number, offset), found = place, list[Row]()
        while number < len(self.profiles):
            given = {"profile_id": self.profiles[number], "limit": PAGE, "offset": offset}
            rows = session.rows(f"export_{table}", **given)
            found += rows
            number, offset = (number, offset + PAGE) if len(rows) == PAGE else (number + 1, 0)
            if len(found) >= PAGE:
                break
        rest = (number, offset) if number < len(self.profiles) else None
        return [dict(_readable(row)) for row in found], rest

    async def _sightings(self, state: Database) -> AsyncIterator[list[dict[str, Any]]]:
        """In spans of an hour of the shop's own sightings."""
        beacons, first, last = await asyncio.to_thread(state.view, self._heard)
        for beacon_key in beacons:
            for low in range(first, last + 1, SIGHTINGS_S):
                yield await asyncio.to_thread(state.view, partial(_span, beacon_key=beacon_key, low=low))

    def _heard(self, session: Session) -> tuple[list[str], int, int]:
        beacons = [
            row["id"]
            for profile_id in self.profiles
            for row in session.rows("export_beacons_of", profile_id=profile_id)
        ]
        span = session.row("sightings_span")
        if span is None or span["first"] is None:
            return [], 0, -1
        return beacons, span["first"], span["last"]


async def _listed(pages: AsyncIterator[list[dict[str, Any]]]) -> AsyncIterator[bytes]:
    """The pages' rows, a comma between any two."""
    first = True
    async for page in pages:
        if page:
            yield (b"" if first else b", ") + b", ".join(map(msgspec.json.encode, page))
            first = False


def _span(session: Session, *, beacon_key: str, low: int) -> list[dict[str, Any]]:
    rows = session.rows("export_sightings", beacon_key=beacon_key, low=low, high=low + SIGHTINGS_S)
    return [{"beacon_key": beacon_key, **dict(row)} for row in rows]


def _readable(row: Row) -> Iterator[tuple[str, Any]]:
    """Each column for machines to read: what is JSON or MessagePack in the database is decoded."""
    for column, value in dict(row).items():
        if isinstance(value, bytes):
            yield column, _decoded(value)
        elif isinstance(value, str) and column in _JSON_COLUMNS:
            yield column, _json_or(value)
        else:
            yield column, value


def _json_or(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _decoded(blob: bytes) -> Any:
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            value = decode(blob)
            msgspec.json.encode(value)  # MessagePack also holds what JSON cannot
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError):
            continue
        return value
    return {"base64": base64.b64encode(blob).decode()}
