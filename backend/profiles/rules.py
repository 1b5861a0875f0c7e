"""The rules of identity, pure: which identifiers count, who merges, who holds what, what consent stands."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from backend.profiles.model import (
    BROWSERS,
    EVER,
    NOBODY,
    OPERATOR,
    TRUST,
    Addressing,
    Claim,
    Device,
    Holder,
    Holding,
    IdType,
    Naming,
    Profile,
    Stamp,
    Statement,
)
from sdk_bridge.wire.identifiers import usable

ATTACH_MS: Final = 30 * 86_400_000
"""How long before the first proof of who it was a browser's doings still count as that person's."""

LOGOUTS_AT_AN_END: Final = 32
"""So many of an identifier's first logouts are kept, and of its last; a stranger could send millions."""

# Addresses that are put where a form wants one and nobody gave theirs.
_NOBODYS_MAIL = re.compile(r"(no|do-?not)[-._]?reply|no-?e?-?mail")


def usable_as(id_type: IdType, identifier: str | None) -> str | None:
    """The same; of an e-mail address the part before the `@` must stand for somebody, too."""
    if id_type != "email" or identifier is None:
        return usable(identifier)
    local = identifier.partition("@")[0].partition("+")[0]
    return identifier if usable(local) and not _NOBODYS_MAIL.fullmatch(local) else None


# Who merges into whom ------------------------------------------------------------------------------------


class Claimant(NamedTuple):
    """Who claims an identifier, and the person it belongs to as things stand."""

    profile: Profile
    root: str


class Placement(Struct, frozen=True, gc=False):
    """Where an identifier belongs: into which profile, since when and why; or to nobody, or to several."""

    parent: str | None = None
    since: int | None = None
    via: str = ""
    shared: bool = False
    attach_from: int = 0
    attach_until: int = EVER


ALONE: Final = Placement()
SHARED: Final = Placement(shared=True)


def placement(id_type: IdType, claims: Sequence[Claim], claimants: Mapping[str, Claimant]) -> Placement:
    """Where the claims put an identifier: an operator's word first, else into the one person it goes with.

    Only `claimants` count; whoever is shared or a crowd is none. Whatever goes with two people is shared and
    belongs to neither. With one it goes into the most trusted of those that say so. A claim that an operator
    undid ends all of it: what is apart stays apart.
    """
    decided = [claim for claim in claims if claim.via == OPERATOR]
    if decided:
        last = max(decided, key=lambda claim: claim.last)
        return Placement(last.profile_id, last.first_at, OPERATOR.strip())
    said = [claim for claim in claims if claim.profile_id in claimants]
    if len({claimants[claim.profile_id].root for claim in said}) > 1:
        return SHARED
    if not said or any(claim.undone for claim in claims):
        return ALONE
    strongest = said[0]
    if len(said) > 1:
        strongest = min(said, key=lambda claim: _strength(claim, claimants[claim.profile_id].profile))
    since = min(claim.first_at for claim in said)
    if id_type not in BROWSERS:
        return Placement(strongest.profile_id, since, strongest.via)
    start, end = _interval(claims, said, since)
    above = claimants[strongest.profile_id].profile
    return Placement(
        parent=strongest.profile_id,
        since=since,
        via=strongest.via,
        attach_from=max(start, above.attach_from),
        attach_until=min(end, above.attach_until),
    )


def first_placement(id_type: IdType, claimant: Profile, via: str, stamp: Stamp) -> Placement:
    """What `placement` says where this is the first and only claim: the commonest case of all."""
    at = stamp.occurred_at
    if id_type not in BROWSERS:
        return Placement(claimant.profile_id, at, via)
    start = max(0, at - ATTACH_MS, claimant.attach_from)
    return Placement(claimant.profile_id, at, via, False, start, claimant.attach_until)


def _strength(claim: Claim, claimant: Profile) -> tuple[int, int, str, str]:
    return TRUST[claimant.id_type], claim.first_at, claimant.id, claim.via


def _interval(claims: Sequence[Claim], said: Sequence[Claim], since: int) -> tuple[int, int]:
    """From 30 days before the first proof to the first logout behind the last."""
    last = max(claim.last for claim in said)
    return max(0, since - ATTACH_MS), _first_logout_after(last, _logouts(claims))


def _logouts(claims: Iterable[Claim]) -> list[Claim]:
    """In the order in which they were."""
    return sorted((claim for claim in claims if claim.profile_id == NOBODY), key=lambda claim: claim.last)


def _first_logout_after(last: Stamp, logouts: Sequence[Claim]) -> int:
    """Where some may be missing between the last proof and the next that is known, it is the proof itself:
    what nobody can tell is nobody's.
    """
    place = bisect_right(logouts, last, key=lambda claim: claim.last)
    if place == len(logouts):
        return EVER
    if place == LOGOUTS_AT_AN_END and len(logouts) >= 2 * LOGOUTS_AT_AN_END:
        return last.occurred_at
    return logouts[place].last.occurred_at


def surplus_logout(claims: Iterable[Claim]) -> Claim | None:
    """Of one too many that in the middle: so the first and the last stay, in whatever order they come."""
    logouts = _logouts(claims)
    return logouts[LOGOUTS_AT_AN_END] if len(logouts) > 2 * LOGOUTS_AT_AN_END else None


def logout_via(stamp: Stamp) -> str:
    """What tells one logout of an identifier from another."""
    return f"logout {stamp.occurred_at}.{stamp.event_hash}"


def attached(profile: Profile, occurred_at: int) -> bool:
    """Whether what happened then under a profile is its person's."""
    return profile.attach_from <= occurred_at <= profile.attach_until


def beacon_owner(claims: Sequence[Claim]) -> Claim | None:
    """Whose beacon it is: as an operator said; else of those who claimed it through one device the last.

    Claimed through several devices it is nobody's. So a phone or a tag can change hands, and a stranger who
    heard a tag can at worst make it nobody's. `first_at` is the first time that the owner claimed it through
    any device.
    """
    decided = [claim for claim in claims if claim.via == OPERATOR]
    live = decided or [claim for claim in claims if not claim.undone]
    if not live or (len({claim.profile_id for claim in live}) > 1 and len({claim.via for claim in live}) > 1):
        return None
    last = max(live, key=lambda claim: claim.last)
    first_at = min(claim.first_at for claim in live if claim.profile_id == last.profile_id)
    return last if first_at == last.first_at else replace(last, first_at=first_at)


# Devices -------------------------------------------------------------------------------------------------


def holder_of(device: Device) -> Holder | None:
    """Who holds the device: whoever last proved to, else whoever last said so, since its last logout."""
    if device.proven is not None and device.proven.at > device.logged_out:
        return Holder(device.proven.profile_id, proven=True)
    if device.unproven is not None and device.unproven.at > device.logged_out:
        return Holder(device.unproven.profile_id, proven=False)
    return None


def later(stamp: Stamp, known: Naming | Addressing | Holding | None) -> bool:
    """Whether a writer with this stamp wins over what the register holds."""
    return known is None or stamp > known.at


# Consent -------------------------------------------------------------------------------------------------


def standing(statements: Iterable[Statement]) -> bool:
    """Whether a person agrees, given the last statement of each of the person's profiles.

    The person's own word sets the answer, later over earlier. What a merged profile said before, and what an
    unproven one says at any time, can only take away; it counts from the merge on. Of a yes and a no at the
    same time the no counts. Silence is no.
    """
    answer: bool | None = None
    for _, only_restricts, refused in sorted(_effect(statement) for statement in statements):
        answer = not refused if answer is None or not only_restricts else answer and not refused
    return bool(answer)


def _effect(statement: Statement) -> tuple[int, bool, bool]:
    merged_at = statement.merged_at
    if merged_at is None or (statement.identified and statement.occurred_at >= merged_at):
        return statement.occurred_at, False, not statement.granted
    return max(statement.occurred_at, merged_at), True, not statement.granted
