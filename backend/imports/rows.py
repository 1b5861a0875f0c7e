"""What an import sends: contacts, orders and products, typed; the same types check on both ends."""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from backend.catalog.model import MAX_HUNDREDTHS, Currency, Label, Product, ProductId
from sdk_bridge.wire.identifiers import usable

AHEAD_MS = 24 * 3_600_000  # a date later than that is misread, not told by a clock that runs ahead
MAX_ROWS = 500  # of one request: some 200 ms of the fold, and live events wait no longer than that
MAX_LINES = 200  # of one order
MAX_TRAITS = 100
MAX_PURPOSES = 32  # a consent form has a handful

Identity: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}$(?!\n)")]
Email: TypeAlias = Annotated[
    str, Meta(pattern=r"^[^@\s\x00-\x1f\x7fA-Z]{1,100}@[^@\s\x00-\x1f\x7fA-Z]{1,200}$(?!\n)")
]
"""In lower case: the spelling by which everybody compares them."""
Phone: TypeAlias = Annotated[str, Meta(pattern=r"^\+[1-9][0-9]{5,14}$(?!\n)")]
"""As E.164."""
OrderId: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}$(?!\n)")]
TraitName: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,100}$(?!\n)")]
TraitText: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00]{0,2000}$(?!\n)")]
TraitNumber: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Purpose: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$(?!\n)")]
Moment: TypeAlias = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
LineNumber: TypeAlias = Annotated[int, Meta(ge=1, le=10**12)]
Amount: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_HUNDREDTHS)]
Quantity: TypeAlias = Annotated[float, Meta(gt=0, le=1e6)]
ImportId: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]


class Identified(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whose row it is: by the shop's own number of the customer, a card, an address or a telephone.

    `line` is where it stands in its file.
    """

    line: LineNumber
    user_id: Identity | None = None
    loyalty_id: Identity | None = None
    email: Email | None = None
    phone: Phone | None = None

    def __post_init__(self) -> None:
        for value in (self.user_id, self.loyalty_id):
            if value is not None and usable(value) is None:
                raise ValueError(f"{value[:40]!r} cannot stand for one person")
        if not (self.user_id or self.loyalty_id or self.email or self.phone):
            raise ValueError("nobody: neither user_id, loyalty_id, email nor phone is given")


class ContactRow(Identified, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A customer, as the shop's own system knew them at `as_of`. Times are unix milliseconds.

    A refusal counts from `as_of`; what was agreed to counts from `consent_at`, where that is known, so that
    an older yes never undoes what the person said since.
    """

    as_of: Moment
    traits: Annotated[
        dict[TraitName, TraitText | TraitNumber | float | bool], Meta(max_length=MAX_TRAITS)
    ] = {}
    consent: Annotated[dict[Purpose, bool], Meta(max_length=MAX_PURPOSES)] = {}
    consent_at: Moment | None = None


class OrderLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of an order; `price` is that of one piece, in hundredths."""

    product_id: ProductId | None = None
    sku: Label | None = None
    name: Label | None = None
    brand: Label | None = None
    category: Label | None = None
    price: Amount | None = None
    quantity: Quantity = 1.0


class OrderRow(Identified, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An order, or the refund of one. `total` is in hundredths, never negative; times are unix ms.

    `refund_id` says which refund of the order: what is said of it later counts. Without it, the same amount
    on the same day is the same refund. `cancelled`: the order was called off, at `cancelled_at` where that is
    known, else by `as_of`.
    """

    order_id: OrderId
    ordered_at: Moment
    total: Amount
    as_of: Moment
    refund: bool = False
    refund_id: OrderId | None = None
    cancelled: bool = False
    cancelled_at: Moment | None = None
    currency: Currency | None = None
    coupon: Label | None = None
    products: Annotated[list[OrderLine], Meta(max_length=MAX_LINES)] = []

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cancelled_at is not None and not self.cancelled:
            raise ValueError("cancelled_at: the order is not cancelled")
        if self.cancelled and self.refund:
            raise ValueError("cancelled: a refund cannot be called off")


class ProductRow(Product, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A product, and where it stands in its file."""

    line: LineNumber


class RowError(Struct, frozen=True):
    """A row that was not imported, and why."""

    line: int
    reason: str


class Imported(Struct, frozen=True):
    """What became of a batch: rows that changed something, those known already, and those refused."""

    new: int
    known: int
    errors: list[RowError] = []
