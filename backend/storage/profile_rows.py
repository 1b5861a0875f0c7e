"""The database's side of the identity rules: reads what events name at once, writes what changed at once."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from backend.profiles.memory import Address, MemoryProfiles, merge_edge
from backend.profiles.model import (
    BROWSERS,
    LASTING_TRAITS,
    MAX_TRAITS,
    NOBODY,
    SEEN,
    Claim,
    Device,
    Edge,
    Identifier,
    Profile,
    Redemption,
    Stamp,
)
from backend.segments.memory import Memory
from backend.storage import browsers_seen, profiles
from backend.storage.entries import HOUR_MS
from backend.storage.session import Row, Rows, Session
from sdk_bridge.wire.app_events import AppEvent, PushAddress

_device = msgspec.msgpack.Decoder(Device)
_encode_device = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


# What the statements of most events ask for, in the order in which they do.
BEGUN = ("profile_id", "id_type", "id", "created_at", "cause", "event_id")
PUT = (
    "created_at", "cause", "event_id", "merged_into", "merged_at", "attach_from", "attach_until", "shared",
    "crowd", "merged_cause", "merged_event_id", "profile_id", "id_type",
)  # fmt: skip
CLAIM = ("id_type", "id", "profile_id", "via", "first_at", "last_at", "last_hash")
PUT_CLAIM = ("first_at", "last_at", "last_hash", "undone_at", "id_type", "id", "profile_id", "via")
TRAIT = ("profile_id", "name", "value", "occurred_at", "event_hash")
MAX_KEPT = 50_000  # identifiers remembered between transactions: some 50 MB


class ProfileRows(MemoryProfiles):
    """Satisfies ProfileStore inside a transaction.

    What is asked for is read once and kept; what changes is kept until `flush`, which whoever reads the
    tables by other ways has to call before. One that lives longer than a transaction is told of the next
    with `begin`, and of its end with `end`: what it knows holds as long as nobody else wrote anything.

    Nearly every event of somebody known claims the same browser again. While that is all that is claimed of
    it, no rule asks when it was last, and what follows in the hour that the row has need not be written.
    Before another claim, or a logout, comes beside it, the last is read from the profile's events
    (browsers_seen.py), of which a robot may have too many. `events_follow`: whoever applies events keeps
    them, in the same transaction; else, and where others write at once, each claim is written.
    """

    def __init__(self, session: Session, *, events_follow: bool = False) -> None:
        self._mark: Hashable | None = None
        self._events_follow = events_follow
        self._know_nothing(session)

    def begin(self, session: Session) -> None:
        """Another transaction; after one that failed use another store."""
        if self._mark is None or session.written() != self._mark or len(self._read) > MAX_KEPT:
            self._know_nothing(session)
        self._session = session
        self._mark = None
        self._read.difference_update([one for one in self._passing if one not in self.owners])
        self._passing.clear()
        self._told.clear()

    def end(self) -> None:
        """Nothing more is written in this transaction, by anybody."""
        self._mark = self._session.written()

    def _know_nothing(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._alone = session.written() is not None
        self._told: dict[tuple[str, int], dict[Identifier, Stamp]] = {}
        """When browsers were last claimed for a profile in an hour, by the events before this transaction."""
        self._read: set[Identifier] = set()
        self._passing: set[Identifier] = set()
        """Asked about once, as a user appeared; not worth being remembered where nothing is known."""
        self._read_profiles: set[str] = set()
        self._read_claimed: set[str] = set()
        self._read_consents: set[str] = set()
        self.memory = Memory()
        """Whoever reads what it holds keeps it here, and forgets what changes."""
        self._agreed: dict[tuple[str, str], bool] = {}
        """What people, by their roots, agree to, as far as it was asked since somebody said something."""
        self._read_devices: set[str] = set()
        self._read_addresses: set[PushAddress] = set()
        self._new_profiles: dict[str, None] = {}
        self._changed_profiles: dict[str, None] = {}
        self._new_edges: dict[Identifier, Edge] = {}
        self._redated: dict[Identifier, Edge] = {}
        self._passed_edges: list[tuple[Edge, int]] = []
        self._ended_edges: list[tuple[Identifier, int]] = []
        self._new_claims: dict[tuple[Identifier, str, str], None] = {}
        self._put_claims: dict[tuple[Identifier, str, str], int | None] = {}
        self._gone_claims: dict[tuple[Identifier, str, str], None] = {}
        self._said: dict[tuple[str, str], None] = {}
        self._put_devices: dict[str, None] = {}
        self._seen: list[dict[str, Any]] = []
        self._owned: dict[PushAddress, None] = {}
        self._new_redemptions: dict[str, None] = {}

    # Reading ----------------------------------------------------------------------------------------------

    def foresee(self, events: Iterable[AppEvent]) -> None:
        identifiers: dict[Identifier, None] = {}
        users: dict[str, None] = {}
        devices: dict[str, None] = {}
        addresses: dict[PushAddress, None] = {}
        for event in events:
            if event.anonymous_id is not None:
                identifiers["anonymous_id", event.anonymous_id] = None
            if event.user_id is not None:
                users[event.user_id] = None
                identifiers["user_id", event.user_id] = None
            if event.device_id is not None:
                devices[event.device_id] = None
                identifiers["device_id", event.device_id] = None
            if event.push_address is not None:
                addresses[event.push_address] = None
            if _names_more(event):
                for identifier in _seldom_named(event):
                    identifiers[identifier] = None
        self._read_identifiers(identifiers)
        said_of_strangers = list(self._said_of_strangers(users))
        self._read_identifiers(said_of_strangers)
        self._passing.update(said_of_strangers)
        self._know_devices(devices, addresses)

    def _said_of_strangers(self, users: Iterable[str]) -> Iterator[Identifier]:
        """What the rules ask about users who have just appeared."""
        for user_id in users:
            if ("user_id", user_id) not in self.owners:
                yield from _said_before_known(user_id)

    def profile_of(self, identifier: Identifier) -> str | None:
        owner = self.owners.get(identifier)
        if owner is None and identifier not in self._read:
            self._read_identifiers([identifier])
            owner = self.owners.get(identifier)
        return owner

    def open_edge_of(self, identifier: Identifier) -> Edge | None:
        self._know(identifier)
        return self.edges.get(identifier)

    def claims(self, identifier: Identifier) -> Sequence[Claim]:
        known = self.claims_on.get(identifier)
        if known is None and identifier not in self._read:
            self._read_identifiers([identifier])
            known = self.claims_on.get(identifier)
        return list(known.values()) if known else ()

    def profile(self, profile_id: str) -> Profile | None:
        profile = self.profiles.get(profile_id)
        if profile is None and profile_id not in self._read_profiles:
            self._know_profiles([profile_id])
            profile = self.profiles.get(profile_id)
        return profile

    def claimed_by(self, profile_id: str) -> Sequence[Identifier]:
        if profile_id not in self._read_claimed:
            self._read_claimed.add(profile_id)
            claimed = self.claimed.setdefault(profile_id, {})
            for row in self._session.rows("claimed_by_profile", profile_id=profile_id):
                claimed[row["id_type"], row["id"]] = None
        return list(self.claimed.get(profile_id, ()))

    def redemption(self, nonce: str) -> Redemption | None:
        row = None if nonce in self.redemptions else self._session.row("link_redemption", nonce=nonce)
        if row is not None:
            self.redemptions[nonce] = redemption_of(row)
        return super().redemption(nonce)

    def has_consents(self, profile_id: str) -> bool:
        if profile_id not in self._read_consents:
            self._know_consents(profile_id)
        return bool(self.consents.get(profile_id))

    def agreeing(self, people: Collection[str], purpose: str) -> set[str]:
        """Those of some people, given by their roots, who agree to a purpose. Call `flush` before."""
        unknown = [person for person in people if (person, purpose) not in self._agreed]
        if unknown:
            agreed = profiles.agreeing(self._session, unknown, purpose)
            self._agreed.update({(person, purpose): person in agreed for person in unknown})
        return {person for person in people if self._agreed[person, purpose]}

    def device(self, device_id: str) -> Device | None:
        self._know_devices([device_id], [])
        return super().device(device_id)

    def addresses_on(self, device_id: str) -> Sequence[PushAddress]:
        self._know_devices([device_id], [])
        return super().addresses_on(device_id)

    def _know(self, identifier: Identifier) -> None:
        if identifier not in self._read:
            self._read_identifiers([identifier])

    def _read_identifiers(self, identifiers: Iterable[Identifier]) -> None:
        new = [identifier for identifier in identifiers if identifier not in self._read]
        if not new:
            return
        self._read.update(new)
        wanted = _by_type(new)
        others: dict[str, None] = {}
        for row in self._session.rows("profiles_named", wanted=wanted):
            if row[0] not in self._read_profiles:
                others[self._keep_profile(row)] = None
        beacons = [name for id_type, name in new if id_type == "beacon"]
        if beacons:
            for row in self._session.rows("beacons_named", wanted=_json(beacons).decode()):
                self.edges["beacon", row[1]] = edge = Edge(*row)
                self.owners["beacon", row[1]] = edge.profile_id
                others[edge.profile_id] = None
        for row in self._session.rows("claims_named", wanted=wanted):
            others[self._keep_claim(row)] = None
        others.pop(NOBODY, None)
        self._know_profiles(others)

    def _keep_claim(self, row: Iterable[Any]) -> str:
        """Whose claim it is."""
        id_type, name, profile_id, via, first_at, last_at, last_hash, undone_at = row
        claim = Claim(profile_id, via, first_at, Stamp(last_at, last_hash), undone_at is not None)
        self.claims_on.setdefault((id_type, name), {})[profile_id, via] = claim
        return cast(str, profile_id)

    def _know_profiles(self, profile_ids: Iterable[str]) -> None:
        """These profiles, and all that they are merged into."""
        new = [profile_id for profile_id in profile_ids if profile_id not in self._read_profiles]
        while new:
            self._read_profiles.update(new)
            rows = self._session.rows("profiles_by_id", wanted=_json(new).decode())
            parents = {self._keep_profile(row) for row in rows}
            new = [profile_id for profile_id in parents - {NOBODY} if profile_id not in self._read_profiles]

    def _keep_profile(self, row: Iterable[Any]) -> str:
        """Keeps what `profiles_by_id` found; the profile that it is merged into, or nobody."""
        *told, said = row
        profile = Profile(*told)
        profile_id = profile.profile_id
        self.profiles[profile_id] = profile
        self.owners[profile.id_type, profile.id] = profile_id
        self._read_profiles.add(profile_id)
        if not said:
            self._read_consents.add(profile_id)
        return profile.parent or NOBODY

    def _know_consents(self, profile_id: str) -> None:
        if profile_id in self._read_consents:
            return
        self._read_consents.add(profile_id)
        for row in self._session.rows("consents_of_profile", profile_id=profile_id):
            stamp = Stamp(row["occurred_at"], row["event_hash"])
            self.consents.setdefault(profile_id, {})[row["purpose"]] = (stamp, bool(row["granted"]))

    def _know_devices(self, device_ids: Iterable[str], addresses: Iterable[PushAddress]) -> None:
        devices = [device_id for device_id in device_ids if device_id not in self._read_devices]
        others = [address for address in addresses if address not in self._read_addresses]
        if devices:
            self._read_devices.update(devices)
            wanted = _json(devices).decode()
            for row in self._session.rows("devices_named", wanted=wanted):
                device = _device.decode(row["registers"])
                self.devices[device.device_id] = (device, row["profile_id"])
            self._keep_addresses(self._session.rows("push_addresses_on", wanted=wanted))
        if others:
            self._read_addresses.update(others)
            wanted = _json([(address.kind, address.value) for address in others]).decode()
            self._keep_addresses(self._session.rows("push_addresses_named", wanted=wanted))

    def _keep_addresses(self, rows: Iterable[Row]) -> None:
        for row in rows:
            address = PushAddress(row["kind"], row["value"])
            if address in self.addresses:
                continue
            self._read_addresses.add(address)
            bound = Stamp(row["bound_at"], row["bound_hash"])
            self.addresses[address] = Address(
                row["device_id"] or "",
                bound,
                row["last_seen_at"],
                row["profile_id"],
                bool(row["proven"]),
                row["platform"],
            )
            self.reported.setdefault(row["device_id"] or "", {})[address] = None

    # Changing ---------------------------------------------------------------------------------------------

    def add_profile(self, profile: Profile) -> None:
        profile_id = profile.profile_id
        if (profile.id_type, profile.id) not in self._read:
            self._read_identifiers([profile.identifier])
        super().add_profile(profile)
        self._new_profiles[profile_id] = None
        self._read_profiles.add(profile_id)
        self._read_claimed.add(profile_id)
        self._read_consents.add(profile_id)

    def put_profile(self, profile: Profile) -> None:
        profile_id = profile.profile_id
        self.profiles[profile_id] = profile
        self._agreed.clear()
        if profile_id not in self._new_profiles:
            self._changed_profiles[profile_id] = None

    def open_edge(self, edge: Edge) -> None:
        self._know(edge.identifier)
        super().open_edge(edge)
        self._new_edges[edge.identifier] = edge

    def redate_edge(self, edge: Edge) -> None:
        self._know(edge.identifier)
        super().redate_edge(edge)
        changed = self._new_edges if edge.identifier in self._new_edges else self._redated
        changed[edge.identifier] = edge

    def close_edge(self, identifier: Identifier, at: int) -> None:
        self._know(identifier)
        self.edges.pop(identifier, None)
        self.owners.pop(identifier, None)
        passed = self._new_edges.pop(identifier, None)
        if passed is not None:
            self._passed_edges.append((passed, at))
            return
        self._redated.pop(identifier, None)
        self._ended_edges.append((identifier, at))

    def end_merge(self, profile: Profile, at: int) -> None:
        self._passed_edges.append((merge_edge(profile), at))

    def add_claim(
        self, identifier: Identifier, profile_id: str, via: str, stamp: Stamp, *, kept: bool = False
    ) -> bool:
        if identifier not in self._read:
            self._read_identifiers([identifier])
        key = (identifier, profile_id, via)
        theirs = self.claims_on.get(identifier, {})
        known = theirs.get((profile_id, via))
        if known is None and len(theirs) == 1:
            self._recall(identifier, theirs)
        if not super().add_claim(identifier, profile_id, via, stamp):
            return False
        if known is None and key not in self._gone_claims:
            self._new_claims[key] = None
        elif key not in self._new_claims:
            if kept and known is not None and self._may_wait(identifier, theirs, known, stamp):
                return True
            undone = self.claims_on[identifier][profile_id, via].undone
            self._put(identifier, profile_id, via, stamp.occurred_at if undone else None)
        return True

    def _may_wait(
        self, identifier: Identifier, theirs: Mapping[tuple[str, str], Claim], known: Claim, stamp: Stamp
    ) -> bool:
        """Whether a claim that is said again need not be written: `_recall` would find it."""
        return (
            self._events_follow
            and self._alone
            and len(theirs) == 1
            and known.via == SEEN
            and identifier[0] in BROWSERS
            and known.first_at <= stamp.occurred_at
            and known.last.occurred_at // HOUR_MS == stamp.occurred_at // HOUR_MS
        )

    def _recall(self, identifier: Identifier, theirs: dict[tuple[str, str], Claim]) -> None:
        """When an identifier's only claim was last said: as is known here, or by events of the same hour."""
        (key,) = theirs
        claim = theirs[key]
        if not self._alone or claim.via != SEEN or identifier[0] not in BROWSERS:
            return
        last = self._last_named(identifier, claim)
        theirs[key] = replace(claim, last=last)
        if (identifier, *key) not in self._new_claims:
            self._put(identifier, *key, last.occurred_at if claim.undone else None)

    def _last_named(self, identifier: Identifier, claim: Claim) -> Stamp:
        hour = claim.last.occurred_at // HOUR_MS
        told = self._told.get((claim.profile_id, hour))
        if told is None:
            told = browsers_seen.told_in(self._session, claim.profile_id, hour * HOUR_MS)
            self._told[claim.profile_id, hour] = told
        return max(claim.last, told.get(identifier, claim.last))

    def _put(self, identifier: Identifier, profile_id: str, via: str, undone_at: int | None) -> None:
        key = (identifier, profile_id, via)
        self._gone_claims.pop(key, None)
        self._put_claims[key] = undone_at

    def drop_claims(self, identifier: Identifier, via: str) -> None:
        self._know(identifier)
        for profile_id, one in list(self.claims_on.get(identifier, {})):
            key = (identifier, profile_id, via)
            if one != via:
                continue
            self._put_claims.pop(key, None)
            if key in self._new_claims:
                del self._new_claims[key]
            else:
                self._gone_claims[key] = None
        super().drop_claims(identifier, via)

    def undo_claims(self, identifier: Identifier, at: int) -> None:
        self._know(identifier)
        super().undo_claims(identifier, at)
        for profile_id, via in self.claims_on.get(identifier, {}):
            self._put(identifier, profile_id, via, at)

    def redeem(self, redemption: Redemption) -> None:
        super().redeem(redemption)
        self._new_redemptions[redemption.nonce] = None

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        self._know_consents(profile_id)
        self._agreed.clear()
        changed = super().put_consent(profile_id, purpose, granted, stamp)
        self._said[profile_id, purpose] = None
        return changed

    def put_device(self, device: Device, holder: str | None) -> None:
        super().put_device(device, holder)
        self._put_devices[device.device_id] = None

    def see_address(self, address: PushAddress, device_id: str, stamp: Stamp, seen_at: int) -> None:
        self._know_devices([device_id], [address])
        super().see_address(address, device_id, stamp, seen_at)
        self._seen.append(
            {
                "kind": address.kind,
                "value": address.value,
                "device_id": device_id,
                "at": stamp.occurred_at,
                "hash": stamp.event_hash,
                "seen_at": seen_at,
            }
        )

    def own_address(
        self, address: PushAddress, profile_id: str | None, proven: bool, platform: str | None
    ) -> None:
        known = self.addresses[address]
        if (known.profile_id, known.proven, known.platform) != (profile_id, proven, platform):
            super().own_address(address, profile_id, proven, platform)
            self._owned[address] = None

    # Writing ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Writes all that changed; reads by other ways see it from here on."""
        self._lock_merged()
        begun, placed = self._added()
        many = self._session.many
        for query, rows in (
            ("add_profile", Rows(BEGUN, list(map(_begun_row, begun)))),
            ("add_placed_profile", map(_placed_row, placed)),
            ("put_profile", Rows(PUT, [_put_row(self.profiles[one]) for one in self._changed_profiles])),
            ("close_identity_edge", map(_ended, self._ended_edges)),
            ("add_past_edge", (_edge(edge) | {"valid_to": at} for edge, at in self._passed_edges)),
            ("open_identity_edge", map(_edge, self._new_edges.values())),
            ("redate_identity_edge", map(_redated, self._redated.values())),
            ("drop_identity_claim", map(_claim_key, self._gone_claims)),
            ("add_identity_claim", Rows(CLAIM, list(map(self._claim_row, self._new_claims)))),
            ("put_identity_claim", Rows(PUT_CLAIM, list(map(self._put_claim_row, self._put_claims)))),
            ("add_trait", Rows(TRAIT, list(self._trait_rows(of_new=True)))),
            ("put_trait", Rows(TRAIT, list(self._trait_rows(of_new=False)))),
            ("put_consent", (self._consent_row(*key) for key in self._said)),
            ("put_device", map(self._device_row, self._put_devices)),
            ("see_push_address", self._seen),
            ("own_push_address", map(self._owner_row, self._owned)),
            ("add_merge_review", self._review_rows()),
            (
                "add_link_redemption",
                (_redemption_row(self.redemptions[one]) for one in self._new_redemptions),
            ),
        ):
            waiting = rows if isinstance(rows, Rows) else list(rows)
            if waiting:
                many(query, waiting)
        self._leave_out_oldest_traits()
        self._forget_changes()

    def _leave_out_oldest_traits(self) -> None:
        """Of profiles that had some before; what a transaction puts at new ones is bounded already."""
        grown = _json([one for one in self.traits if one not in self._new_profiles]).decode()
        if grown == "[]":
            return
        bound = {"profiles": grown, "most": MAX_TRAITS}
        if self._session.rows("profiles_crowded_with_traits", **bound):
            lasting = _json(LASTING_TRAITS).decode()
            self.traits_left_out += self._session.run("leave_out_oldest_traits", **bound, lasting=lasting)

    def _lock_merged(self) -> None:
        """Two transactions that merge profiles of one tree must not both believe what they read of it."""
        if self._session.written() is not None:
            return  # there is only one at a time
        moved = [*self._new_profiles, *self._changed_profiles]
        locked = {one for one in moved if self.profiles[one].parent is not None}
        for profile_id in list(locked):
            at: str | None = profile_id
            while at is not None and (known := self.profiles.get(at)) is not None:
                locked.add(at)
                at = known.parent if known.parent not in locked else None
        if locked:
            self._session.rows("lock_profiles", wanted=_json(sorted(locked)).decode())

    def _forget_changes(self) -> None:
        for changed in (
            self._new_profiles,
            self._changed_profiles,
            self._new_edges,
            self._redated,
            self._passed_edges,
            self._ended_edges,
            self._new_claims,
            self._put_claims,
            self._gone_claims,
            self.traits,
            self._said,
            self._put_devices,
            self._seen,
            self._owned,
            self._new_redemptions,
            self.reviews,
        ):
            changed.clear()

    def _added(self) -> tuple[list[Profile], list[Profile]]:
        """New profiles: those that stand by themselves, nearly all, and those that do not."""
        begun: list[Profile] = []
        placed: list[Profile] = []
        for profile in map(self.profiles.__getitem__, self._new_profiles):
            alone = profile.parent is None and not (profile.shared or profile.crowd)
            (begun if alone else placed).append(profile)
        return begun, placed

    def _claim_row(self, key: tuple[Identifier, str, str]) -> tuple[Any, ...]:
        (id_type, name), profile_id, via = key
        claim = self.claims_on[id_type, name][profile_id, via]
        return id_type, name, profile_id, via, claim.first_at, *claim.last

    def _put_claim_row(self, key: tuple[Identifier, str, str]) -> tuple[Any, ...]:
        (id_type, name), profile_id, via = key
        claim = self.claims_on[id_type, name][profile_id, via]
        return claim.first_at, *claim.last, self._put_claims[key], id_type, name, profile_id, via

    def _trait_rows(self, *, of_new: bool) -> Iterator[tuple[Any, ...]]:
        """Those of profiles that are new need no comparison with what is there."""
        for profile_id, theirs in self.traits.items():
            if (profile_id in self._new_profiles) is not of_new:
                continue
            for name, (stamp, value) in theirs.items():
                yield profile_id, name, value, *stamp

    def _consent_row(self, profile_id: str, purpose: str) -> dict[str, Any]:
        stamp, granted = self.consents[profile_id][purpose]
        return {
            "profile_id": profile_id,
            "purpose": purpose,
            "granted": int(granted),
            "occurred_at": stamp.occurred_at,
            "event_hash": stamp.event_hash,
        }

    def _device_row(self, device_id: str) -> dict[str, Any]:
        device, holder = self.devices[device_id]
        return {
            "device_id": device_id,
            "profile_id": holder,
            "platform": device.platform.platform if device.platform else None,
            "last_seen_at": device.last_seen_at,
            "registers": _encode_device(device),
        }

    def _owner_row(self, address: PushAddress) -> dict[str, Any]:
        known = self.addresses[address]
        return {
            "kind": address.kind,
            "value": address.value,
            "profile_id": known.profile_id,
            "proven": int(known.proven),
            "platform": known.platform,
        }

    def _review_rows(self) -> Iterator[dict[str, Any]]:
        for (one, other), review in self.reviews.items():
            yield {
                "at": review.at,
                "id_type": review.identifier[0],
                "id": review.identifier[1],
                "profile_id": one,
                "other_profile_id": other,
                "cause": review.cause,
            }


def redemption_of(row: Row) -> Redemption:
    """A row of `link_redemptions`."""
    return Redemption(
        row["nonce"], row["event_hash"], row["device_id"], row["anonymous_id"], row["redeemed_at"]
    )


def _by_type(identifiers: Iterable[Identifier]) -> str:
    """As profiles_named asks for them."""
    names: dict[str, list[str]] = {}
    for id_type, name in identifiers:
        names.setdefault(id_type, []).append(name)
    return _json(names).decode()


def _names_more(event: AppEvent) -> bool:
    """Whether `_seldom_named` may find anything."""
    return bool(event.previous_id or event.beacon_key or event.external_ids or event.link or event.consent)


def _seldom_named(event: AppEvent) -> Iterator[Identifier]:
    """What else the rules may ask about because of this event, beside its user, browser and device."""
    if event.previous_id is not None:
        yield "user_id", event.previous_id
        yield "anonymous_id", event.previous_id
    if event.beacon_key is not None:
        yield "beacon", event.beacon_key
    for one in event.external_ids:
        yield one.type, one.id
    if event.link is not None:
        yield "anonymous_id", event.link.anonymous_id
        if event.link.user_id is not None:
            yield "user_id", event.link.user_id
            yield from _said_before_known(event.link.user_id)
    if event.consent and event.user_id is not None and not event.proven:
        yield "claimed_user_id", event.user_id


def _said_before_known(user_id: str) -> tuple[Identifier, Identifier]:
    """What an alias, or a refusal without proof, said of a user before anybody knew that it is one."""
    return ("anonymous_id", user_id), ("claimed_user_id", user_id)


def _begun_row(profile: Profile) -> tuple[Any, ...]:
    return (
        profile.profile_id,
        profile.id_type,
        profile.id,
        profile.created_at,
        profile.cause,
        profile.event_id,
    )


def _put_row(profile: Profile) -> tuple[Any, ...]:
    return (
        profile.created_at,
        profile.cause,
        profile.event_id,
        profile.parent,
        profile.merged_at,
        profile.attach_from,
        profile.attach_until,
        int(profile.shared),
        int(profile.crowd),
        profile.merged_cause,
        profile.merged_event,
        profile.profile_id,
        profile.id_type,
    )


def _placed_row(profile: Profile) -> dict[str, Any]:
    return dict(zip(PUT, _put_row(profile), strict=True)) | {"id": profile.id}


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "id_type": edge.id_type,
        "id": edge.id,
        "profile_id": edge.profile_id,
        "valid_from": edge.valid_from,
        "cause": edge.cause,
        "event_id": edge.event_id,
    }


def _ended(ended: tuple[Identifier, int]) -> dict[str, Any]:
    (id_type, identifier), at = ended
    return {"id_type": id_type, "id": identifier, "at": at}


def _redated(edge: Edge) -> dict[str, Any]:
    return {
        "id_type": edge.id_type,
        "id": edge.id,
        "valid_from": edge.valid_from,
        "cause": edge.cause,
        "event_id": edge.event_id,
    }


def _claim_key(key: tuple[Identifier, str, str]) -> dict[str, Any]:
    (id_type, identifier), profile_id, via = key
    return {"id_type": id_type, "id": identifier, "profile_id": profile_id, "via": via}


def _redemption_row(redemption: Redemption) -> dict[str, Any]:
    return {
        "nonce": redemption.nonce,
        "event_hash": redemption.event_hash,
        "device_id": redemption.device_id,
        "anonymous_id": redemption.anonymous_id,
        "redeemed_at": redemption.redeemed_at,
    }
