"""An offer's Liquid templates filled in for one person."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from liquid import BoundTemplate, Environment
from liquid.exceptions import LiquidError

from backend.campaigns.model import MAX_BODY, MAX_TITLE, Offer


class OfferUnrenderable(ValueError):
    """The templates cannot be filled in for this person; the text says where."""


_LOOPS = 10_000  # a template of a marketer must not hold up everybody's fold


class _Bounded(Environment):
    loop_iteration_limit = _LOOPS
    output_stream_limit = 64 * 1024
    local_namespace_limit = 64 * 1024


_environment = _Bounded()


@lru_cache(maxsize=1024)
def _template(source: str) -> BoundTemplate:
    return _environment.from_string(source)


def render(offer: Offer, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body for one person; cut to what a phone shows. Raises OfferUnrenderable."""
    try:
        title = _template(offer.title).render(**facts).strip()
        body = _template(offer.body).render(**facts).strip()
    except (LiquidError, RecursionError, ValueError, TypeError) as error:
        raise OfferUnrenderable(str(error)) from error
    if not title or not body:
        raise OfferUnrenderable("the title or the body comes out empty")
    return title[:MAX_TITLE], body[:MAX_BODY]
