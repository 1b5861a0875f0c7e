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
SQL_FOLDER = Path(__file__).parent / "sqlite"
"""The common text: what SQLite reads, and PostgreSQL wherever the dialects agree."""


@cache
def named_queries(area: Area) -> Mapping[str, str]:
    """Every named query of an area, by name, from `sqlite/<area>/queries/*.sql`."""
    return MappingProxyType(read_queries(SQL_FOLDER / area / "queries"))


def read_queries(folder: Path) -> dict[str, str]:
    """The queries of a folder's files. Raises StorageError for a name that is there twice."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        loaded = aiosql.from_path(path, "sqlite3", mandatory_parameters=False)
        for name in loaded.available_queries:
            if name.endswith("_cursor"):
                continue
            if name in found:
                raise StorageError(f"query {name} is defined twice in {folder}")
            found[name] = getattr(loaded, name).sql
    return found


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
