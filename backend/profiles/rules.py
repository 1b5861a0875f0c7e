"""The rules of identity, pure: which identifiers count, who merges, who holds what, what consent stands."""

from collections.abc import Iterable, Sequence

from backend.profiles.model import Addressing, Claim, Device, Holder, Holding, Naming, Stamp, Statement
from sdk_bridge.wire.identifiers import usable

__all__ = ["beacon_owner", "holder_of", "later", "parent_of", "standing", "usable"]


def parent_of(claims: Sequence[Claim]) -> Claim | None:
    """Into whom an anonymous id or a device merges: the one user it was seen with.

    Seen with two it is shared, and belongs to none of them. The claim returned carries the earliest time.
    """
    if len({claim.profile_id for claim in claims}) != 1 or any(claim.undone for claim in claims):
        return None
    return min(claims, key=lambda claim: (claim.first_at, claim.via))


def beacon_owner(claims: Sequence[Claim]) -> str | None:
    """Whose beacon it is: of those who claimed it through one device the last; of several devices, nobody's.

    So a phone or a tag can change hands, and a stranger who heard a tag can at worst make it nobody's.
    """
    live = [claim for claim in claims if not claim.undone]
    if len({claim.profile_id for claim in live}) > 1 and len({claim.via for claim in live}) > 1:
        return None
    return max(live, key=lambda claim: claim.last).profile_id if live else None


def holder_of(device: Device) -> Holder | None:
    """Who holds the device: whoever last proved to, else whoever last said so, since its last logout."""
    if device.proven is not None and device.proven.at > device.logged_out:
        return Holder(device.proven.profile_id, proven=True)
    if device.unproven is not None and device.unproven.at > device.logged_out:
        return Holder(device.unproven.profile_id, proven=False)
    return None


def standing(statements: Iterable[Statement]) -> bool:
    """Whether a person agrees, given the last statement of each of the person's profiles.

    The person's own word sets the answer, later over earlier. What a merged profile said before, and what an
    unproven one says at any time, can only take away; it counts from the merge on. Silence is no.
    """
    ordered = sorted((_effect(statement) for statement in statements), key=lambda effect: effect[:2])
    answer: bool | None = None
    for _, only_restricts, granted in ordered:
        answer = granted if answer is None or not only_restricts else answer and granted
    return bool(answer)


def _effect(statement: Statement) -> tuple[int, bool, bool]:
    merged_at = statement.merged_at
    if merged_at is None or (statement.identified and statement.occurred_at >= merged_at):
        return statement.occurred_at, False, statement.granted
    return max(statement.occurred_at, merged_at), True, statement.granted


def later(stamp: Stamp, known: Naming | Addressing | Holding | None) -> bool:
    """Whether a writer with this stamp wins over what the register holds."""
    return known is None or stamp > known.at
