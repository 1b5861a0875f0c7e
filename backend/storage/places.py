"""Whose beacons are the shops' own, and what phones should watch: the registry as the bridge asks it."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from backend.proximity.fences import Geometry, Near
from backend.storage.fences import StampedFences
from backend.storage.session import Database, Row, StorageError
from sdk_bridge.server.beacon_keys import regions_of
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.places import BeaconRegion, FenceRegion, Region

BEACON_SHARE = 4  # of the regions that a phone may watch, so many parts are fences to one of beacons
FRESH_MS = 5_000  # how long a beacon that was just registered may be taken for a stranger's


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The keys of the shops' beacons with all their regions; the widest regions, the fullest first, each with
    the stores that it is in."""

    keys: frozenset[str] = frozenset()
    regions: tuple[tuple[BeaconRegion, frozenset[str]], ...] = ()
    fences: StampedFences = field(default_factory=StampedFences)


@dataclass(slots=True)
class StoredPlaces:
    """Beacons that are fixed to places or things, and geofences; read again after some seconds, for phones
    ask often.

    Customers' own tags are nobody else's to report. A beacon region is as near as the nearest geofence of its
    stores; those of stores without one come last, the fullest first.
    """

    state: Database
    now_ms: Callable[[], int]
    _snapshot: _Snapshot = field(default_factory=_Snapshot, init=False)
    _until: int = field(default=0, init=False)

    async def ours(self, keys: Collection[str]) -> Collection[str]:
        known = (await self._current()).keys
        return {key for key in keys if key in known}

    async def nearest(self, latitude: float, longitude: float, limit: int) -> list[Region]:
        snapshot = await self._current()
        near = snapshot.fences.fences.nearest(latitude, longitude, limit)
        fences = [_watched(one.geometry) for one in near]
        known = len(snapshot.regions)
        room = min(known, max(limit - len(fences), min(known, limit // BEACON_SHARE)))
        beacons = _nearest_regions(snapshot, near, latitude, longitude, room)
        return [*fences[: limit - room], *beacons]

    async def _current(self) -> _Snapshot:
        now = self.now_ms()
        if not 0 <= self._until - now <= FRESH_MS:
            try:
                known = self._snapshot.fences
                rows, fences = await self.state.read(
                    lambda session: (session.rows("beacons"), StampedFences.read(session, known))
                )
            except StorageError as error:
                raise JournalBusy(f"the beacons cannot be read: {error}") from error
            self._snapshot, self._until = _snapshot(rows, fences), now + FRESH_MS
        return self._snapshot


def _snapshot(rows: Iterable[Row], fences: StampedFences) -> _Snapshot:
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
    widest = (
        (BeaconRegion(key, _only(stores[key])), frozenset(filter(None, stores[key]))) for key in fullest
    )
    return _Snapshot(frozenset(keys), tuple(widest), fences)


def _nearest_regions(
    snapshot: _Snapshot, near: list[Near], latitude: float, longitude: float, count: int
) -> list[BeaconRegion]:
    """So many of the beacon regions, those of the nearest store first.

    Nearly always the stores of the `near` fences have enough of them; the way to all others is asked only
    where they do not, for among thousands of stores it takes milliseconds.
    """
    stores = dict.fromkeys(one.geometry.fence.store_id for one in near)
    if sum(not known.isdisjoint(stores) for _, known in snapshot.regions) < count:
        stores |= dict.fromkeys(snapshot.fences.fences.nearest_stores(latitude, longitude))
    order = {store_id: number for number, store_id in enumerate(stores)}
    ordered = sorted(
        snapshot.regions,
        key=lambda known: min((order.get(one, len(order)) for one in known[1]), default=len(order)),
    )
    return [region for region, _ in ordered[:count]]


def _watched(geometry: Geometry) -> FenceRegion:
    """The circle that holds a fence; phones can watch nothing else."""
    fence = geometry.fence
    return FenceRegion(fence.fence_id, fence.name, geometry.latitude, geometry.longitude, geometry.radius_m)


def _only(stores: list[str | None]) -> str | None:
    return stores[0] if len(set(stores)) == 1 else None
