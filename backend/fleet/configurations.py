"""Remote configuration on the backend's side: versions, the signature, keeping `down/config` up to date.

The gateway judges: it checks a version in full, tries it, and reports back in its heartbeats what became of
it. Here a version is only made, signed and published, retained, whenever the broker was reached anew (which
may have forgotten everything) and whenever one was added.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sdk_bridge.wire.configuration import Configuration, encode_document, encode_signed, to_sign
from sdk_bridge.wire.topics import GatewayAddress

RETRY_SECONDS: Final = 0.5  # the connection is full for a moment, or gone: then `connected` will wake us
MAX_JUMP: Final = 1_000_000  # a gateway that reports a version beyond has made it up
ALARMING: Final = ("rolled-back", "refused")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """A version as it is stored and published; `gateway` is `store/gateway`."""

    gateway: str
    version: int
    document: bytes
    signature: bytes

    @property
    def topic(self) -> str:
        store, _, gateway = self.gateway.partition("/")
        return GatewayAddress(store, gateway).topic("down/config")

    @property
    def message(self) -> bytes:
        return encode_signed(self.document, self.signature)


def sign(key: Ed25519PrivateKey, configuration: Configuration) -> SignedVersion:
    """A configuration as it goes out. Raises WireError where it is too long."""
    document = encode_document(configuration)
    name = f"{configuration.store}/{configuration.gateway}"
    return SignedVersion(name, configuration.version, document, key.sign(to_sign(document)))


def public_key(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes that gateways check signatures with."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def next_version(newest: int, reported: int) -> int:
    """One more than the newest made here, or than the one that the gateway says it has seen.

    The second matters after the database was restored from a backup: the gateway remembers more.
    """
    return max(newest, reported if reported <= newest + MAX_JUMP else newest) + 1


def is_alarming(state: str) -> bool:
    """Whether a person should hear of what a gateway reports."""
    return state.startswith(ALARMING)


class ConfigurationPublisher:
    """Publishes each gateway's newest version. `run` lives as long as the process."""

    def __init__(
        self,
        newest: Callable[[], Awaitable[Sequence[SignedVersion]]],
        publish: Callable[[str, bytes], bool],
    ) -> None:
        self._newest = newest
        self._publish = publish
        self._sent: dict[str, int] = {}
        self._wake = asyncio.Event()

    def connected(self) -> None:
        """The broker was reached anew, and may know nothing."""
        self._sent.clear()
        self._wake.set()

    def changed(self) -> None:
        """There may be a new version."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._hand_over(await self._newest()):
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    def _hand_over(self, versions: Sequence[SignedVersion]) -> bool:
        """Whether the connection took all that it has not had."""
        for version in versions:
            if self._sent.get(version.gateway) == version.version:
                continue
            if not self._publish(version.topic, version.message):
                return False
            self._sent[version.gateway] = version.version
            log.info("configuration_published", gateway=version.gateway, version=version.version)
        return True
