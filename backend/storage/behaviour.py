"""A person's behaviour out of the database: read when it is asked for, from the events and visits themselves.

Worked out on reading rather than kept in counters: right under late events, redeliveries and undone merges
without any repair, and a person with 10,000 events takes some 60 ms (docs/profiles.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from backend.profiles.behaviour import (
    MAX_SHOWN,
    CategoryDwell,
    CategoryInterest,
    Channel,
    ConsentStatement,
    Dwell,
    Place,
    ProductInterest,
    StoreVisit,
    View,
    ZoneVisit,
    category_interests,
    consent_changes,
    dwell_by_category,
    dwell_by_zone,
    latest_products,
    product_interests,
    read_view,
    store_visits,
)
from backend.storage.session import Row, Session

MAX_VIEWS: Final = 10_000  # the newest count; older ones have faded, and a robot's must not fill the memory
MAX_VISITS: Final = 10_000
MAX_CONSENT_EVENTS: Final = 20_000
FOR_EVER: Final = 2**53 - 1  # unix milliseconds; the largest that JSON carries exactly
VIEWS_FOR_OFFERS: Final = (
    1_000  # an offer is rendered inside the fold, which must not wait for a robot's history
)
_CONSENT_KEY: Final = b"\xa7consent"  # as MessagePack writes the field's name: most events say nothing of it
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class _Body(Struct):
    """What consent history needs of an event's body; the rest is skipped."""

    user_id: str | None = None
    anonymous_id: str | None = None
    device_id: str | None = None
    proven: bool = False
    consent: dict[str, bool] = {}
    properties: dict[str, Any] = {}


_BODY = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a person does, by what is strongest and newest; times are unix milliseconds."""

    last_seen: dict[Channel, int]
    products: list[ProductInterest]
    categories: list[CategoryInterest]
    recent: list[View]
    store_visits: list[StoreVisit]
    zones: list[Dwell]
    zone_categories: list[CategoryDwell]


def behaviour_of(session: Session, person: str, now: int) -> Behaviour:
    """Everything about a person's behaviour at `now`, each list cut to the first 50."""
    views, visits = _views(session, person, 0, FOR_EVER, MAX_VIEWS), zone_visits_of(session, person)
    return Behaviour(
        last_seen=last_seen_of(session, person, visits, now),
        products=product_interests(views, now)[:MAX_SHOWN],
        categories=category_interests(views, now)[:MAX_SHOWN],
        recent=latest_products(views, MAX_SHOWN),
        store_visits=store_visits(store_visits_of(session, person))[:MAX_SHOWN],
        zones=dwell_by_zone(visits, now)[:MAX_SHOWN],
        zone_categories=dwell_by_category(visits, zone_categories(session), now)[:MAX_SHOWN],
    )


def viewed_products(
    session: Session, person: str, since: int = 0, until: int = FOR_EVER, limit: int = 20
) -> list[View]:
    """The products that a person looked at in a span of time (unix ms), each once, the most recent first.

    `person` is the root's profile. Products that the catalogue knows by id may have better categories there.
    """
    return latest_products(_views(session, person, since, until, VIEWS_FOR_OFFERS), limit)


def zone_visits_of(session: Session, person: str) -> list[ZoneVisit]:
    """A person's stays in zones, the newest first."""
    rows = session.rows("zone_visits_of_person", profile_id=person, limit=MAX_VISITS)
    return [ZoneVisit(row["store_id"], row["zone_id"], row["entered_at"], row["left_at"]) for row in rows]


def store_visits_of(session: Session, person: str) -> list[StoreVisit]:
    """A person's visits to stores, one for each beacon or phone that made it, the newest first."""
    rows = session.rows("store_visits_of_person", profile_id=person, limit=MAX_VISITS)
    return [StoreVisit(row["store_id"], row["entered_at"], row["left_at"]) for row in rows]


def zone_categories(session: Session) -> dict[Place, list[str]]:
    """Every zone's product categories."""
    return {
        (row["store_id"], row["zone_id"]): msgspec.json.decode(row["categories"], type=list[str])
        for row in session.rows("zones")
    }


def last_seen_of(session: Session, person: str, visits: Iterable[ZoneVisit], now: int) -> dict[Channel, int]:
    """When a person was last heard of on each channel; whoever is in a zone is seen `now`."""
    seen: dict[Channel, int] = {}
    for row in session.rows("last_seen_of_person", profile_id=person):
        channel = channel_of(row["kind"])
        seen[channel] = max(seen.get(channel, 0), row["at"])
    floor = [now if visit.left_at is None else visit.left_at for visit in visits]
    return seen | ({"floor": max(floor)} if floor else {})


def channel_of(source_kind: str | None) -> Channel:
    """The channel of a source of this kind."""
    return cast(Channel, source_kind) if source_kind in ("web", "app", "server") else "unknown"


def consent_history(session: Session, person: str) -> list[ConsentStatement]:
    """Every change of a person's consent, the newest first; out of the person's newest 20,000 events."""
    rows = session.rows("consent_events_of_person", profile_id=person, limit=MAX_CONSENT_EVENTS)
    said = [one for row in rows if _CONSENT_KEY in row["body"] for one in _statements(row)]
    return consent_changes([*said, *_refusals(session, person)])


def properties_of(row: Row | Mapping[str, Any]) -> dict[str, Any]:
    """An event's properties: beside its body, or in it where the event is older than that column."""
    if row["properties"] is not None:
        return _OBJECT.decode(row["properties"])
    return _BODY.decode(row["body"]).properties


def _views(session: Session, person: str, since: int, until: int, limit: int) -> list[View]:
    span = {"since": since, "until": until}
    rows = session.rows("product_views_of_person", profile_id=person, **span, limit=limit)
    read = (read_view(row["event_hash"], row["occurred_at"], properties_of(row)) for row in rows)
    return [view for view in read if view is not None]


def _statements(row: Row) -> Iterable[ConsentStatement]:
    body = _BODY.decode(row["body"])
    for purpose, granted in body.consent.items():
        yield ConsentStatement(
            purpose=purpose,
            granted=granted,
            at=row["occurred_at"],
            event_hash=row["event_hash"],
            event_id=row["event_id"],
            profile_id=row["profile_id"],
            said_by=_speaker(body),
            proven=body.proven,
            source=row["source"],
            channel=channel_of(row["source_kind"]),
            kind=row["kind"],
        )


def _speaker(body: _Body) -> str:
    if body.user_id is not None:
        return f"user_id:{body.user_id}"
    if body.anonymous_id is not None:
        return f"anonymous_id:{body.anonymous_id}"
    return f"device_id:{body.device_id}"


def _refusals(session: Session, person: str) -> Iterable[ConsentStatement]:
    for row in session.rows("refusals_of_claimed", profile_id=person):
        yield ConsentStatement(
            purpose=row["purpose"],
            granted=bool(row["granted"]),
            at=row["occurred_at"],
            event_hash=row["event_hash"],
            event_id=None,
            profile_id=row["profile_id"],
            said_by=f"user_id:{row['id']}",
            proven=False,
            source=None,
            channel="unknown",
            kind=None,
        )
