"""The named queries in PostgreSQL's words: the common text translated, or this folder's own."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from backend.storage.postgres.dialect import BoundQuery, translated_query
from backend.storage.queries import named_queries, read_queries
from backend.storage.session import Area

POSTGRES_FOLDER = Path(__file__).parent


@cache
def own_queries(area: Area) -> Mapping[str, str]:
    """The queries that the dialects do not agree about."""
    return MappingProxyType(read_queries(POSTGRES_FOLDER / area / "queries", area))


@cache
def bound_queries(area: Area) -> Mapping[str, BoundQuery]:
    """Every named query of an area, ready to be prepared."""
    texts = {**named_queries(area), **own_queries(area)}
    return MappingProxyType({name: translated_query(text) for name, text in texts.items()})
