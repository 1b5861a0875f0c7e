"""Batches of imported contacts, orders and products, as `footfall-backend import` sends them."""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from backend.api.auth import CALLER
from backend.api.errors import Problem
from backend.api.operations import operation
from backend.api.parameters import Identifier, Name
from backend.catalog.model import ProductId
from backend.import_desk import ImportDesk, ImportRefused, Run
from backend.imports.rows import MAX_ROWS, ContactRow, Imported, ImportId, OrderRow, ProductRow

IMPORTS = web.AppKey("imports", ImportDesk)


class Batch(Struct, kw_only=True, forbid_unknown_fields=True):
    """One run of an import, the same for all its batches; `file` is for the audit."""

    import_id: ImportId
    file: Name


class ContactBatch(Batch, kw_only=True, forbid_unknown_fields=True):
    """Contacts of one file, in its order."""

    rows: Annotated[list[ContactRow], Meta(max_length=MAX_ROWS)]


class OrderBatch(Batch, kw_only=True, forbid_unknown_fields=True):
    """Orders of one file, in its order; all lines of an order are in one row."""

    rows: Annotated[list[OrderRow], Meta(max_length=MAX_ROWS)]


class ProductBatch(Batch, kw_only=True, forbid_unknown_fields=True):
    """Products of a feed; `present` names those whose rows could not be read, so that they do not vanish."""

    rows: Annotated[list[ProductRow], Meta(max_length=MAX_ROWS)]
    present: Annotated[list[ProductId], Meta(max_length=MAX_ROWS)] = []
    feed: Identifier = "catalogue"


class FeedEnd(Batch, kw_only=True, forbid_unknown_fields=True):
    """A whole feed was sent: what it did not name is gone. `force` says that half of it may be."""

    feed: Identifier = "catalogue"
    force: bool = False


class Completed(Struct):
    """How many products are marked as unavailable."""

    vanished: int


@operation("marketer", body=ContactBatch, answer=Imported, errors=(409,))
async def post_contacts(request: web.Request, body: ContactBatch) -> Imported:
    """Imports contacts. What was imported before and has not changed changes nothing."""
    try:
        return await request.app[IMPORTS].contacts(body.rows, _run(request, body))
    except ImportRefused as error:
        raise Problem(409, "import", str(error)) from error


@operation("marketer", body=OrderBatch, answer=Imported, errors=(409,))
async def post_orders(request: web.Request, body: OrderBatch) -> Imported:
    """Imports orders and refunds, each with its own date. An order id imported before is not a new order."""
    try:
        return await request.app[IMPORTS].orders(body.rows, _run(request, body))
    except ImportRefused as error:
        raise Problem(409, "import", str(error)) from error


@operation("marketer", body=ProductBatch, answer=Imported)
async def post_products(request: web.Request, body: ProductBatch) -> Imported:
    """Imports products of a feed; an id that is there already is replaced."""
    return await request.app[IMPORTS].products(body.rows, body.present, body.feed, _run(request, body))


@operation("marketer", body=FeedEnd, answer=Completed, errors=(409,))
async def post_feed_end(request: web.Request, body: FeedEnd) -> Completed:
    """Marks what a whole feed no longer has as unavailable. Refused where more than half would be."""
    try:
        gone = await request.app[IMPORTS].complete(body.feed, _run(request, body), force=body.force)
    except ImportRefused as error:
        raise Problem(409, "import", str(error)) from error
    return Completed(gone)


def _run(request: web.Request, body: Batch) -> Run:
    return Run(request[CALLER].name, body.import_id, body.file)


ROUTES = [
    web.post("/api/import/contacts", post_contacts),
    web.post("/api/import/orders", post_orders),
    web.post("/api/import/catalogue", post_products),
    web.post("/api/import/catalogue/complete", post_feed_end),
]
