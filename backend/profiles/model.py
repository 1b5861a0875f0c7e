"""The nouns of identity: profiles, edges, claims, devices, and what applying an event did."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from sdk_bridge.wire.app_events import PushAddress

IdType: TypeAlias = Literal[
    "user_id",
    "email",
    "loyalty_id",
    "phone",
    "device_id",
    "anonymous_id",
    "claimed_user_id",
    "beacon",
    "profile",
]
Identifier: TypeAlias = tuple[IdType, str]

TRUST: Final[dict[IdType, int]] = {
    "user_id": 0,
    "email": 1,
    "loyalty_id": 2,
    "phone": 3,
    "device_id": 4,
    "anonymous_id": 5,
    "claimed_user_id": 6,
}
"""What is trusted more comes first; an identifier merges only into one that is trusted more."""
IDENTIFIED: Final = frozenset[IdType]({"user_id", "email", "loyalty_id", "phone"})
"""These name a person, always with proof; the others name a browser or a phone."""
BROWSERS: Final = frozenset[IdType]({"device_id", "anonymous_id"})
"""These can pass from hand to hand, so what happened with them counts for a while only."""

OBSERVED: Final = frozenset({"beacon_sighting", "fence_transition", "location"})
"""Kinds of events that say where a person is: kept only of those who agreed to be seen, and not for long."""

NOBODY: Final = ""
"""The claimant of a logout: from then on the identifier goes with nobody."""
SEEN: Final = "seen"
"""Via whatever a proven event names beside the person."""
OPERATOR: Final = " operator"
"""Via whom an operator claims. No device id begins with a blank: the bridge strips them."""
EVER: Final = 2**53 - 1
"""Unix milliseconds that never come, and that JavaScript can hold."""


class Stamp(NamedTuple):
    """Which of two writers was the last: unix milliseconds of the event, then the event's hash."""

    occurred_at: int
    event_hash: int


NEVER: Final = Stamp(-1, 0)


# A client that makes up a name with every call must not make a profile that grows for ever. Others keep 255
# to 1,024 of 2 to 16 KB (Bloomreach), 6,000 of them (Segment); these make 4 MB at the most.
MAX_TRAITS: Final = 500
# These stay whatever else is told: people are found by them, addressed and erased.
LASTING_TRAITS: Final = (
    *("email", "phone", "name", "firstName", "lastName", "first_name", "last_name"),
    *("loyalty_id", "timezone"),
)
MAX_TRAIT_BYTES: Final = 8 * 1024  # of one value, as JSON
MAX_TRAIT_NAME: Final = 512


class Profile(Struct, frozen=True, gc=False):
    """An identifier's own profile, for good; a person is the tree that parents make of them.

    `cause` is what made it, at `created_at`, and `event_id` the event that did, unless an operator did.
    Of what happened under a profile with a parent, its person has what lies between `attach_from` and
    `attach_until` (both included, unix milliseconds). `shared`: it was seen with several people, so it is
    nobody's. `crowd`: it was seen with more than one person can have, so what it says of others counts no
    more. `merged_cause` is why it has its parent, and `merged_event` the event that told, unless an operator
    did.
    """

    profile_id: str
    id_type: IdType
    id: str
    created_at: int
    parent: str | None = None
    merged_at: int | None = None
    attach_from: int = 0
    attach_until: int = EVER
    shared: bool = False
    crowd: bool = False
    cause: str = ""
    event_id: int | None = None
    merged_cause: str = ""
    merged_event: int | None = None

    @property
    def identifier(self) -> Identifier:
        return self.id_type, self.id


class Edge(Struct, frozen=True, gc=False):
    """A beacon belongs to a profile, since when and why; an edge is closed, never moved."""

    id_type: IdType
    id: str
    profile_id: str
    valid_from: int
    cause: str
    event_id: int | None

    @property
    def identifier(self) -> Identifier:
        return self.id_type, self.id


class Claim(Struct, frozen=True, gc=False):
    """An identifier was proven to go with the profile of a more trusted one.

    `via` is how: seen, alias, link, an operator; for a beacon the device that claimed it. `first_at` and
    `last` are times of the events that said so. `undone`: an operator said that it is not so.
    """

    profile_id: str
    via: str
    first_at: int
    last: Stamp
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """What one profile of a person last said about a purpose.

    `merged_at` is when it became part of the person; None for the person's own root.
    """

    granted: bool
    occurred_at: int
    identified: bool
    merged_at: int | None


class Holding(Struct, frozen=True, array_like=True):
    """A profile held the device at this time."""

    profile_id: str
    at: Stamp


class Naming(Struct, frozen=True, array_like=True):
    """The device gave this as its platform."""

    platform: str
    at: Stamp


class Addressing(Struct, frozen=True, array_like=True):
    """The device gave this as its push address."""

    address: PushAddress
    at: Stamp


class Device(Struct, frozen=True):
    """One app on one phone, or one browser: last-writer-wins registers, so arrival order is nothing."""

    device_id: str
    last_seen_at: int = 0
    platform: Naming | None = None
    address: Addressing | None = None
    proven: Holding | None = None
    unproven: Holding | None = None
    logged_out: Stamp = NEVER


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a device now, and whether that was proven."""

    profile_id: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Redemption:
    """Who redeemed a link token; a second one loses."""

    nonce: str
    event_hash: int
    device_id: str
    anonymous_id: str | None
    redeemed_at: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A phone's report on a push; `at` in unix milliseconds."""

    push_id: str
    what: Literal["received", "opened"]
    at: int


class Applied(Struct, frozen=True, gc=False):
    """What an event did.

    `profile_id` is the profile of the event's own identifier, to be stored with the event: it never changes,
    so a merge moves no event and its undo finds all as before. `person_id` is who that is for now: the
    profile itself where the event lies outside of what its person has of it. `beacons_changed`: the event's
    beacon has another owner. `moved` are profiles that became part of a person, ceased to be, or said
    something else about consent, with whoever they belonged to before and after: if any of these people
    carries a beacon, who is listened for may have changed. `placed` are profiles of which people have more,
    less or nothing now, with whoever they belonged to before and after. `refused`: the event changes
    nothing, and is not to be kept.
    """

    profile_id: str | None
    person_id: str | None
    beacons_changed: bool
    receipt: Receipt | None
    merged: tuple[str, ...] = ()
    moved: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()
    refused: bool = False
