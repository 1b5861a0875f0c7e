"""The live floor: its page, its data, signing in; and the health check."""

from importlib.resources import files

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import CALLER, COOKIE, STATE, caller_for
from backend.api.errors import Problem
from backend.api.host import HOST
from backend.api.operations import operation, reply
from backend.api.parameters import identifier
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


class SignedIn(Struct):
    """Whose token it was."""

    name: str
    role: str


class Health(Struct):
    """Whether the process works, whether it reaches the broker, and how many entries the fold is behind."""

    status: str
    broker: bool
    fold_behind: int


class FloorZone(Struct):
    """A zone: how many people are in it, and how many came within a day."""

    store_id: str
    zone_id: str
    name: str
    people: int
    entries: int


class FloorPerson(Struct):
    """Somebody who is in a zone, by profile and never by name. Times are unix milliseconds."""

    beacon_key: str
    profile_id: str | None
    store_id: str
    zone_id: str
    entered_at: int
    seen_at: int
    pushes: int
    opened: int


class FloorPush(Struct):
    """One of the newest pushes. Times are unix milliseconds."""

    push_id: str
    campaign_id: str
    profile_id: str
    state: str
    reason: str | None
    created_at: int
    finished_at: int | None
    opened_at: int | None


class GatewayReport(Struct):
    """What a gateway said of itself last, as in its heartbeat; `last_advert_age_ms` in milliseconds."""

    boot_id: str
    at_ms: int
    scan: str
    last_advert_age_ms: int | None
    adverts: int
    forgotten: int
    dropped: int
    outbox_batches: int
    outbox_bytes: int
    clock_synchronised: bool
    version: str
    config_version: int = 0
    config_state: str = ""


class FloorGateway(Struct):
    """A gateway as `store/gateway`, how long ago it was heard (milliseconds), and what it said."""

    gateway: str
    heard_ago_ms: int
    report: GatewayReport


class Alert(Struct):
    """Word for a person; `at` in unix milliseconds."""

    at: int
    kind: str
    subject: str
    detail: str


class FloorView(Struct):
    """Who is where, zone by zone, with what went out lately; `at` in unix milliseconds."""

    at: int
    zones: list[FloorZone]
    people: list[FloorPerson]
    pushes: list[FloorPush]
    gateways: list[FloorGateway]
    alerts: list[Alert]
    signed_in_as: SignedIn


ONE_STORE = identifier("store", "Only the people in this store.", default=None)


@operation("viewer", media=("text/html",))
async def get_page(request: web.Request) -> web.Response:
    """The live floor as a page.

    Without a token it answers 401, and the page offers to sign in.
    """
    signed_in = CALLER in request
    name = "floor.html" if signed_in else "sign_in.html"
    text = (files("backend.dashboard") / name).read_text("utf-8")
    return web.Response(
        text=text, content_type="text/html", status=200 if signed_in else 401, headers=_PAGE_HEADERS
    )


@operation("viewer", takes=(ONE_STORE,), answer=FloorView)
async def get_floor(request: web.Request) -> FloorView:
    """Who is where just now, zone by zone."""
    host, caller = request.app[HOST], request[CALLER]
    now, store = host.now_ms(), ONE_STORE.of(request)
    found = await request.app[STATE].read(lambda s: floor.live_floor(s, store, now - DAY_MS, now))
    signed_in = {"name": caller.name, "role": caller.role}
    return msgspec.convert({**found, "signed_in_as": signed_in}, FloorView)


@operation("public", body=SignIn, answer=SignedIn, errors=(401,))
async def post_session(request: web.Request, body: SignIn) -> web.Response:
    """Exchanges a token for a cookie that only reads.

    Checks the token itself, so it is open to all; a wrong one is answered 401.
    """
    caller = await caller_for(request, body.token)
    if caller is None:
        raise Problem(401, "token", "this token is not known, or was revoked")
    response = reply(SignedIn(caller.name, caller.role))
    response.set_cookie(COOKIE, body.token, max_age=SESSION_S, httponly=True, samesite="Strict", path="/")
    return response


@operation("public", answer=Health)
async def get_health(request: web.Request) -> web.Response:
    """Whether the backend is alive, and whether it reaches the broker.

    Open to all, and so says nothing about the shop.
    """
    return reply(request.app[HOST].health())


PUBLIC_ROUTES = [web.get("/health", get_health), web.post("/api/session", post_session)]
ROUTES = [web.get("/floor", get_page), web.get("/api/floor", get_floor)]
