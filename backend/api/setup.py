"""Operators set up shops, zones, gateways, beacons and the sources of events."""

import json
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import needs
from backend.api.bodies import body_as, id_in_path, limit_of
from backend.api.errors import Problem
from backend.api.host import HOST, change, read_rows
from backend.storage import registry
from backend.storage.database import Session, StorageConflict
from sdk_bridge.server.beacon_keys import canonical_beacon_key

Identifier: TypeAlias = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]

Metres: TypeAlias = Annotated[float, Meta(ge=-10_000, le=10_000)]


class StoreBody(Struct, forbid_unknown_fields=True):
    """A shop; `timezone` is an IANA name."""

    name: Name
    timezone: str = "UTC"


class ZoneBody(Struct, forbid_unknown_fields=True):
    """A named area; `categories` are product categories."""

    name: Name
    categories: Annotated[list[Name], Meta(max_length=100)] = []


class GatewayBody(Struct, forbid_unknown_fields=True):
    """A gateway and the zone it stands for; `x_m` and `y_m` say where it hangs, on any plan of the store."""

    zone_id: Identifier
    name: Name | None = None
    x_m: Metres | None = None
    y_m: Metres | None = None

    def __post_init__(self) -> None:
        if (self.x_m is None) != (self.y_m is None):
            raise ValueError("x_m and y_m belong together: give both, or neither")


class BeaconBody(Struct, forbid_unknown_fields=True):
    """A beacon: fixed to a `zone`, a `tag` carried by a customer, or an `asset`."""

    beacon_key: Annotated[str, Meta(min_length=3, max_length=160)]
    role: Literal["zone", "tag", "asset"]
    store_id: Identifier | None = None
    zone_id: Identifier | None = None


class SourceBody(Struct, forbid_unknown_fields=True):
    """An app, a site or a server. Proof of the user is on for web and app unless switched off knowingly."""

    name: Name
    kind: Literal["web", "app", "server"]
    proof: Literal["required", "off"] | None = None


@needs("operator")
async def put_store(request: web.Request) -> web.Response:
    store_id, body = id_in_path(request, "store"), await body_as(request, StoreBody)
    try:
        ZoneInfo(body.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # `Europe` is a folder
        raise Problem(400, "timezone", "timezone must be an IANA name such as Europe/Vienna") from error
    values = {"store_id": store_id, "name": body.name, "timezone": body.timezone}
    await change(request, "store saved", store_id, lambda s: s.run("save_store", **values), values)
    return web.json_response(values)


@needs("operator")
async def put_zone(request: web.Request) -> web.Response:
    store_id, zone_id = id_in_path(request, "store"), id_in_path(request, "zone")
    body = await body_as(request, ZoneBody)
    values = {
        "store_id": store_id,
        "zone_id": zone_id,
        "name": body.name,
        "categories": json.dumps(body.categories, ensure_ascii=False),
    }
    with _References("store"):
        await change(request, "zone saved", f"{store_id}/{zone_id}", lambda s: s.run("save_zone", **values))
    return web.json_response({**values, "categories": body.categories})


@needs("operator")
async def put_gateway(request: web.Request) -> web.Response:
    store_id, gateway_id = id_in_path(request, "store"), id_in_path(request, "gateway")
    body = await body_as(request, GatewayBody)
    values = {
        "store_id": store_id,
        "gateway_id": gateway_id,
        "zone_id": body.zone_id,
        "name": body.name or gateway_id,
        "x_m": body.x_m,
        "y_m": body.y_m,
    }
    with _References("zone"):
        await change(
            request, "gateway saved", f"{store_id}/{gateway_id}", lambda s: s.run("save_gateway", **values)
        )
    return web.json_response(values)


@needs("operator")
async def post_beacon(request: web.Request) -> web.Response:
    body = await body_as(request, BeaconBody)
    beacon_key = canonical_beacon_key(body.beacon_key)
    if beacon_key is None and body.role != "tag" and body.beacon_key.startswith("eddystone-url:"):
        beacon_key = body.beacon_key  # enough for a place, not for a person: every copy shows the same
    if beacon_key is None:
        raise Problem(
            400, "beacon_key", "beacon_key must name one beacon, such as ibeacon:<uuid>:<major>:<minor>"
        )
    values = {
        "beacon_key": beacon_key,
        "role": body.role,
        "store_id": body.store_id,
        "zone_id": body.zone_id,
    }
    await change(request, "beacon saved", beacon_key, lambda s: s.run("save_beacon", **values), values)
    return web.json_response(values)


@needs("admin")
async def put_source(request: web.Request) -> web.Response:
    """Makes a source; answers its write key and its proof secret, this once."""
    source_id, body = id_in_path(request, "source"), await body_as(request, SourceBody)
    proof = body.proof or ("off" if body.kind == "server" else "required")
    now = request.app[HOST].now_ms()
    try:
        made = await change(
            request,
            "source created",
            source_id,
            lambda s: registry.create_source(s, source_id, body.name, body.kind, proof, now),
            {"kind": body.kind, "proof": proof},
        )
    except StorageConflict as error:
        raise Problem(409, "source", f"the source {source_id} exists already; choose another id") from error
    return web.json_response(made, status=201)


@needs("admin")
async def delete_source(request: web.Request) -> web.Response:
    source_id, now = id_in_path(request, "source"), request.app[HOST].now_ms()

    def revoke(session: Session) -> None:
        if not session.run("revoke_source", source_id=source_id, at=now):
            raise Problem(404, "source", f"there is no source {source_id} in use")

    await change(request, "source revoked", source_id, revoke)
    return web.json_response({"revoked": source_id})


@needs("viewer")
async def get_stores(request: web.Request) -> web.Response:
    return web.json_response({"stores": await read_rows(request, "stores")})


@needs("viewer")
async def get_zones(request: web.Request) -> web.Response:
    rows = await read_rows(request, "zones")
    return web.json_response(
        {"zones": [{**row, "categories": json.loads(row["categories"])} for row in rows]}
    )


@needs("viewer")
async def get_gateways(request: web.Request) -> web.Response:
    return web.json_response({"gateways": await read_rows(request, "gateways")})


@needs("viewer")
async def get_beacons(request: web.Request) -> web.Response:
    return web.json_response({"beacons": await read_rows(request, "beacons")})


@needs("operator")
async def get_sources(request: web.Request) -> web.Response:
    return web.json_response({"sources": await read_rows(request, "sources")})


@needs("admin")
async def get_audit(request: web.Request) -> web.Response:
    rows = await read_rows(request, "newest_audit", limit=limit_of(request, 100, 1000))
    return web.json_response({"audit": rows})


@needs("operator")
async def get_dead_letters(request: web.Request) -> web.Response:
    limit = limit_of(request, 100, 1000)
    rows = await request.app[HOST].journal.read(lambda s: s.rows("dead_letters_newest", limit=limit))
    return web.json_response({"dead_letters": [dict(row) for row in rows]})


class _References:
    """Turns a broken foreign key into a 409 that names what must exist first."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StorageConflict):
            raise Problem(409, self._what, f"the {self._what} it belongs to does not exist yet") from error


ROUTES = [
    web.put("/api/stores/{store}", put_store),
    web.put("/api/stores/{store}/zones/{zone}", put_zone),
    web.put("/api/stores/{store}/gateways/{gateway}", put_gateway),
    web.post("/api/beacons", post_beacon),
    web.put("/api/sources/{source}", put_source),
    web.delete("/api/sources/{source}", delete_source),
    web.get("/api/stores", get_stores),
    web.get("/api/zones", get_zones),
    web.get("/api/gateways", get_gateways),
    web.get("/api/beacons", get_beacons),
    web.get("/api/sources", get_sources),
    web.get("/api/audit", get_audit),
    web.get("/api/dead-letters", get_dead_letters),
]
