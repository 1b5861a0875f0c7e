"""A person's timeline out of the database: one function a kind, and `SOURCES`, where another is added."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from backend.profiles.behaviour import ConsentStatement
from backend.profiles.timeline import Item, Position, TimelineChannel, TimelineKind, Window, page
from backend.push.model import decode_content
from backend.storage.behaviour import channel_of, consent_history, properties_of
from backend.storage.session import Row, Session

PersonSource: TypeAlias = Callable[[Session, str, Window], list[Item]]


def timeline_of(session: Session, person: str, window: Window) -> list[Item]:
    """What the window shows of everything that happened to a person, the newest first."""
    chosen = [partial(source, session, person) for kind, source in SOURCES.items() if kind in window.kinds]
    return page(chosen, window)


def _rows(session: Session, kind: TimelineKind, name: str, person: str, window: Window) -> list[Row]:
    at, key = window.bound(kind)
    query = f"timeline_{name}_{'after' if window.newer else 'before'}"
    return session.rows(query, profile_id=person, at=at, key=key, limit=window.limit)


def _rows_by_channel(
    session: Session, kind: TimelineKind, name: str, person: str, window: Window
) -> list[Row]:
    at, key = window.bound(kind)
    query = f"timeline_{name}_{'after' if window.newer else 'before'}"
    return session.rows(query, profile_id=person, at=at, key=key, limit=window.limit, channel=window.channel)


def _hidden(window: Window, channel: TimelineChannel) -> bool:
    return window.channel is not None and window.channel != channel


def _events(session: Session, person: str, window: Window) -> list[Item]:
    return [
        Item(
            Position(row["occurred_at"], "event", row["event_id"]),
            channel_of(row["source_kind"]),
            row["name"] or row["kind"],
            details={
                "kind": row["kind"],
                "source": row["source"],
                "received_at": row["received_at"],
                "properties": properties_of(row),
            },
        )
        for row in _rows_by_channel(session, "event", "events", person, window)
    ]


def _orders(session: Session, person: str, window: Window) -> list[Item]:
    return [
        Item(
            Position(row["occurred_at"], "order", row["event_id"]),
            channel_of(row["source_kind"]),
            f"Order {row['what']}",
            details={name: row[name] for name in ("order_id", "what", "total", "currency", "unreadable")},
        )
        for row in _rows_by_channel(session, "order", "orders", person, window)
    ]


def _zone_visits(session: Session, person: str, window: Window) -> list[Item]:
    if _hidden(window, "floor"):
        return []
    return [
        Item(
            Position(row["entered_at"], "zone_visit", row["visit_id"]),
            "floor",
            row["name"] or row["zone_id"],
            row["left_at"],
            {"store_id": row["store_id"], "zone_id": row["zone_id"]},
        )
        for row in _rows(session, "zone_visit", "zone_visits", person, window)
    ]


def _store_visits(session: Session, person: str, window: Window) -> list[Item]:
    if _hidden(window, "floor"):
        return []
    return [
        Item(
            Position(row["entered_at"], "store_visit", row["visit_id"]),
            "floor",
            row["name"] or row["store_id"],
            row["left_at"],
            {"store_id": row["store_id"]},
        )
        for row in _rows(session, "store_visit", "store_visits", person, window)
    ]


def _fence_visits(session: Session, person: str, window: Window) -> list[Item]:
    if _hidden(window, "app"):
        return []
    return [
        Item(
            Position(row["entered_at"], "fence_visit", row["visit_id"]),
            "app",
            row["fence_id"],
            row["left_at"],
            {"fence_id": row["fence_id"]},
        )
        for row in _rows(session, "fence_visit", "fence_visits", person, window)
    ]


def _pushes(session: Session, person: str, window: Window) -> list[Item]:
    if _hidden(window, "push"):
        return []
    shown = ("campaign_id", "state", "reason", "finished_at", "received_at", "opened_at")
    return [
        Item(
            Position(row["created_at"], "push", row["push_id"]),
            "push",
            decode_content(row["content"]).title,
            details={name: row[name] for name in shown},
        )
        for row in _rows(session, "push", "pushes", person, window)
    ]


def _segments(session: Session, person: str, window: Window) -> list[Item]:
    if _hidden(window, "system"):
        return []
    return [
        Item(
            Position(row["at"], "segment", row["change_id"]),
            "system",
            row["segment_id"],
            details={
                "segment_id": row["segment_id"],
                "change": row["kind"],
                "version": row["version"],
                "backfill": bool(row["backfill"]),
            },
        )
        for row in _rows(session, "segment", "segments", person, window)
    ]


def _consents(session: Session, person: str, window: Window) -> list[Item]:
    """What one event changed is one item."""
    changes: dict[int, list[ConsentStatement]] = {}
    for change in consent_history(session, person):
        changes.setdefault(change.event_hash, []).append(change)
    return window.cut(_consent(event_hash, said) for event_hash, said in changes.items())


def _consent(event_hash: int, said: list[ConsentStatement]) -> Item:
    first = said[0]
    return Item(
        Position(first.at, "consent", event_hash),
        first.channel,
        ", ".join(f"{one.purpose}: {'yes' if one.granted else 'no'}" for one in said),
        details={
            "purposes": {one.purpose: one.granted for one in said},
            "said_by": first.said_by,
            "proven": first.proven,
            "source": first.source,
        },
    )


def _merges(session: Session, person: str, window: Window) -> list[Item]:
    return window.cut(
        Item(
            Position(row["at"], "merge", f"{row['id']}"),
            "system",
            f"{row['id_type']} joined",
            row["valid_to"],
            {"profile_id": row["id"], "into": row["profile_id"], "cause": row["cause"]},
        )
        for row in session.rows("timeline_merges", profile_id=person)
    )


SOURCES: Final[Mapping[TimelineKind, PersonSource]] = {
    "event": _events,
    "order": _orders,
    "zone_visit": _zone_visits,
    "store_visit": _store_visits,
    "fence_visit": _fence_visits,
    "push": _pushes,
    "segment": _segments,
    "consent": _consents,
    "merge": _merges,
}
"""Every kind of item and where it comes from. To add one: name the kind in backend/profiles/timeline.py."""
