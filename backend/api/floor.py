"""The live floor: its page, its data, signing in; and the health check."""

from importlib.resources import files

from aiohttp import web
from msgspec import Struct

from backend.api.auth import CALLER, COOKIE, STATE, caller_for, needs
from backend.api.bodies import body_as
from backend.api.errors import Problem
from backend.api.host import HOST
from backend.storage import floor

DAY_MS = 86_400_000
SESSION_S = 12 * 3600  # a working day; then sign in again
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class SignIn(Struct, forbid_unknown_fields=True):
    """An API token, exchanged for a cookie that only reads."""

    token: str


@needs("viewer")
async def get_page(request: web.Request) -> web.Response:
    """The page itself needs a token; without one it answers 401 and offers to sign in."""
    signed_in = CALLER in request
    name = "floor.html" if signed_in else "sign_in.html"
    text = (files("backend.dashboard") / name).read_text("utf-8")
    return web.Response(
        text=text, content_type="text/html", status=200 if signed_in else 401, headers=_PAGE_HEADERS
    )


@needs("viewer")
async def get_floor(request: web.Request) -> web.Response:
    host = request.app[HOST]
    now, store = host.now_ms(), request.query.get("store")
    found = await request.app[STATE].read(lambda s: floor.live_floor(s, store, now - DAY_MS, now))
    caller = request[CALLER]
    return web.json_response({**found, "signed_in_as": {"name": caller.name, "role": caller.role}})


async def post_session(request: web.Request) -> web.Response:
    """Checks the token itself, so it is open to all; a wrong one is answered 401."""
    token = (await body_as(request, SignIn)).token
    caller = await caller_for(request, token)
    if caller is None:
        raise Problem(401, "token", "this token is not known, or was revoked")
    response = web.json_response({"name": caller.name, "role": caller.role})
    response.set_cookie(COOKIE, token, max_age=SESSION_S, httponly=True, samesite="Strict", path="/")
    return response


async def get_health(request: web.Request) -> web.Response:
    """Open to all, and so says nothing about the shop: alive, and whether the broker is reached."""
    return web.json_response(request.app[HOST].health())


PUBLIC_ROUTES = [web.get("/health", get_health), web.post("/api/session", post_session)]
ROUTES = [web.get("/floor", get_page), web.get("/api/floor", get_floor)]
