"""What the bridge needs of the backend: where events are kept, who may send them, which places are ours."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sdk_bridge.server.rates import Rate
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.places import Region


class JournalBusy(RuntimeError):
    """The journal or the registry cannot take more just now; the sender is told to come again."""

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Events of one request that could not be understood, all for the same reason.

    `payload` is a batch of its own, which says what the request said for all of them, so that
    `Bridge.read_again` can try once more; `received_at` is the request's arrival, unix milliseconds.
    """

    source_id: str
    reason: str
    payload: bytes
    events: int
    received_at: int


class Journal(Protocol):
    """Where accepted events go. Both calls may raise JournalBusy."""

    async def append_events(self, events: Sequence[AppEvent], encoded: Sequence[bytes] | None = None) -> int:
        """Commits the events durably before it returns, once per message id; how many were new.

        `encoded`: the bytes of each, by app_events.encode_each, where they are known.
        """
        ...

    async def bury(self, letter: DeadLetter) -> None:
        """Keeps what could not be understood, durably before it returns."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """An app, a site or a server that may send events, as its write key tells.

    `proof` is whether a user id must come with its HMAC, made with `proof_secret`. The keys of web and app
    sources are public, so theirs is `required` unless the retailer decided otherwise; servers are trusted.
    `origins`: the only pages that may send by it, such as `https://shop.example`; empty for any. `rate` None:
    what the bridge grants everybody.
    """

    source_id: str
    kind: Literal["web", "app", "server"]
    proof: Literal["required", "off"]
    proof_secret: str
    origins: frozenset[str] = frozenset()
    rate: Rate | None = None


class Sources(Protocol):
    """The registry of write keys."""

    async def source_for_key(self, write_key: str) -> Source | None:
        """The source of this key, None when no live source has it, which is found out afresh each time: SDKs
        drop for ever what is answered 401. May raise JournalBusy.
        """
        ...


class OwnBeacons(Protocol):
    """The registry of the shops' own beacons."""

    async def ours(self, keys: Collection[str]) -> Collection[str]:
        """Those of the keys, of beacons or of regions, that belong to a shop. A phone's word on any other is
        never kept: it would tell where a stranger was. May raise JournalBusy.
        """
        ...


class Places(Protocol):
    """What phones should watch."""

    async def nearest(self, latitude: float, longitude: float, limit: int) -> list[Region]:
        """The fences and beacon regions nearest to a point (degrees, WGS 84), the nearest first. May raise
        JournalBusy.
        """
        ...


class NoPlaces:
    """Stands in where there are no shops: no beacon is ours, there is nothing to watch."""

    async def ours(self, keys: Collection[str]) -> Collection[str]:
        del keys
        return ()

    async def nearest(self, latitude: float, longitude: float, limit: int) -> list[Region]:
        del latitude, longitude, limit
        return []
