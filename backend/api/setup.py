"""Operators set up shops, zones, gateways and beacons."""

import json
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import web
from msgspec import Meta, Struct

from backend.api.errors import Problem
from backend.api.host import change, read_rows, rows_as
from backend.api.operations import operation
from backend.api.parameters import GATEWAY, LIMIT, STORE, ZONE, Identifier, Name
from backend.storage.database import StorageConflict
from sdk_bridge.server.beacon_keys import canonical_beacon_key

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


class Stored(Struct):
    """A store as it stands."""

    store_id: str
    name: str
    timezone: str


class StoreList(Struct):
    """Every store, in the order of their ids."""

    stores: list[Stored]


class StoredZone(Struct):
    """A zone as it stands."""

    store_id: str
    zone_id: str
    name: str
    categories: list[str]


class ZoneList(Struct):
    """Every zone of every store."""

    zones: list[StoredZone]


class StoredGateway(Struct):
    """A gateway as it stands; its place in metres, if that is known."""

    store_id: str
    gateway_id: str
    zone_id: str
    name: str
    x_m: float | None
    y_m: float | None


class GatewayList(Struct):
    """Every registered gateway."""

    gateways: list[StoredGateway]


class StoredBeacon(Struct):
    """A beacon as it stands, by its canonical key."""

    beacon_key: str
    role: str
    store_id: str | None
    zone_id: str | None


class BeaconList(Struct):
    """Every beacon that an operator registered, those with rotating ids apart."""

    beacons: list[StoredBeacon]


class AuditLine(Struct):
    """Who changed what, when (unix milliseconds); `detail` is JSON as text."""

    at: int
    actor: str
    action: str
    subject: str
    detail: str


class Audit(Struct):
    """The newest changes, the newest first."""

    audit: list[AuditLine]


@operation("operator", takes=(STORE,), body=StoreBody, answer=Stored)
async def put_store(request: web.Request, body: StoreBody) -> Stored:
    """Saves a store."""
    store_id = STORE.of(request)
    try:
        ZoneInfo(body.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # `Europe` is a folder
        raise Problem(400, "timezone", "timezone must be an IANA name such as Europe/Vienna") from error
    values = {"store_id": store_id, "name": body.name, "timezone": body.timezone}
    await change(request, "store saved", store_id, lambda s: s.run("save_store", **values), values)
    return Stored(**values)


@operation("operator", takes=(STORE, ZONE), body=ZoneBody, answer=StoredZone, errors=(409,))
async def put_zone(request: web.Request, body: ZoneBody) -> StoredZone:
    """Saves a zone of a store."""
    store_id, zone_id = STORE.of(request), ZONE.of(request)
    values = {"store_id": store_id, "zone_id": zone_id, "name": body.name}
    categories = json.dumps(body.categories, ensure_ascii=False)
    with _References("store"):
        await change(
            request,
            "zone saved",
            f"{store_id}/{zone_id}",
            lambda s: s.run("save_zone", **values, categories=categories),
        )
    return StoredZone(**values, categories=body.categories)


@operation("operator", takes=(STORE, GATEWAY), body=GatewayBody, answer=StoredGateway, errors=(409,))
async def put_gateway(request: web.Request, body: GatewayBody) -> StoredGateway:
    """Registers a gateway of a store, or moves it to another zone."""
    store_id, gateway_id = STORE.of(request), GATEWAY.of(request)
    values: dict[str, Any] = {
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
    return StoredGateway(**values)


@operation("operator", body=BeaconBody, answer=StoredBeacon)
async def post_beacon(request: web.Request, body: BeaconBody) -> StoredBeacon:
    """Registers a beacon, by its key in any spelling."""
    beacon_key = canonical_beacon_key(body.beacon_key)
    if beacon_key is None and body.role != "tag" and body.beacon_key.startswith("eddystone-url:"):
        beacon_key = body.beacon_key  # enough for a place, not for a person: every copy shows the same
    if beacon_key is None:
        raise Problem(
            400, "beacon_key", "beacon_key must name one beacon, such as ibeacon:<uuid>:<major>:<minor>"
        )
    values: dict[str, Any] = {
        "beacon_key": beacon_key,
        "role": body.role,
        "store_id": body.store_id,
        "zone_id": body.zone_id,
    }
    await change(request, "beacon saved", beacon_key, lambda s: s.run("save_beacon", **values), values)
    return StoredBeacon(**values)


@operation("viewer", answer=StoreList)
async def get_stores(request: web.Request) -> StoreList:
    """Lists the stores."""
    return StoreList(await rows_as(request, Stored, "stores"))


@operation("viewer", answer=ZoneList)
async def get_zones(request: web.Request) -> ZoneList:
    """Lists the zones of every store."""
    rows = await read_rows(request, "zones")
    return ZoneList([StoredZone(**{**row, "categories": json.loads(row["categories"])}) for row in rows])


@operation("viewer", answer=GatewayList)
async def get_gateways(request: web.Request) -> GatewayList:
    """Lists the gateways of every store."""
    return GatewayList(await rows_as(request, StoredGateway, "gateways"))


@operation("viewer", answer=BeaconList)
async def get_beacons(request: web.Request) -> BeaconList:
    """Lists the registered beacons."""
    return BeaconList(await rows_as(request, StoredBeacon, "beacons"))


@operation("admin", takes=(LIMIT,), answer=Audit)
async def get_audit(request: web.Request) -> Audit:
    """Lists the newest changes, and who made them."""
    return Audit(await rows_as(request, AuditLine, "newest_audit", limit=LIMIT.of(request)))


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
    web.get("/api/stores", get_stores),
    web.get("/api/zones", get_zones),
    web.get("/api/gateways", get_gateways),
    web.get("/api/beacons", get_beacons),
    web.get("/api/audit", get_audit),
]
