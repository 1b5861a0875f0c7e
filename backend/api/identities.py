"""Operators decide who is who: questions that wait, merges and their undoing, shared devices, tags."""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, as_stored, choice, text, whole
from backend.api.people import WHO
from backend.ids import uuid7
from backend.storage import identities
from backend.storage.identities import AlreadyDecided, UnknownIdentity
from backend.storage.session import Row, Session
from sdk_bridge.server.beacon_keys import canonical_beacon_key

T = TypeVar("T")
MAX_USERS = 100  # shown of one shared identifier

STATE_OF_REVIEW = choice("state", "Which questions.", ("open", "merged", "apart"), default="open")
AFTER_REVIEW = whole("after", "Only reviews behind this number.", least=0, most=2**53 - 1, default=0)
REVIEW = whole("review", "The review's number.", least=1, most=2**53 - 1)
SHARED_TYPE = choice(
    "type",
    "What is shared.",
    ("device_id", "anonymous_id", "email", "phone", "loyalty_id"),
    default="device_id",
)
PROFILE_ID = text("profile", "The profile's id.", pattern=r"[0-9a-zA-Z-]{1,64}", must="a profile's id")
AFTER_PROFILE = text(
    "after", "Only profiles behind this id.", pattern=r"[0-9a-zA-Z-]{1,64}", must="a profile's id", default=""
)
BEACON = text("beacon", "The beacon's key.", pattern=r"[A-Za-z0-9:-]{1,160}", must="a beacon's key")
Named = Annotated[str, Meta(pattern=r"^[^:\x00-\x1f\x7f]{1,64}:[^\x00-\x1f\x7f]{1,512}$(?!\n)")]


class ReviewSide(Struct):
    """One of the two that may be the same person: the identifier that their profile began with."""

    profile_id: str
    type: str
    id: str


class ReviewView(Struct):
    """A question: are these two one person? `cause` says why it is asked. Times are unix milliseconds.

    For `limit` both sides are the same: an identifier that was seen with more browsers, devices or addresses
    than one person has, so that nothing merges into it by itself any more.
    """

    review_id: int
    at: int
    cause: str
    type: str
    id: str
    one: ReviewSide
    other: ReviewSide
    state: Literal["open", "merged", "apart"]
    decided_at: int | None
    decided_by: str | None


class ReviewPage(Struct):
    """Questions in the order in which they came up; `next` is `after` of the next page, null at the end."""

    reviews: list[ReviewView]
    next: int | None


class DecisionBody(Struct, forbid_unknown_fields=True):
    """What an operator found out."""

    decision: Literal["merge", "apart"]


class MergeBody(Struct, forbid_unknown_fields=True):
    """Two people who are one, each as `type:id`. The more trusted identifier's profile stays on top."""

    who: Named
    into: Named


class Merged(Struct):
    """The profile that was merged, by which the merge can be undone; null: they were one person already."""

    profile_id: str | None


class Undone(Struct):
    """The profile that is its own person again, or where it would be without the merge."""

    profile_id: str


class ReviewDecided(Struct):
    """How a question was answered, and which profile was merged by that, if one was."""

    review_id: int
    state: Literal["merged", "apart"]
    merged: str | None


class SharedUser(Struct):
    """A person whom a shared identifier was seen with, from when until when (unix milliseconds)."""

    profile_id: str
    type: str
    id: str
    first_at: int
    last_at: int


class SharedView(Struct):
    """An identifier that several people use: what happens with it and names nobody is nobody's."""

    profile_id: str
    type: str
    id: str
    since: int
    people: int
    latest: list[SharedUser]


class SharedPage(Struct):
    """Shared identifiers; `next` is `after` of the next page, null at the end."""

    shared: list[SharedView]
    next: str | None


class BeaconGiven(Struct):
    """Whose the beacon is."""

    beacon_key: str
    profile_id: str


class BeaconTaken(Struct):
    """Whose the beacon is no more."""

    beacon_key: str


@operation("viewer", takes=(STATE_OF_REVIEW, AFTER_REVIEW, LIMIT), answer=ReviewPage)
async def get_reviews(request: web.Request) -> ReviewPage:
    """Questions to operators: who may be one person, and which identifiers are a crowd's."""
    state, after, limit = STATE_OF_REVIEW.of(request), AFTER_REVIEW.of(request), LIMIT.of(request)
    rows = await request.app[STATE].read(lambda s: identities.reviews(s, state, after, limit))
    found = [_review(row) for row in rows]
    return ReviewPage(found, found[-1].review_id if len(found) == limit else None)


@operation("operator", takes=(REVIEW,), body=DecisionBody, answer=ReviewDecided, errors=(404, 409))
async def post_decision(request: web.Request, body: DecisionBody) -> ReviewDecided:
    """Answers a question: the two are merged, or stay apart."""
    review_id, now, by = REVIEW.of(request), request.app[HOST].now_ms(), request[CALLER].name
    merged = await _decide(
        request,
        f"identity review: {body.decision}",
        str(review_id),
        lambda session: identities.decide(session, review_id, body.decision, now, by, lambda: uuid7(now)),
    )
    return ReviewDecided(review_id, "merged" if body.decision == "merge" else "apart", merged)


@operation("operator", body=MergeBody, answer=Merged, errors=(404,))
async def post_merge(request: web.Request, body: MergeBody) -> Merged:
    """Makes one person of two. Nothing is lost by it: it can be undone to the last trace."""
    who, into, now = as_stored(body.who), as_stored(body.into), request.app[HOST].now_ms()
    merged = await _decide(
        request,
        "people merged",
        who,
        lambda session: identities.merge(session, who, into, now, lambda: uuid7(now)),
        {"into": into},
    )
    return Merged(merged)


@operation("operator", takes=(PROFILE_ID,), answer=Undone, errors=(404,))
async def delete_merge(request: web.Request) -> Undone:
    """Takes a profile out of its person, as if it never had been part of them.

    What an operator merged goes to where it would be without. What merged by itself stays apart for good.
    """
    profile_id, now = PROFILE_ID.of(request), request.app[HOST].now_ms()
    await _decide(
        request,
        "merge undone",
        profile_id,
        lambda session: identities.undo_merge(session, profile_id, now, lambda: uuid7(now)),
    )
    return Undone(profile_id)


@operation("viewer", takes=(SHARED_TYPE, AFTER_PROFILE, LIMIT), answer=SharedPage)
async def get_shared(request: web.Request) -> SharedPage:
    """Devices, browsers and addresses that several people use, with the latest of them."""
    id_type, after, limit = SHARED_TYPE.of(request), AFTER_PROFILE.of(request), LIMIT.of(request)

    def read(session: Session) -> list[SharedView]:
        return [
            SharedView(
                row["profile_id"],
                row["id_type"],
                row["id"],
                row["created_at"],
                row["people"],
                [_user(user) for user in identities.people_using(session, id_type, row["id"], MAX_USERS)],
            )
            for row in identities.shared(session, id_type, after, limit)
        ]

    found = await request.app[STATE].read(read)
    return SharedPage(found, found[-1].profile_id if len(found) == limit else None)


@operation("operator", takes=(WHO, BEACON), answer=BeaconGiven, errors=(404, 409))
async def put_beacon(request: web.Request) -> BeaconGiven:
    """Gives a loyalty tag, or the beacon that somebody's app sends, to a person.

    It is theirs until it is given to another or taken away, whatever apps claim. They are only located with
    it if they agreed to that.
    """
    who, beacon_key, now = WHO.of(request), _beacon(request), request.app[HOST].now_ms()

    def work(session: Session) -> str:
        if identities.beacon_is_the_shops(session, beacon_key):
            raise Problem(409, "beacon", f"{beacon_key} is fixed to a place or a thing of the shop")
        return identities.assign_beacon(session, who, beacon_key, now)

    profile_id = await _decide(request, "beacon assigned", beacon_key, work, {"who": who})
    return BeaconGiven(beacon_key, profile_id)


@operation("operator", takes=(WHO, BEACON), answer=BeaconTaken, errors=(404,))
async def delete_beacon(request: web.Request) -> BeaconTaken:
    """Takes a tag or an app's beacon away from a person: it is nobody's, and is not looked at any more."""
    who, beacon_key, now = WHO.of(request), _beacon(request), request.app[HOST].now_ms()
    await _decide(
        request,
        "beacon taken away",
        beacon_key,
        lambda session: identities.take_beacon(session, who, beacon_key, now),
        {"who": who},
    )
    return BeaconTaken(beacon_key)


async def _decide(
    request: web.Request,
    action: str,
    subject: str,
    work: Callable[[Session], T],
    detail: dict[str, str] | None = None,
) -> T:
    """An audited change. Raises Problem 404, 409."""
    try:
        decided: T = await change(request, action, subject, work, detail)
    except UnknownIdentity as error:
        raise Problem(404, "identity", str(error)) from error
    except AlreadyDecided as error:
        raise Problem(409, "review", str(error)) from error
    return decided


def _beacon(request: web.Request) -> str:
    key = canonical_beacon_key(BEACON.of(request))
    if key is None:
        raise Problem(400, "beacon", "beacon must be the key of a beacon that a person can carry")
    return key


def _review(row: Row) -> ReviewView:
    return ReviewView(
        review_id=row["review_id"],
        at=row["at"],
        cause=row["cause"],
        type=row["id_type"],
        id=row["id"],
        one=ReviewSide(row["one_profile"], row["one_type"], row["one_id"]),
        other=ReviewSide(row["other_profile"], row["other_type"], row["other_id"]),
        state=row["state"],
        decided_at=row["decided_at"],
        decided_by=row["decided_by"],
    )


def _user(row: Row) -> SharedUser:
    return SharedUser(row["profile_id"], row["id_type"], row["id"], row["first_at"], row["last_at"])


ROUTES = [
    web.get("/api/identities/reviews", get_reviews),
    web.post("/api/identities/reviews/{review}/decision", post_decision),
    web.post("/api/identities/merges", post_merge),
    web.delete("/api/identities/merges/{profile}", delete_merge),
    web.get("/api/identities/shared", get_shared),
    web.put("/api/profiles/{who}/beacons/{beacon}", put_beacon),
    web.delete("/api/profiles/{who}/beacons/{beacon}", delete_beacon),
]
