"""What the rules of campaigns ask the database about a person: at the decision, and before a push leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from backend.campaigns.allocation import arm_of, variant_of
from backend.campaigns.eligibility import (
    SAME_MOMENT_MS,
    Hold,
    PersonFacts,
    Rival,
    SendFacts,
    Stop,
    recheck,
)
from backend.campaigns.hours import day_bounds, is_time_zone, time_zone, week_bounds
from backend.campaigns.model import Campaign, CategoryDwelt, Offer, StoreDwelt, StoreEntered, StoreLeft
from backend.campaigns.offers import OfferUnrenderable, Rendered, render
from backend.campaigns.triggers import begins_with, holds_of, wait_for
from backend.catalog.shelves import Shelves, ZoneRef
from backend.occurrences import Occurrence
from backend.profiles.behaviour import View
from backend.proximity.visits import AWAY_MS
from backend.push.model import Claimed
from backend.storage import campaigns as campaign_rows
from backend.storage import catalog, fences, orders, profiles, segments
from backend.storage.behaviour import viewed_products, zone_categories
from backend.storage.campaigns import Waiting
from backend.storage.session import Database, Row, Session

MOST_PRODUCTS = 20
EVER = 2**62  # replicas' clocks differ: what another decided a moment ahead of ours counts as well
UNSEEN_MS = 60 * 86_400_000  # the app was removed, or the phone lies in a drawer
MISDATED_MS = 86_400_000  # by minutes, or by a time zone; last year's orders, imported now, are no purchase


def zone_of_person(session: Session, profile_id: str, store_id: str | None) -> ZoneInfo:
    """The time zone that the person is said to be in, else the one their devices were in last, else the
    store's; of a moment in no store that of the one they visited last, else the one that all stores share."""
    traits = profiles.traits_of(session, profile_id)
    names = [traits.get("timezone"), profiles.device_clock_of(session, profile_id)]
    if not any(is_time_zone(name) for name in names):
        names.append(_stores_clock(session, profile_id, store_id))
    return time_zone(*names)


def _stores_clock(session: Session, profile_id: str, store_id: str | None) -> str | None:
    if store_id is not None and (store := session.row("store", store_id=store_id)) is not None:
        return str(store["timezone"])
    visited = session.row("clock_of_last_store", profile_id=profile_id)
    if visited is not None:
        return str(visited[0])
    clocks = session.rows("clocks_of_stores")
    return str(clocks[0][0]) if len(clocks) == 1 else None


def moment_now(session: Session, campaign: Campaign, profile_id: str, now: int) -> Waiting:
    """As if the campaign's trigger happened to a person now: where it looks, which is where they are if it
    looks at many places. To try it, not to be kept."""
    trigger = campaign.trigger
    store_id, zone_id = getattr(trigger, "store_id", None), getattr(trigger, "zone_id", None)
    fence_id: str | None = getattr(trigger, "fence_id", None)
    if fence_id is not None and (fence := fences.fence(session, fence_id)) is not None:
        store_id = fence.store_id
    elif isinstance(trigger, CategoryDwelt | StoreEntered | StoreDwelt | StoreLeft):
        store_id, zone_id = _where_it_would_be(session, campaign, profile_id, now) or (store_id, zone_id)
    return Waiting(
        campaign_id=campaign.campaign_id,
        subject="",
        begun_at=now,
        profile_id=profile_id,
        due_at=now,
        stays=False,
        holds="nothing",
        store_id=store_id,
        zone_id=zone_id,
        fence_id=fence_id,
    )


def _where_it_would_be(
    session: Session, campaign: Campaign, profile_id: str, now: int
) -> tuple[str, str | None] | None:
    """The first of the places where the person is now that the trigger looks at: store and zone."""
    trigger, categories = campaign.trigger, zone_categories(session)
    for row in session.rows("whereabouts", profile_id=profile_id):
        store_id, zone_id = row["store_id"], row["zone_id"]
        seen = Occurrence(begins_with(trigger), profile_id, "", now, now, store_id=store_id, zone_id=zone_id)
        if wait_for(campaign, seen, categories.get((store_id, zone_id or ""), ())) is not None:
            return store_id, zone_id if isinstance(trigger, CategoryDwelt) else None
    return None


def person_facts(
    session: Session, campaign: Campaign, waiting: Waiting, send_at: int, zone: ZoneInfo, now: int
) -> PersonFacts:
    """What the eligibility rules ask; caps are those of the day and the week of `send_at`."""
    profile_id, rules = waiting.profile_id, campaign.guardrails
    pool = offer_of(campaign, profile_id).code_pool
    offers = session.rows("offers_to_person", profile_id=profile_id, campaign_id=campaign.campaign_id)
    sent_today, sent_this_week = offers_around(session, profile_id, send_at, zone)
    if sent_today >= rules.max_per_day or sent_this_week >= rules.max_per_week:
        yielding = _yielding(session, campaign, waiting)
        day, week = day_bounds(send_at, zone), week_bounds(send_at, zone)
        sent_today -= sum(day[0] <= at < day[1] for at in yielding)
        sent_this_week -= sum(week[0] <= at < week[1] for at in yielding)
    return PersonFacts(
        profile_id=profile_id,
        consents={purpose: profiles.consent_of(session, profile_id, purpose) for purpose in rules.purposes},
        addresses=len(fresh_addresses(session, profile_id, now)),
        zone=zone,
        offered=[row["at"] for row in offers],
        offered_here=[row["at"] for row in offers if _place(row) == waiting.place],
        active=any(row["active"] for row in offers),
        sent_today=sent_today,
        sent_this_week=sent_this_week,
        in_audience=in_audience(session, campaign, profile_id, now),
        goal_reached_at=goal_reached_at(session, campaign, profile_id, waiting.begun_at),
        has_code=None if pool is None else _has_code(session, pool),
        rivals=rivals_of(session, campaign.campaign_id, profile_id, waiting.due_at),
        erased=profiles.resolve(session, "profile_id", profile_id) is None,
    )


def _yielding(session: Session, campaign: Campaign, waiting: Waiting) -> list[int]:
    """When offers of the moment would leave that this campaign stops if it wins: they use up no limit."""
    span = {"start": waiting.due_at - SAME_MOMENT_MS, "end": waiting.due_at + SAME_MOMENT_MS}
    rows = session.rows(
        "offers_that_yield", profile_id=waiting.profile_id, campaign_id=campaign.campaign_id, **span
    )
    found = [(row["at"], campaign_rows.campaign(session, row["campaign_id"])) for row in rows]
    ours = campaign.guardrails.priority
    return [at for at, one in found if one is not None and one.campaign.guardrails.priority < ours]


def rivals_of(session: Session, campaign_id: str, profile_id: str, due_at: int) -> list[Rival]:
    """The other campaigns whose offers of this moment to the person are on their way, or went out."""
    span = {"start": due_at - SAME_MOMENT_MS, "end": due_at + SAME_MOMENT_MS}
    rows = session.rows("offers_of_moment", profile_id=profile_id, campaign_id=campaign_id, **span)
    found = [campaign_rows.campaign(session, row["campaign_id"]) for row in rows]
    return [Rival(one.campaign.campaign_id, one.campaign.guardrails.priority) for one in found if one]


@dataclass(frozen=True, slots=True)
class Ahead:
    """Another campaign's offer for the same moment that comes before a campaign's. Unix milliseconds."""

    rival: Rival
    decided_at: int
    send_at: int


def ahead_of(session: Session, campaign: Campaign, waiting: Waiting, send_at: int, now: int) -> list[Ahead]:
    """The others' offers of a moment that was decided now, as the fold ranks those whom it decides together:
    by priority, then by moment and name.

    What falls due later is too late for what leaves at once. Of equals only what falls due at the same time
    is decided together, as far as anybody knows afterwards.
    """
    span = {"start": waiting.due_at - SAME_MOMENT_MS, "end": waiting.due_at + SAME_MOMENT_MS}
    names = {"profile_id": waiting.profile_id, "campaign_id": campaign.campaign_id}
    ours, found = (-campaign.guardrails.priority, waiting.due_at, campaign.campaign_id), []
    for row in session.rows("offers_beside", **names, **span):
        other = campaign_rows.campaign(session, row["campaign_id"])
        if other is None or (row["due_at"] > waiting.due_at and send_at <= now):
            continue
        priority = other.campaign.guardrails.priority
        if (-priority, row["due_at"], row["campaign_id"]) < ours:
            together = row["due_at"] == waiting.due_at and row["decided_at"] >= now
            rival = Rival(row["campaign_id"], priority, first=together)
            found.append(Ahead(rival, row["decided_at"], row["send_at"]))
    return found


def offers_around(
    session: Session,
    profile_id: str,
    at: int,
    zone: ZoneInfo,
    *,
    known_at: int = EVER,
    but: str = "",
    since: int = 0,
) -> tuple[int, int]:
    """How many offers go to a person on the day and in the week of a time, as was known at another.

    `but`: without what this campaign has offered since then.
    """
    names = {"known_at": known_at, "campaign_id": but, "since": since}
    today = _count(session, "offers_between", profile_id, day_bounds(at, zone), **names)
    return today, _count(session, "offers_between", profile_id, week_bounds(at, zone), **names)


def fresh_addresses(session: Session, profile_id: str, now: int) -> list[profiles.ReachableAddress]:
    """Where offers to a person go: addresses whose app was there lately, the one seen last first."""
    found = profiles.push_addresses_of(session, profile_id)
    return [address for address in found if now - address.last_seen_at <= UNSEEN_MS]


def offer_of(campaign: Campaign, profile_id: str) -> Offer:
    """The offer of the variant that falls to a person."""
    return campaign.offers.get(variant_of(campaign, profile_id), campaign.offer)


def in_audience(session: Session, campaign: Campaign, profile_id: str, now: int) -> bool:
    """Whether the campaign's audience holds for the person behind a profile."""
    if campaign.audience is None:
        return True
    person = profiles.resolve(session, "profile_id", profile_id)
    return person is not None and person in segments.ask(session, campaign.audience, [person], now).members


def goal_reached_at(session: Session, campaign: Campaign, profile_id: str, since: int) -> int | None:
    """When the person first did what the campaign is for, since a moment, and word of it had come; over all
    that they are known by.

    What was told since the moment counts, too, whatever time it claims: tills date by the minute.
    """
    names = {"profile_id": profile_id, "name": campaign.goal.event}
    row = session.row("goal_reached", **names, since=since, earliest=since - MISDATED_MS)
    return None if row is None else row[0]


def offer_products(
    session: Session, person_id: str, offer: Offer, zone: ZoneRef | None, shelves: Shelves, at: int
) -> list[View]:
    """The products that an offer speaks of at a moment: looked at, not bought since, and on this zone's
    shelves if it says so. The most recent first."""
    if offer.products == "none":
        return []
    since = at - offer.viewed_within_s * 1000
    orders_by_then = [one for one in orders.bought_products(session, person_id, since) if one.at <= at]
    bought = {one.product_id: one.at for one in orders_by_then}
    views = viewed_products(session, person_id, since, at, MOST_PRODUCTS)
    wanted = [view for view in views if bought.get(view.product_id, -1) < view.at]
    if offer.products == "viewed":
        return wanted
    return [view for view in wanted if zone is not None and _lies_in(session, shelves, zone, view)]


def with_products(
    session: Session, campaign: Campaign, facts: PersonFacts, waiting: Waiting, shelves: Shelves, at: int
) -> PersonFacts:
    """The facts, and whether there was any product that the offer could speak of at a moment."""
    offer = offer_of(campaign, facts.profile_id)
    if offer.products == "none":
        return facts
    return replace(facts, has_products=bool(products_wherever(session, offer, waiting, shelves, at)))


def products_wherever(
    session: Session, offer: Offer, waiting: Waiting, shelves: Shelves, at: int
) -> list[View]:
    """The products that an offer speaks of, for a moment that need not have been in any zone."""
    zone = ZoneRef(waiting.store_id, waiting.zone_id) if waiting.store_id and waiting.zone_id else None
    if zone is None and offer.products == "viewed_here":
        offer = msgspec.structs.replace(offer, products="viewed")  # of no zone in particular
    return offer_products(session, waiting.profile_id, offer, zone, shelves, at)


# The text -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What an offer's text may speak of beside the person: where it happens, and products."""

    zone_name: str
    store: Mapping[str, Any]
    products: Sequence[View]


def rendered_for(
    session: Session, campaign: Campaign, offer: Offer, waiting: Waiting, scene: Scene
) -> Rendered:
    """The offer's texts for a person, with the code that they would get. Raises OfferUnrenderable."""
    code = None if offer.code_pool is None else campaign_rows.next_code(session, offer.code_pool)
    if offer.code_pool is not None and code is None:
        raise OfferUnrenderable(f"no code is left in the pool {offer.code_pool}")
    told = [_told(view) for view in scene.products]
    return render(
        offer,
        {
            "profile": profiles.traits_of(session, waiting.profile_id),
            "zone": {"id": waiting.zone_id or "", "name": scene.zone_name},
            "store": scene.store,
            "fence": {"id": waiting.fence_id},
            "campaign": {"id": campaign.campaign_id, "name": campaign.name},
            "products": told,
            "product": told[0] if told else None,
            "code": code,
        },
    )


def scene_of(session: Session, waiting: Waiting, products: Sequence[View]) -> Scene:
    """The scene of a moment, with names as they are now."""
    zone = session.row("zone", store_id=waiting.store_id, zone_id=waiting.zone_id)
    store = session.row("store", store_id=waiting.store_id)
    return Scene(zone["name"] if zone else waiting.zone_id or "", dict(store) if store else {}, products)


def with_text(
    session: Session, campaign: Campaign, facts: PersonFacts, waiting: Waiting, shelves: Shelves, at: int
) -> PersonFacts:
    """The facts, with whether there is a product to speak of at a moment, and why there would be no text."""
    facts = with_products(session, campaign, facts, waiting, shelves, at)
    if facts.has_products is False or facts.has_code is False:
        return facts
    offer = offer_of(campaign, facts.profile_id)
    scene = scene_of(session, waiting, products_wherever(session, offer, waiting, shelves, at))
    try:
        rendered_for(session, campaign, offer, waiting, scene)
    except OfferUnrenderable as error:
        return replace(facts, text_fault=str(error))
    return facts


def _told(view: View) -> dict[str, Any]:
    """A product as templates see it; its price in the currency's unit."""
    price = None if view.price is None else f"{view.price / 100:.2f}"
    return {**msgspec.to_builtins(view), "price": price}


def is_there_now(session: Session, campaign: Campaign, profile_id: str, now: int) -> bool | None:
    """Whether the person is where the campaign's trigger looks; None where it looks at no one place."""
    trigger = campaign.trigger
    place = {name: getattr(trigger, name, None) for name in ("store_id", "zone_id", "fence_id")}
    found = _THERE.get(holds_of(trigger))
    if found is None:
        return None
    query, names = found
    if any(place[name] is None for name in names):
        return None
    return _found_there(session, query, profile_id, {name: place[name] for name in names}, now)


def _lies_in(session: Session, shelves: Shelves, zone: ZoneRef, view: View) -> bool:
    category = catalog.category_of(session, view.product_id, None) or view.category
    return zone in shelves.zones_for(category)


def _place(row: Row) -> tuple[str | None, str | None, str | None]:
    return row["store_id"] or None, row["zone_id"] or None, row["fence_id"]


def _count(session: Session, query: str, profile_id: str, span: tuple[int, int], **more: Any) -> int:
    row = session.row(query, profile_id=profile_id, start=span[0], end=span[1], **more)
    return int(row[0]) if row else 0


def _has_code(session: Session, pool_id: str) -> bool:
    return session.row("any_code_left", pool_id=pool_id) is not None


# Right before a push leaves -------------------------------------------------------------------------------


MINUTE_MS = 60_000


class SendChecks:
    """Satisfies the sender's MaySend. Sees the last commit of the fold."""

    def __init__(self, state: Database) -> None:
        self._state = state
        self._leaving: dict[str, dict[str, int]] = {}
        """Of campaigns with a limit a minute: pushes that were let go, and when; not all are marked yet."""

    async def may_send(self, claimed: Claimed, now: int) -> str | int | None:
        """The reason to suppress, the instant (unix ms) to hold it until, or None to go."""
        objection, pace = await self._state.read(lambda session: _asked(session, claimed, now))
        if objection is None and pace is not None:
            return self._in_its_turn(claimed, pace, now)
        return _in_words(objection)

    def _in_its_turn(self, claimed: Claimed, pace: "_Pace", now: int) -> int | None:
        """When there is room in the campaign's minute; many ask at once, before any is marked as sending."""
        before = self._leaving.get(claimed.campaign_id, {})
        leaving = {push: at for push, at in before.items() if at > now - MINUTE_MS}
        left = {**leaving, **pace.left}
        left.pop(claimed.push_id, None)
        self._leaving[claimed.campaign_id] = leaving
        if len(left) >= pace.most:
            return sorted(left.values())[-pace.most] + MINUTE_MS
        leaving[claimed.push_id] = now
        return None


def objection_to(session: Session, claimed: Claimed, now: int) -> str | int | None:
    """The same within a transaction, and without the campaign's pace, which is not the person's."""
    return _in_words(_asked(session, claimed, now)[0])


def _in_words(objection: Stop | Hold | None) -> str | int | None:
    match objection:
        case Stop(reason):
            return reason
        case Hold(until):
            return until
        case None:
            return None


@dataclass(frozen=True, slots=True)
class _Pace:
    """How many pushes of a campaign may leave in a minute, and which have, each with its time."""

    most: int
    left: Mapping[str, int]


def _asked(session: Session, claimed: Claimed, now: int) -> tuple[Stop | Hold | None, _Pace | None]:
    chosen = campaign_rows.campaign(session, claimed.campaign_id)
    decision = session.row("decision", decision_id=claimed.decision_id)
    person = profiles.resolve(session, "profile_id", claimed.profile_id)
    if person is None:
        return Stop("erased"), None
    if chosen is None or decision is None:
        return Stop("campaign is no longer live"), None
    campaign = chosen.campaign
    objection = _objection(session, campaign, decision, person, claimed, now)
    most = campaign.guardrails.max_per_minute
    if objection is not None or most is None:
        return objection, None
    rows = session.rows("left_since", campaign_id=campaign.campaign_id, since=now - MINUTE_MS + 1, limit=most)
    return None, _Pace(most, {row["push_id"]: row["sending_at"] for row in rows})


def _objection(
    session: Session, campaign: Campaign, decision: Row, person: str, claimed: Claimed, now: int
) -> Stop | Hold | None:
    names = {"profile_id": person, "campaign_id": campaign.campaign_id}
    older = session.row("older_active_offer", **names, decision_id=claimed.decision_id)
    if older is not None and older[0]:
        return Stop("another offer of the campaign is on its way")
    others = [
        row
        for row in session.rows("offers_to_person", **names)
        if row["decision_id"] != claimed.decision_id and not row["active"]
    ]
    zone = zone_of_person(session, person, decision["store_id"])
    spans = day_bounds(now, zone), week_bounds(now, zone)
    today, this_week = (
        _count(session, "sent_between", person, span, decision_id=claimed.decision_id) for span in spans
    )
    purposes = campaign.guardrails.purposes
    facts = SendFacts(
        consents={purpose: profiles.consent_of(session, person, purpose) for purpose in purposes},
        owns_address=any(
            (address.kind, address.value) == (claimed.address_kind, claimed.address_value)
            for address in profiles.push_addresses_of(session, person)
        ),
        still_there=_is_there(session, person, decision, now),
        zone=zone,
        offered=[row["at"] for row in others],
        offered_here=[row["at"] for row in others if _place(row) == _place(decision)],
        held_out=arm_of(campaign, person) == "held_out",
        sent_today=today,
        sent_this_week=this_week,
        in_audience=in_audience(session, campaign, person, now),
        goal_reached_at=goal_reached_at(session, campaign, person, decision["entered_at"]),
        rivals=rivals_of(session, campaign.campaign_id, person, decision["due_at"]),
    )
    return recheck(campaign, facts, now)


def _is_there(session: Session, profile_id: str, decision: Row, now: int) -> bool:
    """Whether the person is still where the offer belongs."""
    holds = decision["holds"]
    if holds not in _THERE:
        return True
    query, names = _THERE[holds]
    return _found_there(session, query, profile_id, {name: decision[name] for name in names}, now)


def _found_there(
    session: Session, query: str, profile_id: str, place: Mapping[str, str | None], now: int
) -> bool:
    row = session.row(query, profile_id=profile_id, in_a_zone_since=now - AWAY_MS, **place)
    return bool(row and row[0])


_THERE: dict[str, tuple[str, Sequence[str]]] = {
    "zone": ("is_in_zone", ("store_id", "zone_id")),
    "store": ("is_in_store", ("store_id",)),
    "fence": ("is_in_fence", ("fence_id",)),
}
