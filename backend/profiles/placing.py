"""Keeps every identifier where its claims put it, and all that hang on it after it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from msgspec import Struct
from msgspec.structs import replace

from backend.profiles.model import (
    EVER,
    IDENTIFIED,
    NOBODY,
    OPERATOR,
    Claim,
    Identifier,
    IdType,
    Profile,
    Stamp,
)
from backend.profiles.rules import (
    Claimant,
    Placement,
    first_placement,
    logout_via,
    placement,
    surplus_logout,
)
from backend.profiles.store import ProfileStore

MAX_CHAIN = 64  # merges of merges; more would be a ring, and the fold would never end
MAX_CLAIMANTS = 100  # of one identifier: a kiosk's is shared long before, and reading it must stay cheap
MAX_PAIRED = 10  # claimants of one identifier that are put to an operator two by two
_CLAIM_NOTHING = frozenset[IdType]({"anonymous_id", "claimed_user_id"})


def person_of(store: ProfileStore, profile_id: str) -> str:
    """The profile at the top of its merges."""
    for _ in range(MAX_CHAIN):
        profile = store.profile(profile_id)
        if profile is None or profile.parent is None:
            return profile_id
        profile_id = profile.parent
    raise RuntimeError(f"profile {profile_id} is merged in a ring")


class Placing(Struct, gc=False):  # made for each event: a Struct's making is C
    """One change of what is claimed, by an event or an operator, and what follows from it.

    `at` is when we heard of it, unix milliseconds; `kept` is as in ProfileStore.add_claim; `moved`, `merged`
    and `placed` are as in Applied.
    """

    store: ProfileStore
    limits: Mapping[IdType, int]
    at: int
    event_id: int | None
    new_id: Callable[[], str]
    kept: bool = False
    merged: tuple[str, ...] = ()
    moved: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()

    # What is said -----------------------------------------------------------------------------------------

    def claim(self, identifier: Identifier, claimant: Profile, via: str, stamp: Stamp) -> None:
        """An identifier goes with a profile. What a crowd says of others counts no more."""
        claims = self.store.claims(identifier)
        theirs = False
        for known in claims:
            if known.profile_id == claimant.profile_id:
                theirs = True
                if known.via == via:
                    self._claim_again(identifier, known, claims, stamp)
                    return
        if claimant.crowd or (not theirs and via != OPERATOR and len(claims) >= MAX_CLAIMANTS):
            return
        self.store.add_claim(identifier, claimant.profile_id, via, stamp)
        if not theirs and self._is_crowd(claimant, identifier[0]):
            self._disperse(claimant)
            self.settle(identifier)
        elif claims or claimant.shared or via == OPERATOR:
            self.settle(identifier)
        else:
            self._place(identifier, stamp.occurred_at, first_placement(identifier[0], claimant, via, stamp))

    def _claim_again(
        self, identifier: Identifier, known: Claim, claims: Sequence[Claim], stamp: Stamp
    ) -> None:
        """Only an earlier proof moves anything, or a later one where there was a logout."""
        if not self.store.add_claim(identifier, known.profile_id, known.via, stamp, kept=self.kept):
            return
        if stamp.occurred_at < known.first_at or any(claim.profile_id == NOBODY for claim in claims):
            self.settle(identifier)

    def log_out(self, identifier: Identifier, stamp: Stamp) -> None:
        """Whoever went with the identifier does so no more, until the next proof."""
        self.store.add_claim(identifier, NOBODY, logout_via(stamp), stamp)
        surplus = surplus_logout(self.store.claims(identifier))
        if surplus is not None:
            self.store.drop_claims(identifier, surplus.via)
        self.settle(identifier)

    def _is_crowd(self, claimant: Profile, id_type: IdType) -> bool:
        limit = self.limits.get(id_type)
        if limit is None:
            return False
        claimed = self.store.claimed_by(claimant.profile_id)
        return len(claimed) > limit and sum(one[0] == id_type for one in claimed) > limit

    def _disperse(self, claimant: Profile) -> None:
        """All that had gathered under the profile stands alone again."""
        self.store.put_profile(replace(claimant, crowd=True))
        pair = (claimant.profile_id, claimant.profile_id)
        self.store.add_review(self.at, claimant.identifier, pair, "limit")
        self.settle_all(claimant.profile_id)

    # Where it belongs -------------------------------------------------------------------------------------

    def settle(self, identifier: Identifier) -> bool:
        """Puts the identifier's profile where its claims say, and what hangs on it after it; if it moved."""
        claims = self.store.claims(identifier)
        wanted = placement(identifier[0], claims, self._claimants(claims))
        if wanted.shared and identifier[0] in IDENTIFIED:
            self._ask_about(identifier, claims)
        first = min((claim.first_at for claim in claims), default=EVER)
        return self._place(identifier, first, wanted)

    def _place(self, identifier: Identifier, first_at: int, wanted: Placement) -> bool:
        """The identifier's profile, begun no later than its first claim, goes where it is wanted."""
        profile_id = self.store.profile_of(identifier)
        profile = self.store.profile(profile_id) if profile_id is not None else None
        if profile is None:
            profile = self.begin(identifier, min(first_at, self.at), "seen")
        elif first_at <= profile.created_at:
            profile = self.began(profile, first_at, "seen")
        if _is_as_wanted(profile, wanted):
            return False
        self._move(profile, wanted)
        return True

    def settle_all(self, profile_id: str) -> None:
        """Everything that the profile has a claim on, after the profile itself has changed."""
        for identifier in self.store.claimed_by(profile_id):
            if self.settle(identifier):
                continue
            known = self.store.profile(self.store.profile_of(identifier) or "")
            if known is not None and known.parent == profile_id:
                self._below(known)  # it stayed where it is, but that is another person's now

    def _below(self, profile: Profile) -> None:
        if profile.id_type not in _CLAIM_NOTHING:
            self.settle_all(profile.profile_id)

    def _claimants(self, claims: Sequence[Claim]) -> dict[str, Claimant]:
        """Who may speak. A shared identifier and a crowd cannot say whose anything is."""
        found: dict[str, Claimant] = {}
        for claim in claims:
            profile_id = claim.profile_id
            if profile_id in found or profile_id == NOBODY:
                continue
            profile = self.store.profile(profile_id)
            if profile is not None and not profile.shared and not profile.crowd:
                root = profile_id if profile.parent is None else person_of(self.store, profile.parent)
                found[profile_id] = Claimant(profile, root)
        return found

    def begin(self, identifier: Identifier, at: int, cause: str) -> Profile:
        """The identifier's own profile, made."""
        id_type, name = identifier
        profile = Profile(self.new_id(), id_type, name, at, cause=cause, event_id=self.event_id)
        self.store.add_profile(profile)
        return profile

    def began(self, profile: Profile, at: int, cause: str) -> Profile:
        """Whatever came first, a profile began with the earliest of all that would have made it."""
        if (at, cause) >= (profile.created_at, profile.cause):
            return profile
        earlier = replace(profile, created_at=at, cause=cause, event_id=self.event_id)
        self.store.put_profile(earlier)
        return earlier

    def _move(self, before: Profile, wanted: Placement) -> None:
        store, profile_id = self.store, before.profile_id
        person_before = profile_id if before.parent is None else person_of(store, before.parent)
        after = self._placed(before, wanted)
        store.put_profile(after)
        person_after = profile_id if after.parent is None else person_of(store, after.parent)
        concerned = frozenset((profile_id, person_before, person_after))
        self.placed = self.placed | concerned if self.placed else concerned
        if after.parent != before.parent:
            if before.parent is not None:
                store.end_merge(before, self.at)
            self.merged += (profile_id,)
            if after.id_type not in _CLAIM_NOTHING or store.has_consents(profile_id):
                self.moved |= concerned
        if after.id_type not in _CLAIM_NOTHING:
            self.settle_all(profile_id)

    def _placed(self, profile: Profile, wanted: Placement) -> Profile:
        """The profile where it is wanted; what told of it is told anew only where that is another cause."""
        told = profile.merged_event
        if wanted.parent != profile.parent or wanted.via != profile.merged_cause:
            told = self.event_id if wanted.parent is not None else None
        return replace(
            profile,
            parent=wanted.parent,
            merged_at=wanted.since,
            attach_from=wanted.attach_from,
            attach_until=wanted.attach_until,
            shared=wanted.shared,
            merged_cause=wanted.via,
            merged_event=told,
        )

    def _ask_about(self, identifier: Identifier, claims: Sequence[Claim]) -> None:
        """Two people with one e-mail address, card or telephone: an operator decides."""
        claimants = sorted({claim.profile_id for claim in claims if claim.profile_id != NOBODY})
        if len(claimants) <= MAX_PAIRED:
            for pair in combinations(claimants, 2):
                self.store.add_review(self.at, identifier, pair, f"same {identifier[0]}")


def _is_as_wanted(profile: Profile, wanted: Placement) -> bool:
    return (
        profile.parent == wanted.parent
        and profile.merged_at == wanted.since
        and profile.merged_cause == wanted.via
        and profile.shared == wanted.shared
        and profile.attach_from == wanted.attach_from
        and profile.attach_until == wanted.attach_until
    )
