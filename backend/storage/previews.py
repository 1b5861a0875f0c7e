"""What an offer would say to a person now, read from the database; nothing is written."""

from dataclasses import dataclass

from backend.campaigns.allocation import variant_of
from backend.campaigns.model import Campaign
from backend.campaigns.offers import OfferUnrenderable, content_of
from backend.push.model import PushContent
from backend.storage.catalog import load_shelves
from backend.storage.offers import moment_now, offer_of, products_wherever, rendered_for, scene_of
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
    waiting, offer = moment_now(session, campaign, person, now), offer_of(campaign, person)
    products = products_wherever(session, offer, waiting, load_shelves(session), now)
    content, reason = None, None
    try:
        rendered = rendered_for(session, campaign, offer, waiting, scene_of(session, waiting, products))
        content = content_of(campaign, offer, rendered, now)
    except OfferUnrenderable as error:
        reason = str(error)
    return Preview(person, variant_of(campaign, person), content, reason, push_addresses_of(session, person))
