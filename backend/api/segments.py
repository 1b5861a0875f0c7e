"""Marketers' segments: definitions and their versions, who is in them, and trying one out."""

import time
from functools import partial
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, identifier, someone, text
from backend.campaigns.model import Campaign, SegmentEntered
from backend.segments.model import (
    Condition,
    Definition,
    Identifier,
    SegmentInvalid,
    parse_as,
    parse_definition,
    references,
)
from backend.storage import campaigns as campaign_rows
from backend.storage import profiles
from backend.storage import segments as segment_rows
from backend.storage.segments import SegmentInUse, StoredSegment
from backend.storage.session import Session

PREVIEW_S = 2.0  # a marketer waits so long; beyond it the answer is of those who were asked until then
PREVIEW_PORTION_S = 0.02  # another question waits behind one portion on a reader's thread
FIRST_PORTION = 100
LARGEST_PORTION = 5_000
SAMPLE = 20


class SegmentSaved(Struct):
    """A segment was stored; each change makes a version. `computing` until everybody has been asked."""

    segment_id: str
    version: int
    state: Literal["computing", "live"]


class SegmentSummary(Struct, kw_only=True):
    """A segment as it is now. Times are unix milliseconds.

    `computed_at` is when everybody had been asked; null while they are asked for the first time. `members`
    are those found so far.
    """

    segment_id: str
    version: int
    state: Literal["computing", "live"]
    name: str
    description: str
    members: int
    changed_at: int
    changed_by: str
    computed_at: int | None


class SegmentView(SegmentSummary, kw_only=True):
    """A segment, and who belongs to it."""

    condition: Condition


class SegmentList(Struct):
    """Every segment, in the order of their ids."""

    segments: list[SegmentSummary]


class SegmentVersion(Struct):
    """A definition as it was, since when (unix milliseconds), and by whom."""

    version: int
    definition: Definition
    created_at: int
    created_by: str


class SegmentVersionList(Struct):
    """A segment's versions, newest first."""

    versions: list[SegmentVersion]


class Member(Struct):
    """A person in a segment, since when (unix milliseconds), and by which version they came in."""

    profile_id: str
    since: int
    version: int


class MemberList(Struct):
    """A page of members. `next` is the `after` of the next page; null on the last."""

    members: list[Member]
    next: str | None


class Trial(Struct):
    """What a condition would find. Of `people`, `asked` were asked in the time there was.

    `members` are those among them who belong, `share` is their part of the asked; `sample` is some of them.
    """

    people: int
    asked: int
    members: int
    share: float
    complete: bool
    sample: list[str]


class PersonsSegment(Struct):
    """A segment that a person is in, since when (unix milliseconds)."""

    segment_id: str
    since: int
    version: int


class PersonsSegments(Struct):
    """The segments that a person is in."""

    profile_id: str
    segments: list[PersonsSegment]


SEGMENT = identifier("segment", "The segment's id.")
AFTER = text("after", "`next` of the page before.", default="")
WHO = someone(
    "who",
    "An identifier of the person as `type:id`, such as `user_id:4711`, `device_id:…` or `profile_id:…`.",
)


def _definition(raw: bytes) -> Definition:
    try:
        return parse_definition(raw)
    except SegmentInvalid as error:
        raise Problem(400, "segment", str(error)) from error


class TrialBody(Struct, forbid_unknown_fields=True):
    """A condition to try; `segment_id` names the segment that it is a correction of.

    What that one names already may be gone since, as when it is saved.
    """

    condition: Condition
    segment_id: Identifier | None = None


def _trial(raw: bytes) -> TrialBody:
    try:
        return parse_as(raw, TrialBody)
    except SegmentInvalid as error:
        raise Problem(400, "segment", str(error)) from error


@operation("marketer", takes=(SEGMENT,), body=Definition, decode=_definition, answer=SegmentSaved)
async def put_segment(request: web.Request, body: Definition) -> SegmentSaved:
    """Saves a segment. A new condition is then asked of everybody, little by little.

    Whom that finds in or out is no news to campaigns; whoever comes or goes by what they do is. An error
    names the node: `all[1].any[0].within_s: expected int >= 1`.
    """
    segment_id, now, by = SEGMENT.of(request), request.app[HOST].now_ms(), request[CALLER].name

    def save(session: Session) -> StoredSegment | None:
        try:
            segment_rows.save_segment(session, segment_id, body, now, by)
        except SegmentInvalid as error:
            raise Problem(400, "segment", str(error)) from error
        return segment_rows.segment(session, segment_id)

    saved = await change(request, "segment saved", segment_id, save, {"name": body.name})
    return SegmentSaved(segment_id, saved.version, saved.state)


@operation("viewer", answer=SegmentList)
async def get_segments(request: web.Request) -> SegmentList:
    """Lists the segments."""

    def read(session: Session) -> list[SegmentSummary]:
        found = segment_rows.segments(session).values()
        return [SegmentSummary(**_summary(session, one)) for one in found if one.state != "deleting"]

    return SegmentList(await request.app[STATE].read(read))


@operation("viewer", takes=(SEGMENT,), answer=SegmentView, errors=(404,))
async def get_segment(request: web.Request) -> SegmentView:
    """The definition, how many are in it, and whether it has been computed for everybody."""
    segment_id = SEGMENT.of(request)

    def read(session: Session) -> SegmentView:
        stored = _known(session, segment_id)
        return SegmentView(**_summary(session, stored), condition=stored.condition)

    return await request.app[STATE].read(read)


@operation("marketer", takes=(SEGMENT,), errors=(404, 409), status=204)
async def delete_segment(request: web.Request) -> web.Response:
    """Ends a segment. Nobody leaves it by that. One that others or campaigns ask for is kept: 409."""
    segment_id, now = SEGMENT.of(request), request.app[HOST].now_ms()

    def delete(session: Session) -> None:
        _known(session, segment_id)
        users = _campaigns_of(session, segment_id)
        if users:
            raise Problem(409, "in_use", f"segment {segment_id} is asked for by campaigns {', '.join(users)}")
        try:
            segment_rows.delete_segment(session, segment_id, now)
        except SegmentInUse as error:
            raise Problem(409, "in_use", str(error)) from error

    await change(request, "segment deleted", segment_id, delete)
    return web.Response(status=204)


@operation("viewer", takes=(SEGMENT, LIMIT), answer=SegmentVersionList, errors=(404,))
async def get_segment_versions(request: web.Request) -> SegmentVersionList:
    """What a segment was, newest first, and who changed it."""
    segment_id, limit = SEGMENT.of(request), LIMIT.of(request)

    def read(session: Session) -> list[SegmentVersion]:
        _known(session, segment_id)
        return [SegmentVersion(**row) for row in segment_rows.versions(session, segment_id, limit)]

    return SegmentVersionList(await request.app[STATE].read(read))


@operation("viewer", takes=(SEGMENT, AFTER, LIMIT), answer=MemberList, errors=(404,))
async def get_members(request: web.Request) -> MemberList:
    """Who is in a segment, in the order of their ids, a page at a time."""
    segment_id, after, limit = SEGMENT.of(request), AFTER.of(request), LIMIT.of(request)

    def read(session: Session) -> list[Member]:
        _known(session, segment_id)
        rows = segment_rows.members_beyond(session, segment_id, after, limit)
        return [Member(row["profile_id"], row["since"], row["version"]) for row in rows]

    members = await request.app[STATE].read(read)
    return MemberList(members, members[-1].profile_id if len(members) == limit else None)


@operation("viewer", takes=(WHO,), answer=PersonsSegments, errors=(404,))
async def get_segments_of_person(request: web.Request) -> PersonsSegments:
    """The segments that a person is in."""
    id_type, _, identifier_ = WHO.of(request).partition(":")

    def read(session: Session) -> PersonsSegments:
        person = profiles.resolve(session, id_type, identifier_)
        if person is None:
            raise Problem(404, "profile", f"nobody is known as {id_type}:{identifier_}")
        rows = segment_rows.segments_of(session, person)
        return PersonsSegments(person, [PersonsSegment(**dict(row)) for row in rows])

    return await request.app[STATE].read(read)


@operation("viewer", body=TrialBody, decode=_trial, answer=Trial)
async def post_preview(request: web.Request, body: TrialBody) -> Trial:
    """Tries a condition on the whole base, and stores nothing.

    Everybody is asked in the order of their ids for two seconds at the most; where that was not enough,
    `complete` is false, and `share` is of those who were asked.
    """
    state, now = request.app[STATE], request.app[HOST].now_ms()
    people = await state.read(lambda session: _checked(session, body))
    asked, members, sample, after, portion = 0, 0, list[str](), "", FIRST_PORTION
    ends = time.monotonic() + PREVIEW_S
    while time.monotonic() < ends:
        began = time.monotonic()
        page, found = await state.read(partial(_ask_some, body.condition, after, portion, now))
        if not page:
            return Trial(asked, asked, members, _share(members, asked), True, sample)
        asked, members, after = asked + len(page), members + len(found), page[-1]
        sample += sorted(found)[: SAMPLE - len(sample)]
        portion = _next_portion(portion, time.monotonic() - began)
    return Trial(people, asked, members, _share(members, asked), False, sample)


def _checked(session: Session, trial: TrialBody) -> int:
    """How many people there are, if all that is named is there or was before. Raises Problem 400."""
    stored = segment_rows.segment(session, trial.segment_id) if trial.segment_id is not None else None
    try:
        segment_rows.check_named(session, trial.condition, stored.condition if stored is not None else None)
    except SegmentInvalid as error:
        raise Problem(400, "segment", str(error)) from error
    return segment_rows.count_people(session)


def _ask_some(
    condition: Condition, after: str, limit: int, now: int, session: Session
) -> tuple[list[str], frozenset[str]]:
    page = segment_rows.people_after(session, after, limit)
    return page, segment_rows.ask(session, condition, page, now).members if page else frozenset()


def _next_portion(portion: int, took_s: float) -> int:
    factor = min(2.0, max(0.25, PREVIEW_PORTION_S / max(took_s, 1e-6)))
    return max(1, min(LARGEST_PORTION, int(portion * factor)))


def _share(members: int, asked: int) -> float:
    return round(members / asked, 4) if asked else 0.0


def _known(session: Session, segment_id: str) -> StoredSegment:
    stored = segment_rows.segment(session, segment_id)
    if stored is None:
        raise Problem(404, "segment", f"there is no segment {segment_id}")
    return stored


def _summary(session: Session, stored: StoredSegment) -> dict[str, Any]:
    return {
        "segment_id": stored.segment_id,
        "version": stored.version,
        "state": stored.state,
        "name": stored.definition.name,
        "description": stored.definition.description,
        "members": segment_rows.count_members(session, stored.segment_id),
        "changed_at": stored.changed_at,
        "changed_by": stored.created_by,
        "computed_at": stored.computed_at,
    }


def _campaigns_of(session: Session, segment_id: str) -> list[str]:
    """Campaigns that have not ended and ask for a segment, by trigger or audience."""
    return [
        campaign_id
        for campaign_id, chosen in campaign_rows.campaigns(session).items()
        if chosen.campaign.state != "ended" and segment_id in _segments_of(chosen.campaign)
    ]


def _segments_of(campaign: Campaign) -> set[str]:
    trigger, audience = campaign.trigger, campaign.audience
    begins = {trigger.segment_id} if isinstance(trigger, SegmentEntered) else set()
    return begins | (references(audience) if audience is not None else set())


ROUTES = [
    web.get("/api/segments", get_segments),
    web.post("/api/segments/preview", post_preview),
    web.put("/api/segments/{segment}", put_segment),
    web.get("/api/segments/{segment}", get_segment),
    web.delete("/api/segments/{segment}", delete_segment),
    web.get("/api/segments/{segment}/versions", get_segment_versions),
    web.get("/api/segments/{segment}/members", get_members),
    web.get("/api/profiles/{who}/segments", get_segments_of_person),
]
