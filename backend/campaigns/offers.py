"""An offer's Liquid templates filled in for one person."""

from collections.abc import Mapping
from typing import Any

from backend.campaigns.model import MAX_BODY, MAX_TITLE, Offer
from backend.campaigns.templates import compiled


class OfferUnrenderable(ValueError):
    """The templates cannot be filled in for this person; the text says where."""


def render(offer: Offer, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body for one person; cut to what a phone shows. Raises OfferUnrenderable."""
    try:
        title = compiled(offer.title).render(**facts).strip()
        body = compiled(offer.body).render(**facts).strip()
    except Exception as error:
        # Whatever a marketer's program runs into (`1e999999 | round` overflows), the observations of the
        # batch that made the candidate must not be lost with it; the reason is stored with the decision.
        raise OfferUnrenderable(f"{error}" or type(error).__name__) from error
    if not title or not body:
        raise OfferUnrenderable("the title or the body comes out empty")
    return title[:MAX_TITLE], body[:MAX_BODY]
