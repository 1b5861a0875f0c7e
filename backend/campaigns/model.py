"""What a marketer writes down: one trigger, one offer, and the limits it keeps."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from backend.campaigns.templates import TemplateInvalid, compiled

Identifier: TypeAlias = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
MAX_TITLE = 200  # what a lock screen shows; the template may be longer, its result is cut
MAX_BODY = 1_000
MAX_PURPOSES = 16  # each is looked up for each candidate, while everybody's fold waits
ALWAYS_ASKED = ("proximity", "push")
State: TypeAlias = Literal["draft", "live", "paused", "ended"]


class CampaignInvalid(ValueError):
    """The definition cannot be used; the text names the field and what it may be."""


class ZoneDwelt(Struct, frozen=True, forbid_unknown_fields=True, tag="zone_dwelt"):
    """Someone entered a zone and stayed for `dwell_s` seconds."""

    store_id: Identifier
    zone_id: Identifier
    dwell_s: Annotated[float, Meta(ge=0, le=3600)]


class Offer(Struct, frozen=True, forbid_unknown_fields=True):
    """The message. `title` and `body` are Liquid over `profile`, `zone`, `store` and `campaign`.

    `life_s`: after so many seconds the moment has passed and nothing is sent any more.
    """

    title: Annotated[str, Meta(min_length=1, max_length=1000)]
    body: Annotated[str, Meta(min_length=1, max_length=4000)]
    image: Annotated[str, Meta(max_length=1000)] | None = None
    deeplink: Annotated[str, Meta(max_length=1000)] | None = None
    life_s: Annotated[int, Meta(ge=5, le=28 * 86_400)] = 300


class Guardrails(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits, all per person. A campaign's own, and `max_per_day` over every campaign.

    The day is the calendar day of the person's time zone, else the store's.
    """

    consent: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=MAX_PURPOSES)
    ] = ALWAYS_ASKED
    max_total: Annotated[int, Meta(ge=1, le=1000)] = 1
    max_per_day: Annotated[int, Meta(ge=1, le=100)] = 3
    cooldown_s: Annotated[int, Meta(ge=0, le=366 * 86_400)] = 3_600
    resend_when_unknown: bool = False

    @property
    def purposes(self) -> tuple[str, ...]:
        """What the person must have agreed to; no campaign reaches somebody who said no to offers."""
        return tuple(dict.fromkeys((*self.consent, *ALWAYS_ASKED)))


class Campaign(Struct, frozen=True, forbid_unknown_fields=True):
    """One step: trigger, offer, guardrails."""

    campaign_id: Identifier
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    trigger: ZoneDwelt
    offer: Offer
    guardrails: Guardrails = Guardrails()
    state: State = "draft"


def parse_campaign(body: bytes) -> Campaign:
    """A campaign from JSON, its templates checked. Raises CampaignInvalid."""
    try:
        campaign = msgspec.json.decode(body, type=Campaign)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CampaignInvalid(str(error)) from error
    for name in ("title", "body"):
        try:
            compiled(getattr(campaign.offer, name))
        except TemplateInvalid as error:
            raise CampaignInvalid(f"offer.{name}: {error}") from error
    return campaign
