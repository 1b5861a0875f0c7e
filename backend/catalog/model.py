"""A product, as the catalogue keeps it and as callers may give it."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from backend.catalog.categories import MAX_CHARS

Availability: TypeAlias = Literal["in_stock", "out_of_stock", "preorder", "backorder", "unavailable"]
"""Google's four, and `unavailable`: gone from the shop's feed."""

# No control characters: PostgreSQL refuses NUL, and a line break in an id is a broken file.
ProductId: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,100}$(?!\n)")]
Label: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00\x7f]{1,512}$(?!\n)")]
Address: TypeAlias = Annotated[str, Meta(pattern=r"^https?://[^\x00-\x20\x7f\"<>\\]{1,2000}$(?!\n)")]
Currency: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
CategoryText: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=MAX_CHARS, pattern=r"^[^\x00]+$(?!\n)")
]

MAX_HUNDREDTHS = 10**12
"""Ten thousand million of any currency; more is a telephone number in the wrong column."""
Hundredths: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_HUNDREDTHS)]


class ProductBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A product without its id. Prices are whole hundredths of the currency's unit.

    `price` is the regular one, `sale_price` what it costs now where that is less. `category` is the shop's
    own path, "Shoes > Running". `parent_id` groups the variants of one thing (Google's item_group_id).
    """

    name: Label
    sku: Label | None = None
    brand: Label | None = None
    price: Hundredths | None = None
    sale_price: Hundredths | None = None
    currency: Currency | None = None
    category: CategoryText | None = None
    url: Address | None = None
    image_url: Address | None = None
    availability: Availability = "in_stock"
    parent_id: ProductId | None = None

    def __post_init__(self) -> None:
        if self.currency is None and (self.price is not None or self.sale_price is not None):
            raise ValueError("a price needs its currency")


class Product(ProductBody, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A product of the catalogue."""

    product_id: ProductId


def searched(product: Product) -> str:
    """What a search looks through, folded: name, brand, sku and id."""
    parts = (product.name, product.brand, product.sku, product.product_id)
    return " ".join(part for part in parts if part).casefold()
