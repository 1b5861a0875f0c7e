"""A profile store in memory: for tests and replays, and what the database's store keeps of a transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from backend.profiles.model import (
    IDENTIFIED,
    LASTING_TRAITS,
    MAX_TRAIT_BYTES,
    MAX_TRAIT_NAME,
    MAX_TRAITS,
    NOBODY,
    Claim,
    Device,
    Edge,
    Identifier,
    Profile,
    Redemption,
    Stamp,
    Statement,
)
from sdk_bridge.wire.app_events import AppEvent, PushAddress


@dataclass(slots=True)
class Address:
    """A push address: which device reported it last, and whose it is."""

    device_id: str
    bound: Stamp
    seen_at: int
    profile_id: str | None = None
    proven: bool = False
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """Two profiles that may be one person; the identifier that raised the question."""

    at: int
    identifier: Identifier
    cause: str


def _weight(stamp: Stamp, granted: bool) -> tuple[int, bool, int]:
    """What makes a statement of consent the last: its time; of one moment a refusal comes later."""
    return stamp.occurred_at, not granted, stamp.event_hash


def merge_edge(profile: Profile) -> Edge:
    """The merge of a profile into its parent, as history tells it."""
    since, parent = profile.merged_at or 0, profile.parent or NOBODY
    return Edge("profile", profile.profile_id, parent, since, profile.merged_cause, profile.merged_event)


class MemoryProfiles:
    """Satisfies ProfileStore."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {}
        self.owners: dict[Identifier, str] = {}
        """The profile of each identifier: its own, or a beacon's bearer's."""
        self.edges: dict[Identifier, Edge] = {}
        self.closed: list[tuple[Edge, int]] = []
        self.claims_on: dict[Identifier, dict[tuple[str, str], Claim]] = {}
        self.claimed: dict[str, dict[Identifier, None]] = {}
        self.reviews: dict[tuple[str, str], Review] = {}
        self.redemptions: dict[str, Redemption] = {}
        self.traits: dict[str, dict[str, tuple[Stamp, str]]] = {}
        self.traits_left_out = 0
        """Their name or value is too long, or newer ones left them no place."""
        self.consents: dict[str, dict[str, tuple[Stamp, bool]]] = {}
        self.devices: dict[str, tuple[Device, str | None]] = {}
        self.addresses: dict[PushAddress, Address] = {}
        self.reported: dict[str, dict[PushAddress, None]] = {}

    def foresee(self, events: Iterable[AppEvent]) -> None:
        """Everything is here already."""

    # Profiles and edges -----------------------------------------------------------------------------------

    def profile_of(self, identifier: Identifier) -> str | None:
        return self.owners.get(identifier)

    def profile(self, profile_id: str) -> Profile | None:
        return self.profiles.get(profile_id)

    def add_profile(self, profile: Profile) -> None:
        identifier: Identifier = (profile.id_type, profile.id)
        if identifier in self.owners:
            raise ValueError(f"{profile.id_type} {profile.id} has a profile")
        self.owners[identifier] = profile.profile_id
        self.profiles[profile.profile_id] = profile

    def put_profile(self, profile: Profile) -> None:
        self.profiles[profile.profile_id] = profile

    def open_edge(self, edge: Edge) -> None:
        if edge.identifier in self.edges:
            raise ValueError(f"{edge.id_type} {edge.id} has an open edge")
        self.edges[edge.identifier] = edge
        self.owners[edge.identifier] = edge.profile_id

    def open_edge_of(self, identifier: Identifier) -> Edge | None:
        return self.edges.get(identifier)

    def redate_edge(self, edge: Edge) -> None:
        self.edges[edge.identifier] = edge

    def close_edge(self, identifier: Identifier, at: int) -> None:
        edge = self.edges.pop(identifier, None)
        self.owners.pop(identifier, None)
        if edge is not None:
            self.closed.append((edge, at))

    def end_merge(self, profile: Profile, at: int) -> None:
        self.closed.append((merge_edge(profile), at))

    # Claims -----------------------------------------------------------------------------------------------

    def claims(self, identifier: Identifier) -> Sequence[Claim]:
        return list(self.claims_on.get(identifier, {}).values())

    def add_claim(
        self, identifier: Identifier, profile_id: str, via: str, stamp: Stamp, *, kept: bool = False
    ) -> bool:
        del kept  # all of it is here
        claims = self.claims_on.setdefault(identifier, {})
        known = claims.get((profile_id, via))
        if known is None:
            claims[profile_id, via] = Claim(profile_id, via, stamp.occurred_at, stamp)
            if profile_id != NOBODY and identifier[0] != "beacon":
                self.claimed.setdefault(profile_id, {})[identifier] = None
            return True
        first_at, last = min(known.first_at, stamp.occurred_at), max(known.last, stamp)
        if first_at == known.first_at and last == known.last:
            return False
        claims[profile_id, via] = Claim(profile_id, via, first_at, last, known.undone)
        return True

    def drop_claims(self, identifier: Identifier, via: str) -> None:
        claims = self.claims_on.get(identifier, {})
        for key in [key for key in claims if key[1] == via]:
            del claims[key]
            if not any(profile_id == key[0] for profile_id, _ in claims):
                self.claimed.get(key[0], {}).pop(identifier, None)

    def undo_claims(self, identifier: Identifier, at: int) -> None:
        claims = self.claims_on.get(identifier, {})
        for key, claim in claims.items():
            claims[key] = replace(claim, undone=True)

    def claimed_by(self, profile_id: str) -> Sequence[Identifier]:
        return list(self.claimed.get(profile_id, ()))

    # Reviews and link tokens ------------------------------------------------------------------------------

    def add_review(self, at: int, identifier: Identifier, pair: tuple[str, str], cause: str) -> None:
        one, other = sorted(pair)
        self.reviews.setdefault((one, other), Review(at, identifier, cause))

    def redemption(self, nonce: str) -> Redemption | None:
        return self.redemptions.get(nonce)

    def redeem(self, redemption: Redemption) -> None:
        self.redemptions[redemption.nonce] = redemption

    # Traits and consent -----------------------------------------------------------------------------------

    def put_traits(self, profile_id: str, traits: Mapping[str, bytes], stamp: Stamp) -> None:
        theirs = self.traits.setdefault(profile_id, {})
        for name, value in traits.items():
            if not 0 < len(name) <= MAX_TRAIT_NAME or len(value) > MAX_TRAIT_BYTES:
                self.traits_left_out += 1
                continue
            known = theirs.get(name)
            if known is None or stamp > known[0]:
                theirs[name] = (stamp, value.decode())
        if len(theirs) > MAX_TRAITS:
            newest = sorted(sorted(theirs), key=lambda name: theirs[name][0], reverse=True)
            newest.sort(key=lambda name: name not in LASTING_TRAITS)
            for name in newest[MAX_TRAITS:]:
                del theirs[name]
                self.traits_left_out += 1

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        said = self.consents.setdefault(profile_id, {})
        known = said.get(purpose)
        if known is not None and _weight(stamp, granted) <= _weight(*known):
            return False
        said[purpose] = (stamp, granted)
        return known is None or known[1] != granted or self._has_kin(profile_id)

    def _has_kin(self, profile_id: str) -> bool:
        profile = self.profile(profile_id)
        return (profile is not None and profile.parent is not None) or bool(self.claimed_by(profile_id))

    def has_consents(self, profile_id: str) -> bool:
        return bool(self.consents.get(profile_id))

    # Devices ----------------------------------------------------------------------------------------------

    def device(self, device_id: str) -> Device | None:
        known = self.devices.get(device_id)
        return known[0] if known else None

    def put_device(self, device: Device, holder: str | None) -> None:
        self.devices[device.device_id] = (device, holder)

    def see_address(self, address: PushAddress, device_id: str, stamp: Stamp, seen_at: int) -> None:
        known = self.addresses.get(address)
        if known is None:
            known = self.addresses[address] = Address(device_id, stamp, seen_at)
            self.reported.setdefault(device_id, {})[address] = None
        if stamp > known.bound:
            self.reported[known.device_id].pop(address, None)
            self.reported.setdefault(device_id, {})[address] = None
            known.device_id, known.bound = device_id, stamp
        known.seen_at = max(known.seen_at, seen_at)

    def addresses_on(self, device_id: str) -> Sequence[PushAddress]:
        return list(self.reported.get(device_id, ()))

    def own_address(
        self, address: PushAddress, profile_id: str | None, proven: bool, platform: str | None
    ) -> None:
        known = self.addresses[address]
        known.profile_id, known.proven, known.platform = profile_id, proven, platform

    # What tests ask ---------------------------------------------------------------------------------------

    def tree(self, person_id: str) -> list[str]:
        """The person's root and every profile merged into it."""
        found = [person_id]
        for profile_id in found:
            found += [child for child, profile in self.profiles.items() if profile.parent == profile_id]
        return found

    def statements(self, person_id: str, purpose: str) -> list[Statement]:
        """What each of the person's profiles said of a purpose."""
        said: list[Statement] = []
        for profile in (self.profiles[profile_id] for profile_id in self.tree(person_id)):
            known = self.consents.get(profile.profile_id, {}).get(purpose)
            if known is not None:
                identified = profile.id_type in IDENTIFIED
                said.append(Statement(known[1], known[0].occurred_at, identified, profile.merged_at))
        return said
