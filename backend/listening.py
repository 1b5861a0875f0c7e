"""Which beacons may be listened to at all, and which gateways may speak: the ingest's view of the state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from backend.profiles.erasure import Tombstones
from sdk_bridge.wire.messages import Batch, Readings


@dataclass(frozen=True, slots=True)
class Gateway:
    """A registered gateway, the zone it stands for, and where it hangs (metres on the store's plan)."""

    store_id: str
    gateway_id: str
    zone_id: str
    position: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """`store/gateway`, as the journal and the topics have it."""
        return f"{self.store_id}/{self.gateway_id}"


@dataclass(frozen=True, slots=True)
class Listening:
    """A snapshot, replaced whole whenever the fold or an operator changes it.

    `places` are the fixed and asset beacons; `people` the tags whose owner agreed to proximity, with the
    owner's profile. Everything else that a gateway hears is counted and forgotten, and so is what it heard
    of a tag before its owner was erased. `gateways` are those of our `partitions`, which None means all of.
    """

    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    people: Mapping[str, str] = field(default_factory=dict)
    tombstones: Tombstones = field(default_factory=Tombstones)
    partitions: frozenset[int] | None = None

    def may_keep_since(self, begins: int | None) -> Callable[[str], bool]:
        """What may be kept of a batch whose first reading is of then (unix ms); None: nobody knows when."""
        return unless_erased(self.may_keep, self.tombstones, begins)

    def may_keep(self, beacon_key: str) -> bool:
        return beacon_key in self.people or beacon_key in self.places


def unless_erased(
    may_keep: Callable[[str], bool], tombstones: Tombstones, begins: int | None
) -> Callable[[str], bool]:
    """The same, but for tags whose owner was erased after a batch began, in unix milliseconds."""
    at = 0 if begins is None else begins
    if at > tombstones.newest:
        return may_keep
    return lambda key: may_keep(key) and not tombstones.refuses(key, at)


def without_strangers(batch: Batch, may_keep: Callable[[str], bool]) -> tuple[Batch | None, int]:
    """The batch without beacons that nobody agreed to, and how many of their adverts were left out.

    None where nothing remains.
    """
    keep = [may_keep(key) for key in batch.keys]
    if all(keep):
        return batch, 0
    rows = batch.readings
    chosen = [row for row, beacon in enumerate(rows.beacon) if keep[beacon]]
    forgotten = sum(rows.count) - sum(rows.count[row] for row in chosen)
    return (_only(batch, keep, chosen) if any(keep) else None), forgotten


def _only(batch: Batch, keep: list[bool], chosen: list[int]) -> Batch:
    """The batch with the keys to keep and the chosen rows, its indexes counted afresh."""
    number = {old: new for new, old in enumerate(i for i, kept in enumerate(keep) if kept)}
    rows = batch.readings
    return Batch(
        boot_id=batch.boot_id,
        base_ms=batch.base_ms,
        keys=[key for key, kept in zip(batch.keys, keep, strict=True) if kept],
        readings=Readings(
            beacon=[number[rows.beacon[row]] for row in chosen],
            second=[rows.second[row] for row in chosen],
            count=[rows.count[row] for row in chosen],
            loss=[rows.loss[row] for row in chosen],
            best=[rows.best[row] for row in chosen],
        ),
        ranges=[replace(item, beacon=number[item.beacon]) for item in batch.ranges if keep[item.beacon]],
        health=[replace(item, beacon=number[item.beacon]) for item in batch.health if keep[item.beacon]],
    )
