"""Firebase ID tokens as proof of who the user is: signed by Google, checked here without a call for each."""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate

from sdk_bridge.server.refusals import Refusal

GOOGLE_CERTIFICATES: Final = (
    "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
)
MAX_TOKEN_CHARS = 4096  # Firebase's have some 1,000
MAX_TOKENS = 20  # of one request: a device has one, a batch of a shared one a few
MAX_KNOWN = 10_000  # tokens whose signature was found right; an app sends the same one for an hour
MAX_CERTIFICATES = 32  # Google shows two or three
MAX_CERTIFICATE_BYTES = 64 * 1024
LEEWAY_MS = 60_000  # between Google's clock and ours
FETCH_S = 5.0
LONGEST_LIFE_MS = 24 * 3_600_000  # a header that says a year must not keep a withdrawn key for a year
LEAST_LIFE_MS = 60_000  # and tokens with made-up key ids must not make us ask for each
RETRY_MS = 1_000  # after a failure, as long every request is told to come again

_log = structlog.get_logger(__name__)
_TOKEN = re.compile(rb'"idToken"\s*:\s*"([A-Za-z0-9_=.\-]{1,4096})"')
_MAX_AGE = re.compile(r"max-age\s*=\s*(\d{1,9})")


@dataclass(frozen=True, slots=True)
class IdClaims:
    """What a valid token says: the user id, and what Google verified of the e-mail address and telephone."""

    user_id: str
    email: str | None = None
    phone: str | None = None


class IdTokens(Protocol):
    """Whoever can check ID tokens."""

    async def claims_of(self, token: str, now: int) -> IdClaims | None:
        """What the token says; None for one that is forged, expired, or for somebody else.

        Raises CertificatesUnavailable where that cannot be found out just now.
        """
        ...


class CertificatesUnavailable(Refusal):
    """Google's certificates cannot be had just now; the sender is to come again, and loses nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(503, "certificates_unavailable", f"ID tokens cannot be checked: {reason}", 2)


def tokens_in(body: bytes) -> list[str]:
    """Every ID token that a body may hold, wherever it stands; what is one has no character to escape."""
    if b'"idToken"' not in body:
        return []
    found = dict.fromkeys(match[1].decode() for match in _TOKEN.finditer(body))
    return list(found)[:MAX_TOKENS]


async def identities_in(body: bytes, tokens: IdTokens | None, now: int) -> Mapping[str, IdClaims]:
    """The valid tokens of a body with what they say. Raises CertificatesUnavailable."""
    if tokens is None:
        return {}
    found: dict[str, IdClaims] = {}
    for token in tokens_in(body):
        claims = await tokens.claims_of(token, now)
        if claims is not None:
            found[token] = claims
    return found


class FirebaseTokens:
    """Satisfies IdTokens for one Firebase project; `session` is lent, `url` where the certificates are."""

    def __init__(
        self, project: str, session: Callable[[], aiohttp.ClientSession], url: str = GOOGLE_CERTIFICATES
    ) -> None:
        self._project = project
        self._certificates = _Certificates(session, url)
        self._known: OrderedDict[bytes, tuple[IdClaims, int]] = OrderedDict()

    async def claims_of(self, token: str, now: int) -> IdClaims | None:
        digest = hashlib.sha256(token.encode()).digest()  # the token itself is a secret for an hour
        known = self._known.get(digest)
        if known is None:
            said = await self._read(token, now)
            if said is None:
                return None
            known = said
            self._remember(digest, known)
        claims, expires_at = known
        return claims if now < expires_at + LEEWAY_MS else None

    def _remember(self, digest: bytes, known: tuple[IdClaims, int]) -> None:
        self._known[digest] = known
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _read(self, token: str, now: int) -> tuple[IdClaims, int] | None:
        """What a token of ours says, and until when; whether it has expired is asked each time."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        key_id = header.get("kid")
        if header.get("alg") != "RS256" or not isinstance(key_id, str):
            return None
        key = await self._certificates.key(key_id, now)
        if key is None:
            return None
        try:
            said = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self._project,
                issuer=f"https://securetoken.google.com/{self._project}",
                # The times are compared below, with the clock that everything here goes by.
                options={
                    "require": ["exp", "iat", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            return None
        return _understood(said, now)


def _understood(said: Mapping[str, Any], now: int) -> tuple[IdClaims, int] | None:
    user_id, expires = said.get("sub"), _ms(said.get("exp"))
    begun = [_ms(said.get("iat")), _ms(said.get("auth_time", said.get("iat")))]
    if not isinstance(user_id, str) or not 0 < len(user_id) <= 128 or "\0" in user_id or expires is None:
        return None
    if any(at is None or at > now + LEEWAY_MS for at in begun):
        return None
    email, phone = said.get("email"), said.get("phone_number")
    verified = said.get("email_verified") is True and isinstance(email, str)
    return (
        IdClaims(user_id, email if verified else None, phone if isinstance(phone, str) else None),
        expires,
    )


def _ms(seconds: object) -> int | None:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and abs(seconds) < 1e12
    return int(seconds * 1000) if is_number and isinstance(seconds, (int, float)) else None


class _Certificates:
    """Google's public keys by their id, fetched anew when their time is over or a key is not among them."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession], url: str) -> None:
        self._session = session
        self._url = url
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at: int | None = None
        self._good_until = 0
        self._failed_at: int | None = None
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str, now: int) -> RSAPublicKey | None:
        """The key; None where Google has none of this id. Raises CertificatesUnavailable."""
        if self._is_due(key_id, now):
            async with self._fetching:
                if self._is_due(key_id, now):
                    await self._fetch(now)
        return self._keys.get(key_id)

    def _is_due(self, key_id: str, now: int) -> bool:
        if self._fetched_at is None or now >= self._good_until:
            return True
        return key_id not in self._keys and now >= self._fetched_at + LEAST_LIFE_MS

    async def _fetch(self, now: int) -> None:
        if self._failed_at is not None and 0 <= now - self._failed_at < RETRY_MS:
            raise CertificatesUnavailable("the last try failed a moment ago")
        try:
            keys, life_ms = await self._asked()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.MsgspecError) as error:
            self._failed_at = now
            _log.warning("certificates_unavailable", url=self._url, error=str(error) or repr(error))
            raise CertificatesUnavailable("their address does not answer as it should") from error
        self._keys, self._fetched_at, self._failed_at = keys, now, None
        self._good_until = now + min(max(life_ms, LEAST_LIFE_MS), LONGEST_LIFE_MS)

    async def _asked(self) -> tuple[dict[str, RSAPublicKey], int]:
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        async with self._session().get(self._url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = await response.content.read(MAX_CERTIFICATE_BYTES + 1)
            while len(body) <= MAX_CERTIFICATE_BYTES and not response.content.at_eof():
                body += await response.content.read(MAX_CERTIFICATE_BYTES)
            age = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
        if len(body) > MAX_CERTIFICATE_BYTES:
            raise ValueError("more than certificates")
        return _keys_of(body), int(age[1]) * 1000 if age else LEAST_LIFE_MS


def _keys_of(body: bytes) -> dict[str, RSAPublicKey]:
    """Raises ValueError, msgspec.MsgspecError."""
    keys: dict[str, RSAPublicKey] = {}
    for key_id, pem in msgspec.json.decode(body, type=dict[str, str]).items():
        key = load_pem_x509_certificate(pem.encode()).public_key()
        if isinstance(key, RSAPublicKey):
            keys[key_id] = key
    if not keys or len(keys) > MAX_CERTIFICATES:
        raise ValueError(f"{len(keys)} keys")
    return keys
