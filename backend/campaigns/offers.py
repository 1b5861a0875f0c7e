"""An offer's Liquid templates filled in for one person."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.campaigns.model import MAX_BODY, MAX_LINK, MAX_TITLE, Campaign, Offer
from backend.campaigns.templates import compiled
from backend.push.model import PushContent

_UNSEEN = re.compile(r"[\x00-\x20]+")  # what browsers skip within a scheme
_ACTING = re.compile(r"(javascript|vbscript|data|file|blob|content|about):", re.IGNORECASE)


class OfferUnrenderable(ValueError):
    """The templates cannot be filled in for this person; the text says where."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An offer's texts for one person."""

    title: str
    body: str
    image: str | None = None
    deeplink: str | None = None


def render(offer: Offer, facts: Mapping[str, Any]) -> Rendered:
    """The texts for one person; cut to what a phone shows, without links that no phone may follow.

    Raises OfferUnrenderable.
    """
    texts = filled_in(offer, facts)
    if not texts["title"] or not texts["body"]:
        raise OfferUnrenderable("the title or the body comes out empty")
    image, link = (texts.get(name, "") for name in ("image", "deeplink"))
    return Rendered(
        _cut(texts["title"], MAX_TITLE, facts),
        _cut(texts["body"], MAX_BODY, facts),
        image if may_show(image) else None,
        link if may_open(link) else None,
    )


def _cut(text: str, length: int, facts: Mapping[str, Any]) -> str:
    """What a phone shows of it. Raises OfferUnrenderable where that lacks the code that the text gives."""
    code = facts.get("code")
    if code and code in text and code not in text[:length]:
        raise OfferUnrenderable(f"the code comes behind the {length:,} characters that a phone shows")
    return text[:length]


def filled_in(offer: Offer, facts: Mapping[str, Any]) -> dict[str, str]:
    """Each template's text. Raises OfferUnrenderable."""
    try:
        return {name: compiled(text).render(**facts).strip() for name, text in offer.templates.items()}
    except Exception as error:
        # Whatever a marketer's program runs into (`1e999999 | round` overflows), the observations of the
        # batch that made the candidate must not be lost with it; the reason is stored with the decision.
        raise OfferUnrenderable(f"{error}" or type(error).__name__) from error


def may_show(image: str) -> bool:
    """Whether phones load an image from there; they refuse all but HTTPS. Half an address is none."""
    return image.lower().startswith("https://") and len(image) <= MAX_LINK


def may_open(link: str) -> bool:
    """Whether an app may be sent there: not where text is run, nor to the phone's own files.

    A product's link is what some browser said it was. Half a link is none.
    """
    return 0 < len(link) <= MAX_LINK and _ACTING.match(_UNSEEN.sub("", link)) is None


def content_of(campaign: Campaign, offer: Offer, rendered: Rendered, due_at: int) -> PushContent:
    """What the phone gets; the offer's life counts from `due_at`, unix milliseconds."""
    return PushContent(
        title=rendered.title,
        body=rendered.body,
        image=rendered.image,
        deeplink=rendered.deeplink,
        campaign_id=campaign.campaign_id,
        expires_at=due_at + offer.life_s * 1000,
        resend_allowed=campaign.guardrails.resend_when_unknown,
    )
