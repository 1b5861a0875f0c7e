"""The named queries of an area, from .sql files; an engine's folder may hold its own text for a name."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import aiosql

from backend.storage.session import Area, StorageError

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
