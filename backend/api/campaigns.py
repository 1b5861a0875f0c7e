"""Marketers' campaigns, and how their candidates ended."""

from typing import Any

import msgspec
from aiohttp import web

from backend.api.auth import STATE, needs
from backend.api.bodies import id_in_path
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.campaigns.model import CampaignInvalid, parse_campaign
from backend.storage import campaigns as campaign_rows
from backend.storage.database import Session


@needs("marketer")
async def put_campaign(request: web.Request) -> web.Response:
    campaign_id = id_in_path(request, "campaign")
    try:
        campaign = parse_campaign(await request.read())
    except CampaignInvalid as error:
        raise Problem(400, "campaign", str(error)) from error
    if campaign.campaign_id != campaign_id:
        raise Problem(400, "campaign_id", f"the path says {campaign_id}, the body {campaign.campaign_id}")
    now = request.app[HOST].now_ms()
    version = await change(
        request,
        "campaign saved",
        campaign_id,
        lambda session: campaign_rows.save_campaign(session, campaign, now),
        {"state": campaign.state},
    )
    return web.json_response({"campaign_id": campaign_id, "version": version, "state": campaign.state})


@needs("viewer")
async def get_campaigns(request: web.Request) -> web.Response:
    found = await request.app[STATE].read(campaign_rows.campaigns)
    listed = [_shown(chosen) for chosen in found.values()]
    return web.json_response({"campaigns": listed})


@needs("viewer")
async def get_campaign(request: web.Request) -> web.Response:
    """The definition, its decisions by reason, and its pushes by state."""
    campaign_id = id_in_path(request, "campaign")

    def read(session: Session) -> dict[str, Any] | None:
        chosen = campaign_rows.campaigns(session).get(campaign_id)
        if chosen is None:
            return None
        decisions = session.rows("decisions_of_campaign", campaign_id=campaign_id)
        pushed = session.rows("pushes_of_campaign", campaign_id=campaign_id)
        return {
            **_shown(chosen),
            "decisions": [dict(row) for row in decisions],
            "pushes": [dict(row) for row in pushed],
        }

    found = await request.app[STATE].read(read)
    if found is None:
        raise Problem(404, "campaign", f"there is no campaign {campaign_id}")
    return web.json_response(found)


def _shown(chosen: campaign_rows.VersionedCampaign) -> dict[str, Any]:
    definition: dict[str, Any] = msgspec.to_builtins(chosen.campaign)
    return {**definition, "version": chosen.version}


ROUTES = [
    web.put("/api/campaigns/{campaign}", put_campaign),
    web.get("/api/campaigns", get_campaigns),
    web.get("/api/campaigns/{campaign}", get_campaign),
]
