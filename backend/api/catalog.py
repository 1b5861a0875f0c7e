"""Marketers' catalogue: products, categories with the zones that hold them, and what no zone holds."""

import asyncio
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct, structs

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, identifier, text
from backend.catalog.categories import CategoryKey, category_key
from backend.catalog.model import Product, ProductBody
from backend.catalog.shelves import CategoryMapping, Shelves, ZoneRef
from backend.storage import catalog as rows
from backend.storage.catalog import ProductFilter, SeenCategory, Stamp, StoredProduct
from backend.storage.session import Session

PRODUCT = text(
    "product",
    "The product's id, as the shop's feed has it.",
    pattern=r"[^\x00-\x1f\x7f]{1,100}",
    must="1 to 100 characters, none of them a control character",
)
SEARCH = text("search", "Part of the name, brand, sku or id, in any case.", default=None)
CATEGORY = text("category", "A category, with all that lies below it.", default=None)
PARENT = text("parent", "What the variants of one thing share.", default=None)
AFTER = text("after", "The last id of the page before.", default=None)
OF_STORE = identifier("store", "With `zone`: only what this zone's shelf holds.", default=None)
OF_ZONE = identifier("zone", "The zone, with its `store`.", default=None)


class ProductList(Struct):
    """Products in the order of their ids."""

    products: list[StoredProduct]


class Deleted(Struct):
    """What is no more."""

    deleted: str


class Place(Struct):
    """A zone of a store."""

    store_id: str
    zone_id: str


class CategoryView(Struct):
    """A category of the catalogue: how many products of its own are on offer, and the zones that hold it."""

    category: str
    products: int
    zones: list[Place]


class Unmapped(Struct):
    """A web category that no zone holds and no mapping speaks of.

    `products` are the catalogue's, `events` those among the newest that named it, `last_at` the latest of
    them in unix milliseconds.
    """

    category: str
    products: int
    events: int
    last_at: int | None


class CategoryList(Struct):
    """The tree, what the web calls the floor's categories, and what still has to be mapped."""

    categories: list[CategoryView]
    mappings: list[CategoryMapping]
    unmapped: list[Unmapped]


class MappingList(Struct, forbid_unknown_fields=True):
    """Every mapping; it replaces the list before."""

    mappings: Annotated[list[CategoryMapping], Meta(max_length=5_000)]

    def __post_init__(self) -> None:
        for rule in self.mappings:
            if not category_key(rule.web_category):
                raise ValueError(f"{rule.web_category[:80]!r} names no category")


@operation(
    "viewer",
    takes=(SEARCH, CATEGORY, PARENT, OF_STORE, OF_ZONE, AFTER, LIMIT),
    answer=ProductList,
    errors=(404,),
)
async def get_products(request: web.Request) -> ProductList:
    """Lists products, or searches them, or shows what a zone's shelf holds."""
    after, limit = AFTER.of(request) or "", LIMIT.of(request)
    store_id, zone_id = OF_STORE.of(request), OF_ZONE.of(request)
    wanted = ProductFilter(SEARCH.of(request), CATEGORY.of(request), PARENT.of(request), after, limit)
    if store_id is None and zone_id is None:
        return ProductList(await request.app[STATE].read(lambda s: rows.products(s, wanted)))
    if store_id is None or zone_id is None:
        raise Problem(400, "zone", "store and zone belong together: give both, or neither")
    if wanted != ProductFilter(after=after, limit=limit):
        raise Problem(400, "zone", "a zone's shelf is shown whole: without search, category or parent")
    zone = ZoneRef(store_id, zone_id)
    return ProductList(await request.app[STATE].read(lambda s: _on_shelf(s, zone, after, limit)))


def _on_shelf(session: Session, zone: ZoneRef, after: str, limit: int) -> list[StoredProduct]:
    return rows.products_on_shelf(session, rows.load_shelves(session), zone, after, limit)


@operation("viewer", takes=(PRODUCT,), answer=StoredProduct, errors=(404,))
async def get_product(request: web.Request) -> StoredProduct:
    """Shows one product."""
    product_id = PRODUCT.of(request)
    found = await request.app[STATE].read(lambda session: rows.product(session, product_id))
    if found is None:
        raise Problem(404, "product", f"there is no product {product_id}")
    return found


@operation("marketer", takes=(PRODUCT,), body=ProductBody, answer=Product)
async def put_product(request: web.Request, body: ProductBody) -> Product:
    """Saves a product by hand. A feed that names the same id later replaces it."""
    product = Product(product_id=PRODUCT.of(request), **structs.asdict(body))
    stamp = Stamp(request.app[HOST].now_ms())
    await change(request, "product saved", product.product_id, lambda s: rows.put_product(s, product, stamp))
    return product


@operation("marketer", takes=(PRODUCT,), answer=Deleted, errors=(404,))
async def delete_product(request: web.Request) -> Deleted:
    """Deletes a product. A feed that still has it brings it back."""
    product_id = PRODUCT.of(request)

    def delete(session: Session) -> None:
        if not rows.delete_product(session, product_id):
            raise Problem(404, "product", f"there is no product {product_id}")

    await change(request, "product deleted", product_id, delete)
    return Deleted(product_id)


@operation("viewer", answer=CategoryList)
async def get_categories(request: web.Request) -> CategoryList:
    """Lists the categories, the zones that hold each, and those of the web that nobody has mapped."""
    return await asyncio.to_thread(request.app[STATE].view, _categories)


def _categories(session: Session) -> CategoryList:
    shelves = rows.load_shelves(session)
    tree = rows.categories(session)
    listed = [CategoryView(row.path, row.products, _places(shelves, row.key)) for row in tree]
    return CategoryList(listed, rows.mappings(session), _unmapped(session, shelves, tree))


def _places(shelves: Shelves, key: CategoryKey) -> list[Place]:
    return [Place(*zone) for zone in shelves.zones_for_key(key)]


def _unmapped(session: Session, shelves: Shelves, tree: list[rows.CategoryRow]) -> list[Unmapped]:
    """Those that people look at most first."""
    seen: dict[CategoryKey, SeenCategory] = {each.key: each for each in rows.seen_categories(session)}
    own = {row.key: row for row in tree if row.products}
    found = [
        Unmapped(
            category=own[key].path if key in own else seen[key].path,
            products=own[key].products if key in own else 0,
            events=seen[key].events if key in seen else 0,
            last_at=seen[key].last_at if key in seen else None,
        )
        for key in sorted(own.keys() | seen.keys())
        if not shelves.knows(key)
    ]
    return sorted(found, key=lambda each: (-each.events, -each.products))


@operation("marketer", body=MappingList, answer=MappingList)
async def put_mappings(request: web.Request, body: MappingList) -> MappingList:
    """Says which web category is which of the floor's; replaces the whole list.

    The most specific mapping counts, and `*` stands for any one name. What no mapping speaks of keeps its
    name: a zone with the category "Shoes" holds the web's "Shoes > Running" without one.
    """
    await change(
        request,
        "category mappings saved",
        "catalogue",
        lambda session: rows.put_mappings(session, body.mappings),
        {"mappings": len(body.mappings)},
    )
    return MappingList(await request.app[STATE].read(rows.mappings))


ROUTES = [
    web.get("/api/products", get_products),
    web.get("/api/products/{product}", get_product),
    web.put("/api/products/{product}", put_product),
    web.delete("/api/products/{product}", delete_product),
    web.get("/api/categories", get_categories),
    web.put("/api/categories/mappings", put_mappings),
]
