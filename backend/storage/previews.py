"""What an offer would say to a person now, read from the database; nothing is written."""

from dataclasses import dataclass

from backend.campaigns.allocation import variant_of
from backend.campaigns.model import Campaign
from backend.campaigns.offers import OfferUnrenderable, content_of
from backend.push.model import PushContent
from backend.storage.campaigns import Waiting, moment_now
from backend.storage.catalog import load_shelves
from backend.storage.offers import Scene, offer_of, products_wherever, rendered_for
from backend.storage.profiles import ReachableAddress, push_addresses_of
from backend.storage.session import Session


@dataclass(frozen=True, slots=True)
class Preview:
    """The message, or the reason why there is none, and where it would go."""

    profile_id: str
    variant: str
    content: PushContent | None
    reason: str | None
    addresses: list[ReachableAddress]


def preview(session: Session, campaign: Campaign, person: str, now: int) -> Preview:
    """The offer of the person's variant, as if the campaign's trigger happened now, where it looks."""
    waiting, offer = moment_now(campaign, person, now), offer_of(campaign, person)
    content, reason = None, None
    try:
        rendered = rendered_for(session, campaign, offer, waiting, _scene(session, campaign, waiting, now))
        content = content_of(campaign, offer, rendered, now)
    except OfferUnrenderable as error:
        reason = str(error)
    return Preview(person, variant_of(campaign, person), content, reason, push_addresses_of(session, person))


def _scene(session: Session, campaign: Campaign, waiting: Waiting, now: int) -> Scene:
    place = {"store_id": waiting.store_id, "zone_id": waiting.zone_id}
    zone = session.row("zone", **place)
    store = session.row("store", store_id=waiting.store_id)
    products = products_wherever(
        session, offer_of(campaign, waiting.profile_id), waiting, load_shelves(session), now
    )
    return Scene(zone["name"] if zone else waiting.zone_id or "", dict(store) if store else {}, products)
