"""What a marketer writes down: a trigger, whom it is for, the offer, the limits it keeps, how it is measured.

A campaign is a journey of one step: its trigger makes candidates, and each candidate ends as one decision.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from backend.campaigns.hours import QuietHours
from backend.campaigns.templates import TemplateInvalid, compiled
from backend.segments.model import Condition, Filter, Named, SegmentInvalid, check, check_filters, named_in
from backend.segments.model import named_by as named_by_condition

Identifier: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Words: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]
StaySeconds: TypeAlias = Annotated[float, Meta(ge=0, le=3600)]
WaitSeconds: TypeAlias = Annotated[int, Meta(ge=0, le=30 * 86_400)]
MAX_BYTES = 64 * 1024
MAX_TITLE = 200  # what a lock screen shows; the template may be longer, its result is cut
MAX_BODY = 1_000
MAX_LINK = 1_000
MAX_PURPOSES = 16  # each is looked up for each candidate, while everybody's fold waits
MAX_VARIANTS = 8
ALWAYS_ASKED = ("proximity", "push")
State: TypeAlias = Literal["draft", "scheduled", "live", "paused", "ended"]
Confidence: TypeAlias = Literal["low", "medium", "high"]

NEXT: dict[State, tuple[State, ...]] = {
    "draft": ("draft", "scheduled", "live", "ended"),
    "scheduled": ("scheduled", "draft", "live", "paused", "ended"),
    "live": ("live", "paused", "ended"),
    "paused": ("paused", "scheduled", "live", "ended"),
    "ended": ("ended",),
}
"""Which state may follow which, as they stand; what has ended stays so, for its measurement is closed."""


class CampaignInvalid(ValueError):
    """The definition cannot be used; the text names the field and what it may be."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a definition; what it does not name is as it is by default."""


# Triggers: what makes a candidate ---------------------------------------------------------------------------


class ZoneEntered(_Part, tag="zone_entered", frozen=True):
    """Someone entered a zone."""

    store_id: Identifier
    zone_id: Identifier


class ZoneDwelt(_Part, tag="zone_dwelt", frozen=True):
    """Someone entered a zone and stayed for `dwell_s` seconds."""

    store_id: Identifier
    zone_id: Identifier
    dwell_s: StaySeconds


class ZoneLeft(_Part, tag="zone_left", frozen=True):
    """Someone left a zone; the candidate is decided `wait_s` seconds later."""

    store_id: Identifier
    zone_id: Identifier
    wait_s: WaitSeconds = 0


class CategoryDwelt(_Part, tag="category_dwelt", frozen=True):
    """Someone stayed for `dwell_s` in any zone that holds one of these categories; without any, in any zone
    that holds products at all. `store_id` narrows it to one store."""

    dwell_s: StaySeconds
    categories: Annotated[tuple[Words, ...], Meta(max_length=100)] = ()
    store_id: Identifier | None = None


class StoreEntered(_Part, tag="store_entered", frozen=True):
    """Someone came into a store; without a name into any."""

    store_id: Identifier | None = None


class StoreDwelt(_Part, tag="store_dwelt", frozen=True):
    """Someone has been in a store for `dwell_s` seconds."""

    dwell_s: StaySeconds
    store_id: Identifier | None = None


class StoreLeft(_Part, tag="store_left", frozen=True):
    """Someone left a store; the candidate is decided `wait_s` seconds later."""

    store_id: Identifier | None = None
    wait_s: WaitSeconds = 0


class FenceEntered(_Part, tag="fence_entered", frozen=True):
    """Someone crossed into a geofence."""

    fence_id: Identifier


class FenceDwelt(_Part, tag="fence_dwelt", frozen=True):
    """Someone stayed in a geofence for `dwell_s` seconds."""

    fence_id: Identifier
    dwell_s: StaySeconds


class FenceLeft(_Part, tag="fence_left", frozen=True):
    """Someone left a geofence; the candidate is decided `wait_s` seconds later."""

    fence_id: Identifier
    wait_s: WaitSeconds = 0


class FenceApproached(_Part, tag="fence_approached", frozen=True):
    """Someone comes nearer to a geofence, or to a store's area, and is not in it yet."""

    fence_id: Identifier


class EventHappened(_Part, tag="event", frozen=True):
    """An app, a site or a server told of a tracked event, page or screen; decided `wait_s` seconds later."""

    name: Words
    kind: Literal["track", "page", "screen"] = "track"
    where: Annotated[tuple[Filter, ...], Meta(max_length=10)] = ()
    wait_s: WaitSeconds = 0


class SegmentEntered(_Part, tag="segment_entered", frozen=True):
    """Someone became a member of a segment; decided `wait_s` seconds later."""

    segment_id: Identifier
    wait_s: WaitSeconds = 0


Trigger: TypeAlias = (
    ZoneEntered
    | ZoneDwelt
    | ZoneLeft
    | CategoryDwelt
    | StoreEntered
    | StoreDwelt
    | StoreLeft
    | FenceEntered
    | FenceDwelt
    | FenceLeft
    | FenceApproached
    | EventHappened
    | SegmentEntered
)

# The offer -----------------------------------------------------------------------------------------------


class Offer(_Part, frozen=True):
    """The message. `title`, `body` and `deeplink` are Liquid over `profile`, `zone`, `store`, `campaign`,
    `products`, `product` (the first of them) and `code`.

    `life_s`: after so many seconds the moment has passed and nothing is sent any more. `products`: those the
    person looked at on the web or in the app within `viewed_within_s` and has not bought since; `viewed_here`
    only what the zone's shelves hold. Whoever has none gets no offer. `code_pool`: each offer takes one code.
    """

    title: Annotated[str, Meta(min_length=1, max_length=1000)]
    body: Annotated[str, Meta(min_length=1, max_length=4000)]
    image: Annotated[str, Meta(max_length=1000)] | None = None
    deeplink: Annotated[str, Meta(max_length=1000)] | None = None
    life_s: Annotated[int, Meta(ge=5, le=28 * 86_400)] = 300
    products: Literal["none", "viewed", "viewed_here"] = "none"
    viewed_within_s: Annotated[int, Meta(ge=60, le=366 * 86_400)] = 30 * 86_400
    code_pool: Identifier | None = None

    @property
    def templates(self) -> dict[str, str]:
        """Every Liquid text by its field."""
        texts = {"title": self.title, "body": self.body, "deeplink": self.deeplink, "image": self.image}
        return {name: text for name, text in texts.items() if text is not None}


class Variant(_Part, frozen=True):
    """One of several offers that are compared; people fall to them by weight, and stay there."""

    variant_id: Identifier
    offer: Offer
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1


class Guardrails(_Part, frozen=True):
    """Limits, all per person and over everything that person is known by.

    `max_per_day` and `max_per_week` count the pushes of every campaign, by the person's own calendar;
    `max_total` and `cooldown_s` are the campaign's own, `place_cooldown_s` is of the campaign at one place.
    `again_after_s`: an offer longer ago no longer counts for `max_total`; without it it always does.
    Of campaigns that compete for one moment the highest `priority` wins. `least_confidence`: how sure we must
    be of the zone. `max_per_minute`: of the whole campaign, to everybody; what exceeds it waits.
    """

    consent: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=MAX_PURPOSES)
    ] = ALWAYS_ASKED
    max_total: Annotated[int, Meta(ge=1, le=1000)] = 1
    again_after_s: Annotated[int, Meta(ge=60, le=5 * 366 * 86_400)] | None = None
    max_per_day: Annotated[int, Meta(ge=1, le=100)] = 3
    max_per_week: Annotated[int, Meta(ge=1, le=500)] = 10
    cooldown_s: Annotated[int, Meta(ge=0, le=366 * 86_400)] = 3_600
    place_cooldown_s: Annotated[int, Meta(ge=0, le=366 * 86_400)] = 0
    quiet_hours: QuietHours | None = QuietHours()
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    least_confidence: Confidence = "low"
    max_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    resend_when_unknown: bool = False

    @property
    def purposes(self) -> tuple[str, ...]:
        """What the person must have agreed to; no campaign reaches somebody who said no to offers."""
        return tuple(dict.fromkeys((*self.consent, *ALWAYS_ASKED)))


class Goal(_Part, frozen=True):
    """What the campaign is for: an event of the person within `within_s` of the decision.

    `stops`: once it has happened since the candidate's moment, the offer is not sent any more.
    """

    event: Words = "Order Completed"
    within_s: Annotated[int, Meta(ge=60, le=90 * 86_400)] = 7 * 86_400
    stops: bool = True


class Campaign(_Part, frozen=True):
    """One step: trigger, audience, offer, guardrails, measurement.

    `audience` is asked of the person at the decision and again right before the push leaves. Of those who
    pass every rule `holdout_percent` are held out, always the same people. `variants` replace `offer`'s text
    for their share. `starts_at`, `ends_at` (unix milliseconds): a scheduled campaign is live in between.
    """

    campaign_id: Identifier
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    trigger: Trigger
    offer: Offer
    audience: Condition | None = None
    guardrails: Guardrails = Guardrails()
    variants: Annotated[tuple[Variant, ...], Meta(max_length=MAX_VARIANTS)] = ()
    holdout_percent: Annotated[float, Meta(ge=0, le=100)] = 0.0
    goal: Goal = Goal()
    starts_at: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    ends_at: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    state: State = "draft"

    def is_live(self, now: int) -> bool:
        """Whether candidates are made and sent at a time."""
        begun = self.starts_at is None or now >= self.starts_at
        over = self.ends_at is not None and now >= self.ends_at
        return not over and (self.state == "live" or (self.state == "scheduled" and begun))

    def standing(self, now: int) -> State:
        """The state at a time: a schedule moves it on by itself."""
        if self.state in ("live", "scheduled") and self.ends_at is not None and now >= self.ends_at:
            return "ended"
        return "live" if self.is_live(now) else self.state

    @property
    def offers(self) -> dict[str, Offer]:
        """Every offer by its variant; the campaign's own is called `offer`."""
        return {variant.variant_id: variant.offer for variant in self.variants} or {"offer": self.offer}

    @property
    def offers_by_field(self) -> dict[str, Offer]:
        """Every offer that the definition has, by where it stands there."""
        variants = {f"variants[{index}].offer": one.offer for index, one in enumerate(self.variants)}
        return {"offer": self.offer, **variants}


def parse_campaign(body: bytes) -> Campaign:
    """A campaign from JSON, checked as a whole. Raises CampaignInvalid."""
    if len(body) > MAX_BYTES:
        raise CampaignInvalid(f"a campaign may have {MAX_BYTES} bytes")
    try:
        campaign = msgspec.json.decode(body, type=Campaign)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CampaignInvalid(str(error)) from error
    _check_offers(campaign)
    if isinstance(campaign.trigger, EventHappened):
        try:
            check_filters(campaign.trigger.where, "trigger")
        except SegmentInvalid as error:
            raise CampaignInvalid(str(error)) from error
    if campaign.audience is not None:
        try:
            check(campaign.audience)
        except SegmentInvalid as error:
            raise CampaignInvalid(f"audience: {error}") from error
    if (
        campaign.starts_at is not None
        and campaign.ends_at is not None
        and campaign.ends_at <= campaign.starts_at
    ):
        raise CampaignInvalid("ends_at: must be later than starts_at")
    if campaign.state == "scheduled" and campaign.starts_at is None:
        raise CampaignInvalid("starts_at: a scheduled campaign needs one")
    return campaign


def named_by(campaign: Campaign) -> Iterator[Named]:
    """The places and segments that a campaign names."""
    yield from named_in(campaign.trigger, "trigger.")
    if campaign.audience is not None:
        yield from named_by_condition(campaign.audience, "audience")


def _check_offers(campaign: Campaign) -> None:
    names = [variant.variant_id for variant in campaign.variants]
    if len(set(names)) != len(names):
        raise CampaignInvalid("variants: two have the same variant_id")
    for where, offer in campaign.offers_by_field.items():
        for field, text in offer.templates.items():
            try:
                compiled(text)
            except TemplateInvalid as error:
                raise CampaignInvalid(f"{where}.{field}: {error}") from error
