"""Admins say who may send events: sources, their write keys, origins and rates."""

from typing import Annotated, Any, Literal, TypeAlias

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, convert

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import Name, identifier, text
from backend.storage import sources
from backend.storage.session import Row, Session, StorageConflict
from backend.storage.sources import KeysOverlap, SourceTerms
from sdk_bridge.server.rates import Rate

HOUR_MS = 3_600_000
MAX_OVERLAP_HOURS = 24 * 180  # as long as an app's old version may be on somebody's phone
MAX_ORIGINS = 50

SOURCE = identifier("source", "The source's id.")
KEY = text(
    "key",
    "How the write key begins, as the list of sources shows it.",
    pattern="[A-Za-z0-9_-]{1,80}",
    must="the first characters of a key, as the list of sources shows them",
)

Proof: TypeAlias = Literal["required", "off"]
Origin: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9+.-]{1,20}://[a-z0-9.\[\]:-]{1,260}$(?!\n)", max_length=300)
]
Origins: TypeAlias = Annotated[list[Origin], Meta(max_length=MAX_ORIGINS)]


class RateView(Struct, forbid_unknown_fields=True):
    """Events a second in the long run, and how many may come at once after a silence."""

    events_per_second: Annotated[float, Meta(ge=0.01, le=100_000)]
    burst: Annotated[float, Meta(ge=1, le=1_000_000)]


class SourceBody(Struct, forbid_unknown_fields=True):
    """An app, a site or a server. Proof of the user is on for web and app unless switched off knowingly.

    `origins`: the only pages that may send by it, such as `https://shop.example`; none: pages of any origin.
    """

    name: Name
    kind: Literal["web", "app", "server"]
    proof: Proof | None = None
    origins: Origins = []
    rate: RateView | None = None


class SourceChange(Struct, forbid_unknown_fields=True):
    """What is to be different; the rest stays."""

    name: Name | UnsetType = UNSET
    proof: Proof | UnsetType = UNSET
    origins: Origins | UnsetType = UNSET
    rate: RateView | UnsetType | None = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    """How long the present write key is taken beside the new one; 0 ends it now."""

    overlap_hours: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_HOURS)] = 24 * 7


class NewSource(Struct):
    """A source's secrets, shown this once."""

    source_id: str
    write_key: str
    proof_secret: str


class NewKey(Struct):
    """A source's new write key, shown this once."""

    source_id: str
    write_key: str


class KeyView(Struct):
    """How a write key begins, and its life. Times are unix milliseconds."""

    key_id: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class SourceView(Struct):
    """A source, without its keys and its secret. Times are unix milliseconds."""

    source_id: str
    name: str
    kind: str
    proof: str
    origins: list[str]
    rate: RateView | None
    keys: list[KeyView]
    created_at: int
    revoked_at: int | None


class SourceList(Struct):
    """Every source, the revoked ones too."""

    sources: list[SourceView]


class Revoked(Struct):
    """What is in use no more."""

    revoked: str


@operation("admin", takes=(SOURCE,), body=SourceBody, answer=NewSource, status=201, errors=(409,))
async def put_source(request: web.Request, body: SourceBody) -> NewSource:
    """Makes a source.

    Answers its write key and its proof secret, this once.
    """
    source_id, now = SOURCE.of(request), request.app[HOST].now_ms()
    proof = body.proof or ("off" if body.kind == "server" else "required")
    terms = SourceTerms(body.name, proof, tuple(body.origins), _rate(body.rate))

    def make(session: Session) -> dict[str, str]:
        made = sources.create_source(session, source_id, body.name, body.kind, proof, now)
        sources.change_source(session, source_id, terms)
        return made

    try:
        made = await change(request, "source created", source_id, make, {"kind": body.kind, **_told(terms)})
    except StorageConflict as error:
        raise Problem(409, "source", f"the source {source_id} exists already; choose another id") from error
    return NewSource(**made)


@operation("admin", takes=(SOURCE,), body=SourceChange, answer=SourceView, errors=(404,))
async def patch_source(request: web.Request, body: SourceChange) -> SourceView:
    """Changes what a source may do; acts at once."""
    source_id = SOURCE.of(request)

    def alter(session: Session) -> SourceView:
        terms = sources.terms_of(session, source_id)
        if terms is None:
            raise Problem(404, "source", f"there is no source {source_id} in use")
        sources.change_source(session, source_id, _changed(terms, body))
        return _views(session, source_id)[0]

    detail = {field: value for field in body.__struct_fields__ if (value := _plain(body, field)) is not UNSET}
    view: SourceView = await change(request, "source changed", source_id, alter, detail)
    return view


@operation("admin", takes=(SOURCE,), answer=Revoked, errors=(404,))
async def delete_source(request: web.Request) -> Revoked:
    """Revokes a source: all its write keys are refused from now on."""
    source_id, now = SOURCE.of(request), request.app[HOST].now_ms()

    def revoke(session: Session) -> None:
        if not session.run("revoke_source", source_id=source_id, at=now):
            raise Problem(404, "source", f"there is no source {source_id} in use")

    await change(request, "source revoked", source_id, revoke)
    return Revoked(source_id)


@operation(
    "admin", takes=(SOURCE,), body=Rotation, without=Rotation(), answer=NewKey, status=201, errors=(404, 409)
)
async def post_source_key(request: web.Request, body: Rotation) -> NewKey:
    """Replaces a source's write key; the present one is taken until the overlap is over.

    Answers the new key, this once. With an overlap of 0 every earlier key is revoked at once.
    """
    source_id, now = SOURCE.of(request), request.app[HOST].now_ms()

    def rotate(session: Session) -> str:
        if sources.terms_of(session, source_id) is None:
            raise Problem(404, "source", f"there is no source {source_id} in use")
        return sources.rotate_key(session, source_id, body.overlap_hours * HOUR_MS, now)

    try:
        detail = {"overlap_hours": body.overlap_hours}
        write_key = await change(request, "write key rotated", source_id, rotate, detail)
    except KeysOverlap as error:
        raise Problem(409, "keys", str(error)) from error
    return NewKey(source_id, write_key)


@operation("admin", takes=(SOURCE, KEY), answer=Revoked, errors=(404,))
async def delete_source_key(request: web.Request) -> Revoked:
    """Revokes one write key of a source; acts at once."""
    source_id, key_id, now = SOURCE.of(request), KEY.of(request), request.app[HOST].now_ms()

    def revoke(session: Session) -> None:
        if not session.run("revoke_source_key", source_id=source_id, key_id=key_id, at=now):
            raise Problem(404, "key", f"the source {source_id} has no key {key_id} in use")

    await change(request, "write key revoked", source_id, revoke, {"key_id": key_id})
    return Revoked(key_id)


@operation("operator", answer=SourceList)
async def get_sources(request: web.Request) -> SourceList:
    """Lists the sources of events, how their write keys begin, and how long these live."""
    return SourceList(await request.app[STATE].read(lambda session: _views(session, None)))


def _views(session: Session, source_id: str | None) -> list[SourceView]:
    keys: dict[str, list[KeyView]] = {}
    for row in session.rows("source_keys", source_id=source_id):
        keys.setdefault(row["source_id"], []).append(convert(dict(row), KeyView))
    rows = session.rows("sources")
    return [
        _view(row, keys.get(row["source_id"], [])) for row in rows if source_id in (None, row["source_id"])
    ]


def _view(row: Row, keys: list[KeyView]) -> SourceView:
    rate = None if row["burst"] is None else RateView(row["events_per_second"], row["burst"])
    return SourceView(
        source_id=row["source_id"],
        name=row["name"],
        kind=row["kind"],
        proof=row["proof"],
        origins=sources.origins_of(row),
        rate=rate,
        keys=keys,
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )


def _changed(terms: SourceTerms, body: SourceChange) -> SourceTerms:
    return SourceTerms(
        name=terms.name if body.name is UNSET else body.name,
        proof=terms.proof if body.proof is UNSET else body.proof,
        origins=terms.origins if body.origins is UNSET else tuple(body.origins),
        rate=terms.rate if body.rate is UNSET else _rate(body.rate),
    )


def _rate(view: RateView | None) -> Rate | None:
    return None if view is None else Rate(view.events_per_second, view.burst)


def _told(terms: SourceTerms) -> dict[str, Any]:
    rate = None if terms.rate is None else [terms.rate.per_second, terms.rate.burst]
    return {"proof": terms.proof, "origins": list(terms.origins), "rate": rate}


def _plain(body: SourceChange, field: str) -> Any:
    value = getattr(body, field)
    return [value.events_per_second, value.burst] if isinstance(value, RateView) else value


ROUTES = [
    web.get("/api/sources", get_sources),
    web.put("/api/sources/{source}", put_source),
    web.patch("/api/sources/{source}", patch_source),
    web.delete("/api/sources/{source}", delete_source),
    web.post("/api/sources/{source}/keys", post_source_key),
    web.delete("/api/sources/{source}/keys/{key}", delete_source_key),
]
