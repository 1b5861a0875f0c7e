"""Whose beacons are the shops' own, and what phones should watch: the registry as the bridge asks it."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from backend.storage.session import Database, Row, StorageError
from sdk_bridge.server.beacon_keys import regions_of
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.places import BeaconRegion, Region

FRESH_MS = 5_000  # how long a beacon that was just registered may be taken for a stranger's


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The keys of the shops' beacons with all their regions, and the widest regions with their stores."""

    keys: frozenset[str] = frozenset()
    regions: tuple[BeaconRegion, ...] = ()


@dataclass(slots=True)
class StoredPlaces:
    """Beacons that are fixed to places or things; read again after some seconds, for phones ask often.

    Customers' own tags are nobody else's to report. Stores have no coordinates, so every region is as near as
    any other: those with the most beacons come first.
    """

    state: Database
    now_ms: Callable[[], int]
    _snapshot: _Snapshot = field(default_factory=_Snapshot, init=False)
    _until: int = field(default=0, init=False)

    async def ours(self, keys: Collection[str]) -> Collection[str]:
        known = (await self._current()).keys
        return {key for key in keys if key in known}

    async def nearest(self, latitude: float, longitude: float, limit: int) -> list[Region]:
        del latitude, longitude
        return list((await self._current()).regions[:limit])

    async def _current(self) -> _Snapshot:
        now = self.now_ms()
        if not 0 <= self._until - now <= FRESH_MS:
            try:
                rows = await self.state.read(lambda session: session.rows("beacons"))
            except StorageError as error:
                raise JournalBusy(f"the beacons cannot be read: {error}") from error
            self._snapshot, self._until = _snapshot(rows), now + FRESH_MS
        return self._snapshot


def _snapshot(rows: Iterable[Row]) -> _Snapshot:
    keys: set[str] = set()
    stores: dict[str, list[str | None]] = {}
    for row in rows:
        if row["role"] == "tag":
            continue
        regions = regions_of(row["beacon_key"])
        keys.update((row["beacon_key"], *regions))
        if regions and row["role"] == "zone":
            stores.setdefault(regions[0], []).append(row["store_id"])
    fullest = sorted(stores, key=lambda region: (-len(stores[region]), region))
    return _Snapshot(frozenset(keys), tuple(BeaconRegion(key, _only(stores[key])) for key in fullest))


def _only(stores: list[str | None]) -> str | None:
    return stores[0] if len(set(stores)) == 1 else None
