"""The catalogue's rows: products, their categories, the shelves, and what no shelf holds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import msgspec

from backend.catalog.categories import Category, CategoryKey, category_key, key_text, parse_category
from backend.catalog.mentions import mentions
from backend.catalog.model import Product, searched
from backend.catalog.shelves import CategoryMapping, Mappings, Shelves, ZoneRef
from backend.storage.database import Session

EVENTS_SEARCHED = 20_000  # for unmapped categories; about 50 ms of the reader, and days of a shop's traffic
CATEGORIES_FOUND = 1_000  # a stranger with a write key can invent any number
PRODUCTS_A_STEP = 25  # between two looks at the clock; about 1 ms
VANISHED_A_STEP = 200  # one transaction's; about 10 ms of the writer


class StoredProduct(Product, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A product as it lies in the catalogue. Times are unix milliseconds."""

    updated_at: int
    feed: str = ""
    gone_at: int | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what and when a product was written; `feed` is empty for one made by hand."""

    at: int
    feed: str = ""
    import_id: str = ""


@dataclass(frozen=True, slots=True)
class ProductFilter:
    """Which products are asked for; None leaves a field out."""

    search: str | None = None
    category: str | None = None
    parent_id: str | None = None
    after: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """A category of the catalogue, and how many products of its own it has on offer."""

    key: CategoryKey
    path: str
    products: int


@dataclass(frozen=True, slots=True)
class SeenCategory:
    """A category that recent events named, how often, and when last."""

    key: CategoryKey
    path: str
    events: int
    last_at: int


# Products -----------------------------------------------------------------------------------------------


def put_products(
    session: Session, products: Sequence[Product], stamp: Stamp, time_is_up: Callable[[], bool]
) -> int:
    """Writes products from the first on until the time is up, at least a few; how many."""
    for start in range(0, len(products), PRODUCTS_A_STEP):
        step = products[start : start + PRODUCTS_A_STEP]
        _put_step(session, step, stamp)
        if time_is_up():
            return start + len(step)
    return len(products)


def put_product(session: Session, product: Product, stamp: Stamp) -> None:
    """Writes one product, with its categories."""
    _put_step(session, [product], stamp)


def _put_step(session: Session, products: Sequence[Product], stamp: Stamp) -> None:
    found = (parse_category(product.category) for product in products)
    _put_categories(session, {above.key: above for own in found if own for above in own.ancestors()})
    session.many("put_product", [_values(product, stamp) for product in products])


def _put_categories(session: Session, wanted: Mapping[CategoryKey, Category]) -> None:
    """These categories, which come with all that lies above them, exist afterwards."""
    ordered = sorted(wanted.items())  # always the same order, or two writers would wait for each other
    session.many(
        "put_category",
        [{"category_key": key_text(key), "path": own.path, "depth": len(key)} for key, own in ordered],
    )
    session.many(
        "put_category_ancestor",
        [
            {"ancestor_key": key_text(key[:depth]), "category_key": key_text(key)}
            for key, _ in ordered
            for depth in range(1, len(key) + 1)
        ],
    )


def _values(product: Product, stamp: Stamp) -> dict[str, Any]:
    return {
        **{name: getattr(product, name) for name in Product.__struct_fields__},
        "category_key": key_text(category_key(product.category)),
        "search_text": searched(product),
        "feed": stamp.feed,
        "import_id": stamp.import_id,
        "updated_at": stamp.at,
    }


def product(session: Session, product_id: str) -> StoredProduct | None:
    """One product."""
    row = session.row("product", product_id=product_id)
    return None if row is None else _stored(row)


def products(session: Session, wanted: ProductFilter) -> list[StoredProduct]:
    """Products in the order of their ids."""
    rows = session.rows(
        "products",
        after=wanted.after,
        limit=wanted.limit,
        parent_id=wanted.parent_id,
        pattern=_pattern(wanted.search),
        category_key=None if wanted.category is None else key_text(category_key(wanted.category)),
    )
    return [_stored(row) for row in rows]


def products_on_shelf(
    session: Session, shelves: Shelves, zone: ZoneRef, after: str, limit: int
) -> list[StoredProduct]:
    """The products that a zone's shelf holds, in the order of their ids."""
    held = [row.key for row in categories(session) if zone in shelves.zones_for_key(row.key)]
    found = (
        row
        for key in held
        for row in session.rows("products_of_category", category_key=key_text(key), after=after, limit=limit)
    )
    return [_stored(row) for row in nsmallest(limit, found, key=lambda row: row["product_id"])]


def delete_product(session: Session, product_id: str) -> bool:
    """Forgets a product; False if there is none."""
    return session.run("delete_product", product_id=product_id) > 0


def _stored(row: Any) -> StoredProduct:
    return msgspec.convert(dict(row), StoredProduct)


def _pattern(search: str | None) -> str | None:
    if search is None:
        return None
    escaped = search.casefold().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"


# Whole imports ------------------------------------------------------------------------------------------


def touch_products(session: Session, product_ids: Iterable[str], stamp: Stamp) -> None:
    """These are in the feed, though their rows could not be read."""
    same = {"feed": stamp.feed, "import_id": stamp.import_id}
    session.many("touch_product", [{"product_id": product_id, **same} for product_id in product_ids])


def vanished(session: Session, stamp: Stamp) -> tuple[int, int]:
    """How many products of the feed can be had, and how many of them its import did not name."""
    row = session.row("count_feed", feed=stamp.feed, import_id=stamp.import_id)
    return (int(row["products"]), int(row["vanished"])) if row else (0, 0)


def mark_vanished(session: Session, stamp: Stamp, after: str) -> tuple[int, str]:
    """Marks the next products that the import did not name; how many, and the last one's id."""
    rows = session.rows(
        "products_not_in_import",
        feed=stamp.feed,
        import_id=stamp.import_id,
        after=after,
        limit=VANISHED_A_STEP,
    )
    session.many("product_vanished", [{"product_id": row["product_id"], "at": stamp.at} for row in rows])
    return len(rows), rows[-1]["product_id"] if rows else after


# Categories and shelves ---------------------------------------------------------------------------------


def categories(session: Session) -> list[CategoryRow]:
    """The tree, each category behind what it lies in."""
    found = (
        CategoryRow(tuple(row["category_key"].split("/")), row["path"], row["products"])
        for row in session.rows("categories")
    )
    return sorted(found, key=lambda row: row.key)


def mappings(session: Session) -> list[CategoryMapping]:
    """What the web calls the floor's categories, as marketers wrote it."""
    return [
        CategoryMapping(row["web_category"], row["store_category"])
        for row in session.rows("category_mappings")
    ]


def put_mappings(session: Session, rules: Iterable[CategoryMapping]) -> None:
    """Replaces the whole list."""
    session.run("clear_category_mappings")
    rows = [
        {**msgspec.structs.asdict(rule), "web_key": key_text(category_key(rule.web_category))}
        for rule in rules
    ]
    session.many("put_category_mapping", rows)


def load_shelves(session: Session) -> Shelves:
    """Every zone's shelf, to be kept while nobody changes a zone or a mapping."""
    zones = {
        ZoneRef(row["store_id"], row["zone_id"]): json.loads(row["categories"])
        for row in session.rows("zones")
    }
    return Shelves.of(zones, Mappings.of(mappings(session)))


def category_of(session: Session, product_id: str | None, sku: str | None) -> str | None:
    """The category of a product that an event names by its id, its sku or the id of its group."""
    if product_id is None and sku is None:
        return None
    row = session.row("product_category", product_id=product_id or "", sku=sku or product_id)
    return None if row is None else row["category"]


def zones_of_event(session: Session, shelves: Shelves, properties: Mapping[str, Any]) -> frozenset[ZoneRef]:
    """Every zone whose shelf holds what the event is about; the catalogue counts before the event's word."""
    zones: set[ZoneRef] = set()
    for mention in mentions(properties):
        category = category_of(session, mention.product_id, mention.sku) or mention.category
        zones.update(shelves.zones_for(category))
    return frozenset(zones)


def seen_categories(session: Session) -> list[SeenCategory]:
    """The categories that the newest events named, the most frequent first."""
    found: dict[CategoryKey, SeenCategory] = {}
    for row in session.rows("newest_event_properties", limit=EVENTS_SEARCHED):
        for mention in mentions(msgspec.json.decode(row["properties"])):
            _see(found, mention.category, row["occurred_at"])
    return sorted(found.values(), key=lambda seen: (-seen.events, seen.key))[:CATEGORIES_FOUND]


def _see(found: dict[CategoryKey, SeenCategory], text: str | None, at: int) -> None:
    category = parse_category(text)
    if category is None:
        return
    known = found.get(category.key)
    events, last_at = (known.events + 1, max(known.last_at, at)) if known else (1, at)
    found[category.key] = SeenCategory(category.key, category.path, events, last_at)
