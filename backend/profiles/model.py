"""The nouns of identity: edges, claims, devices with their registers, and what applying an event did."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from sdk_bridge.wire.app_events import PushAddress

IdType: TypeAlias = Literal["user_id", "anonymous_id", "device_id", "claimed_user_id", "beacon", "profile"]


class Stamp(NamedTuple):
    """Which of two writers was the last: unix milliseconds of the event, then the event's hash."""

    occurred_at: int
    event_hash: int


NEVER = Stamp(-1, 0)


@dataclass(frozen=True, slots=True)
class Edge:
    """An identifier belongs to a profile, since when and why; an edge is closed, never changed."""

    id_type: IdType
    id: str
    profile_id: str
    valid_from: int
    cause: str
    event_id: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """An identifier was proven to go with an identified profile; times are of the events that said so."""

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
    """One app on one phone, or one browser: four last-writer-wins registers, so arrival order is nothing."""

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
class Receipt:
    """A phone's report on a push; `at` in unix milliseconds."""

    push_id: str
    what: Literal["received", "opened"]
    at: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What an event did.

    `profile_id` is the profile of the event's own identifier, to be stored with the event: it never changes,
    so a merge moves no event and its undo finds all as before. `person_id` is who that is for now.
    `beacons_changed`: the event's beacon has another owner. `consent_changed`: someone with a beacon may
    agree no longer, or anew; `bearers` are these people. `merged` are profiles that became part of a person
    or ceased to be.
    """

    profile_id: str | None
    person_id: str | None
    beacons_changed: bool
    consent_changed: bool
    receipt: Receipt | None
    merged: tuple[str, ...] = ()
    bearers: frozenset[str] = frozenset()
