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

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change, rows_as
from backend.api.operations import operation, reply
from backend.api.parameters import GATEWAY, STORE
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
from backend.storage.database import Database, Session
from backend.storage.fleet import SqlFleetRows
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import Configuration, RemoteSettings, decode_settings
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

    async def write_revocations(self, state: Database, now: int) -> None:
        """Brings the brokers' revocation list up to date with the database. Raises OSError."""
        async with self._writing:
            revoked = await state.read(lambda session: rows.revoked_certificates(session, now))
            await asyncio.to_thread(self.keys.write_revocations, revoked, now)


FLEET = web.AppKey("fleet", Fleet)


class TokenBody(Struct, forbid_unknown_fields=True):
    """How long the token may be used."""

    minutes: Annotated[int, Meta(ge=1, le=MAX_TOKEN_MINUTES)] = TOKEN_MINUTES


class NewToken(Struct):
    """An enrolment token, shown this once, and until when it may be used (unix milliseconds)."""

    token: str
    gateway: str
    expires_at: int


class RevokedGateway(Struct):
    """How many certificates ended."""

    gateway: str
    certificates_revoked: int


class Issued(Struct):
    """The version that the gateway will be given."""

    gateway: str
    version: int
    state: str


class ConfigurationVersion(Struct):
    """A version: what it sets, and what the gateway said of it. Times are unix milliseconds."""

    version: int
    issued_at: int
    settings: dict[str, Any]
    state: str
    reported_at: int | None


class ConfigurationVersions(Struct):
    """A gateway's versions, the newest first."""

    gateway: str
    versions: list[ConfigurationVersion]


class FleetGateway(Struct):
    """A gateway, its newest certificate and its newest configuration. Times are unix milliseconds."""

    store_id: str
    gateway_id: str
    name: str
    revoked_at: int | None
    serial: str | None
    issued_at: int | None
    not_after: int | None
    certificate_revoked_at: int | None
    newest_version: int | None
    reported_version: int | None
    reported_state: str | None
    reported_at: int | None


class FleetView(Struct):
    """Every registered gateway."""

    gateways: list[FleetGateway]


def _decode_settings(raw: bytes) -> RemoteSettings:
    try:
        return decode_settings(raw)
    except WireError as error:
        raise Problem(400, "settings", str(error)) from error


# Operators --------------------------------------------------------------------------------------------


@operation(
    "operator",
    takes=(STORE, GATEWAY),
    body=TokenBody,
    without=TokenBody(),
    answer=NewToken,
    status=201,
    errors=(404, 409),
)
async def post_enrol_token(request: web.Request, body: TokenBody) -> NewToken:
    """Makes a one-time token for a registered gateway and answers it, this once."""
    name, fleet = _gateway_in_path(request), request.app[FLEET]
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
    return NewToken(token.text(), name, expires_at)


@operation("operator", takes=(STORE, GATEWAY), answer=RevokedGateway, errors=(404,))
async def post_revoke(request: web.Request) -> RevokedGateway:
    """Ends a gateway's certificates and open tokens, and stops listening to it, until it is enrolled anew."""
    name, fleet, host = _gateway_in_path(request), request.app[FLEET], request.app[HOST]
    now = host.now_ms()

    def work(session: Session) -> int:
        _must_exist(session, name)
        return rows.revoke(session, name, now)

    revoked = await change(request, "gateway revoked", name, work)
    await fleet.write_revocations(host.state, now)
    return RevokedGateway(name, revoked)


@operation(
    "operator",
    takes=(STORE, GATEWAY),
    body=RemoteSettings,
    decode=_decode_settings,
    answer=Issued,
    errors=(404,),
)
async def put_config(request: web.Request, settings: RemoteSettings) -> Issued:
    """Makes the next version of a gateway's configuration; what is left out stays as its own file has it."""
    name, host = _gateway_in_path(request), request.app[HOST]
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
    return Issued(name, signed.version, "issued")


@operation("viewer", takes=(STORE, GATEWAY), answer=ConfigurationVersions, errors=(404,))
async def get_config(request: web.Request) -> ConfigurationVersions:
    """The versions of a gateway's configuration, the newest first, and what the gateway said of each."""
    name = _gateway_in_path(request)

    def read(session: Session) -> list[dict[str, Any]]:
        _must_exist(session, name)
        return rows.configurations_of(session, name)

    found = await request.app[STATE].read(read)
    return ConfigurationVersions(name, msgspec.convert(found, list[ConfigurationVersion]))


@operation("viewer", answer=FleetView)
async def get_fleet(request: web.Request) -> FleetView:
    """Every gateway: its newest certificate, its newest configuration, what it said of that."""
    return FleetView(await rows_as(request, FleetGateway, "fleet"))


# Gateways ---------------------------------------------------------------------------------------------


@operation("public", media=("application/x-pem-file",))
async def get_authority(request: web.Request) -> web.Response:
    """The authority's certificate, open to all: who has its fingerprint can check it."""
    return web.Response(text=request.app[FLEET].keys.authority.pem, content_type="application/x-pem-file")


@operation("public", body=EnrolRequest, answer=Papers, errors=(401, 403, 409, 410))
async def post_enrol(request: web.Request, body: EnrolRequest) -> web.Response:
    """Gives a new gateway its first certificate.

    Authenticates itself: by the one-time secret of an enrolment token.
    """
    fleet = request.app[FLEET]
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


@operation("public", body=RenewRequest, answer=Papers, errors=(401, 403, 409, 410))
async def post_renew(request: web.Request, body: RenewRequest) -> web.Response:
    """Gives a gateway its next certificate.

    Authenticates itself: by a signature with the key of a certificate issued here.
    """
    fleet = request.app[FLEET]
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
    return reply(papers, headers={"Cache-Control": "no-store"})


def _gateway_in_path(request: web.Request) -> str:
    return f"{STORE.of(request)}/{GATEWAY.of(request)}"


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
