"""Applies one app event to identities, traits, consent and devices, inside the fold's transaction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from backend.profiles.model import (
    Addressing,
    Applied,
    Device,
    Edge,
    Holding,
    IdType,
    Naming,
    Receipt,
    Stamp,
)
from backend.profiles.rules import beacon_owner, holder_of, later, parent_of, usable
from backend.profiles.store import ProfileStore
from sdk_bridge.wire.app_events import AppEvent

MAX_CHAIN = 64  # merges of merges; more would be a ring, and the fold would never end
MAX_TRAIT_NAME = 512
SINCE_EVER = 0

# Beyond these a profile is a robot's or a mistake's; what is one too many goes to the review queue.
DEFAULT_LIMITS: Mapping[IdType, int] = {"anonymous_id": 1_000, "device_id": 100}
_SPEAK_OF_DEVICES = frozenset({"identify", "device", "logout"})
_MAKE_NOBODY = frozenset({"logout", "push_receipt"})  # they say nothing of a person


class ProfileService:
    """The identity rules over a store; it keeps nothing itself."""

    def __init__(self, limits: Mapping[IdType, int] = DEFAULT_LIMITS) -> None:
        self._limits = limits

    def apply(
        self,
        store: ProfileStore,
        event: AppEvent,
        event_id: int,
        event_hash: int,
        new_id: Callable[[], str],
    ) -> Applied:
        """Applies an event, in whatever order events come; `new_id` makes profile ids."""
        return _Application(store, event, event_id, event_hash, new_id, self._limits).run()

    def merge(self, store: ProfileStore, profile_id: str, into: str, at: int) -> bool:
        """Makes one person of two, as an operator decided; False if they are one already.

        `at` is now, in unix milliseconds.
        """
        ours, theirs = person_of(store, into), person_of(store, profile_id)
        if ours == theirs:
            return False
        store.open_edge(Edge("profile", theirs, ours, at, "review", None))
        store.set_parent(theirs, ours, at)
        return True

    def undo_merge(self, store: ProfileStore, profile_id: str, at: int) -> bool:
        """Takes a profile out of the person it was merged into, as if it never had been; False if it was not.

        The two never merge by themselves again.
        """
        parent = store.parent_of(profile_id)
        if parent is None:
            return False
        identifier = store.identifier_of(profile_id)
        if identifier is not None:
            store.undo_claims(*identifier, parent, at)
        store.close_edge("profile", profile_id, at)
        store.set_parent(profile_id, None, None)
        return True


def person_of(store: ProfileStore, profile_id: str) -> str:
    """The profile at the top of its merges."""
    for _ in range(MAX_CHAIN):
        parent = store.parent_of(profile_id)
        if parent is None:
            return profile_id
        profile_id = parent
    raise RuntimeError(f"profile {profile_id} is merged in a ring")


@dataclass(slots=True)
class _Application:
    """One event on its way through the rules."""

    store: ProfileStore
    event: AppEvent
    event_id: int
    event_hash: int
    new_id: Callable[[], str]
    limits: Mapping[IdType, int]
    applied: Applied = field(init=False)

    def __post_init__(self) -> None:
        self.applied = Applied(None, None, False, False, self._receipt())

    def run(self) -> Applied:
        user = self._user()
        profile_id = user or self._unproven()
        if self.event.kind not in _MAKE_NOBODY:
            self._learn(user, profile_id)
        self._hold_device(user, profile_id)
        person = person_of(self.store, profile_id) if profile_id is not None else None
        return replace(self.applied, profile_id=profile_id, person_id=person)

    @property
    def _stamp(self) -> Stamp:
        return Stamp(self.event.occurred_at, self.event_hash)

    def _receipt(self) -> Receipt | None:
        event = self.event
        if event.push_id is None or event.receipt is None:
            return None
        return Receipt(event.push_id, event.receipt, event.occurred_at)

    # Whose event it is ------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        """The profile of the user, where the source vouches for it."""
        user_id = usable(self.event.user_id) if self.event.proven else None
        return self._profile("user_id", user_id) if user_id is not None else None

    def _unproven(self) -> str | None:
        """Else the profile of the anonymous id, else the device's; a user id without proof is only noted."""
        anonymous, device = usable(self.event.anonymous_id), usable(self.event.device_id)
        if anonymous is not None:
            return self._profile("anonymous_id", anonymous)
        return self._profile("device_id", device) if device is not None else None

    def _profile(self, id_type: IdType, identifier: str) -> str | None:
        """The identifier's own profile, made if this event may make one."""
        found = self.store.profile_of(id_type, identifier)
        if found is not None or self.event.kind in _MAKE_NOBODY:
            return found
        profile_id = self.new_id()
        at = self.event.occurred_at
        self.store.add_profile(profile_id, id_type, at)
        self.store.open_edge(Edge(id_type, identifier, profile_id, at, self.event.kind, self.event_id))
        if id_type == "user_id":
            self._user_appeared(identifier, profile_id)
        else:
            self._reconcile(id_type, identifier)
        return profile_id

    def _user_appeared(self, user_id: str, profile_id: str) -> None:
        """What was said of this user id before anybody knew that it is one."""
        store = self.store
        for claim in store.claims("anonymous_id", user_id):
            if claim.via == "alias":
                self._review("user_id", user_id, (claim.profile_id, profile_id), "alias")
        store.drop_claims("anonymous_id", user_id, "alias")
        self._reconcile("anonymous_id", user_id)
        claimed = store.profile_of("claimed_user_id", user_id)
        if claimed is not None:
            self._merge(claimed, profile_id, SINCE_EVER)

    # What is proven of the user ---------------------------------------------------------------------------

    def _claim_for(self, user: str) -> None:
        event = self.event
        self._claim("anonymous_id", usable(event.anonymous_id), user, "seen")
        self._claim("device_id", usable(event.device_id), user, "seen")
        if event.kind == "alias":
            self._alias(user)
        if event.beacon_key is not None:
            self._claim_beacon(event.beacon_key, user)

    def _claim(self, id_type: IdType, identifier: str | None, user: str, via: str) -> None:
        if identifier is not None:
            self.store.add_claim(id_type, identifier, user, via, self._stamp)
            self._reconcile(id_type, identifier)

    def _alias(self, user: str) -> None:
        """`previousId` is an anonymous id, or a user: then a person decides, for both are identified."""
        previous = usable(self.event.previous_id)
        if previous is None or previous == self.event.user_id:
            return
        other = self.store.profile_of("user_id", previous)
        if other is None:
            self._claim("anonymous_id", previous, user, "alias")
        else:
            self._review("user_id", previous, (user, other), "alias")

    def _reconcile(self, id_type: IdType, identifier: str) -> None:
        """Merges the identifier's profile into the one user it goes with, or takes it out again."""
        profile_id = self.store.profile_of(id_type, identifier)
        if profile_id is None:
            return
        wanted = parent_of(self.store.claims(id_type, identifier))
        parent = self.store.parent_of(profile_id)
        if wanted is not None and parent == wanted.profile_id:
            self.store.set_parent(profile_id, parent, wanted.first_at)
            return
        if parent is not None:
            self._merges_change(profile_id)
            self.store.close_edge("profile", profile_id, self.event.received_at)
            self.store.set_parent(profile_id, None, None)
        if wanted is not None and self._has_room(wanted.profile_id, id_type, identifier, profile_id):
            self._merge(profile_id, wanted.profile_id, wanted.first_at)

    def _merge(self, profile_id: str, into: str, since: int) -> None:
        edge = Edge("profile", profile_id, into, since, self.event.kind, self.event_id)
        self.store.open_edge(edge)
        self.store.set_parent(profile_id, into, since)
        self._merges_change(profile_id)

    def _has_room(self, user: str, id_type: IdType, identifier: str, profile_id: str) -> bool:
        if self.store.children(user, id_type) < self.limits.get(id_type, 1):
            return True
        self._review(id_type, identifier, (user, profile_id), "limit")
        return False

    def _merges_change(self, profile_id: str) -> None:
        """Called while the profile is part of the person."""
        self.applied = replace(self.applied, merged=(*self.applied.merged, profile_id))
        if self.store.has_consents(profile_id):
            self._consent_moves(profile_id)

    def _claim_beacon(self, beacon_key: str, user: str) -> None:
        """A beacon goes with the last claim through its device; claimed through two it is nobody's."""
        store, event = self.store, self.event
        store.add_claim("beacon", beacon_key, user, event.device_id or "", self._stamp)
        claims = store.claims("beacon", beacon_key)
        owner, before = beacon_owner(claims), store.profile_of("beacon", beacon_key)
        if owner is None:
            for other in {claim.profile_id for claim in claims} - {user}:
                self._review("beacon", beacon_key, (other, user), "beacon claimed twice")
        if owner == before:
            return
        store.close_edge("beacon", beacon_key, event.received_at)
        if owner is not None:
            edge = Edge("beacon", beacon_key, owner, event.occurred_at, event.kind, self.event_id)
            store.open_edge(edge)
        self.applied = replace(self.applied, beacons_changed=True)

    def _review(self, id_type: IdType, identifier: str, pair: tuple[str, str], cause: str) -> None:
        self.store.add_review(self.event.received_at, id_type, identifier, pair, cause)

    # Devices and their push addresses ---------------------------------------------------------------------

    def _hold_device(self, user: str | None, profile_id: str | None) -> None:
        event = self.event
        device_id = usable(event.device_id)
        if device_id is None or event.kind == "push_receipt":
            return
        if event.kind not in _SPEAK_OF_DEVICES and event.push_address is None:
            return
        known = self.store.device(device_id) or Device(device_id)
        device = self._told(known, user, profile_id)
        holder = holder_of(device)
        self.store.put_device(device, holder.profile_id if holder else None)
        if event.push_address is not None:
            self.store.see_address(event.push_address, device_id, self._stamp, event.received_at)
        platform = device.platform.platform if device.platform else None
        for address in self.store.addresses_on(device_id):
            current = device.address is not None and device.address.address == address
            owner = holder if current else None
            self.store.own_address(
                address, owner.profile_id if owner else None, bool(owner and owner.proven), platform
            )

    def _told(self, device: Device, user: str | None, profile_id: str | None) -> Device:
        """The device's registers after this event."""
        event, stamp = self.event, self._stamp
        changes: dict[str, object] = {"last_seen_at": max(device.last_seen_at, event.received_at)}
        if event.kind == "logout":
            changes["logged_out"] = max(device.logged_out, stamp)
            return msgspec.structs.replace(device, **changes)
        if event.platform and later(stamp, device.platform):
            changes["platform"] = Naming(event.platform, stamp)
        if event.push_address and later(stamp, device.address):
            changes["address"] = Addressing(event.push_address, stamp)
        if user is not None and later(stamp, device.proven):
            changes["proven"] = Holding(user, stamp)
        elif user is None and profile_id and later(stamp, device.unproven):
            changes["unproven"] = Holding(profile_id, stamp)
        return msgspec.structs.replace(device, **changes)

    # Traits and consent -----------------------------------------------------------------------------------

    def _learn(self, user: str | None, profile_id: str | None) -> None:
        if user is not None:
            self._claim_for(user)
        if profile_id is not None:
            self._hear(profile_id)
        self._refuse_for_claimed_user()

    def _hear(self, profile_id: str) -> None:
        event = self.event
        if event.kind == "identify" and event.traits:
            traits = {name: msgspec.json.encode(value).decode() for name, value in event.traits.items()}
            named = {name: value for name, value in traits.items() if 0 < len(name) <= MAX_TRAIT_NAME}
            self.store.put_traits(profile_id, named, self._stamp)
        for purpose, granted in event.consent.items():
            self._state(profile_id, purpose, granted)

    def _state(self, profile_id: str, purpose: str, granted: bool) -> None:
        if self.store.put_consent(profile_id, purpose, granted, self._stamp):
            self._consent_moves(profile_id)

    def _consent_moves(self, profile_id: str) -> None:
        """Only who carries a beacon matters: a browser's banner must not make the floor read all anew."""
        person = person_of(self.store, profile_id)
        if self.store.carries_beacon(person):
            bearers = self.applied.bearers | {person}
            self.applied = replace(self.applied, consent_changed=True, bearers=bearers)

    def _refuse_for_claimed_user(self) -> None:
        """A refusal counts for the user it names also without proof: a stranger can only cause silence."""
        refused = [purpose for purpose, granted in self.event.consent.items() if not granted]
        user_id = usable(self.event.user_id)
        if self.event.proven or user_id is None or not refused:
            return
        claimed = self._profile("claimed_user_id", user_id)
        if claimed is None:
            return
        user = self.store.profile_of("user_id", user_id)
        if user is not None and self.store.parent_of(claimed) is None:
            self._merge(claimed, user, SINCE_EVER)
        for purpose in refused:
            self._state(claimed, purpose, granted=False)
