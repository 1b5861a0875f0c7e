"""Applies app events and operators' decisions to identities, traits, consent and devices.

Whatever comes of it is a function of the *set* of events: claims are collected, and where an identifier
belongs is worked out afresh from all of them whenever one of them changes (`placing.py`, `rules.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backend.profiles.model import (
    NOBODY,
    OBSERVED,
    OPERATOR,
    SEEN,
    TRUST,
    Addressing,
    Applied,
    Device,
    Edge,
    Holding,
    Identifier,
    IdType,
    Naming,
    Profile,
    Receipt,
    Redemption,
    Stamp,
)
from backend.profiles.placing import Placing, person_of
from backend.profiles.rules import attached, beacon_owner, holder_of, later, usable_as
from backend.profiles.store import ProfileStore
from sdk_bridge.wire.app_events import AppEvent, Link
from sdk_bridge.wire.identifiers import usable

SINCE_EVER = Stamp(0, 0)

# Beyond these a profile is a robot's or a mistake's: all that gathered under it stands alone again.
DEFAULT_LIMITS: Mapping[IdType, int] = {
    "anonymous_id": 1_000,
    "device_id": 100,
    "email": 20,
    "phone": 20,
    "loyalty_id": 20,
}
_json = msgspec.json.Encoder().encode
_SPEAK_OF_DEVICES = frozenset({"identify", "device", "logout", "link"})


class Numbered(NamedTuple):
    """An event with what the journal knows of it: its place there, and the hash of its message id."""

    event: AppEvent
    event_id: int
    event_hash: int


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
        kept = event.kind not in OBSERVED
        placing = Placing(store, self._limits, event.received_at, event_id, new_id, kept)
        return _Application(placing, store, event, Stamp(event.occurred_at, event_hash)).run()

    def apply_all(
        self, store: ProfileStore, batch: Sequence[Numbered], new_id: Callable[[], str]
    ) -> list[Applied]:
        """Applies events one after the other; the store hears beforehand what they will ask."""
        store.foresee(numbered.event for numbered in batch)
        return [self.apply(store, *numbered, new_id) for numbered in batch]

    # What operators decide --------------------------------------------------------------------------------

    def merge(
        self, store: ProfileStore, profile_id: str, into: str, at: int, new_id: Callable[[], str]
    ) -> str | None:
        """Makes one person of two, as an operator decided; the profile that was merged into the other.

        The more trusted of the two persons stays the root. None if they are one already. `at` is now, in
        unix milliseconds.
        """
        child, root = store.profile(person_of(store, profile_id)), store.profile(person_of(store, into))
        if child is None or root is None or child.profile_id == root.profile_id:
            return None
        if TRUST[child.id_type] < TRUST[root.id_type]:
            child, root = root, child
        placing = Placing(store, self._limits, at, None, new_id)
        placing.claim(child.identifier, root, OPERATOR, Stamp(at, 0))
        return child.profile_id

    def undo_merge(self, store: ProfileStore, profile_id: str, at: int, new_id: Callable[[], str]) -> bool:
        """Takes a profile out of what it was merged into, as if it never had been; False if it was not.

        What an operator merged comes to where it would be without. What merged by itself stays apart for
        good.
        """
        profile = store.profile(profile_id)
        if profile is None or profile.parent is None:
            return False
        if any(claim.via == OPERATOR for claim in store.claims(profile.identifier)):
            store.drop_claims(profile.identifier, OPERATOR)
        else:
            store.undo_claims(profile.identifier, at)
        Placing(store, self._limits, at, None, new_id).settle(profile.identifier)
        return True

    def assign_beacon(self, store: ProfileStore, beacon_key: str, profile_id: str, at: int) -> None:
        """A tag, or the beacon that an app sends, is this profile's, whoever claims it."""
        store.drop_claims(("beacon", beacon_key), OPERATOR)
        store.add_claim(("beacon", beacon_key), profile_id, OPERATOR, Stamp(at, 0))
        _settle_beacon(store, beacon_key, at, None)

    def take_beacon(self, store: ProfileStore, beacon_key: str, at: int) -> str | None:
        """It is nobody's, until somebody else claims it or an operator assigns it; whose it was."""
        before = store.profile_of(("beacon", beacon_key))
        store.drop_claims(("beacon", beacon_key), OPERATOR)
        store.undo_claims(("beacon", beacon_key), at)
        _settle_beacon(store, beacon_key, at, None)
        return before


def whose(store: ProfileStore, profile_id: str, occurred_at: int) -> str:
    """The person whose doing it is when something happened then under a profile."""
    profile = store.profile(profile_id)
    if profile is None or profile.parent is None or not attached(profile, occurred_at):
        return profile_id
    return person_of(store, profile.parent)


def _settle_beacon(store: ProfileStore, beacon_key: str, at: int, event_id: int | None) -> bool:
    """Opens and closes the beacon's edge as its claims say; whether its owner changed."""
    identifier: Identifier = ("beacon", beacon_key)
    wanted, known = beacon_owner(store.claims(identifier)), store.open_edge_of(identifier)
    if wanted is not None and known is not None and wanted.profile_id == known.profile_id:
        if wanted.first_at < known.valid_from:
            store.redate_edge(replace(known, valid_from=wanted.first_at))
        return False
    if known is not None:
        store.close_edge(identifier, at)
    if wanted is not None:
        cause = "operator" if wanted.via == OPERATOR else "device"
        store.open_edge(Edge(*identifier, wanted.profile_id, wanted.first_at, cause, event_id))
    return wanted is not None or known is not None


class _Application(Struct, gc=False):  # made for each event: a Struct's making is C
    """One event on its way through the rules."""

    _placing: Placing
    _store: ProfileStore
    _event: AppEvent
    _stamp: Stamp
    _beacons_changed: bool = False

    def run(self) -> Applied:
        event = self._event
        if event.kind == "link" and not self._redeem():
            return Applied(None, None, False, None, refused=True)
        if event.kind == "push_receipt":  # it is the push that says whose it was
            return Applied(None, None, False, self._receipt())
        known = self._proven()
        proven = self._profile(known[0]) if known else None
        profile_id = proven or self._unproven()
        if event.kind == "logout":
            self._log_out()
        else:
            self._learn(proven, profile_id, known[1:])
        if event.device_id is not None:
            self._hold_device(proven, profile_id)
        placing = self._placing
        return Applied(
            profile_id=profile_id,
            person_id=None if profile_id is None else whose(self._store, profile_id, event.occurred_at),
            beacons_changed=self._beacons_changed,
            receipt=self._receipt(),
            merged=placing.merged,
            moved=placing.moved,
            placed=placing.placed,
        )

    def _receipt(self) -> Receipt | None:
        event = self._event
        if event.push_id is None or event.receipt is None:
            return None
        return Receipt(event.push_id, event.receipt, event.occurred_at)

    # Whose event it is ------------------------------------------------------------------------------------

    def _proven(self) -> list[Identifier]:
        """What the source vouches for, the most trusted first."""
        event = self._event
        found: list[Identifier] = []  # `list[Identifier]()` takes as long as all the rest
        user_id = usable(event.user_id) if event.proven else None
        if user_id is None and event.kind == "link" and event.link is not None:
            user_id = usable(event.link.user_id)
        if user_id is not None:
            found.append(("user_id", user_id))
        if event.external_ids:
            others: set[Identifier] = {(one.type, one.id) for one in event.external_ids}
            ordered = sorted(others, key=lambda one: (TRUST[one[0]], one[1]))
            found += [one for one in ordered if usable_as(*one)]
        return found

    def _unproven(self) -> str | None:
        """Else the profile of the anonymous id, else the device's; a user id without proof is only noted."""
        anonymous, device = usable(self._event.anonymous_id), usable(self._event.device_id)
        if anonymous is not None and (self._event.kind != "link" or device is None):
            return self._profile(("anonymous_id", anonymous))
        return self._profile(("device_id", device)) if device is not None else None

    def _profile(self, identifier: Identifier) -> str:
        """The identifier's own profile."""
        event, store = self._event, self._store
        profile_id = store.profile_of(identifier)
        if profile_id is not None:
            profile = store.profile(profile_id)
            if profile is not None and event.occurred_at <= profile.created_at:
                self._placing.began(profile, event.occurred_at, event.kind)
            return profile_id
        begun = self._placing.begin(identifier, event.occurred_at, event.kind)
        if identifier[0] == "user_id":
            self._user_appeared(identifier[1], begun)
        elif store.claims(identifier):
            self._placing.settle(identifier)
        return begun.profile_id

    def _user_appeared(self, user_id: str, begun: Profile) -> None:
        """What was said of this user id before anybody knew that it is one."""
        for claim in self._store.claims(("anonymous_id", user_id)):
            if claim.via == "alias":
                self._review(("user_id", user_id), (claim.profile_id, begun.profile_id), "alias")
        if self._store.profile_of(("claimed_user_id", user_id)) is not None:
            self._placing.claim(("claimed_user_id", user_id), begun, "named", SINCE_EVER)

    # What is proven of somebody ---------------------------------------------------------------------------

    def _learn(self, proven: str | None, profile_id: str | None, others: Sequence[Identifier]) -> None:
        event = self._event
        if event.kind == "link" and event.link is not None and profile_id is not None:
            self._join(event.link, profile_id, proven)
        elif proven is not None:
            self._claim_for(proven, others)
        if profile_id is not None:
            self._hear(profile_id)
        if event.consent:
            self._refuse_for_claimed_user()

    def _claim_for(self, proven: str, others: Sequence[Identifier]) -> None:
        event = self._event
        for identifier in others:
            self._claim(identifier[0], identifier[1], proven, SEEN)
        self._claim("anonymous_id", usable(event.anonymous_id), proven, SEEN)
        if event.device_id is not None:
            self._claim("device_id", usable(event.device_id), proven, SEEN)
        if event.kind == "alias":
            self._alias(proven)
        if event.beacon_key is not None:
            self._claim_beacon(event.beacon_key, proven)

    def _claim(self, id_type: IdType, identifier: str | None, claimant_id: str, via: str) -> None:
        """Only what is trusted less than the claimant: of two addresses neither is the other's."""
        if identifier is None:
            return
        claimant = self._store.profile(claimant_id)
        if claimant is not None and TRUST[claimant.id_type] < TRUST[id_type]:
            self._placing.claim((id_type, identifier), claimant, via, self._stamp)

    def _alias(self, proven: str) -> None:
        """`previousId` is an anonymous id; if it is a user, too, an operator decides: both are identified."""
        previous = usable(self._event.previous_id)
        if previous is None or previous == self._event.user_id:
            return
        self._claim("anonymous_id", previous, proven, "alias")
        other = self._store.profile_of(("user_id", previous))
        if other is not None:
            self._review(("user_id", previous), (proven, other), "alias")

    def _claim_beacon(self, beacon_key: str, proven: str) -> None:
        store, event = self._store, self._event
        identifier: Identifier = ("beacon", beacon_key)
        if not store.add_claim(identifier, proven, event.device_id or "", self._stamp):
            return
        claims = store.claims(identifier)
        if beacon_owner(claims) is None:
            for other in {claim.profile_id for claim in claims} - {proven}:
                self._review(identifier, (other, proven), "beacon claimed twice")
        if _settle_beacon(store, beacon_key, event.received_at, self._placing.event_id):
            self._beacons_changed = True

    def _review(self, identifier: Identifier, pair: tuple[str, str], cause: str) -> None:
        self._store.add_review(self._event.received_at, identifier, pair, cause)

    # Link tokens ------------------------------------------------------------------------------------------

    def _redeem(self) -> bool:
        """Spends the token; False if somebody else did."""
        event, link = self._event, self._event.link
        if link is None:
            return False
        known = self._store.redemption(link.nonce)
        if known is None:
            device, anonymous = event.device_id or "", event.anonymous_id
            spent = Redemption(link.nonce, self._stamp.event_hash, device, anonymous, event.received_at)
            self._store.redeem(spent)
        return known is None or known.event_hash == self._stamp.event_hash

    def _join(self, link: Link, profile_id: str, proven: str | None) -> None:
        """The visitor, the account and the app become one; without an account, the visitor and the phone."""
        event = self._event
        visitor_of = proven or profile_id
        if proven is not None and event.proven and usable(link.user_id) not in (None, event.user_id):
            other = self._profile(("user_id", link.user_id or ""))
            visitor_of = other
            self._review(("user_id", link.user_id or ""), (proven, other), "link")
        self._claim("anonymous_id", usable(link.anonymous_id), visitor_of, "link")
        self._claim("anonymous_id", usable(event.anonymous_id), profile_id, "link")
        if proven is not None:
            self._claim("device_id", usable(event.device_id), proven, "link")

    # Devices and their push addresses ---------------------------------------------------------------------

    def _log_out(self) -> None:
        anonymous, device = usable(self._event.anonymous_id), usable(self._event.device_id)
        if anonymous is not None:
            self._placing.log_out(("anonymous_id", anonymous), self._stamp)
        if device is not None:
            self._placing.log_out(("device_id", device), self._stamp)

    def _hold_device(self, proven: str | None, profile_id: str | None) -> None:
        event = self._event
        device_id = usable(event.device_id)
        if device_id is None or (event.kind not in _SPEAK_OF_DEVICES and event.push_address is None):
            return
        known = self._store.device(device_id) or Device(device_id)
        device = self._told(known, proven, profile_id)
        holder = holder_of(device)
        if device != known:
            self._store.put_device(device, holder.profile_id if holder else None)
        if event.push_address is not None:
            self._store.see_address(event.push_address, device_id, self._stamp, event.received_at)
        platform = device.platform.platform if device.platform else None
        for address in self._store.addresses_on(device_id):
            current = device.address is not None and device.address.address == address
            owner = holder if current else None
            self._store.own_address(
                address, owner.profile_id if owner else None, bool(owner and owner.proven), platform
            )

    def _told(self, device: Device, proven: str | None, profile_id: str | None) -> Device:
        """The device's registers after this event."""
        event, stamp = self._event, self._stamp
        changes: dict[str, object] = {"last_seen_at": max(device.last_seen_at, event.received_at)}
        if event.kind == "logout":
            changes["logged_out"] = max(device.logged_out, stamp)
            return replace(device, **changes)
        if event.platform and later(stamp, device.platform):
            changes["platform"] = Naming(event.platform, stamp)
        if event.push_address and later(stamp, device.address):
            changes["address"] = Addressing(event.push_address, stamp)
        if proven is not None and later(stamp, device.proven):
            changes["proven"] = Holding(proven, stamp)
        elif proven is None and profile_id and later(stamp, device.unproven):
            changes["unproven"] = Holding(profile_id, stamp)
        return replace(device, **changes)

    # Traits and consent -----------------------------------------------------------------------------------

    def _hear(self, profile_id: str) -> None:
        event = self._event
        if event.traits and event.kind == "identify":
            traits = {name: _json(value) for name, value in event.traits.items()}
            self._store.put_traits(profile_id, traits, self._stamp)
        for purpose, granted in event.consent.items():
            self._state(profile_id, purpose, granted)

    def _state(self, profile_id: str, purpose: str, granted: bool) -> None:
        if self._store.put_consent(profile_id, purpose, granted, self._stamp):
            self._placing.moved |= {profile_id, person_of(self._store, profile_id)}

    def _refuse_for_claimed_user(self) -> None:
        """A refusal counts for the user it names also without proof: a stranger can only cause silence."""
        event = self._event
        if event.proven or event.user_id is None:
            return
        refused = [purpose for purpose, granted in event.consent.items() if not granted]
        user_id = usable(event.user_id)
        if user_id is None or not refused:
            return
        claimed = self._profile(("claimed_user_id", user_id))
        user = self._store.profile(self._store.profile_of(("user_id", user_id)) or NOBODY)
        if user is not None:
            self._placing.claim(("claimed_user_id", user_id), user, "named", SINCE_EVER)
        for purpose in refused:
            self._state(claimed, purpose, granted=False)
