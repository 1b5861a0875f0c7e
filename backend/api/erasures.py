"""Erasing a person, and the receipts of it."""

from aiohttp import web
from msgspec import Struct

from backend.api.auth import CALLER, STATE
from backend.api.errors import Problem
from backend.api.operations import operation, reply
from backend.api.parameters import LIMIT, text
from backend.api.people import WHO
from backend.eraser import Eraser, FoldBehind
from backend.storage import erasure
from backend.storage.erasure import ErasureReceipt
from backend.storage.session import Session

ERASER = web.AppKey("eraser", Eraser)
_RECEIPT = r"[0-9a-f-]{36}"
RECEIPT = text("receipt", "The receipt's id.", pattern=_RECEIPT, must="a receipt's id")
BEFORE = text(
    "before", "Only receipts older than this one.", pattern=_RECEIPT, must="a receipt's id", default=None
)


class ReceiptView(Struct):
    """What was erased, without anything personal.

    The person was unknown from `erased_at` on; `finished_at` is null while rows, files and bytes are still
    being worked through. Unix milliseconds. `rows` counts by table; pushes and decisions stay, without
    whom they were for. `identifiers` are keyed hashes: whoever has the key and an identifier can tell that
    it was erased.
    """

    receipt_id: str
    erased_at: int
    finished_at: int | None
    rows: dict[str, int]
    identifiers: list[str]


class ReceiptList(Struct):
    """Receipts, the newest first."""

    receipts: list[ReceiptView]


@operation("operator", takes=(WHO,), answer=ReceiptView, status=202, errors=(404, 503))
async def delete_profile(request: web.Request) -> web.Response:
    """Erases a person: everything about them, in every place, under whichever of their identifiers.

    They are unknown when this answers; the rest is done within a minute, also if the backend is restarted in
    between. What happened before is refused from then on, however late it comes; the same person may
    register anew. Events of others that mention them are kept without their name.
    """
    id_type, _, identifier = WHO.of(request).partition(":")
    try:
        begun = await request.app[ERASER].erase(id_type, identifier, request[CALLER].name)
    except FoldBehind as error:
        raise Problem(503, "behind", str(error)) from error
    if begun is None:
        raise Problem(404, "profile", "nobody is known by this")
    return reply(await request.app[STATE].read(lambda s: _view(s, begun)), 202)


@operation("operator", takes=(RECEIPT,), answer=ReceiptView, errors=(404,))
async def get_erasure(request: web.Request) -> ReceiptView:
    """The receipt of an erasure, and whether all of it is done."""
    receipt_id = RECEIPT.of(request)

    def read(session: Session) -> ReceiptView:
        found = erasure.erasure_receipt(session, receipt_id)
        if found is None:
            raise Problem(404, "receipt", f"there is no receipt {receipt_id}")
        return _view(session, found)

    return await request.app[STATE].read(read)


@operation("operator", takes=(BEFORE, LIMIT), answer=ReceiptList)
async def get_erasures(request: web.Request) -> ReceiptList:
    """The receipts of erasures."""
    before, limit = BEFORE.of(request) or "~", LIMIT.of(request)

    def read(session: Session) -> ReceiptList:
        return ReceiptList([_view(session, one) for one in erasure.erasure_receipts(session, before, limit)])

    return await request.app[STATE].read(read)


def _view(session: Session, receipt: ErasureReceipt) -> ReceiptView:
    return ReceiptView(
        receipt.receipt_id,
        receipt.erased_at,
        receipt.finished_at,
        receipt.counts,
        erasure.tombstones_of(session, receipt.receipt_id),
    )


ROUTES = [
    web.delete("/api/profiles/{who}", delete_profile),
    web.get("/api/erasures", get_erasures),
    web.get("/api/erasures/{receipt}", get_erasure),
]
