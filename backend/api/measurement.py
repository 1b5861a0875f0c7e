"""What a campaign does and did: why a person would get it or not, who would have got it, what it brought."""

import asyncio
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import STATE
from backend.api.campaigns import CAMPAIGN
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import Name, identifier, someone, whole
from backend.campaigns import results as campaign_results
from backend.campaigns.allocation import arm_of, variant_of
from backend.campaigns.eligibility import Moment, decide, judge, send_time
from backend.campaigns.model import Campaign
from backend.campaigns.rehearsal import Played
from backend.campaigns.results import Comparison, Funnel, Outcome
from backend.storage import campaigns as campaign_rows
from backend.storage import offers, profiles
from backend.storage import results as result_rows
from backend.storage.catalog import load_shelves
from backend.storage.results import NoPast
from backend.storage.session import Session

DAY_MS = 86_400_000
MOST_SHOWN = 1_000
MAX_CODES = 50_000

PROFILE = someone(
    "profile", "Whom to ask about: a profile's id, or `type:id`, such as `user_id:4711`.", bare="profile_id"
)
DAYS = whole("days", "How many days back.", least=1, most=90, default=30)
POOL = identifier("pool", "The pool's id.")


class Rule(Struct):
    """One rule's verdict."""

    rule: str
    passes: bool
    reason: str


class Explained(Struct):
    """What would become of the campaign's trigger if it happened to this person now.

    `send` is the answer; `reason` is the first objection. `there_now`: whether the person is where the
    trigger looks; null where it looks at no one place. `send_at` is later than now in quiet hours.
    """

    profile_id: str
    send: bool
    verdict: str
    reason: str
    arm: str
    variant: str
    send_at: int
    there_now: bool | None
    rules: list[Rule]


class Rehearsed(Struct):
    """What would have become of one moment."""

    profile_id: str
    at: int
    verdict: str
    reason: str
    variant: str
    send_at: int


class Rehearsal(Struct):
    """Who would have got a campaign: moments by how they would have ended, and the newest of them.

    Consent, addresses, audience and codes are those of today.
    """

    days: int
    moments: int
    people: int
    decisions: dict[str, int]
    newest: list[Rehearsed]


class FunnelView(Struct):
    """From candidates to money; `revenue` in hundredths by currency.

    What was to be sent was `accepted`, is `on_the_way`, ended as `unknown` or `rejected`, or was `stopped` by
    the last checks, by their reason. `bought`: people who bought anything, and `orders` how often.
    """

    candidates: int
    suppressed: dict[str, int]
    held_out: int
    sent: int
    accepted: int
    opened: int
    on_the_way: int
    unknown: int
    rejected: int
    stopped: dict[str, int]
    people: int
    reached: int
    visited: int
    bought: int
    orders: int
    revenue: dict[str, int]


class UpliftBounds(Struct):
    """A figure, and between what it lies with 95 % confidence."""

    value: float
    low: float
    high: float


class UpliftView(Struct):
    """By how much more of the treated than of the held out reached the goal.

    `sure`: the interval of `absolute` does not contain nothing. `relative` is null where none held out did.
    """

    absolute: UpliftBounds
    relative: float | None
    sure: bool


class ComparisonView(Struct):
    """Treated and held out people, how many of them reached the goal, and the difference."""

    treated: int
    treated_reached: int
    held_out: int
    held_out_reached: int
    uplift: UpliftView | None


class PlaceFunnel(FunnelView, kw_only=True):
    """The funnel at one place, and the comparison there; empty texts where there is none."""

    store_id: str
    zone_id: str
    fence_id: str
    comparison: ComparisonView


class CampaignResults(Struct):
    """What a campaign brought within `days`: as a whole, by variant, by place, and against the held out."""

    days: int
    goal: str
    within_s: int
    whole: FunnelView
    variants: dict[str, FunnelView]
    places: list[PlaceFunnel]
    comparison: ComparisonView
    by_variant: dict[str, ComparisonView]


@operation("viewer", takes=(CAMPAIGN, PROFILE), answer=Explained, errors=(404,))
async def post_explain(request: web.Request) -> Explained:
    """Says whether a person would get the offer now, and what every rule says to that.

    Nothing is sent and nothing is recorded.
    """
    now = request.app[HOST].now_ms()
    return await request.app[STATE].read(lambda s: explained(s, *campaign_and_person(s, request), now))


def campaign_and_person(session: Session, request: web.Request) -> tuple[Campaign, str]:
    """Whom the call asks about, and which campaign. Raises Problem 404."""
    campaign, who = the_campaign(session, CAMPAIGN.of(request)), PROFILE.of(request)
    id_type, _, identifier = who.partition(":")
    person = profiles.resolve(session, id_type, identifier)
    if person is None:
        raise Problem(404, "profile", f"nobody is known as {who}")
    return campaign, person


def explained(session: Session, campaign: Campaign, person: str, now: int) -> Explained:
    """What would become of the campaign's trigger if it happened to a person now."""
    waiting = offers.moment_now(session, campaign, person, now)
    zone = offers.zone_of_person(session, person, waiting.store_id)
    facts = offers.person_facts(session, campaign, waiting, send_time(campaign, now, zone), zone, now)
    facts = offers.with_text(session, campaign, facts, waiting, load_shelves(session), now)
    decision = decide(campaign, facts, now, Moment(now))
    verdicts = judge(campaign, facts, now, Moment(now))
    return Explained(
        profile_id=person,
        send=decision.sends,
        verdict=decision.verdict,
        reason=decision.reason,
        arm=arm_of(campaign, person),
        variant=variant_of(campaign, person),
        send_at=decision.send_at,
        there_now=offers.is_there_now(session, campaign, person, now),
        rules=[Rule(verdict.rule, verdict.passes, verdict.reason) for verdict in verdicts],
    )


@operation("viewer", takes=(CAMPAIGN, DAYS), answer=Rehearsal, errors=(404, 409))
async def post_dry_run(request: web.Request) -> Rehearsal:
    """Says who would have got a campaign over the last days, had it been live. Nothing is sent."""
    days, now = DAYS.of(request), request.app[HOST].now_ms()

    def read(session: Session) -> list[Played]:
        campaign = the_campaign(session, CAMPAIGN.of(request))
        try:
            return result_rows.rehearsed(session, campaign, now - days * DAY_MS, now)
        except NoPast as error:
            raise Problem(409, "trigger", str(error)) from error

    # Twenty thousand moments take seconds: no push may wait for its last check behind them.
    played = await asyncio.to_thread(request.app[STATE].view, read)
    decisions: dict[str, int] = {}
    for one in played:
        told = one.decision
        ended = told.verdict if told.verdict != "suppressed" else f"suppressed: {told.reason}"
        decisions[ended] = decisions.get(ended, 0) + 1
    people = {one.moment.profile_id for one in played if one.decision.sends}
    newest = [_rehearsed(one) for one in played[: -MOST_SHOWN - 1 : -1]]
    return Rehearsal(days, len(played), len(people), decisions, newest)


def _rehearsed(played: Played) -> Rehearsed:
    moment, decision = played.moment, played.decision
    return Rehearsed(
        moment.profile_id,
        moment.due_at,
        decision.verdict,
        decision.reason,
        decision.variant,
        decision.send_at,
    )


@operation("viewer", takes=(CAMPAIGN, DAYS), answer=CampaignResults, errors=(404,))
async def get_campaign_results(request: web.Request) -> CampaignResults:
    """What a campaign brought, and its uplift against those held out.

    Candidates, suppressed by reason, held out, accepted, opened, visited, bought, and revenue; as a whole, by
    variant and by place.
    """
    state, campaign_id, days = request.app[STATE], CAMPAIGN.of(request), DAYS.of(request)
    since = request.app[HOST].now_ms() - days * DAY_MS
    campaign = await state.read(lambda session: the_campaign(session, campaign_id))
    outcomes: list[Outcome] = []
    after = 0
    while True:
        last = after
        page, after = await state.read(
            lambda session, last=last: result_rows.outcomes_page(session, campaign, since, last)  # type: ignore[misc]
        )
        outcomes += page
        if not after:
            break
    found = campaign_results.results_of(outcomes)
    return CampaignResults(
        days=days,
        goal=campaign.goal.event,
        within_s=campaign.goal.within_s,
        whole=FunnelView(**_funnel(found.whole)),
        variants={name: FunnelView(**_funnel(funnel)) for name, funnel in sorted(found.variants.items())},
        places=[
            PlaceFunnel(
                **_funnel(funnel),
                store_id=place[0],
                zone_id=place[1],
                fence_id=place[2],
                comparison=_comparison(found.by_place[place]),
            )
            for place, funnel in sorted(found.places.items())
        ],
        comparison=_comparison(found.comparison),
        by_variant={name: _comparison(compared) for name, compared in found.by_variant.items()},
    )


def _funnel(funnel: Funnel) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(funnel)
    return told


def _comparison(compared: Comparison) -> ComparisonView:
    uplift = compared.uplift
    view = None
    if uplift is not None:
        absolute = UpliftBounds(uplift.absolute.value, uplift.absolute.low, uplift.absolute.high)
        view = UpliftView(absolute, uplift.relative, uplift.is_sure)
    treated, held_out = compared.treated, compared.held_out
    return ComparisonView(treated.people, treated.reached, held_out.people, held_out.reached, view)


def the_campaign(session: Session, campaign_id: str) -> Campaign:
    """A campaign as it is. Raises Problem for none."""
    chosen = campaign_rows.campaign(session, campaign_id)
    if chosen is None:
        raise Problem(404, "campaign", f"there is no campaign {campaign_id}")
    return chosen.campaign


# Codes --------------------------------------------------------------------------------------------------


class PoolBody(Struct, forbid_unknown_fields=True):
    """A pool of codes that are given away once each, and codes to add to it."""

    name: Name
    codes: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\S")]], Meta(max_length=MAX_CODES)
    ] = []


class PoolView(Struct):
    """A pool: how many codes it has, and how many of them are given."""

    pool_id: str
    name: str
    codes: int
    given: int


class PoolList(Struct):
    """Every pool."""

    pools: list[PoolView]


class PoolSaved(Struct):
    """How many of the codes were new."""

    pool_id: str
    added: int


@operation("marketer", takes=(POOL,), body=PoolBody, answer=PoolSaved)
async def put_code_pool(request: web.Request, body: PoolBody) -> PoolSaved:
    """Makes a pool of codes, or adds codes to it; a code that is there already is not added again.

    Blanks around a code, as spreadsheets leave them, are no part of it.
    """
    pool_id, now = POOL.of(request), request.app[HOST].now_ms()

    def save(session: Session) -> int:
        session.run("add_code_pool", pool_id=pool_id, name=body.name, created_at=now)
        return campaign_rows.add_codes(session, pool_id, map(str.strip, body.codes), now)

    added = await change(request, "code pool saved", pool_id, save, {"codes": len(body.codes)})
    return PoolSaved(pool_id, added)


@operation("viewer", answer=PoolList)
async def get_code_pools(request: web.Request) -> PoolList:
    """Lists the pools of codes."""
    rows = await request.app[STATE].read(lambda session: [dict(row) for row in session.rows("code_pools")])
    return PoolList(msgspec.convert(rows, list[PoolView]))


ROUTES = [
    web.post("/api/campaigns/{campaign}/explain", post_explain),
    web.post("/api/campaigns/{campaign}/dry-run", post_dry_run),
    web.get("/api/campaigns/{campaign}/results", get_campaign_results),
    web.put("/api/code-pools/{pool}", put_code_pool),
    web.get("/api/code-pools", get_code_pools),
]
