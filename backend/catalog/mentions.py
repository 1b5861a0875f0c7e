"""What an event says of products and categories, by the names of Segment's e-commerce spec."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_PRODUCTS = 100  # of one event; an order of more lines is a wholesaler's, and says no more of a taste
MAX_CHARS = 750


@dataclass(frozen=True, slots=True)
class Mention:
    """A product, a category, or both; what is not told is None."""

    product_id: str | None
    sku: str | None
    category: str | None


def mentions(properties: Mapping[str, Any]) -> list[Mention]:
    """Every product and category in the properties of an event: of a page its category, of a product view
    the product, of a cart or an order each line. At most 100 lines count.
    """
    return [found for part in _parts(properties) if (found := _mention(part)) is not None]


def _parts(properties: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield properties
    lines = properties.get("products")
    if isinstance(lines, list):
        yield from (line for line in lines[:MAX_PRODUCTS] if isinstance(line, dict))


def _mention(part: Mapping[str, Any]) -> Mention | None:
    found = Mention(
        _text(part.get("product_id") or part.get("productId")),
        _text(part.get("sku")),
        _text(part.get("category")),
    )
    return None if found == Mention(None, None, None) else found


def _text(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**18 else ""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CHARS:
        return None
    return value.strip() or None
