"""Marketers' campaigns, and how their candidates ended."""

from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import identifier
from backend.campaigns.model import Campaign, CampaignInvalid, State, parse_campaign
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
    """A campaign and the version it has."""

    version: int


class CampaignList(Struct):
    """Every campaign, in the order of their ids."""

    campaigns: list[CampaignVersion]


class CampaignView(CampaignVersion, frozen=True, kw_only=True):
    """A campaign, how its candidates ended, and its pushes by state."""

    decisions: list[Decided]
    pushes: list[Pushed]


CAMPAIGN = identifier("campaign", "The campaign's id.")


def _decode(raw: bytes) -> Campaign:
    try:
        return parse_campaign(raw)
    except CampaignInvalid as error:
        raise Problem(400, "campaign", str(error)) from error


@operation("marketer", takes=(CAMPAIGN,), body=Campaign, decode=_decode, answer=Saved)
async def put_campaign(request: web.Request, body: Campaign) -> Saved:
    """Saves a campaign. Its texts are Liquid templates, and are tried before they are stored."""
    campaign_id = CAMPAIGN.of(request)
    if body.campaign_id != campaign_id:
        raise Problem(400, "campaign_id", f"the path says {campaign_id}, the body {body.campaign_id}")
    now = request.app[HOST].now_ms()
    version = await change(
        request,
        "campaign saved",
        campaign_id,
        lambda session: campaign_rows.save_campaign(session, body, now),
        {"state": body.state},
    )
    return Saved(campaign_id, version, body.state)


@operation("viewer", answer=CampaignList)
async def get_campaigns(request: web.Request) -> CampaignList:
    """Lists the campaigns."""
    found = await request.app[STATE].read(campaign_rows.campaigns)
    return CampaignList([CampaignVersion(**_fields(chosen)) for chosen in found.values()])


@operation("viewer", takes=(CAMPAIGN,), answer=CampaignView, errors=(404,))
async def get_campaign(request: web.Request) -> CampaignView:
    """The definition, its decisions by reason, and its pushes by state."""
    campaign_id = CAMPAIGN.of(request)

    def read(session: Session) -> CampaignView | None:
        chosen = campaign_rows.campaign(session, campaign_id)
        if chosen is None:
            return None
        decisions = session.rows("decisions_of_campaign", campaign_id=campaign_id)
        pushed = session.rows("pushes_of_campaign", campaign_id=campaign_id)
        return CampaignView(
            **_fields(chosen),
            decisions=[Decided(**dict(row)) for row in decisions],
            pushes=[Pushed(**dict(row)) for row in pushed],
        )

    found = await request.app[STATE].read(read)
    if found is None:
        raise Problem(404, "campaign", f"there is no campaign {campaign_id}")
    return found


def _fields(chosen: campaign_rows.VersionedCampaign) -> dict[str, Any]:
    return {**msgspec.structs.asdict(chosen.campaign), "version": chosen.version}


ROUTES = [
    web.put("/api/campaigns/{campaign}", put_campaign),
    web.get("/api/campaigns", get_campaigns),
    web.get("/api/campaigns/{campaign}", get_campaign),
]
