"""The HTTP application: default deny, errors in one place, the bridge mounted beside the API."""

from collections.abc import Callable

import msgspec
from aiohttp import web

from backend.api import (
    campaigns,
    catalog,
    dead_letters,
    eid,
    erasures,
    fleet,
    floor,
    geofences,
    identities,
    imports,
    measurement,
    openapi,
    people,
    previews,
    retention,
    rfm,
    segments,
    setup,
    sources,
    tally,
)
from backend.api.auth import PUBLIC, STATE, check_every_route, default_deny
from backend.api.errors import answer_errors
from backend.api.host import HOST, Host
from backend.api.operations import operation

MAX_BODY_BYTES = 1024 * 1024  # of the API; the bridge has its own, smaller limits
CHAPTERS = (
    *(floor, eid, setup, sources, campaigns, measurement, previews, geofences),
    *(people, identities, erasures, segments, rfm, fleet, catalog, imports, dead_letters, retention, tally),
)
"""Modules with `ROUTES`."""
DOCUMENT = web.AppKey("openapi", bytes)


@operation("public", media=("application/json",), tag="floor")
async def get_openapi(request: web.Request) -> web.Response:
    """This document.

    Open to all: it holds nothing but what the program's own source says, and tools that make clients or
    tests of it need no secret.
    """
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


def build(host: Host, add_bridge: Callable[[web.Application], None]) -> web.Application:
    """The application. Whatever `add_bridge` adds authenticates itself, by write keys."""
    app = web.Application(middlewares=[answer_errors, default_deny], client_max_size=MAX_BODY_BYTES)
    app[HOST] = host
    app[STATE] = host.state
    add_every_route(app, add_bridge)
    return app


def add_every_route(app: web.Application, add_bridge: Callable[[web.Application], None]) -> None:
    """Routes, and the document that describes them. Raises RuntimeError for a route that says too little."""
    app[PUBLIC] = set()
    app.add_routes(floor.PUBLIC_ROUTES)
    app.add_routes(fleet.PUBLIC_ROUTES)  # these authenticate themselves, by token or certificate
    app.add_routes([web.get("/api/openapi.json", get_openapi)])
    add_bridge(app)
    app[PUBLIC].update(app.router.routes())
    for chapter in CHAPTERS:
        app.add_routes(chapter.ROUTES)
    check_every_route(app)
    app[DOCUMENT] = msgspec.json.encode(openapi.document(app))


def document() -> openapi.Spec:
    """The document, without a backend that runs."""
    app = web.Application()
    add_every_route(app, lambda _: None)
    return openapi.document(app)
