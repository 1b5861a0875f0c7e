"""Geofences: circles and polygons outdoors, and the areas around stores."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, identifier
from backend.proximity.fences import Fence, FenceInvalid, geometry_of, parse_fence
from backend.storage import fences as fence_rows
from backend.storage.session import Session

FENCE = identifier("fence", "The geofence's id.")
AFTER = identifier("after", "Only fences whose ids come after this one.", default=None)
AT_ONCE = 1_000  # fences in one request; each is checked, and all are one transaction


class FenceSaved(Struct):
    """A geofence was stored."""

    fence_id: str


class FencesSaved(Struct):
    """How many geofences were stored."""

    saved: int


class FenceList(Struct):
    """A page of geofences, in the order of their ids."""

    geofences: list[Fence]


class FenceBatch(Struct, forbid_unknown_fields=True):
    """Several geofences at once; all are stored, or none."""

    geofences: Annotated[list[Fence], Meta(min_length=1, max_length=AT_ONCE)]


def _decode(raw: bytes) -> Fence:
    try:
        return parse_fence(raw)
    except FenceInvalid as error:
        raise Problem(400, "geofence", str(error)) from error


def _decode_batch(raw: bytes) -> FenceBatch:
    try:
        batch = msgspec.json.decode(raw, type=FenceBatch)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "body", str(error)) from error
    for index, fence in enumerate(batch.geofences):
        try:
            geometry_of(fence)
        except FenceInvalid as error:
            raise Problem(400, "geofence", f"geofences[{index}].{error}") from error
    return batch


@operation("operator", takes=(FENCE,), body=Fence, decode=_decode, answer=FenceSaved)
async def put_geofence(request: web.Request, body: Fence) -> FenceSaved:
    """Saves a geofence: a circle, or GeoJSON polygons; with `store_id` the area around that store."""
    fence_id = FENCE.of(request)
    if body.fence_id != fence_id:
        raise Problem(400, "fence_id", f"the path says {fence_id}, the body {body.fence_id}")
    await _save(request, [body], fence_id)
    return FenceSaved(fence_id)


@operation("operator", body=FenceBatch, decode=_decode_batch, answer=FencesSaved)
async def post_geofences(request: web.Request, body: FenceBatch) -> FencesSaved:
    """Saves up to 1,000 geofences at once; all of them, or none."""
    await _save(request, body.geofences, f"{len(body.geofences)} geofences")
    return FencesSaved(len(body.geofences))


async def _save(request: web.Request, fences: list[Fence], subject: str) -> None:
    now = request.app[HOST].now_ms()

    def save(session: Session) -> None:
        for store_id in sorted({fence.store_id for fence in fences if fence.store_id is not None}):
            if session.row("store", store_id=store_id) is None:
                raise Problem(400, "store_id", f"there is no store {store_id}")
        fence_rows.put_fences(session, fences, now)

    await change(request, "geofence saved", subject, save)


@operation("viewer", takes=(AFTER, LIMIT), answer=FenceList)
async def get_geofences(request: web.Request) -> FenceList:
    """Lists geofences, a page at a time."""
    after, limit = AFTER.of(request) or "", LIMIT.of(request)
    return FenceList(await request.app[STATE].read(lambda s: fence_rows.fences_after(s, after, limit)))


@operation("viewer", takes=(FENCE,), answer=Fence, errors=(404,))
async def get_geofence(request: web.Request) -> Fence:
    """One geofence."""
    fence_id = FENCE.of(request)
    found = await request.app[STATE].read(lambda session: fence_rows.fence(session, fence_id))
    if found is None:
        raise Problem(404, "geofence", f"there is no geofence {fence_id}")
    return found


@operation("operator", takes=(FENCE,), answer=None, status=204, errors=(404,))
async def delete_geofence(request: web.Request) -> web.Response:
    """Deletes a geofence; campaigns that wait for it wait in vain from now on."""
    fence_id = FENCE.of(request)
    if not await change(
        request, "geofence deleted", fence_id, lambda session: fence_rows.delete_fence(session, fence_id)
    ):
        raise Problem(404, "geofence", f"there is no geofence {fence_id}")
    return web.Response(status=204)


ROUTES = [
    web.put("/api/geofences/{fence}", put_geofence),
    web.post("/api/geofences", post_geofences),
    web.get("/api/geofences", get_geofences),
    web.get("/api/geofences/{fence}", get_geofence),
    web.delete("/api/geofences/{fence}", delete_geofence),
]
