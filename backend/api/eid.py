"""Operators register beacons whose ids rotate (Eddystone-EID), list them and take them back."""

import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.host import HOST
from backend.api.operations import operation, reply
from backend.api.parameters import LIMIT, text
from backend.eid_desk import EidDesk
from backend.proximity.eid import KEY_BYTES, MAX_EXPONENT, NONCE_BYTES, EidError, eid_at
from backend.proximity.eid_keys import EidKeys, checked_identity_key
from backend.proximity.eid_roll import stable_key
from backend.storage import eid as rows
from backend.storage import registry
from backend.storage.database import Session

PUBLIC_KEY_BYTES = 32
MAX_CLOCK_AHEAD_MS = 60_000  # that the clock was read in our future: by as much may two computers differ
_HEX = re.compile(r"[0-9a-fA-F]*")

Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class EidRegistrar:
    """What the handlers need: the secret's keys, and the desk that has to hear of changes."""

    keys: EidKeys
    desk: EidDesk


EID = web.AppKey("eid", EidRegistrar)


class EidBody(Struct, forbid_unknown_fields=True):
    """A beacon whose ids rotate every 2^`exponent` seconds.

    Either its X25519 `public_key`, or its `identity_key` where it was provisioned elsewhere, in base64 or
    hexadecimal. `clock_s` is its counter of seconds as read at `clock_at`, unix milliseconds, now without it.
    `initial_eid`, what it sent at that moment in hexadecimal, tells whether both sides agree.
    """

    exponent: Annotated[int, Meta(ge=0, le=MAX_EXPONENT)]
    clock_s: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    clock_at: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    public_key: Text | None = None
    identity_key: Text | None = None
    initial_eid: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{16}$(?!\n)")] | None = None


class Registered(Struct):
    """The key by which the beacon is known from now on, and whether it is new."""

    beacon_key: str
    exponent: int
    new: bool


class Removed(Struct):
    """What is known no more."""

    removed: str


class RotatingBeacon(Struct):
    """A rotating beacon. Times are unix milliseconds; its drift is that of its clock, in seconds."""

    beacon_key: str
    exponent: int
    registered_at: int
    told_at: int
    drift_s: int
    learned_at: int | None


class RotatingBeacons(Struct):
    """A page of rotating beacons, in the order of their keys."""

    beacons: list[RotatingBeacon]


class Resolver(Struct):
    """The public key for provisioning; how many beacons are resolved, unreadable, and the tables' size."""

    public_key: str
    public_key_base64: str
    beacons: int
    unreadable: int
    table_bytes: int


_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MUST = "the key of a rotating beacon, eid:<uuid>"
BEACON = text("beacon", "The key that the registration answered.", pattern=f"eid:{_UUID}", must=_MUST)
AFTER = text("after", "The last key of the page before.", pattern=f"eid:{_UUID}", must=_MUST, default="")


@operation(
    "operator", body=EidBody, answer=Registered, status=(201, 200), errors=(409,), name="post_eid_beacon"
)
async def post_beacon(request: web.Request, body: EidBody) -> web.Response:
    """Registers a beacon whose ids rotate; answers its key, the same when repeated."""
    desk = request.app[EID].desk
    host, actor = request.app[HOST], request[CALLER].name
    now = host.now_ms()
    new = _registration(request.app[EID].keys, body, now)

    def work(session: Session) -> tuple[str, bool]:
        beacon_key, is_new = rows.register(session, new, now)
        action = "rotating beacon registered" if is_new else "rotating beacon's clock told"
        detail = {"exponent": new.exponent, "by": "public key" if body.public_key else "identity key"}
        registry.note(session, now, actor, action, beacon_key, detail)
        return beacon_key, is_new

    beacon_key, is_new = await host.state.write(work)
    desk.changed()
    return reply(Registered(beacon_key, new.exponent, is_new), 201 if is_new else 200)


@operation("operator", takes=(BEACON,), answer=Removed, errors=(404,), name="delete_eid_beacon")
async def delete_beacon(request: web.Request) -> Removed:
    """Forgets a beacon's key: what it sends is a stranger's from this moment on."""
    beacon_key = BEACON.of(request)
    host, actor = request.app[HOST], request[CALLER].name

    def work(session: Session) -> None:
        if not rows.remove(session, beacon_key):
            raise Problem(404, "beacon_key", f"there is no rotating beacon {beacon_key}")
        registry.note(session, host.now_ms(), actor, "rotating beacon removed", beacon_key)

    await host.state.write(work)
    request.app[EID].desk.removed(beacon_key)
    return Removed(beacon_key)


@operation("viewer", takes=(AFTER, LIMIT), answer=RotatingBeacons, name="get_eid_beacons")
async def get_beacons(request: web.Request) -> RotatingBeacons:
    """Rotating beacons in the order of their keys, `limit` from behind `after`; none of their secrets."""
    after, limit = AFTER.of(request), LIMIT.of(request)
    found = await request.app[STATE].read(lambda session: rows.registered(session, after, limit))
    return RotatingBeacons(msgspec.convert(found, list[RotatingBeacon]))


@operation("viewer", answer=Resolver)
async def get_resolver(request: web.Request) -> Resolver:
    """The public key that beacons are given when they are provisioned; how the desk is doing."""
    keys, desk = request.app[EID].keys, request.app[EID].desk
    return Resolver(
        public_key=keys.resolver_public.hex(),
        public_key_base64=base64.b64encode(keys.resolver_public).decode(),
        beacons=desk.beacons,
        unreadable=desk.unreadable,
        table_bytes=desk.size_bytes,
    )


def _registration(keys: EidKeys, body: EidBody, now: int) -> rows.Registration:
    """What is stored. Raises Problem, which never repeats a key."""
    told_at = now if body.clock_at is None else body.clock_at
    if told_at > now + MAX_CLOCK_AHEAD_MS:
        raise Problem(400, "clock_at", "clock_at must be unix milliseconds, and not in the future")
    try:
        identity = _identity(keys, body)
        if (
            body.initial_eid
            and eid_at(identity, body.exponent, body.clock_s).hex() != body.initial_eid.lower()
        ):
            raise Problem(
                409, "initial_eid", "the beacon sends another id: key, exponent or clock is not what it has"
            )
    except EidError as error:
        raise Problem(400, "key", str(error)) from error
    beacon_key = stable_key(secrets.token_bytes(16))
    return rows.Registration(
        beacon_key=beacon_key,
        wrapped_key=keys.wrap.wrap(identity, beacon_key, secrets.token_bytes(NONCE_BYTES)),
        fingerprint=keys.fingerprint(identity),
        exponent=body.exponent,
        ahead_s=body.clock_s - told_at // 1000,
        told_at=told_at,
    )


def _identity(keys: EidKeys, body: EidBody) -> bytes:
    match body.public_key, body.identity_key:
        case str(public), None:
            return keys.agreed_with(_bytes(public, "public_key", PUBLIC_KEY_BYTES))
        case None, str(identity):
            return checked_identity_key(_bytes(identity, "identity_key", KEY_BYTES))
    raise Problem(400, "key", "give either public_key or identity_key")


def _bytes(text: str, name: str, size: int) -> bytes:
    """Hexadecimal, or base64 in either alphabet; of one size these never look alike. Raises Problem."""
    decoded = b""
    if len(text) == 2 * size and _HEX.fullmatch(text):
        decoded = bytes.fromhex(text)
    elif text.isascii():
        try:
            padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
            decoded = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
        except binascii.Error:
            decoded = b""
    if len(decoded) != size:
        raise Problem(400, name, f"{name} must be {size} bytes in hexadecimal or base64")
    return decoded


ROUTES = [
    web.post("/api/beacons/eid", post_beacon),
    web.get("/api/beacons/eid", get_beacons),
    web.delete("/api/beacons/eid/{beacon}", delete_beacon),
    web.get("/api/eid/resolver", get_resolver),
]
