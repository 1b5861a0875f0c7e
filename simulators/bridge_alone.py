"""The bridge alone, over a journal in memory: for trying an app's or a site's SDK without a backend."""

import base64
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from backend.profiles.links import LinkSeal
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.id_tokens import IdTokens
from sdk_bridge.server.links import Links, Redeemer
from sdk_bridge.server.ports import DeadLetter, JournalBusy, Source
from sdk_bridge.server.rates import Rate
from sdk_bridge.wire.app_events import AppEvent, Link, encode_events, joined
from sdk_bridge.wire.places import Region


@dataclass(slots=True)
class MemoryJournal:
    """A journal that keeps everything, and refuses the next `busy` calls."""

    events: list[AppEvent] = field(default_factory=list)
    buried: list[DeadLetter] = field(default_factory=list)
    busy: int = 0
    appends: int = 0
    _known: set[tuple[str, str]] = field(default_factory=set)

    async def append_events(self, events: Sequence[AppEvent], encoded: Sequence[bytes] | None = None) -> int:
        self._refuse_if_busy()
        self.appends += 1
        blob = encode_events(events)  # a real journal could not keep what cannot be encoded
        if encoded is not None and joined(encoded) != blob:
            raise ValueError("these are not the events' bytes")
        new = [event for event in events if (event.source, event.message_id) not in self._known]
        fresh = {(event.source, event.message_id): event for event in new}
        self._known |= fresh.keys()
        self.events += fresh.values()
        return len(fresh)

    async def bury(self, letter: DeadLetter) -> None:
        self._refuse_if_busy()
        self.buried.append(letter)

    def of(self, message_id: str) -> AppEvent | None:
        """The event with this message id."""
        return next((event for event in self.events if event.message_id == message_id), None)

    def _refuse_if_busy(self) -> None:
        if self.busy > 0:
            self.busy -= 1
            raise JournalBusy("told to be busy", retry_after_s=0)


@dataclass(slots=True)
class ListedSources:
    """Sources by write key; counts how often it was asked."""

    by_key: Mapping[str, Source]
    asked: int = 0

    async def source_for_key(self, write_key: str) -> Source | None:
        self.asked += 1
        return self.by_key.get(write_key)


@dataclass(slots=True)
class ListedPlaces:
    """Beacons that are ours, and regions in the order of their distance from everywhere."""

    keys: frozenset[str] = frozenset()
    regions: list[Region] = field(default_factory=list)

    async def ours(self, keys: Collection[str]) -> Collection[str]:
        return self.keys & set(keys)

    async def nearest(self, latitude: float, longitude: float, limit: int) -> list[Region]:
        del latitude, longitude
        return self.regions[:limit]


class MemoryLinkDesk:
    """Link tokens under a secret of the moment; who spent one is read off the journal."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self._seal = LinkSeal(secrets.token_bytes(32))

    def seal(self, link: Link) -> str:
        return self._seal.seal(link)

    def open(self, token: str) -> Link | None:
        return self._seal.open(token)

    async def redeemer(self, nonce: str) -> Redeemer | None:
        spent = self._journal.of(f"link-{nonce}")
        return Redeemer(spent.device_id or "", spent.anonymous_id) if spent is not None else None


SECRET = "proof-secret"  # noqa: S105 - of sources that exist in memory only
SOURCES = {
    "web-key": Source("site", "web", "required", SECRET),
    "app-key": Source("app", "app", "required", SECRET),
    "open-key": Source("trusted-site", "web", "off", SECRET),
    "server-key": Source("server", "server", "required", SECRET),
    "shop-key": Source("shop", "web", "required", SECRET, frozenset({"https://shop.example"})),
    "slow-key": Source("slow", "server", "required", SECRET, rate=Rate(per_second=0.5, burst=2)),
}


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """Where it listens and what it took in."""

    url: str
    bridge: Bridge
    journal: MemoryJournal
    sources: ListedSources
    places: ListedPlaces

    @staticmethod
    def basic(write_key: str) -> dict[str, str]:
        """The header that most SDKs send."""
        encoded = base64.b64encode(f"{write_key}:".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}


def unix_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def running_bridge(
    port: int = 0,
    journal: MemoryJournal | None = None,
    rate: Rate | None = None,
    *,
    id_tokens: IdTokens | None = None,
    clock: Callable[[], int] = unix_ms,
) -> AsyncIterator[RunningBridge]:
    """A bridge on 127.0.0.1, alive inside the context; port 0 takes a free one."""
    journal = journal or MemoryJournal()
    sources = ListedSources(SOURCES)
    places = ListedPlaces()
    desk = MemoryLinkDesk(journal)
    bridge = Bridge(
        journal,
        sources,
        clock,
        beacons=places,
        places=places,
        id_tokens=id_tokens,
        links=Links(desk, lambda: secrets.token_urlsafe(16), "footfall://link?token={token}"),
        rate=rate,
    )
    app = web.Application()
    bridge.add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        listening = runner.addresses[0]
        yield RunningBridge(f"http://127.0.0.1:{listening[1]}", bridge, journal, sources, places)
    finally:
        await runner.cleanup()
