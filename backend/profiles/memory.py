"""A profile store in memory, for tests and replays; held to the same tests as the database's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.profiles.model import Claim, Device, Edge, IdType, Stamp, Statement
from sdk_bridge.wire.app_events import PushAddress


@dataclass(slots=True)
class _Profile:
    id_type: IdType
    parent: str | None = None
    merged_at: int | None = None


@dataclass(slots=True)
class _Address:
    device_id: str
    bound: Stamp
    seen_at: int
    profile_id: str | None = None
    proven: bool = False


@dataclass(slots=True)
class MemoryProfiles:
    """Satisfies ProfileStore."""

    profiles: dict[str, _Profile] = field(default_factory=dict)
    edges: dict[tuple[IdType, str], Edge] = field(default_factory=dict)
    closed: list[tuple[Edge, int]] = field(default_factory=list)
    reviews: dict[tuple[str, str], str] = field(default_factory=dict)
    traits: dict[tuple[str, str], tuple[Stamp, str]] = field(default_factory=dict)
    consents: dict[tuple[str, str], tuple[Stamp, bool]] = field(default_factory=dict)
    devices: dict[str, tuple[Device, str | None]] = field(default_factory=dict)
    addresses: dict[PushAddress, _Address] = field(default_factory=dict)
    _claims: dict[tuple[IdType, str], dict[tuple[str, str], Claim]] = field(default_factory=dict)

    def profile_of(self, id_type: IdType, identifier: str) -> str | None:
        edge = self.edges.get((id_type, identifier))
        return edge.profile_id if edge else None

    def identifier_of(self, profile_id: str) -> tuple[IdType, str] | None:
        kind = self.profiles[profile_id].id_type if profile_id in self.profiles else None
        found = (key for key, edge in self.edges.items() if key[0] == kind and edge.profile_id == profile_id)
        return next(found, None)

    def add_profile(self, profile_id: str, id_type: IdType, created_at: int) -> None:
        self.profiles[profile_id] = _Profile(id_type)

    def parent_of(self, profile_id: str) -> str | None:
        return self.profiles[profile_id].parent

    def set_parent(self, profile_id: str, parent: str | None, merged_at: int | None) -> None:
        profile = self.profiles[profile_id]
        profile.parent, profile.merged_at = parent, merged_at

    def children(self, profile_id: str, id_type: IdType) -> int:
        return sum(
            profile.parent == profile_id and profile.id_type == id_type for profile in self.profiles.values()
        )

    def open_edge(self, edge: Edge) -> None:
        if (edge.id_type, edge.id) in self.edges:
            raise ValueError(f"{edge.id_type} {edge.id} has an open edge")
        self.edges[edge.id_type, edge.id] = edge

    def close_edge(self, id_type: IdType, identifier: str, at: int) -> None:
        edge = self.edges.pop((id_type, identifier), None)
        if edge is not None:
            self.closed.append((edge, at))

    def claims(self, id_type: IdType, identifier: str) -> Sequence[Claim]:
        return list(self._claims.get((id_type, identifier), {}).values())

    def add_claim(self, id_type: IdType, identifier: str, profile_id: str, via: str, stamp: Stamp) -> None:
        claims = self._claims.setdefault((id_type, identifier), {})
        claim = claims.get((profile_id, via), Claim(profile_id, via, stamp.occurred_at, stamp))
        claims[profile_id, via] = replace(
            claim, first_at=min(claim.first_at, stamp.occurred_at), last=max(claim.last, stamp)
        )

    def drop_claims(self, id_type: IdType, identifier: str, via: str) -> None:
        claims = self._claims.get((id_type, identifier), {})
        for key in [key for key in claims if key[1] == via]:
            del claims[key]

    def undo_claims(self, id_type: IdType, identifier: str, profile_id: str, at: int) -> None:
        claims = self._claims.get((id_type, identifier), {})
        for key, claim in claims.items():
            if claim.profile_id == profile_id:
                claims[key] = replace(claim, undone=True)

    def add_review(
        self, at: int, id_type: IdType, identifier: str, pair: tuple[str, str], cause: str
    ) -> None:
        self.reviews.setdefault(pair, cause)

    def put_traits(self, profile_id: str, traits: Mapping[str, str], stamp: Stamp) -> None:
        for name, value in traits.items():
            known = self.traits.get((profile_id, name))
            if known is None or stamp > known[0]:
                self.traits[profile_id, name] = (stamp, value)

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        known = self.consents.get((profile_id, purpose))
        if known is not None and stamp <= known[0]:
            return False
        self.consents[profile_id, purpose] = (stamp, granted)
        return known is None or known[1] != granted

    def has_consents(self, profile_id: str) -> bool:
        return any(owner == profile_id for owner, _ in self.consents)

    def carries_beacon(self, person_id: str) -> bool:
        tree = set(self.tree(person_id))
        return any(key[0] == "beacon" and edge.profile_id in tree for key, edge in self.edges.items())

    def device(self, device_id: str) -> Device | None:
        known = self.devices.get(device_id)
        return known[0] if known else None

    def put_device(self, device: Device, holder: str | None) -> None:
        self.devices[device.device_id] = (device, holder)

    def see_address(self, address: PushAddress, device_id: str, stamp: Stamp, seen_at: int) -> None:
        known = self.addresses.setdefault(address, _Address(device_id, stamp, seen_at))
        if stamp > known.bound:
            known.device_id, known.bound = device_id, stamp
        known.seen_at = max(known.seen_at, seen_at)

    def addresses_on(self, device_id: str) -> Sequence[PushAddress]:
        return [address for address, known in self.addresses.items() if known.device_id == device_id]

    def own_address(
        self, address: PushAddress, profile_id: str | None, proven: bool, platform: str | None
    ) -> None:
        known = self.addresses[address]
        known.profile_id, known.proven = profile_id, proven

    # What tests ask ---------------------------------------------------------------------------------------

    def tree(self, person_id: str) -> list[str]:
        """The person's root and every profile merged into it."""
        found = [person_id]
        for profile_id in found:
            found += [child for child, profile in self.profiles.items() if profile.parent == profile_id]
        return found

    def statements(self, person_id: str, purpose: str) -> list[Statement]:
        """What each of the person's profiles said of a purpose."""
        return [
            Statement(
                self.consents[profile_id, purpose][1],
                self.consents[profile_id, purpose][0].occurred_at,
                self.profiles[profile_id].id_type == "user_id",
                self.profiles[profile_id].merged_at,
            )
            for profile_id in self.tree(person_id)
            if (profile_id, purpose) in self.consents
        ]
