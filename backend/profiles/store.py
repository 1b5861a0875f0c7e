"""What the identity rules need of a store, inside one transaction."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from backend.profiles.model import Claim, Device, Edge, IdType, Stamp
from sdk_bridge.wire.app_events import PushAddress


class ProfileStore(Protocol):
    """Profiles, edges, claims and registers. Every method is cheap: each event asks several."""

    def profile_of(self, id_type: IdType, identifier: str) -> str | None:
        """The profile at the identifier's open edge, merges not followed."""
        ...

    def identifier_of(self, profile_id: str) -> tuple[IdType, str] | None:
        """The identifier that a profile began with."""
        ...

    def add_profile(self, profile_id: str, id_type: IdType, created_at: int) -> None:
        """A new profile, its own person."""
        ...

    def parent_of(self, profile_id: str) -> str | None:
        """The profile that it is merged into."""
        ...

    def set_parent(self, profile_id: str, parent: str | None, merged_at: int | None) -> None:
        """Merges it into another, or takes it out."""
        ...

    def children(self, profile_id: str, id_type: IdType) -> int:
        """How many profiles of a type are merged into it directly."""
        ...

    def open_edge(self, edge: Edge) -> None:
        """An identifier belongs to a profile from now on; it must not have an open edge."""
        ...

    def close_edge(self, id_type: IdType, identifier: str, at: int) -> None:
        """Ends the identifier's open edge, if it has one."""
        ...

    def claims(self, id_type: IdType, identifier: str) -> Sequence[Claim]:
        """Every claim on the identifier."""
        ...

    def add_claim(self, id_type: IdType, identifier: str, profile_id: str, via: str, stamp: Stamp) -> None:
        """Keeps a claim, or widens its times."""
        ...

    def drop_claims(self, id_type: IdType, identifier: str, via: str) -> None:
        """Forgets the claims made in one way."""
        ...

    def undo_claims(self, id_type: IdType, identifier: str, profile_id: str, at: int) -> None:
        """Marks the claims of one profile as refused by an operator."""
        ...

    def add_review(
        self, at: int, id_type: IdType, identifier: str, pair: tuple[str, str], cause: str
    ) -> None:
        """Asks an operator whether two profiles are one person; once per pair."""
        ...

    def put_traits(self, profile_id: str, traits: Mapping[str, str], stamp: Stamp) -> None:
        """Sets traits, given as JSON, where the stamp is later than theirs."""
        ...

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        """Sets a statement of consent if it is later; whether the answer changed by it."""
        ...

    def has_consents(self, profile_id: str) -> bool:
        """Whether this profile said anything about consent."""
        ...

    def carries_beacon(self, person_id: str) -> bool:
        """Whether a beacon belongs to the person, through any of the profiles merged into it."""
        ...

    def device(self, device_id: str) -> Device | None:
        """The registers of a device."""
        ...

    def put_device(self, device: Device, holder: str | None) -> None:
        """Keeps the registers, and who holds the device by them."""
        ...

    def see_address(self, address: PushAddress, device_id: str, stamp: Stamp, seen_at: int) -> None:
        """A device reported an address: the address goes with the device that did so last."""
        ...

    def addresses_on(self, device_id: str) -> Sequence[PushAddress]:
        """The addresses that this device was the last to report."""
        ...

    def own_address(
        self, address: PushAddress, profile_id: str | None, proven: bool, platform: str | None
    ) -> None:
        """Says whose an address is."""
        ...
