"""Whether an offer can be a message that FCM takes, as far as its text tells before anybody gets it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from liquid.exceptions import UnknownFilterError

from backend.campaigns.model import Campaign, CampaignInvalid, Offer
from backend.campaigns.offers import OfferUnrenderable, content_of, filled_in, may_open, may_show, render
from backend.campaigns.templates import names_in
from backend.push.message import MessageError, PayloadTooLarge, check_content
from backend.push.model import PushContent

_PRODUCT: Final = {
    "product_id": "4711",
    "name": "Shoe",
    "price": "49.90",
    "currency": "EUR",
    "category": "Shoes",
    "url": "https://shop.example/4711",
    "image_url": "https://shop.example/4711.jpg",
}
SAMPLE: Final[Mapping[str, Any]] = {
    "profile": {"name": "Anna", "first_name": "Anna"},
    "zone": {"id": "shoes", "name": "Shoes"},
    "store": {"store_id": "vienna", "name": "Vienna", "timezone": "Europe/Vienna"},
    "fence": {"id": "square"},
    "campaign": {"id": "campaign", "name": "Campaign"},
    "products": [_PRODUCT],
    "product": _PRODUCT,
    "code": "SAVE-10",
}
"""Somebody of few words: what is too long for them is too long for everybody."""
_COPIES: Final = {"title": 1, "body": 1, "deeplink": 2, "image": 3}
"""How often a message carries a field: each platform has its own place for it."""


def check_fits(campaign: Campaign) -> None:
    """Raises CampaignInvalid, naming the field, where an offer filled in for a sample person is no message.

    What only some people's facts make unusable is told when it is rendered for them.
    """
    for where, offer in campaign.offers_by_field.items():
        _check_texts(where, offer)
        try:
            content = content_of(campaign, offer, render(offer, SAMPLE), due_at=0)
            check_content(content)
        except OfferUnrenderable:
            continue
        except PayloadTooLarge as error:
            raise CampaignInvalid(f"{where}.{_heaviest(content)}: {error}") from error
        except MessageError as error:
            raise CampaignInvalid(f"{where}: {error}") from error


def _check_texts(where: str, offer: Offer) -> None:
    """What would be wrong for everybody. Raises CampaignInvalid."""
    for field in ("title", "body"):
        if not offer.templates[field].strip():
            raise CampaignInvalid(f"{where}.{field}: has nothing but blanks")
    for field, template in offer.templates.items():
        if offer.code_pool is None and "code" in names_in(template):
            raise CampaignInvalid(f"{where}.{field}: gives a code, but the offer has no `code_pool`")
    try:
        texts = filled_in(offer, SAMPLE)
    except OfferUnrenderable as error:
        if isinstance(error.__cause__, UnknownFilterError):
            raise CampaignInvalid(f"{where}: {error}") from error
        return
    if (image := texts.get("image")) and not may_show(image):
        raise CampaignInvalid(f"{where}.image: phones load images by https:// only, not {image[:80]}")
    if (link := texts.get("deeplink")) and not may_open(link):
        raise CampaignInvalid(f"{where}.deeplink: no app may be sent to {link[:80]}")


def _heaviest(content: PushContent) -> str:
    """The field that takes most of the message's bytes."""
    return max(_COPIES, key=lambda field: len((getattr(content, field) or "").encode()) * _COPIES[field])
