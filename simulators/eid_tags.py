"""A tag that sends Eddystone-EIDs, from the factory to the shopper's pocket: keys, clock, rotating frames.

Written apart from the backend's resolver on purpose, so that one against the other means something.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from simulators.frames import Frame, eddystone_eid, ephemeral_id

COUNTER = 2**32  # at which a tag's clock begins again


@dataclass(slots=True)
class EidTag:
    """A tag whose counter of seconds stood at `clock_s` at the time 0 of whoever asks it.

    Until it is provisioned its identity key is the factory's, which nobody else knows.
    """

    private_key: bytes
    exponent: int
    clock_s: int
    identity_key: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self.identity_key = self.identity_key or self._derive(b"factory", self.private_key)

    @property
    def public_key(self) -> bytes:
        """What a provisioning app reads from the tag; 32 bytes."""
        return X25519PrivateKey.from_private_bytes(self.private_key).public_key().public_bytes_raw()

    def provision(self, resolver_public: bytes) -> None:
        """The app writes the resolver's public key: from now on both have the same identity key."""
        private = X25519PrivateKey.from_private_bytes(self.private_key)
        secret = private.exchange(X25519PublicKey.from_public_bytes(resolver_public))
        self.identity_key = self._derive(resolver_public + self.public_key, secret)

    def counter(self, time_s: float) -> int:
        """The tag's own seconds at a time."""
        return (self.clock_s + int(time_s)) % COUNTER

    def frame(self, time_s: float) -> Frame:
        """What it sends at a time."""
        return eddystone_eid(ephemeral_id(self.identity_key, self.counter(time_s), self.exponent))

    @staticmethod
    def _derive(salt: bytes, secret: bytes) -> bytes:
        return HKDF(SHA256(), 16, salt, b"").derive(secret)
