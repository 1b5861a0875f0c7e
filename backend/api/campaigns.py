"""Marketers' campaigns, and how their candidates ended."""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, identifier
from backend.campaigns.examples import Example, examples
from backend.campaigns.fitting import check_fits
from backend.campaigns.model import NEXT, Campaign, CampaignInvalid, State, parse_campaign
from backend.storage import campaigns as campaign_rows
from backend.storage.database import Session


class Saved(Struct):
    """A campaign was stored; each change makes a version."""

    campaign_id: str
    version: int
    state: State


class Decided(Struct):
    """How many candidates ended the same way, and why."""

    verdict: str
    reason: str
    candidates: int


class Pushed(Struct):
    """How many pushes are in a state; how many of them were shown, and opened."""

    state: str
    pushes: int
    received: int
    opened: int


class CampaignVersion(Campaign, frozen=True, kw_only=True):
    """A campaign as it stands now, and the version it has."""

    version: int


class CampaignList(Struct):
    """Every campaign, in the order of their ids."""

    campaigns: list[CampaignVersion]


class CampaignView(CampaignVersion, frozen=True, kw_only=True):
    """A campaign, how its candidates ended, and its pushes by state."""

    decisions: list[Decided]
    pushes: list[Pushed]


class ExampleList(Struct):
    """Campaigns to begin with."""

    examples: tuple[Example, ...]


CAMPAIGN = identifier("campaign", "The campaign's id.")


def _decode(raw: bytes) -> Campaign:
    try:
        campaign = parse_campaign(raw)
        check_fits(campaign)
    except CampaignInvalid as error:
        raise Problem(400, "campaign", str(error)) from error
    return campaign


class StateChange(Struct, forbid_unknown_fields=True):
    """Where a campaign shall go: draft → scheduled → live → paused → ended."""

    state: State


class Version(Struct):
    """What a campaign was, since when, and who wrote it."""

    version: int
    state: State
    definition: Campaign
    changed_at: int
    changed_by: str


class VersionList(Struct):
    """A campaign's versions, the newest first."""

    versions: list[Version]


@operation("marketer", takes=(CAMPAIGN,), body=Campaign, decode=_decode, answer=Saved, errors=(409,))
async def put_campaign(request: web.Request, body: Campaign) -> Saved:
    """Saves a campaign. Its texts are Liquid templates, and are tried before they are stored.

    Whatever it names (stores, zones, geofences, segments, code pools) must be there; of one that has begun,
    whatever it did not name before. What has ended stays so: 409.
    """
    campaign_id = CAMPAIGN.of(request)
    if body.campaign_id != campaign_id:
        raise Problem(400, "campaign_id", f"the path says {campaign_id}, the body {body.campaign_id}")
    saved: Saved = await change(
        request, "campaign saved", campaign_id, _saving(request, body), {"state": body.state}
    )
    return saved


@operation("marketer", takes=(CAMPAIGN,), body=StateChange, answer=Saved, errors=(404, 409))
async def post_campaign_state(request: web.Request, body: StateChange) -> Saved:
    """Starts, pauses or ends a campaign; its definition stays as it is."""
    campaign_id = CAMPAIGN.of(request)

    def move(session: Session) -> Saved:
        chosen = campaign_rows.campaign(session, campaign_id)
        if chosen is None:
            raise Problem(404, "campaign", f"there is no campaign {campaign_id}")
        moved = msgspec.structs.replace(chosen.campaign, state=body.state)
        if moved.state == "scheduled" and moved.starts_at is None:
            raise Problem(409, "state", "a scheduled campaign needs starts_at")
        saved = _saving(request, moved)(session)
        if saved.state == "ended" != body.state:  # by its ends_at; this would be no answer to what was asked
            raise Problem(409, "state", f"the campaign has ended, and cannot be {body.state} again")
        return saved

    saved: Saved = await change(request, f"campaign {body.state}", campaign_id, move)
    return saved


def _saving(request: web.Request, campaign: Campaign) -> Callable[[Session], Saved]:
    """Stores a definition if its state may follow the present one and all that it names is there."""
    now, by = request.app[HOST].now_ms(), request[CALLER].name

    def save(session: Session) -> Saved:
        known = campaign_rows.campaign(session, campaign.campaign_id)
        before = known.campaign.standing(now) if known else "draft"
        state = _followed(before, campaign, now)
        begins = before in ("draft", "scheduled") and state in ("scheduled", "live")
        standing = known.campaign if known and not begins else None
        missing = campaign_rows.missing_references(session, campaign, standing)
        if missing:
            raise Problem(400, "reference", missing)
        return Saved(campaign.campaign_id, campaign_rows.save_campaign(session, campaign, now, by), state)

    return save


def _followed(before: State, campaign: Campaign, now: int) -> State:
    """The state that a campaign comes to, as it stands by the clock. Raises Problem where it may not."""
    state = campaign.standing(now)
    if state not in NEXT[before]:
        may = ", ".join(NEXT[before])
        raise Problem(409, "state", f"the campaign is {before}; what may follow is {may}, not {state}")
    if state == "ended" != campaign.state and before not in ("live", "ended"):
        raise Problem(409, "state", "ends_at has passed: name a later one, or none")
    return state


@operation("viewer", takes=(CAMPAIGN, LIMIT), answer=VersionList)
async def get_campaign_versions(request: web.Request) -> VersionList:
    """What a campaign was, the newest first, and who changed it."""
    campaign_id, limit = CAMPAIGN.of(request), LIMIT.of(request)
    rows = await request.app[STATE].read(lambda session: campaign_rows.versions(session, campaign_id, limit))
    return VersionList(msgspec.convert(rows, list[Version]))


@operation("viewer", answer=CampaignList)
async def get_campaigns(request: web.Request) -> CampaignList:
    """Lists the campaigns."""
    found, now = await request.app[STATE].read(campaign_rows.campaigns), request.app[HOST].now_ms()
    return CampaignList([CampaignVersion(**_fields(chosen, now)) for chosen in found.values()])


@operation("viewer", takes=(CAMPAIGN,), answer=CampaignView, errors=(404,))
async def get_campaign(request: web.Request) -> CampaignView:
    """The definition, its decisions by reason, and its pushes by state."""
    campaign_id, now = CAMPAIGN.of(request), request.app[HOST].now_ms()

    def read(session: Session) -> CampaignView | None:
        chosen = campaign_rows.campaign(session, campaign_id)
        if chosen is None:
            return None
        decisions = session.rows("decisions_of_campaign", campaign_id=campaign_id)
        pushed = session.rows("pushes_of_campaign", campaign_id=campaign_id)
        return CampaignView(
            **_fields(chosen, now),
            decisions=[Decided(**dict(row)) for row in decisions],
            pushes=[Pushed(**dict(row)) for row in pushed],
        )

    found = await request.app[STATE].read(read)
    if found is None:
        raise Problem(404, "campaign", f"there is no campaign {campaign_id}")
    return found


@operation("viewer", answer=ExampleList)
async def get_campaign_examples(_request: web.Request) -> ExampleList:
    """Lists campaigns to begin with: each as a draft, with what has to be set up before."""
    return ExampleList(examples())


def _fields(chosen: campaign_rows.VersionedCampaign, now: int) -> dict[str, Any]:
    """The state as it stands: `starts_at` and `ends_at` move it without anybody's doing."""
    state = chosen.campaign.standing(now)
    return {**msgspec.structs.asdict(chosen.campaign), "state": state, "version": chosen.version}


ROUTES = [
    web.put("/api/campaigns/{campaign}", put_campaign),
    web.get("/api/campaigns", get_campaigns),
    web.get("/api/campaign-examples", get_campaign_examples),
    web.get("/api/campaigns/{campaign}", get_campaign),
    web.post("/api/campaigns/{campaign}/state", post_campaign_state),
    web.get("/api/campaigns/{campaign}/versions", get_campaign_versions),
]
