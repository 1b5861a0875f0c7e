"""What a gateway and the backend exchange when it enrols and when it renews its certificate.

The token carries everything that a new gateway has to trust: a one-time secret, the fingerprint of the
backend's certificate authority and the key that signs configuration. As text it is letters and digits only,
so a double click selects it, and it survives changes of case, line breaks and being read out.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Final, Self, TypeAlias

from msgspec import Meta, Struct

from sdk_bridge.wire.codec import WireError

PREFIX: Final = "ffe1"  # and the token's version
SECRET_BYTES: Final = 16  # 128 random bits, valid for an hour: nobody guesses them over the network
HASH_BYTES: Final = 32
CHECK_BYTES: Final = 4  # a mistyped token passes once in four thousand million
MAX_TOKEN_CHARACTERS: Final = 400  # of the text with its blanks; more is not a token
MAX_REPLY_BYTES: Final = 64 * 1024
RENEWED_AS: Final = b"footfall renewal 1\0"

Pem: TypeAlias = Annotated[str, Meta(max_length=8192, pattern=r"^[\n\r -~]*$")]
Hex: TypeAlias = Annotated[str, Meta(max_length=512, pattern=r"^[0-9a-f]+$(?!\n)")]
Name: TypeAlias = Annotated[str, Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A token's contents. `authority` is the SHA-256 of the certificate's DER, `config_key` Ed25519, raw."""

    secret: bytes = field(repr=False)
    authority: bytes
    config_key: bytes

    def text(self) -> str:
        """As it is shown, once."""
        body = self.secret + self.authority + self.config_key
        return PREFIX + base64.b32encode(body + _check(body)).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what somebody pasted. Raises WireError, which never quotes the token."""
        if len(text) > MAX_TOKEN_CHARACTERS:
            raise WireError("this is too long for an enrolment token")
        letters = "".join(text.split()).lower()
        if not letters.startswith(PREFIX):
            raise WireError(f"an enrolment token of this version begins with {PREFIX}")
        given = _decoded(letters.removeprefix(PREFIX))
        body, check = given[:-CHECK_BYTES], given[-CHECK_BYTES:]
        if len(body) != SECRET_BYTES + 2 * HASH_BYTES or check != _check(body):
            raise WireError("the enrolment token is incomplete or mistyped: its checksum does not match")
        token = cls(body[:SECRET_BYTES], body[SECRET_BYTES:-HASH_BYTES], body[-HASH_BYTES:])
        if token.text() != letters:  # base32 leaves bits over at its end; only one spelling is right
            raise WireError("the enrolment token is mistyped at its end")
        return token


class EnrolRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway asks for its first certificate; `csr` is PEM, signed by the key that it made itself."""

    store: Name
    gateway: Name
    secret: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    csr: Pem


class RenewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway asks for its next certificate; `signature` is ECDSA over `renewal`, by the present key."""

    serial: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$(?!\n)")]
    csr: Pem
    signature: Hex


class Papers(Struct, frozen=True):
    """The answer to both: the certificate, who issued it, the broker, and the key of configurations."""

    store: Name
    gateway: Name
    certificate: Pem
    authority: Pem
    broker_host: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[!-~]+$(?!\n)")]
    broker_port: Annotated[int, Meta(ge=1, le=65535)]
    config_key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


def renewal(serial: str, csr: str) -> bytes:
    """What the present key signs: this certificate is to be followed by that request."""
    return RENEWED_AS + serial.encode() + b"\0" + csr.encode("utf-8", "surrogatepass")


def _check(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:CHECK_BYTES]


def _decoded(letters: str) -> bytes:
    try:
        return base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError) as error:
        raise WireError("the enrolment token holds characters that no token has") from error
