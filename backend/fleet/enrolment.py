"""Who gets a certificate: one-time tokens, renewals by the present key, and what is refused with which word.

A token is spent by the first key that uses it; the same key may ask again while the token lives, because an
answer can get lost. A certificate may be followed by the next one as long as it is the gateway's newest, or
the one before it (again, a lost answer), also after it ran out, and never after it was revoked. So a copied
key that renews in secret shuts out the gateway it was copied from, whose refusal raises an alert.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from backend.fleet.authority import (
    Authority,
    Issued,
    PublicKey,
    RequestRefused,
    Subject,
    der_of,
    read_request,
    signed_by,
)
from sdk_bridge.wire.enrolment import EnrolRequest, Papers, RenewRequest, renewal

MINUTE_MS: Final = 60_000
TOKEN_MINUTES: Final = 60  # time to climb a ladder, too short for a forgotten note
MAX_TOKEN_MINUTES: Final = 7 * 24 * 60
CERTIFICATE_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not: an HTTP status, a word for programs, a sentence for people.

    `gateway` is named where the refusal concerns one of ours, so that somebody should hear of it.
    """

    status: int
    code: str
    message: str
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is kept: for whom, until when (unix ms), and the SHA-256 of the key that spent it."""

    gateway: str
    expires_at: int
    used_by: bytes | None
    void: bool


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate as it is kept. `in_line`: it is its gateway's newest, or the one before that."""

    serial: str
    gateway: str
    public_key: bytes
    not_after: int
    revoked: bool
    in_line: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """A certificate to be recorded; `follows` is the serial that it was renewed from."""

    gateway: str
    issued: Issued
    at: int
    follows: str | None


class FleetRows(Protocol):
    """What enrolment asks of the database, inside one transaction. Gateways go by `store/gateway`."""

    def token(self, secret_hash: bytes) -> StoredToken | None: ...

    def spend_token(self, secret_hash: bytes, used_by: bytes, at: int) -> None: ...

    def certificate(self, serial: str) -> StoredCertificate | None: ...

    def certificate_of_key(self, gateway: str, public_key: bytes, now: int) -> str | None:
        """The PEM of a valid, unrevoked certificate that this key has already."""

    def retire(self, gateway: str, at: int) -> None:
        """Revokes every certificate so far, and lifts the gateway's own revocation."""

    def add(self, grant: Grant) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What every gateway is told beside its certificate, and how long that lasts."""

    broker_host: str
    broker_port: int
    config_key: bytes
    life_ms: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Grants and refuses. Give `now` in unix ms, and a fresh random serial number."""

    authority: Authority
    terms: Terms

    def enrol(self, rows: FleetRows, request: EnrolRequest, now: int, serial: int) -> Papers | Refusal:
        """The first certificate, for a token's secret."""
        secret_hash = hash_of(bytes.fromhex(request.secret))
        key = _key_of(request.csr)
        if isinstance(key, Refusal):
            return key
        used_by = hashlib.sha256(key.der).digest()
        name = f"{request.store}/{request.gateway}"
        token = rows.token(secret_hash)
        refusal = judge_token(token, name, used_by, now)
        if refusal is not None or token is None:
            return refusal or UNKNOWN_TOKEN
        if token.used_by is not None and (known := rows.certificate_of_key(name, key.der, now)):
            return self._papers(name, known)
        subject = _subject(name, self.terms.life_ms)
        if isinstance(subject, Refusal):
            return subject
        issued = self.authority.issue(key.public, subject, now, serial)
        rows.spend_token(secret_hash, used_by, now)
        rows.retire(name, now)
        rows.add(Grant(name, issued, now, follows=None))
        return self._papers(name, issued.pem)

    def renew(self, rows: FleetRows, request: RenewRequest, now: int, serial: int) -> Papers | Refusal:
        """The next certificate, for a signature by the present one's key."""
        present = rows.certificate(request.serial)
        refusal = judge_renewal(present, request)
        if refusal is not None or present is None:
            return refusal or UNKNOWN_CERTIFICATE
        key = _key_of(request.csr)
        if isinstance(key, Refusal):
            return key
        if known := rows.certificate_of_key(present.gateway, key.der, now):
            return self._papers(present.gateway, known)  # a request sent twice costs one certificate
        subject = Subject.gateway(present.gateway, self.terms.life_ms)
        issued = self.authority.issue(key.public, subject, now, serial)
        rows.add(Grant(present.gateway, issued, now, follows=present.serial))
        return self._papers(present.gateway, issued.pem)

    def _papers(self, name: str, certificate: str) -> Papers:
        store, _, gateway = name.partition("/")
        terms = self.terms
        return Papers(
            store=store,
            gateway=gateway,
            certificate=certificate,
            authority=self.authority.pem,
            broker_host=terms.broker_host,
            broker_port=terms.broker_port,
            config_key=terms.config_key.hex(),
        )


UNKNOWN_TOKEN: Final = Refusal(401, "token", "this enrolment token is not known here")
UNKNOWN_CERTIFICATE: Final = Refusal(
    401, "certificate", "this certificate is not known here, or is not yours; enrol with a new token"
)


def hash_of(secret: bytes) -> bytes:
    """SHA-256. The secret is 128 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret).digest()


def judge_token(token: StoredToken | None, name: str, used_by: bytes, now: int) -> Refusal | None:
    """Why a token does not let this gateway in with this key; None where it does."""
    if token is None:
        return UNKNOWN_TOKEN
    if token.gateway != name:
        message = f"this enrolment token is for {token.gateway}, not for {name[:130]}"
        return Refusal(409, "name", message, token.gateway)
    if token.void:
        return Refusal(410, "token_void", "this enrolment token was withdrawn", name)
    if token.used_by is not None and token.used_by != used_by:
        return Refusal(410, "token_used", "this enrolment token was used already; ask for a new one", name)
    if now >= token.expires_at:
        return Refusal(410, "token_expired", "this enrolment token has run out; ask for a new one", name)
    return None


def judge_renewal(present: StoredCertificate | None, request: RenewRequest) -> Refusal | None:
    """Why a certificate may not be followed by another one; None where it may."""
    if present is None or not _proved(present, request):
        return UNKNOWN_CERTIFICATE
    if present.revoked:
        message = "this certificate was revoked; enrol with a new token"
        return Refusal(403, "revoked", message, present.gateway)
    if not present.in_line:
        message = "newer certificates have taken this one's place; enrol with a new token"
        return Refusal(403, "superseded", message, present.gateway)
    return None


def _proved(present: StoredCertificate, request: RenewRequest) -> bool:
    if len(request.signature) % 2:
        return False
    statement = renewal(request.serial, request.csr)
    return signed_by(present.public_key, bytes.fromhex(request.signature), statement)


@dataclass(frozen=True, slots=True)
class _Key:
    public: PublicKey
    der: bytes


def _key_of(csr: str) -> _Key | Refusal:
    try:
        public = read_request(csr)
    except RequestRefused as error:
        return Refusal(400, "csr", str(error))
    return _Key(public, der_of(public))


def _subject(name: str, life_ms: int) -> Subject | Refusal:
    try:
        return Subject.gateway(name, life_ms)
    except RequestRefused as error:
        return Refusal(409, "name", str(error), name)
