"""Google's token endpoint as a service account meets it: a signed assertion in, an expiring token out."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from msgspec import Struct

AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever address the assertion is posted to
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/cloud-platform",
        "https://www.googleapis.com/auth/firebase.messaging",
    }
)
LONGEST_LIFE_S = 3600  # Google refuses an assertion that claims more than an hour
SKEW_S = 300  # clocks differ by minutes
FILE_NAME = "service-account.json"


class Denied(ValueError):
    """The assertion is not accepted; the text is Google's error_description."""


class ServiceAccount(Struct):
    """A service account's key file, as downloaded from the Firebase console."""

    project_id: str
    private_key_id: str
    private_key: str
    client_email: str
    token_uri: str
    type: str = "service_account"
    client_id: str = "100000000000000000001"
    auth_uri: str = "https://accounts.google.com/o/oauth2/auth"
    universe_domain: str = "googleapis.com"


def write_service_account(folder: Path, token_uri: str, project_id: str) -> Path:
    """Writes the key file, for `token_uri` to answer; keeps the key that the folder already has."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    old = read_service_account(path) if path.exists() else None
    account = ServiceAccount(
        project_id=project_id,
        private_key_id=old.private_key_id if old else secrets.token_hex(20),
        private_key=old.private_key if old else _new_key(),
        client_email=f"footfall@{project_id}.iam.gserviceaccount.com",
        token_uri=token_uri,
    )
    if account != old:
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(account), indent=2))
    return path


def read_service_account(path: Path) -> ServiceAccount:
    """Raises OSError, msgspec.MsgspecError."""
    return msgspec.json.decode(path.read_bytes(), type=ServiceAccount)


@dataclass(frozen=True)
class TokenOffice:
    """Checks assertions and issues tokens that prove themselves, so they outlive a restart."""

    account: ServiceAccount
    life_s: int

    def issue(self, form: Mapping[str, Any], now_s: int) -> str:
        """An access token for the assertion in `form`. Raises Denied."""
        if form.get("grant_type") != GRANT_TYPE:
            raise Denied("Invalid grant_type")
        self._check(str(form.get("assertion", "")), now_s)
        expires_at = str(now_s + self.life_s)
        return f"ya29.{expires_at}.{self._seal(expires_at)}"

    def accepts(self, token: str, now_s: float) -> bool:
        """Whether the token is ours and has not expired."""
        prefix, _, rest = token.partition(".")
        expires_at, _, seal = rest.partition(".")
        if prefix != "ya29" or not hmac.compare_digest(seal.encode(), self._seal(expires_at).encode()):
            return False
        return int(expires_at) > now_s

    def _seal(self, text: str) -> str:
        return hmac.new(self.account.private_key.encode(), text.encode(), hashlib.sha256).hexdigest()

    def _check(self, assertion: str, now_s: int) -> None:
        head, body, signature = _parts(assertion)
        header = _object(head)
        if header.get("alg") != "RS256" or header.get("kid") != self.account.private_key_id:
            raise Denied("Invalid JWT: no such key")
        try:
            _public_key(self.account).verify(
                _decode(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature as error:
            raise Denied("Invalid JWT Signature.") from error
        _check_claims(_object(body), self.account.client_email, now_s)


def _check_claims(claims: Mapping[str, Any], email: str, now_s: int) -> None:
    if claims.get("iss") != email:
        raise Denied("Invalid grant: account not found")
    if claims.get("aud") != AUDIENCE:
        raise Denied("Invalid JWT: Failed audience check.")
    if not SCOPES.intersection(str(claims.get("scope", "")).split()):
        raise Denied("Invalid OAuth scope or ID token audience provided.")
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    if not isinstance(issued_at, int) or not isinstance(expires_at, int):
        raise Denied("Invalid JWT: iat and exp must be numbers")
    in_time = issued_at <= now_s + SKEW_S and now_s < expires_at <= issued_at + LONGEST_LIFE_S
    if not in_time:
        raise Denied(
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        )


def _parts(assertion: str) -> tuple[str, str, str]:
    parts = assertion.split(".")
    if len(parts) != 3:
        raise Denied("Invalid JWT: not three parts")
    return parts[0], parts[1], parts[2]


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(part))
    except ValueError as error:
        raise Denied("Invalid JWT: not JSON") from error
    if not isinstance(value, dict):
        raise Denied("Invalid JWT: not an object")
    return value


def _decode(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise Denied("Invalid JWT: not base64") from error


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _public_key(account: ServiceAccount) -> rsa.RSAPublicKey:
    key = serialization.load_pem_private_key(account.private_key.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("a service account's key is RSA")
    return key.public_key()
