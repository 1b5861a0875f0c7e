"""What operators see and decide of identities, inside one transaction."""

from collections.abc import Callable
from typing import Literal, TypeVar, cast

from backend.profiles.model import Edge, Identifier, IdType, Profile
from backend.profiles.placing import person_of
from backend.profiles.service import ProfileService
from backend.profiles.store import ProfileStore
from backend.storage import segments
from backend.storage.profile_rows import ProfileRows
from backend.storage.session import Row, Session

T = TypeVar("T")
Verdict = Literal["merge", "apart"]
_SERVICE = ProfileService()


class UnknownIdentity(LookupError):
    """Nobody and nothing is known by this; the text says by which."""


class AlreadyDecided(RuntimeError):
    """The question was answered before."""


def reviews(session: Session, state: str, after: int, limit: int) -> list[Row]:
    """Questions of a state behind a number, the oldest first."""
    return session.rows("merge_reviews_page", state=state, after=after, limit=limit)


def decide(
    session: Session, review_id: int, verdict: Verdict, now: int, by: str, new_id: Callable[[], str]
) -> str | None:
    """Answers a question; the profile that was merged, if one was.

    Raises UnknownIdentity, AlreadyDecided.
    """
    review = session.row("merge_review", review_id=review_id)
    if review is None:
        raise UnknownIdentity(f"there is no review {review_id}")
    if review["state"] != "open":
        raise AlreadyDecided(f"review {review_id} is decided: {review['state']}")
    merged = None
    if verdict == "merge":
        pair = f"profile_id:{review['other_profile_id']}", f"profile_id:{review['profile_id']}"
        merged = merge(session, *pair, now, new_id)
    state = "merged" if verdict == "merge" else "apart"
    session.run("decide_merge_review", review_id=review_id, state=state, at=now, by=by)
    return merged


def merge(session: Session, who: str, into: str, now: int, new_id: Callable[[], str]) -> str | None:
    """Makes one person of two, each named as `type:id`; the profile that was merged, None if they are one.

    Raises UnknownIdentity.
    """

    def work(store: ProfileStore) -> str | None:
        return _SERVICE.merge(store, _profile(store, who), _profile(store, into), now, new_id)

    return _changed(session, work, now)


def undo_merge(session: Session, profile_id: str, now: int, new_id: Callable[[], str]) -> None:
    """Takes a profile out of its person again. Raises UnknownIdentity."""

    def work(store: ProfileStore) -> None:
        if not _SERVICE.undo_merge(store, profile_id, now, new_id):
            raise UnknownIdentity(f"no profile {profile_id} is merged into another")

    _changed(session, work, now)
    session.run("reopen_merge_reviews", profile_id=profile_id)


def assign_beacon(session: Session, who: str, beacon_key: str, now: int) -> str:
    """Gives a tag, or an app's beacon, to somebody; their profile. Raises UnknownIdentity."""

    def work(store: ProfileStore) -> str:
        profile_id = _profile(store, who)
        _SERVICE.assign_beacon(store, beacon_key, profile_id, now)
        return profile_id

    return _changed(session, work, now)


def take_beacon(session: Session, who: str, beacon_key: str, now: int) -> None:
    """Takes it away again. Raises UnknownIdentity where it is not theirs."""

    def work(store: ProfileStore) -> None:
        owner = store.profile_of(("beacon", beacon_key))
        if owner is None or owner != _profile(store, who):
            raise UnknownIdentity(f"{beacon_key} does not belong to {who}")
        _SERVICE.take_beacon(store, beacon_key, now)

    _changed(session, work, now)


def beacon_is_the_shops(session: Session, beacon_key: str) -> bool:
    """Whether it hangs on a wall or a trolley, so that nobody can carry it."""
    return session.row("beacon_of_the_shop", beacon_key=beacon_key) is not None


def shared(session: Session, id_type: str, after: str, limit: int) -> list[Row]:
    """Identifiers that several people use."""
    return session.rows("shared_identifiers", id_type=id_type, after=after, limit=limit)


def people_using(session: Session, id_type: str, identifier: str, limit: int) -> list[Row]:
    """Who an identifier was seen with, the latest first."""
    return session.rows("people_using", id_type=id_type, id=identifier, limit=limit)


class _Noting(ProfileRows):
    """Notes of whom people have more or less by what is done: a device that two people had in common is
    somebody by itself once they are apart.
    """

    def __init__(self, session: Session) -> None:
        self.concerned: set[str] = set()
        super().__init__(session)

    def put_profile(self, profile: Profile) -> None:
        self._concerns(profile.profile_id)
        super().put_profile(profile)
        self._concerns(profile.profile_id)

    def _concerns(self, profile_id: str) -> None:
        """A profile with what it is merged into, and its person."""
        known = self.profile(profile_id)
        above = known.parent if known is not None else None
        self.concerned |= {profile_id, above or profile_id, person_of(self, profile_id)}

    def open_edge(self, edge: Edge) -> None:
        super().open_edge(edge)
        self.concerned.add(edge.profile_id)

    def close_edge(self, identifier: Identifier, at: int) -> None:
        self.concerned.update(filter(None, [self.profile_of(identifier)]))
        super().close_edge(identifier, at)


def _changed(session: Session, work: Callable[[ProfileStore], T], now: int) -> T:
    """Does it, and has every segment asked again about whom it concerns."""
    rows = _Noting(session)
    result = work(rows)
    rows.flush()
    segments.ask_again(session, rows.concerned, now)
    return result


def _profile(store: ProfileStore, who: str) -> str:
    """The identifier's own profile. Raises UnknownIdentity."""
    id_type, _, identifier = who.partition(":")
    if id_type == "profile_id":
        known = store.profile(identifier)
        if known is not None:
            return known.profile_id
    else:
        named: Identifier = (cast(IdType, id_type), identifier)
        found = store.profile_of(named) if id_type != "profile" else None
        if found is not None:
            return found
    raise UnknownIdentity(f"nobody is known as {who}")
