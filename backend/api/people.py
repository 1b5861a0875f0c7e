"""People: who they are, what they did, bought and agreed to; finding them, and giving all of it out."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import HOST
from backend.api.operations import operation
from backend.api.parameters import choice, someone, text, whole
from backend.api.people_views import (
    ConsentList,
    ConsentView,
    IdentityList,
    IdentityPeriod,
    OrderList,
    PeopleFound,
    ProfileView,
    PurposeView,
    Timeline,
    TimelineItem,
)
from backend.profiles.behaviour import ConsentStatement, latest_by_channel
from backend.profiles.timeline import CHANNELS, KINDS, Item, Position, Window, position
from backend.storage import behaviour, orders, profiles, search
from backend.storage.behaviour import Behaviour
from backend.storage.export import Export
from backend.storage.search import SEARCHES, BadCursor
from backend.storage.session import Session
from backend.storage.timeline import timeline_of

T = TypeVar("T")
MAX_PAGE = 200  # items of one timeline page; each holds an event's properties
MAX_IDENTITIES = 5_000
MAX_ORDERS = 1_000

WHO = someone(
    "who",
    "An identifier of the person as `type:id`, such as `user_id:4711`, `device_id:…` or `beacon:…`.",
)
BY = choice("by", "What the text is the beginning of; `recent` takes none.", SEARCHES, default="recent")
TEXT = text("text", "What it begins with; the case of names and addresses is ignored.", default="")
AFTER_PAGE = text(
    "after",
    "`next` of the page before.",
    pattern=r"[A-Za-z0-9_-]{1,2000}",
    must="what `next` was",
    default=None,
)
MOST = whole("limit", "How many at most.", least=1, most=100, default=20)
EDGE = r"[0-9]{1,16}\.[a-z_]{1,16}\.[A-Za-z0-9-]{1,64}"
BEFORE = text(
    "before", "Only what is older than the item of this id.", pattern=EDGE, must="an item's id", default=None
)
AFTER = text(
    "after", "Only what is newer than the item of this id.", pattern=EDGE, must="an item's id", default=None
)
ITEMS = whole("limit", "How many at most.", least=1, most=MAX_PAGE, default=50)
KIND = choice("kind", "Only this kind.", KINDS, default=None)
CHANNEL = choice("channel", "Only what happened there.", CHANNELS, default=None)


@operation("viewer", takes=(BY, TEXT, AFTER_PAGE, MOST), answer=PeopleFound)
async def find_people(request: web.Request) -> PeopleFound:
    """Finds people by the beginning of an identifier, an e-mail address, a name or a telephone number.

    Without anything: who was active last. Who has two identifiers that fit may be on two pages.
    """
    by, begins, after, limit = BY.of(request), TEXT.of(request), AFTER_PAGE.of(request), MOST.of(request)
    if begins and by == "recent":  # everybody would pass for those who were found
        raise Problem(400, "by", f"by must say what {begins[:40]!r} begins: {', '.join(SEARCHES[:-1])}")
    try:
        found = await request.app[STATE].read(lambda s: search.search(s, by, begins, after, limit))
    except BadCursor as error:
        raise Problem(400, "after", "after must be what `next` of a page of this search was") from error
    return msgspec.convert(found, PeopleFound, from_attributes=True)


@operation("viewer", takes=(WHO,), answer=ProfileView, errors=(404,))
async def get_profile(request: web.Request) -> ProfileView:
    """One person: traits, behaviour, purchases, consent, devices, audiences, identifiers."""
    who, now = WHO.of(request), request.app[HOST].now_ms()
    id_type, _, identifier = who.partition(":")

    def read(session: Session) -> dict[str, Any] | None:
        found = profiles.profile_view(session, id_type, identifier)
        if found is None:
            return None
        person = found["profile_id"]
        return {
            **found,
            "segments": [dict(row) for row in session.rows("segments_around_person", profile_id=person)],
            "behaviour": _interests(behaviour.behaviour_of(session, person, now)),
            "purchases": orders.purchases(session, person),
        }

    found = await request.app[STATE].read(read)
    if found is None:
        raise _nobody(who)
    return msgspec.convert(found, ProfileView, from_attributes=True)


@operation("viewer", takes=(WHO,), answer=IdentityList, errors=(404,))
async def get_identities(request: web.Request) -> IdentityList:
    """Every identifier that leads or led to the person, with the merges, since when and why."""

    def read(session: Session, person: str) -> IdentityList:
        rows = session.rows("identity_history_of_person", profile_id=person, limit=MAX_IDENTITIES)
        return IdentityList(
            person,
            [
                IdentityPeriod(
                    row["id_type"],
                    row["id"],
                    row["profile_id"],
                    row["valid_from"],
                    row["valid_to"],
                    row["cause"],
                )
                for row in rows
            ],
        )

    return await _of_person(request, read)


@operation("viewer", takes=(WHO,), answer=ConsentList, errors=(404,))
async def get_consents(request: web.Request) -> ConsentList:
    """What the person agrees to, by purpose and channel, and how that came about."""

    def read(session: Session, person: str) -> ConsentList:
        history = behaviour.consent_history(session, person)
        latest = latest_by_channel(history)
        purposes = [
            PurposeView(purpose, granted, [_consent(said) for said in latest.get(purpose, {}).values()])
            for purpose, granted in profiles.standing_consents(session, person).items()
        ]
        return ConsentList(person, purposes, [_consent(said) for said in history])

    return await _of_person(request, read)


@operation("viewer", takes=(WHO,), answer=OrderList, errors=(404,))
async def get_orders(request: web.Request) -> OrderList:
    """What the person bought: orders as they stand now, and their products."""

    def read(session: Session, person: str) -> OrderList:
        found = {
            "profile_id": person,
            "purchases": orders.purchases(session, person),
            "orders": orders.orders_of(session, person)[:MAX_ORDERS],
            "products": orders.bought_products(session, person),
        }
        return msgspec.convert(found, OrderList, from_attributes=True)

    return await _of_person(request, read)


@operation("viewer", takes=(WHO, BEFORE, AFTER, ITEMS, KIND, CHANNEL), answer=Timeline, errors=(404,))
async def get_timeline(request: web.Request) -> Timeline:
    """What happened to the person on the web, in the app and in the shop, in one line.

    The newest first. `older` is the `before` of the next page; with `after` the page holds what came next.
    """
    before, after = BEFORE.of(request), AFTER.of(request)
    if before is not None and after is not None:
        raise Problem(400, "after", "give before or after, not both")
    kind = KIND.of(request)
    window = Window(
        limit=ITEMS.of(request),
        edge=_edge(before or after),
        newer=after is not None,
        kinds=frozenset(KINDS if kind is None else (kind,)),
        channel=CHANNEL.of(request),
    )

    def read(session: Session, person: str) -> Timeline:
        items = [_item(item) for item in timeline_of(session, person, window)]
        edges = (items[-1].id, items[0].id) if items else (None, None)
        return Timeline(person, items, *edges)

    return await _of_person(request, read)


@operation("operator", takes=(WHO,), media=("application/json",), errors=(404,))
async def get_export(request: web.Request) -> web.StreamResponse:
    """Everything that is kept about the person, raw events among it, as one JSON document.

    Streamed as it is read; nothing of it is stored. The first words of a table are its name in the database.
    """
    host = request.app[HOST]
    export = await request.app[STATE].read(lambda s: _resolved(s, request, Export.of))
    answer = web.StreamResponse(
        headers={
            "Content-Type": "application/json",
            "Content-Disposition": f'attachment; filename="person-{export.person}.json"',
            "Cache-Control": "no-store",
        }
    )
    await answer.prepare(request)
    async for part in export.parts(host.state, host.now_ms()):
        await answer.write(part)
    await answer.write_eof()
    return answer


# Small conversions ----------------------------------------------------------------------------------------


async def _of_person(request: web.Request, read: Callable[[Session, str], T]) -> T:
    """What `read` makes of the person whom the path names. Raises Problem 404."""
    return await request.app[STATE].read(lambda session: _resolved(session, request, read))


def _resolved(session: Session, request: web.Request, read: Callable[[Session, str], T]) -> T:
    who = WHO.of(request)
    id_type, _, identifier = who.partition(":")
    person = profiles.resolve(session, id_type, identifier)
    if person is None:
        raise _nobody(who)
    return read(session, person)


def _nobody(who: str) -> Problem:
    return Problem(404, "profile", f"nobody is known as {who}")


def _interests(found: Behaviour) -> dict[str, Any]:
    """With the products flat, as `ProductScore` has them."""
    products = [{"product": one.latest, "views": one.views, "score": one.score} for one in found.products]
    return {**{field.name: getattr(found, field.name) for field in fields(found)}, "products": products}


def _consent(said: ConsentStatement) -> ConsentView:
    return ConsentView(
        said.purpose,
        said.granted,
        said.at,
        said.said_by,
        said.proven,
        said.source,
        said.channel,
        said.event_id,
    )


def _edge(text: str | None) -> Position | None:
    """Where an item of this id stands. Raises Problem 400."""
    try:
        return None if text is None else position(text)
    except ValueError as error:
        raise Problem(400, "before", f"{text} is not the id of an item") from error


def _item(item: Item) -> TimelineItem:
    return TimelineItem(
        id=str(item.position),
        at=item.position.at,
        until=item.until,
        kind=item.position.kind,
        channel=item.channel,
        title=item.title,
        details=dict(item.details),
    )


ROUTES = [
    web.get("/api/profiles", find_people),
    web.get("/api/profiles/{who}", get_profile),
    web.get("/api/profiles/{who}/identities", get_identities),
    web.get("/api/profiles/{who}/consents", get_consents),
    web.get("/api/profiles/{who}/orders", get_orders),
    web.get("/api/profiles/{who}/timeline", get_timeline),
    web.get("/api/profiles/{who}/export", get_export),
]
