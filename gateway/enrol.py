"""Getting a certificate and keeping it: the gateway's side of enrolment and renewal, by HTTPS.

The key is made here and never leaves. The backend is verified by the machine's usual authorities or, where
its certificate is by its own authority, by the fingerprint in the token: the authority's certificate is
fetched first, over a connection that proves nothing and carries no secret, and is believed only if it has
that fingerprint; then a second connection is verified with it in full. Standard library only.
"""

import asyncio
import http.client
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.certificate import KnownTime, TimedContext, certificate_of, due_at
from gateway.identity import Facts, Identity, IdentityUnusable, check_papers, load_identity, write_identity
from sdk_bridge.files import replace_file
from sdk_bridge.wire.enrolment import (
    MAX_REPLY_BYTES,
    EnrolmentToken,
    EnrolRequest,
    Papers,
    RenewRequest,
    renewal,
)
from sdk_bridge.wire.topics import GatewayAddress

TIMEOUT_SECONDS: Final = 15.0  # a dead backend must not hold a person, or the renewal, for minutes
DRAFT_KEY: Final = "identity.draft-key"
FIRST_RETRY_SECONDS: Final = 60.0
LAST_RETRY_SECONDS: Final = 3600.0  # ten days of tries before the certificate runs out
LOOK_SECONDS: Final = 3600.0  # at the clock, which somebody may set meanwhile

log = structlog.get_logger()


class EnrolmentFailed(RuntimeError):
    """No certificate; the text is one line for the person at the terminal. Nothing was changed."""


class EnrolmentRefused(EnrolmentFailed):
    """The backend said no, and will say so again."""


class BackendUnreachable(EnrolmentFailed):
    """No answer; trying again may help."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the backend is, and how it is known: `authority` is the fingerprint of its own, SHA-256."""

    url: SplitResult
    authority: bytes
    time: KnownTime

    @classmethod
    def at(cls, url: str, authority: bytes, time: KnownTime, *, insecure: bool = False) -> "Backend":
        """Raises EnrolmentFailed for an address that is none, or that would send secrets in the clear."""
        try:
            parts = urlsplit(url)
            host, _port = parts.hostname, parts.port
        except ValueError as error:
            raise EnrolmentFailed(f"{url[:200]!r} is not an address: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise EnrolmentFailed("the backend's address begins with https:// and a host")
        if parts.scheme == "http" and not (insecure or is_loopback(host)):
            raise EnrolmentFailed("http:// would show the token to everybody on the way; use https://")
        return cls(parts, authority, time)

    def post(self, path: str, body: bytes) -> bytes:
        """The answer to a POST of JSON. Raises EnrolmentRefused and BackendUnreachable."""
        if self.url.scheme == "http":
            return self._exchange(None, "POST", path, body)
        try:
            return self._exchange(ssl.create_default_context(), "POST", path, body)
        except _Unverified as usual:
            context = self._pinned(usual)
        try:
            return self._exchange(context, "POST", path, body)
        except _Unverified as error:
            raise BackendUnreachable(f"the backend cannot be verified: {error}") from error

    def _pinned(self, usual: "_Unverified") -> ssl.SSLContext:
        """Trust in the authority whose fingerprint we were given; its certificate comes from anybody."""
        open_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        open_context.check_hostname = False
        open_context.verify_mode = ssl.CERT_NONE  # what comes is judged by its fingerprint alone
        pem = self._exchange(open_context, "GET", "/fleet/authority", None).decode("ascii", "replace")
        try:
            certificate = certificate_of(pem.encode())
        except ValueError as error:
            raise BackendUnreachable(f"the backend cannot be verified: {usual}") from error
        if certificate.fingerprint(hashes.SHA256()) != self.authority:
            raise BackendUnreachable(
                f"the backend cannot be verified: {usual}; and its authority is not the token's"
            )
        return TimedContext.trusting(pem, self.time)

    def _exchange(self, context: ssl.SSLContext | None, method: str, path: str, body: bytes | None) -> bytes:
        connection = self._connection(context)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, self.url.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read(MAX_REPLY_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise _Unverified(getattr(error, "verify_message", "") or str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise BackendUnreachable(f"{self.url.netloc}: {error}") from error
        finally:
            connection.close()
        return _good(status, answer)

    def _connection(self, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
        host, port = self.url.hostname or "", self.url.port
        if context is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


class _Unverified(Exception):
    """TLS does not prove who answers; nothing was sent."""


def _good(status: int, answer: bytes) -> bytes:
    if status == 200 and len(answer) <= MAX_REPLY_BYTES:
        return answer
    try:
        told = msgspec.json.decode(answer[:MAX_REPLY_BYTES], type=dict[str, dict[str, str]])
        message = told["error"]["message"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        message = f"it answered {status}, which is not an answer of Footfall's; is the address right?"
    readable = "".join(letter if letter.isprintable() else " " for letter in message[:300])
    if 400 <= status < 500 and status not in (404, 408, 429):
        raise EnrolmentRefused(f"the backend refused: {readable}")
    raise BackendUnreachable(f"the backend could not answer: {readable}")


def is_loopback(host: str) -> bool:
    """Whether a host cannot be anybody else's machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Enrolment --------------------------------------------------------------------------------------------


def enrol(data_dir: Path, address: GatewayAddress, token: EnrolmentToken, backend: Backend) -> Identity:
    """Gets the first certificate and puts the papers in place; earlier ones stay until then.

    The key is kept until it has its certificate, so that an answer that got lost can be asked for again.
    Raises EnrolmentFailed; OSError where the folder cannot be written.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    key = _draft_key(data_dir / DRAFT_KEY)
    request = EnrolRequest(address.store, address.gateway, token.secret.hex(), csr_of(key, address))
    papers = _papers(backend.post("/fleet/enrol", msgspec.json.encode(request)))
    facts = _facts(address, backend, papers, token.authority.hex(), token.config_key.hex())
    identity = _accept(data_dir, address, key, papers, facts)
    (data_dir / DRAFT_KEY).unlink(missing_ok=True)
    return identity


def renew(data_dir: Path, address: GatewayAddress, identity: Identity, backend: Backend) -> Identity:
    """Gets the next certificate, for a new key, by a signature with the present one.

    Raises EnrolmentFailed, IdentityUnusable, OSError.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    csr = csr_of(key, address)
    signature = _present_key(identity).sign(renewal(identity.serial, csr), ec.ECDSA(hashes.SHA256()))
    request = RenewRequest(identity.serial, csr, signature.hex())
    papers = _papers(backend.post("/fleet/renew", msgspec.json.encode(request)))
    known = identity.facts
    facts = _facts(address, backend, papers, known.authority, known.config_key)
    return _accept(data_dir, address, key, papers, facts)


def csr_of(key: ec.EllipticCurvePrivateKey, address: GatewayAddress) -> str:
    """A certificate request, as PEM. Its subject is for people; the backend goes by what it knows."""
    name = f"{address.store}/{address.gateway}"[:64]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _papers(answer: bytes) -> Papers:
    try:
        return msgspec.json.decode(answer, type=Papers)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackendUnreachable(f"the backend's answer cannot be read: {error}") from error


def _facts(
    address: GatewayAddress, backend: Backend, papers: Papers, authority: str, config_key: str
) -> Facts:
    """What is to lie beside the certificate. Raises EnrolmentRefused where the answer changes the key."""
    if papers.config_key != config_key:
        raise EnrolmentRefused("the backend's answer names another key for configurations than we were given")
    return Facts(
        store=address.store,
        gateway=address.gateway,
        backend=backend.url.geturl(),
        broker_host=papers.broker_host,
        broker_port=papers.broker_port,
        authority=authority,
        config_key=config_key,
    )


def _accept(
    data_dir: Path, address: GatewayAddress, key: ec.EllipticCurvePrivateKey, papers: Papers, facts: Facts
) -> Identity:
    try:
        check_papers(papers.certificate, papers.authority, facts, key.public_key())
    except IdentityUnusable as error:
        raise EnrolmentRefused(str(error)) from error
    write_identity(data_dir, _pem(key), papers.certificate, papers.authority, facts)
    identity = load_identity(data_dir, address)
    if identity is None:
        raise IdentityUnusable(f"{data_dir}: the papers just written are not there")
    return identity


def _draft_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of an attempt that got no answer, or a new one."""
    try:
        return _private(path.read_bytes())
    except (OSError, ValueError, TypeError):  # mostly: there is none
        key = ec.generate_private_key(ec.SECP256R1())
        replace_file(path, _pem(key), 0o600)
        return key


def _present_key(identity: Identity) -> ec.EllipticCurvePrivateKey:
    try:
        return _private(identity.key_file.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise IdentityUnusable(f"{identity.key_file}: {error}; enrol anew") from error


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key made here")  # noqa: TRY004 - a wrong file, not a wrong argument
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# Renewal ----------------------------------------------------------------------------------------------


class CertificateKeeper:
    """Renews the certificate in time, and goes on trying; `run` lives as long as the process."""

    def __init__(
        self,
        data_dir: Path,
        identity: Identity,
        time: KnownTime,
        random: Random,
        *,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self.identity = identity
        self.failures = 0
        self._data_dir = data_dir
        self._time = time
        time.at_least(identity.life.not_before)
        self._random = random
        self._first_retry_seconds = first_retry_seconds

    async def run(self) -> None:
        chance = self._random.random()
        while True:
            seconds = (due_at(self.identity.life, chance) - self._time.now()) / 1000
            if seconds <= 0:
                await self._try()
                # An hour also after success: with a clock far ahead, the new one looks due at once.
                seconds = self._pause() if self.failures else LOOK_SECONDS
            await asyncio.sleep(min(seconds, LOOK_SECONDS))

    def _pause(self) -> float:
        longest = min(self._first_retry_seconds * (1 << min(self.failures - 1, 10)), LAST_RETRY_SECONDS)
        return longest * (0.5 + self._random.random() / 2)

    async def _try(self) -> None:
        try:
            self.identity = await asyncio.to_thread(self._renew)
        except (EnrolmentFailed, IdentityUnusable, OSError) as error:
            self.failures += 1
            log.error("certificate not renewed", cause=str(error), failures=self.failures)  # noqa: TRY400
        else:
            self.failures = 0
            log.info("certificate renewed", serial=self.identity.serial)

    def _renew(self) -> Identity:
        facts = self.identity.facts
        backend = Backend.at(facts.backend, bytes.fromhex(facts.authority), self._time, insecure=True)
        address = GatewayAddress(facts.store, facts.gateway)
        return renew(self._data_dir, address, self.identity, backend)
