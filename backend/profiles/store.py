"""What the identity rules need of a store, inside one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from backend.profiles.model import (
    Claim,
    Device,
    Edge,
    Identifier,
    Profile,
    Redemption,
    Stamp,
)
from sdk_bridge.wire.app_events import AppEvent, PushAddress


class ProfileStore(Protocol):
    """Profiles, edges, claims and registers. Every method is cheap: each event asks several."""

    def foresee(self, events: Iterable[AppEvent]) -> None:
        """These events come next: a store that reads from afar may read what they name at once."""
        ...

    def profile_of(self, identifier: Identifier) -> str | None:
        """The identifier's own profile, merges not followed; of a beacon, whose it is."""
        ...

    def profile(self, profile_id: str) -> Profile | None:
        """A profile as it is."""
        ...

    def add_profile(self, profile: Profile) -> None:
        """A new profile; its identifier must not have one."""
        ...

    def put_profile(self, profile: Profile) -> None:
        """A known profile has changed."""
        ...

    def open_edge(self, edge: Edge) -> None:
        """A beacon belongs to a profile from now on; it must not have an open edge."""
        ...

    def open_edge_of(self, identifier: Identifier) -> Edge | None:
        """The beacon's open edge."""
        ...

    def redate_edge(self, edge: Edge) -> None:
        """The open edge of this beacon began earlier than was known."""
        ...

    def close_edge(self, identifier: Identifier, at: int) -> None:
        """Ends the beacon's open edge, if it has one."""
        ...

    def end_merge(self, profile: Profile, at: int) -> None:
        """The merge of a profile into its parent is over: it goes into the history."""
        ...

    def claims(self, identifier: Identifier) -> Sequence[Claim]:
        """Every claim on the identifier."""
        ...

    def add_claim(
        self, identifier: Identifier, profile_id: str, via: str, stamp: Stamp, *, kept: bool = False
    ) -> bool:
        """Keeps a claim, or widens its times; whether anything changed by it.

        `kept`: the event that says so is kept for good, and may be asked for it again.
        """
        ...

    def drop_claims(self, identifier: Identifier, via: str) -> None:
        """Forgets the claims made in one way."""
        ...

    def undo_claims(self, identifier: Identifier, at: int) -> None:
        """Marks every claim on the identifier as refused by an operator."""
        ...

    def claimed_by(self, profile_id: str) -> Sequence[Identifier]:
        """Every identifier that the profile has a claim on, but for beacons."""
        ...

    def add_review(self, at: int, identifier: Identifier, pair: tuple[str, str], cause: str) -> None:
        """Asks an operator whether two profiles are one person; once per pair, whichever comes first."""
        ...

    def redemption(self, nonce: str) -> Redemption | None:
        """Who redeemed a link token."""
        ...

    def redeem(self, redemption: Redemption) -> None:
        """A link token is spent."""
        ...

    def put_traits(self, profile_id: str, traits: Mapping[str, bytes], stamp: Stamp) -> None:
        """Sets traits, given as JSON, where the stamp is later than theirs.

        A profile has the LASTING_TRAITS, and, up to MAX_TRAITS in all, those that were stated last; of one
        moment, by their names. So in whatever order events come, the same stay. A name or a value that is too
        long is left out.
        """
        ...

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        """Sets a statement of consent if it is later; whether the person's answer may change by it.

        It may also where the profile says the same again: another of theirs may have differed meanwhile. Of a
        yes and a no of one moment the no is the later.
        """
        ...

    def has_consents(self, profile_id: str) -> bool:
        """Whether this profile said anything about consent."""
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
