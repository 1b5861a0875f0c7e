"""The fleet over HTTP: operators enrol, revoke and configure gateways; gateways fetch their certificates."""

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import structlog
from aiohttp import web
from cryptography import x509
from msgspec import Meta, Struct

from backend.api.auth import CALLER, STATE, needs
from backend.api.bodies import body_as, id_in_path
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.fleet.authority import RequestRefused, Subject
from backend.fleet.configurations import ConfigurationPublisher, SignedVersion, public_key, sign
from backend.fleet.enrolment import (
    MAX_TOKEN_MINUTES,
    MINUTE_MS,
    TOKEN_MINUTES,
    Enrolment,
    Refusal,
    Terms,
    hash_of,
)
from backend.fleet.keys import Keys
from backend.storage import fleet as rows
from backend.storage import registry
from backend.storage.database import Session, SqliteFile
from backend.storage.fleet import SqlFleetRows
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import Configuration, decode_settings
from sdk_bridge.wire.enrolment import SECRET_BYTES, EnrolmentToken, EnrolRequest, Papers, RenewRequest

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the handlers need of the fleet: keys, the rules of enrolment, and who publishes configurations."""

    keys: Keys
    enrolment: Enrolment
    publisher: ConfigurationPublisher
    refused: Counter[str] = field(default_factory=Counter)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(
        cls, keys: Keys, publisher: ConfigurationPublisher, broker: tuple[str, int], life_ms: int
    ) -> "Fleet":
        """`broker` is where gateways reach it; `life_ms` how long their certificates last."""
        terms = Terms(*broker, public_key(keys.signing), life_ms)
        return cls(keys, Enrolment(keys.authority, terms), publisher)

    async def write_revocations(self, state: SqliteFile, now: int) -> None:
        """Brings the brokers' revocation list up to date with the database. Raises OSError."""
        async with self._writing:
            revoked = await state.read(lambda session: rows.revoked_certificates(session, now))
            await asyncio.to_thread(self.keys.write_revocations, revoked, now)


FLEET = web.AppKey("fleet", Fleet)


class TokenBody(Struct, forbid_unknown_fields=True):
    """How long the token may be used."""

    minutes: Annotated[int, Meta(ge=1, le=MAX_TOKEN_MINUTES)] = TOKEN_MINUTES


# Operators --------------------------------------------------------------------------------------------


@needs("operator")
async def post_enrol_token(request: web.Request) -> web.Response:
    """Makes a one-time token for a registered gateway and answers it, this once."""
    name, fleet = _gateway_in_path(request), request.app[FLEET]
    body = await body_as(request, TokenBody) if request.can_read_body else TokenBody()
    try:
        Subject.gateway(name, 0)
    except RequestRefused as error:
        raise Problem(409, "name", str(error)) from error
    now = request.app[HOST].now_ms()
    expires_at = now + body.minutes * MINUTE_MS
    secret = secrets.token_bytes(SECRET_BYTES)

    def work(session: Session) -> None:
        _must_exist(session, name)
        rows.add_token(session, name, hash_of(secret), now, expires_at)

    await change(request, "enrolment token made", name, work, {"expires_at": expires_at})
    token = EnrolmentToken(secret, fleet.keys.authority.fingerprint, public_key(fleet.keys.signing))
    return web.json_response({"token": token.text(), "gateway": name, "expires_at": expires_at}, status=201)


@needs("operator")
async def post_revoke(request: web.Request) -> web.Response:
    """Ends a gateway's certificates and open tokens, and stops listening to it, until it is enrolled anew."""
    name, fleet, host = _gateway_in_path(request), request.app[FLEET], request.app[HOST]
    now = host.now_ms()

    def work(session: Session) -> int:
        _must_exist(session, name)
        return rows.revoke(session, name, now)

    revoked = await change(request, "gateway revoked", name, work)
    await fleet.write_revocations(host.state, now)
    return web.json_response({"gateway": name, "certificates_revoked": revoked})


@needs("operator")
async def put_config(request: web.Request) -> web.Response:
    """Makes the next version of a gateway's configuration; what is left out stays as its own file has it."""
    name, host = _gateway_in_path(request), request.app[HOST]
    try:
        settings = decode_settings(await request.read())
    except WireError as error:
        raise Problem(400, "settings", str(error)) from error
    store, _, gateway = name.partition("/")
    now, actor, key = host.now_ms(), request[CALLER].name, request.app[FLEET].keys.signing

    def work(session: Session) -> SignedVersion:
        _must_exist(session, name)
        version = rows.version_to_come(session, name)
        signed = sign(key, Configuration(store, gateway, version, now, settings))
        rows.add_configuration(session, signed, now)
        detail = {"version": version, "settings": settings.table()}
        registry.note(session, now, actor, "configuration issued", name, detail)
        return signed

    try:
        signed = await host.state.write(work)
    except WireError as error:
        raise Problem(413, "settings", str(error)) from error
    request.app[FLEET].publisher.changed()
    return web.json_response({"gateway": name, "version": signed.version, "state": "issued"})


@needs("viewer")
async def get_config(request: web.Request) -> web.Response:
    """The versions of a gateway's configuration, the newest first, and what the gateway said of each."""
    name = _gateway_in_path(request)

    def read(session: Session) -> list[dict[str, Any]]:
        _must_exist(session, name)
        return rows.configurations_of(session, name)

    return web.json_response({"gateway": name, "versions": await request.app[STATE].read(read)})


@needs("viewer")
async def get_fleet(request: web.Request) -> web.Response:
    """Every gateway: its newest certificate, its newest configuration, what it said of that."""
    return web.json_response({"gateways": await request.app[STATE].read(rows.fleet)})


# Gateways ---------------------------------------------------------------------------------------------


async def get_authority(request: web.Request) -> web.Response:
    """The authority's certificate, open to all: who has its fingerprint can check it."""
    return web.Response(text=request.app[FLEET].keys.authority.pem, content_type="application/x-pem-file")


async def post_enrol(request: web.Request) -> web.Response:
    """Authenticates itself: by the one-time secret of an enrolment token."""
    fleet, body = request.app[FLEET], await body_as(request, EnrolRequest)
    host, serial = request.app[HOST], x509.random_serial_number()
    now = host.now_ms()
    answer = await host.state.write(
        lambda session: _noted(session, now, fleet.enrolment.enrol(SqlFleetRows(session), body, now, serial))
    )
    papers = _granted(fleet, answer)
    await fleet.write_revocations(host.state, now)  # an earlier life's certificates ended with this
    host.changed()
    fleet.publisher.changed()
    return _answer(papers)


async def post_renew(request: web.Request) -> web.Response:
    """Authenticates itself: by a signature with the key of a certificate issued here."""
    fleet, body = request.app[FLEET], await body_as(request, RenewRequest)
    host, serial = request.app[HOST], x509.random_serial_number()
    now = host.now_ms()
    answer = await host.state.write(
        lambda session: _noted(session, now, fleet.enrolment.renew(SqlFleetRows(session), body, now, serial))
    )
    return _answer(_granted(fleet, answer))


def _noted(session: Session, now: int, answer: Papers | Refusal) -> Papers | Refusal:
    """In the transaction of the request, which a refusal must not roll back."""
    if isinstance(answer, Refusal):
        rows.note_refusal(session, answer, now)
    return answer


def _granted(fleet: Fleet, answer: Papers | Refusal) -> Papers:
    """The papers. Raises Problem; strangers are counted, and logged the 1st, 2nd, 4th … time."""
    if isinstance(answer, Papers):
        log.info("papers_granted", gateway=f"{answer.store}/{answer.gateway}")
        return answer
    fleet.refused[answer.code] += 1
    count = fleet.refused[answer.code]
    if answer.gateway is not None or count & (count - 1) == 0:
        log.warning("papers_refused", reason=answer.code, gateway=answer.gateway, count=count)
    raise Problem(answer.status, answer.code, answer.message)


def _answer(papers: Papers) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(papers),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _gateway_in_path(request: web.Request) -> str:
    return f"{id_in_path(request, 'store')}/{id_in_path(request, 'gateway')}"


def _must_exist(session: Session, name: str) -> None:
    if not rows.exists(session, name):
        raise Problem(404, "gateway", f"there is no gateway {name}; register it first")


PUBLIC_ROUTES = [
    web.get("/fleet/authority", get_authority),
    web.post("/fleet/enrol", post_enrol),
    web.post("/fleet/renew", post_renew),
]
ROUTES = [
    web.get("/api/fleet", get_fleet),
    web.post("/api/gateways/{store}/{gateway}/enrol-token", post_enrol_token),
    web.post("/api/gateways/{store}/{gateway}/revoke", post_revoke),
    web.put("/api/gateways/{store}/{gateway}/config", put_config),
    web.get("/api/gateways/{store}/{gateway}/config", get_config),
]
