"""What the handlers need of the process, by typed keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from backend.api.auth import CALLER, STATE
from backend.storage import registry
from backend.storage.database import Database, Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Host:
    """The running backend as the handlers see it. `changed` is called after operators changed something."""

    state: Database
    journal: Database
    now_ms: Callable[[], int]
    changed: Callable[[], None]
    health: Callable[[], dict[str, Any]]
    tally: Callable[[], dict[str, Any]] = dict


HOST = web.AppKey("host", Host)


async def read_rows(request: web.Request, query: str, **values: Any) -> list[dict[str, Any]]:
    """Every row of a named query, as dictionaries."""
    return await request.app[STATE].read(lambda session: [dict(row) for row in session.rows(query, **values)])


async def rows_as(request: web.Request, kind: type[T], query: str, **values: Any) -> list[T]:
    """Every row of a named query of the state, as what is shown of it."""
    return msgspec.convert(await read_rows(request, query, **values), list[kind])  # type: ignore[valid-type]


async def change(
    request: web.Request, action: str, subject: str, work: Callable[[Session], Any], detail: Any = None
) -> Any:
    """One audited change in one transaction; the fold reads the registry afresh afterwards."""
    host, actor = request.app[HOST], request[CALLER].name

    def write(session: Session) -> Any:
        result = work(session)
        registry.note(session, host.now_ms(), actor, action, subject, detail)
        return result

    result = await host.state.write(write)
    host.changed()
    return result
