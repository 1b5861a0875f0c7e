"""An offer as it would reach a person now, and what FCM says to it: nothing is recorded or delivered."""

import asyncio
from typing import Literal, Protocol

from aiohttp import web
from msgspec import Struct

from backend.api.auth import STATE
from backend.api.campaigns import CAMPAIGN
from backend.api.host import HOST
from backend.api.measurement import PROFILE, campaign_and_person
from backend.api.operations import operation
from backend.ids import uuid7
from backend.push.model import Accepted, Claimed, Outcome, Rejected
from backend.storage.previews import Preview, preview
from backend.storage.profiles import ReachableAddress

MOST_ADDRESSES = 20  # asked about at once; nobody has more phones, and a marketer waits for the answer


class Validator(Protocol):
    """Asks FCM about a message that is not to be delivered."""

    async def validate(self, push: Claimed) -> Outcome:
        """What would become of it. Never raises for what the network or the service do."""


VALIDATOR: web.AppKey[Validator] = web.AppKey("validator", Validator)


class AddressAnswer(Struct):
    """What FCM says of one of the person's addresses; `verdict` is null where nobody was asked.

    `undecided`: FCM could not be reached, or wants to be asked later.
    """

    kind: Literal["token", "fid"]
    platform: str | None
    last_seen_at: int
    verdict: Literal["accepted", "rejected", "undecided"] | None
    reason: str | None


class PreviewView(Struct):
    """An offer's texts for a person; `reason` says why there are none."""

    profile_id: str
    variant: str
    title: str | None
    body: str | None
    image: str | None
    deeplink: str | None
    reason: str | None
    addresses: list[AddressAnswer]


@operation("marketer", takes=(CAMPAIGN, PROFILE), answer=PreviewView, errors=(404,))
async def post_campaign_preview(request: web.Request) -> PreviewView:
    """Renders the offer for a person as of now, and asks FCM about it for each of their addresses.

    Nothing is delivered, recorded or given away; limits and consent are not asked, `explain` does that.
    Without `[push]` in the settings the verdicts are null.
    """
    now = request.app[HOST].now_ms()
    shown = await request.app[STATE].read(lambda s: preview(s, *campaign_and_person(s, request), now))
    asked = (_asked(request, shown, address, now) for address in shown.addresses[:MOST_ADDRESSES])
    return PreviewView(
        profile_id=shown.profile_id,
        variant=shown.variant,
        **{name: getattr(shown.content, name, None) for name in ("title", "body", "image", "deeplink")},
        reason=shown.reason,
        addresses=await asyncio.gather(*asked),
    )


async def _asked(request: web.Request, shown: Preview, address: ReachableAddress, now: int) -> AddressAnswer:
    verdict = AddressAnswer(address.kind, address.platform, address.last_seen_at, None, None)
    validator = request.app.get(VALIDATOR)
    if validator is None or shown.content is None:
        return verdict
    push = Claimed(
        push_id=uuid7(now),
        decision_id=0,
        profile_id=shown.profile_id,
        address_kind=address.kind,
        address_value=address.value,
        platform=address.platform,
        content=shown.content,
        owner="",
    )
    match await validator.validate(push):
        case Accepted():
            verdict.verdict = "accepted"
        case Rejected(reason):
            verdict.verdict, verdict.reason = "rejected", reason
        case undecided:
            verdict.verdict, verdict.reason = "undecided", undecided.reason
    return verdict


ROUTES = [web.post("/api/campaigns/{campaign}/preview", post_campaign_preview)]
