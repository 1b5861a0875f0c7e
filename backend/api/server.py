"""The HTTP application: default deny, errors in one place, the bridge mounted beside the API."""

from collections.abc import Callable

from aiohttp import web

from backend.api import campaigns, eid, fleet, floor, people, setup
from backend.api.auth import PUBLIC, STATE, check_every_route, default_deny
from backend.api.errors import answer_errors
from backend.api.host import HOST, Host

MAX_BODY_BYTES = 1024 * 1024  # of the API; the bridge has its own, smaller limits


def build(host: Host, add_bridge: Callable[[web.Application], None]) -> web.Application:
    """The application. Whatever `add_bridge` adds authenticates itself, by write keys."""
    app = web.Application(middlewares=[answer_errors, default_deny], client_max_size=MAX_BODY_BYTES)
    app[HOST] = host
    app[STATE] = host.state
    app[PUBLIC] = set()
    app.add_routes(floor.PUBLIC_ROUTES)
    app.add_routes(fleet.PUBLIC_ROUTES)  # these authenticate themselves, by token or certificate
    add_bridge(app)
    app[PUBLIC].update(app.router.routes())
    for routes in (floor.ROUTES, eid.ROUTES, setup.ROUTES, campaigns.ROUTES, people.ROUTES, fleet.ROUTES):
        app.add_routes(routes)
    check_every_route(app)
    return app
