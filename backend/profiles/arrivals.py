"""Who is new, or met nobody but who is new: what is known of them need not be looked for; pure."""

from collections.abc import Callable, Hashable, Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

from backend.profiles.model import EVER, TRUST, IdType, Profile
from backend.profiles.placing import MAX_CHAIN

Known: TypeAlias = Callable[[str], Profile | None]
"""A profile, where it is known without asking for it."""


_KINDS = {kind: frozenset({kind}) for kind in TRUST}


def nobody_known(_profile_id: str) -> None:
    """Every profile has to be read."""


class Arrival(NamedTuple):
    """A person of whom one at the most was somebody before; all the rest has begun since.

    `profiles` are that one and those that began, the person's root the first. `before` was a person by
    itself, all of whose doings are the person's now; None: there was nobody. `kinds`: of the identifiers that
    began.
    """

    profiles: tuple[str, ...]
    before: str | None
    kinds: frozenset[IdType]

    @property
    def person_id(self) -> str:
        return self.profiles[0]

    @property
    def kind(self) -> Hashable:
        """The same for those that are alike but for who they are."""
        return self.kinds, self.before is None, self.before == self.profiles[0]

    @property
    def begun(self) -> tuple[str, ...]:
        """The profiles that began."""
        return tuple(one for one in self.profiles if one != self.before)

    @property
    def is_alone(self) -> bool:
        """Whether all that the person ever did was done since, under this one profile."""
        return self.before is None and len(self.profiles) == 1


def known_root(known: Known, profile_id: str) -> Profile | None:
    """The profile at the top of its merges, where all on the way are known."""
    profile = known(profile_id)
    for _ in range(MAX_CHAIN):
        if profile is None or profile.parent is None:
            return profile
        profile = known(profile.parent)
    return None


def arrivals(
    begun: set[str], joined: Iterable[AbstractSet[str]], known: Known
) -> tuple[list[Arrival], set[str]]:
    """Of profiles that began, and of sets that came together or fell apart: the arrivals, and all others.

    Two that were there before may have had anything in common. Of those that came together and went apart,
    one has what the other is taken to have done. An id claimed without proof is nobody.
    """
    others, groups, root_of = set[str](), dict[str, set[str]](), dict[str, str]()
    together = set[str]().union(*joined)
    for profile_id in together:
        root = known_root(known, profile_id)
        root_of[profile_id] = root_id = profile_id if root is None else root.profile_id
        groups.setdefault(root_id, set()).add(profile_id)
    for profiles in joined:
        if len(profiles - begun) > 1 or len({root_of[one] for one in profiles}) > 1:
            others |= profiles
    found = list[Arrival]()
    for profile_id in begun - together:
        profile = known(profile_id)
        if profile is None:
            others.add(profile_id)
        elif profile.id_type != "claimed_user_id":
            found.append(Arrival((profile_id,), None, _KINDS[profile.id_type]))
    for root_id, profiles in groups.items():
        arrival = _arrival(root_id, profiles, begun, known)
        if arrival is None or not others.isdisjoint(profiles):
            others |= profiles
        else:
            found.append(arrival)
    return found, others


def _arrival(
    root_id: str, profiles: AbstractSet[str], begun: AbstractSet[str], known: Known
) -> Arrival | None:
    """None where it is not so simple, or nobody."""
    root, before = known(root_id), [one for one in profiles if one not in begun]
    if root is None or root.id_type == "claimed_user_id" or root_id not in profiles or len(before) > 1:
        return None
    if before and before[0] != root_id and not is_whole(known(before[0])):
        return None
    new = (known(one) for one in profiles if one in begun)
    kinds = frozenset(one.id_type for one in new if one is not None)
    return Arrival((root_id, *(profiles - {root_id})), before[0] if before else None, kinds)


def is_whole(profile: Profile | None) -> bool:
    """Whether all that happened under a merged profile is its person's."""
    return profile is not None and profile.attach_from <= profile.created_at and profile.attach_until == EVER
