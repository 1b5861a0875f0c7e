"""The named queries of an area, from .sql files; an engine's folder may hold its own text for a name."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiosql

from backend.storage.session import Area, Rows, StorageError

_PARAMETER = re.compile(r"'(?:[^']|'')*'|--[^\n]*|:([a-z_]\w*)", re.IGNORECASE)
_ONE_ROW = re.compile(r"\bvalues\s*(\([^()]*\))((?:\s+on conflict\b[^?]*)?)\s*;?\s*$", re.IGNORECASE)
ROWS_TOGETHER = 32
_PART = re.compile(r"\{(\w+)\}")
SQL_FOLDER = Path(__file__).parent / "sqlite"
"""The common text: what SQLite reads, and PostgreSQL wherever the dialects agree."""


@cache
def named_queries(area: Area) -> Mapping[str, str]:
    """Every named query of an area, by name, from `sqlite/<area>/queries/*.sql`."""
    return MappingProxyType(read_queries(SQL_FOLDER / area / "queries", area))


def read_queries(folder: Path, area: Area) -> dict[str, str]:
    """The queries of a folder's files; `{tree}` in a text stands for `sqlite/<area>/parts/tree.sql`.

    Raises StorageError for a name that is there twice and for a part that is not there.
    """
    found: dict[str, str] = {}
    shared = (SQL_FOLDER / area / "parts").glob("*.sql")
    parts = {path.stem: path.read_text("utf-8").strip() for path in shared}
    for path in sorted(folder.glob("*.sql")):
        loaded = aiosql.from_str(_whole(path, parts), "sqlite3", mandatory_parameters=False)
        for name in loaded.available_queries:
            if name.endswith("_cursor"):
                continue
            if name in found:
                raise StorageError(f"query {name} is defined twice in {folder}")
            found[name] = getattr(loaded, name).sql
    return found


def _whole(path: Path, parts: Mapping[str, str]) -> str:
    text = path.read_text("utf-8")
    missing = set(_PART.findall(text)) - parts.keys()
    if missing:
        raise StorageError(f"{path} names parts that are not there: {', '.join(sorted(missing))}")
    return _PART.sub(lambda match: parts[match[1]], text)


@dataclass(frozen=True, slots=True)
class Numbered:
    """A query whose parameters go by number, and how to make their values of a row by name."""

    sql: str
    names: tuple[str, ...]
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    together: str | None = None
    """The same for ROWS_TOGETHER rows at once, where it is an insert or upsert of plain values."""

    def bound(self, rows: Iterable[Mapping[str, Any]]) -> Sequence[tuple[Any, ...]]:
        """The values of each row."""
        if isinstance(rows, Rows) and rows.columns == self.names:
            return rows.values
        return list(map(self.values, rows))


@cache
def numbered(sql: str) -> Numbered:
    """A named query of SQLite's, `?1` in the place of its first parameter, and so on."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[1]
        return match[0] if name is None else f"?{numbers.setdefault(name, len(numbers) + 1)}"

    text = _PARAMETER.sub(number, sql)
    names = tuple(numbers)
    if len(names) > 1:
        return Numbered(text, names, itemgetter(*names), _together(text, len(names)))
    return Numbered(text, names, lambda row: tuple(row[name] for name in names))


def _together(text: str, parameters: int) -> str | None:
    found = _ONE_ROW.search(text)
    if found is None:
        return None
    rows = (
        re.sub(r"\?(\d+)", lambda match: f"?{int(match[1]) + row * parameters}", found[1])  # noqa: B023 - at once
        for row in range(ROWS_TOGETHER)
    )
    return text[: found.start(1)] + ", ".join(rows) + found[2]
