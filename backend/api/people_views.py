"""What is answered about people: the shapes, and how they are made of what the storage knows."""

from typing import Any

from msgspec import Struct


class DeviceView(Struct):
    """A device that the person holds; `last_seen_at` in unix milliseconds."""

    device_id: str
    platform: str | None
    last_seen_at: int


class PushAddressView(Struct):
    """That pushes reach the person, and where; not the address itself. Unix milliseconds."""

    kind: str
    platform: str | None
    last_seen_at: int


class IdentityView(Struct):
    """An identifier that leads to the person, since when (unix milliseconds), and why."""

    type: str
    id: str
    since: int
    cause: str


class MergedView(Struct):
    """A profile that turned out to be the same person, and when (unix milliseconds)."""

    profile_id: str
    since: int | None


class MembershipView(Struct):
    """An audience that the person is in, since when (unix milliseconds)."""

    segment_id: str
    since: int


class ProductView(Struct):
    """A product as a page or an app last described it; `price` in hundredths, `at` unix milliseconds."""

    product_id: str
    at: int
    category: str | None
    name: str | None
    brand: str | None
    price: int | None
    currency: str | None
    url: str | None
    image_url: str | None


class ProductScore(Struct):
    """How often a product was looked at; in `score` a view of 14 days ago counts half."""

    product: ProductView
    views: int
    score: float


class CategoryScore(Struct):
    """The same of a category as the pages name it."""

    category: str
    views: int
    score: float
    last_at: int


class StoreVisitView(Struct):
    """A visit to a store, unix milliseconds; `left_at` is null while it lasts."""

    store_id: str
    entered_at: int
    left_at: int | None


class ZoneDwell(Struct):
    """How long the person was in a zone, all stays together."""

    store_id: str
    zone_id: str
    visits: int
    dwell_ms: int
    last_at: int


class CategoryDwellView(Struct):
    """How long the person was in zones of a product category."""

    category: str
    dwell_ms: int
    last_at: int


class BehaviourView(Struct):
    """What the person does; each list holds the 50 strongest or newest.

    `last_seen` is by channel (`web`, `app`, `server`, `floor`), unix milliseconds.
    """

    last_seen: dict[str, int]
    recent: list[ProductView]
    products: list[ProductScore]
    categories: list[CategoryScore]
    store_visits: list[StoreVisitView]
    zones: list[ZoneDwell]
    zone_categories: list[CategoryDwellView]


class SpentView(Struct):
    """What completed orders in one currency come to, in hundredths."""

    currency: str | None
    orders: int
    total: int
    refunded: int
    average: int


class PurchasesView(Struct):
    """Completed orders in a few figures; `unreadable` values in their events are counted nowhere else."""

    orders: int
    first_at: int | None
    last_at: int | None
    spent: list[SpentView]
    unreadable: int


class ProfileView(Struct):
    """Everything known of one person, in brief."""

    profile_id: str
    identified: bool
    traits: dict[str, Any]
    consents: dict[str, bool]
    devices: list[DeviceView]
    push_addresses: list[PushAddressView]
    identities: list[IdentityView]
    merged: list[MergedView]
    segments: list[MembershipView]
    behaviour: BehaviourView
    purchases: PurchasesView


class IdentityPeriod(Struct):
    """An identifier and the profile it led to, from when until when (unix milliseconds), and why.

    Those of the type `profile` are merges.
    """

    type: str
    id: str
    profile_id: str
    since: int
    until: int | None
    cause: str


class IdentityList(Struct):
    """Every identifier that the person has or had, the oldest first; 5,000 at most."""

    profile_id: str
    identities: list[IdentityPeriod]


class ConsentView(Struct):
    """A change of consent: who said it, when (unix milliseconds), through which source, with proof or not."""

    purpose: str
    granted: bool
    at: int
    said_by: str
    proven: bool
    source: str | None
    channel: str
    event_id: int | None


class PurposeView(Struct):
    """Whether the person agrees to a purpose, and what was last said of it on each channel."""

    purpose: str
    granted: bool
    channels: list[ConsentView]


class ConsentList(Struct):
    """What the person agrees to now, and every change that led there, the newest first."""

    profile_id: str
    purposes: list[PurposeView]
    history: list[ConsentView]


class OrderView(Struct):
    """An order as it stands; amounts in hundredths, times in unix milliseconds."""

    order_id: str
    status: str
    completed_at: int | None
    total: int | None
    currency: str | None
    refunded: int


class LineView(Struct):
    """A product that was bought; `price` of one, in hundredths."""

    order_id: str
    product_id: str
    category: str | None
    quantity: float
    price: int | None
    at: int


class OrderList(Struct):
    """The newest 1,000 orders, and the products of those that were completed."""

    profile_id: str
    purchases: PurchasesView
    orders: list[OrderView]
    products: list[LineView]


class TimelineItem(Struct):
    """Something that happened. `id` says where it stands: `before` and `after` take it.

    `at` and `until` are unix milliseconds; `until` is null for a moment, and for what still lasts.
    """

    id: str
    at: int
    until: int | None
    kind: str
    channel: str
    title: str
    details: dict[str, Any]


class Timeline(Struct):
    """One page, the newest first. `older` and `newer` are what to ask for next; null: nothing was there."""

    profile_id: str
    items: list[TimelineItem]
    older: str | None
    newer: str | None


class PersonFound(Struct):
    """A person, by which identifier or trait they were found, and what they are called."""

    profile_id: str
    by: str
    value: str
    identified: bool
    name: str | None
    email: str | None


class PeopleFound(Struct):
    """One page of people; `next` is what `after` takes for the next one."""

    people: list[PersonFound]
    next: str | None
