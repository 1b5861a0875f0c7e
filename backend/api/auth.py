"""Default deny: every route says who may call it, and a route that does not say is never served."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from backend.api.errors import Problem
from backend.storage import registry
from backend.storage.registry import Caller
from backend.storage.session import Database
from sdk_bridge.server.answers import nowhere, readable

ROLES = ("viewer", "marketer", "operator", "admin")
_RANK = {"viewer": 0, "marketer": 1, "operator": 1, "admin": 2}
COOKIE = "footfall_session"
CALLER = web.RequestKey("caller", Caller)
STATE: web.AppKey[Database] = web.AppKey("state")
PUBLIC = web.AppKey("public", set[web.AbstractRoute])
H = TypeVar("H", bound=Callable[..., Awaitable[web.StreamResponse]])
_NEEDED: dict[Callable[..., object], frozenset[str]] = {}


def needs(role: str) -> Callable[[H], H]:
    """Marks a handler: `viewer` reads, `marketer` and `operator` change their own things, `admin` all."""
    allowed = frozenset(name for name in ROLES if name == role or _RANK[name] > _RANK[role])

    def mark(handler: H) -> H:
        _NEEDED[handler] = allowed
        return handler

    return mark


def check_every_route(app: web.Application) -> None:
    """Refuses to start with a route that says nothing about who may call it."""
    for route in app.router.routes():
        if route not in app[PUBLIC] and route.handler not in _NEEDED:
            raise RuntimeError(f"{route.method} {route.resource} does not say which role it needs")


@web.middleware
async def default_deny(request: web.Request, handler: Handler) -> web.StreamResponse:
    """401 without a known token, also where there is nothing; 403 where the role does not reach.

    Apps and sites have no token: what the bridge does not have is told to everybody.
    """
    if request.match_info.route in request.app[PUBLIC]:
        return await handler(request)
    if (answer := nowhere(request)) is not None:
        return readable(request, answer)
    caller = await _caller(request)
    if caller is None:
        if request.path == "/floor" and request.method == "GET":
            return await handler(request)  # answers 401 itself, with a page to sign in
        raise Problem(401, "no_token", "send `Authorization: Bearer <token>`; see `footfall-backend token`")
    allowed = _NEEDED.get(request.match_info.handler)
    if allowed is not None and caller.role not in allowed:
        needed = " or ".join(sorted(allowed))
        raise Problem(403, "role", f"this needs the role {needed}; the token {caller.name} is {caller.role}")
    request[CALLER] = caller
    return await handler(request)


async def caller_for(request: web.Request, token: str) -> Caller | None:
    """Whose token it is, asked of the database each time, so that a revocation acts at once."""
    if not token or len(token) > 200:
        return None
    return await request.app[STATE].read(lambda session: registry.caller_of(session, token))


async def _caller(request: web.Request) -> Caller | None:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return await caller_for(request, token.strip())
    if request.method in ("GET", "HEAD"):  # a cookie only reads, so no other site can make it change anything
        return await caller_for(request, request.cookies.get(COOKIE, ""))
    return None
