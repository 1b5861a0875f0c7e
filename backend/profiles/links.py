"""Link tokens sealed with a secret that is kept outside the database."""

import base64
import binascii
import hmac
from typing import Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sdk_bridge.wire.app_events import Link

SIGNATURE_BYTES: Final = 16  # 128 bits for a token of ten minutes; more would only make its code denser
SECRET_BYTES: Final = 32
_link = msgspec.msgpack.Decoder(Link)


class LinkSeal:
    """Makes tokens, and knows its own. Whoever has the secret can make them, too."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret needs {SECRET_BYTES} bytes")
        self._key = HKDF(SHA256(), 32, None, b"footfall link tokens").derive(secret)

    def seal(self, link: Link) -> str:
        """The token: base64url of what it says and of a signature, a dot between."""
        said = msgspec.msgpack.encode(link)
        return f"{_text(said)}.{_text(self._signature(said))}"

    def open(self, token: str) -> Link | None:
        """What a token of ours says; None for any other."""
        said, _, signature = token.partition(".")
        try:
            spoken, signed = _bytes(said), _bytes(signature)
            if not hmac.compare_digest(self._signature(spoken), signed):
                return None
            return _link.decode(spoken)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return None

    def _signature(self, said: bytes) -> bytes:
        return hmac.digest(self._key, said, "sha256")[:SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Raises ValueError; binascii.Error is one."""
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
