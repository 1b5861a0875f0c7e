"""Which beacons may be listened to at all, and which gateways may speak: the ingest's view of the state."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gateway:
    """A registered gateway and the zone it stands for."""

    store_id: str
    gateway_id: str
    zone_id: str

    @property
    def name(self) -> str:
        """`store/gateway`, as the journal and the topics have it."""
        return f"{self.store_id}/{self.gateway_id}"


@dataclass(frozen=True, slots=True)
class Listening:
    """A snapshot, replaced whole whenever the fold or an operator changes it.

    `places` are the fixed and asset beacons; `people` the tags whose owner agreed to proximity, with the
    owner's profile. Everything else that a gateway hears is counted and forgotten.
    """

    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    people: Mapping[str, str] = field(default_factory=dict)

    def may_keep(self, beacon_key: str) -> bool:
        return beacon_key in self.people or beacon_key in self.places
