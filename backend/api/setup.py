"""Operators set up shops, zones, gateways, beacons and the sources of events."""

import json
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import web
from msgspec import Meta, Struct

from backend.api.errors import Problem
from backend.api.host import HOST, change, read_rows, rows_as
from backend.api.operations import operation
from backend.api.parameters import GATEWAY, LIMIT, STORE, ZONE, Identifier, Name, identifier
from backend.storage import registry
from backend.storage.database import Session, StorageConflict
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


class SourceBody(Struct, forbid_unknown_fields=True):
    """An app, a site or a server. Proof of the user is on for web and app unless switched off knowingly."""

    name: Name
    kind: Literal["web", "app", "server"]
    proof: Literal["required", "off"] | None = None


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


class NewSource(Struct):
    """A source's secrets, shown this once."""

    source_id: str
    write_key: str
    proof_secret: str


class SourceView(Struct):
    """A source, without its key and its secret. Times are unix milliseconds."""

    source_id: str
    name: str
    kind: str
    proof: str
    created_at: int
    revoked_at: int | None


class SourceList(Struct):
    """Every source, the revoked ones too."""

    sources: list[SourceView]


class Revoked(Struct):
    """What is in use no more."""

    revoked: str


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


class DeadLetter(Struct):
    """Something that could not be understood: where it came from, why, and its size in bytes."""

    letter_id: int
    received_at: int
    origin: str
    reason: str
    bytes: int


class DeadLetters(Struct):
    """The newest dead letters, the newest first."""

    dead_letters: list[DeadLetter]


SOURCE = identifier("source", "The source's id.")


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


@operation("admin", takes=(SOURCE,), body=SourceBody, answer=NewSource, status=201, errors=(409,))
async def put_source(request: web.Request, body: SourceBody) -> NewSource:
    """Makes a source; answers its write key and its proof secret, this once."""
    source_id = SOURCE.of(request)
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
    return NewSource(**made)


@operation("admin", takes=(SOURCE,), answer=Revoked, errors=(404,))
async def delete_source(request: web.Request) -> Revoked:
    """Revokes a source: its write key is refused from now on."""
    source_id, now = SOURCE.of(request), request.app[HOST].now_ms()

    def revoke(session: Session) -> None:
        if not session.run("revoke_source", source_id=source_id, at=now):
            raise Problem(404, "source", f"there is no source {source_id} in use")

    await change(request, "source revoked", source_id, revoke)
    return Revoked(source_id)


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


@operation("operator", answer=SourceList)
async def get_sources(request: web.Request) -> SourceList:
    """Lists the sources of events."""
    return SourceList(await rows_as(request, SourceView, "sources"))


@operation("admin", takes=(LIMIT,), answer=Audit)
async def get_audit(request: web.Request) -> Audit:
    """Lists the newest changes, and who made them."""
    return Audit(await rows_as(request, AuditLine, "newest_audit", limit=LIMIT.of(request)))


@operation("operator", takes=(LIMIT,), answer=DeadLetters)
async def get_dead_letters(request: web.Request) -> DeadLetters:
    """Lists the newest of what could not be understood, without its content."""
    limit = LIMIT.of(request)
    rows = await request.app[HOST].journal.read(lambda s: s.rows("dead_letters_newest", limit=limit))
    return DeadLetters([DeadLetter(**dict(row)) for row in rows])


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
