"""What somebody is interested in, pure: functions over the person's events and visits, in any order.

Everything is worked out anew from the whole set; nothing is ever added to a stored count, so an event that
came twice, came late, or left with an undone merge needs no repair.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from backend.profiles.orders import Unreadable, hundredths, product_of, text

DAY_MS: Final = 86_400_000
HALF_LIFE_MS: Final = 14 * DAY_MS  # a view of two weeks ago says half as much as one of today
MAX_SHOWN: Final = 50

Channel: TypeAlias = Literal["web", "app", "server", "floor", "unknown"]
"""Where something happened; `unknown`: of a source that is registered no more."""
Place: TypeAlias = tuple[str, str]
"""Store and zone."""
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """A product that was looked at, as the page or the app described it; `price` in hundredths."""

    event_hash: int
    at: int
    product_id: str
    category: str | None = None
    name: str | None = None
    brand: str | None = None
    price: int | None = None
    currency: str | None = None
    url: str | None = None
    image_url: str | None = None


@dataclass(frozen=True, slots=True)
class ZoneVisit:
    """A stay in a zone; `left_at` is None while it lasts."""

    store_id: str
    zone_id: str
    entered_at: int
    left_at: int | None


@dataclass(frozen=True, slots=True)
class ProductInterest:
    """A product, how often it was looked at, and what that is worth now: each view halves in 14 days."""

    latest: View
    views: int
    score: float


@dataclass(frozen=True, slots=True)
class CategoryInterest:
    """A web category, how often its products were looked at, and what that is worth now."""

    category: str
    views: int
    score: float
    last_at: int


@dataclass(frozen=True, slots=True)
class StoreVisit:
    """From entering a store to leaving it; `left_at` is None while it lasts."""

    store_id: str
    entered_at: int
    left_at: int | None


@dataclass(frozen=True, slots=True)
class Dwell:
    """How long somebody was in a zone, all stays together; overlapping ones of two beacons count once."""

    store_id: str
    zone_id: str
    visits: int
    dwell_ms: int
    last_at: int


@dataclass(frozen=True, slots=True)
class CategoryDwell:
    """How long somebody was in zones of a category."""

    category: str
    dwell_ms: int
    last_at: int


def read_view(event_hash: int, at: int, properties: Mapping[str, Any]) -> View | None:
    """The product that a view's properties name; None where they name none."""
    product_id = product_of(properties)
    if product_id is None:
        return None
    told = {
        name: text(properties.get(name))
        for name in ("category", "name", "brand", "currency", "url", "image_url")
    }
    return View(event_hash, at, product_id, price=_price(properties.get("price")), **told)


def _price(value: object) -> int | None:
    try:
        return hundredths(value)
    except Unreadable:
        return None


def decayed(at: int, now: int, half_life_ms: int = HALF_LIFE_MS) -> float:
    """What something that happened at `at` is worth at `now`: 1 at once, and half after each half-life."""
    return math.pow(2.0, -max(0, now - at) / half_life_ms)


def once(views: Iterable[View]) -> list[View]:
    """Each event's view once, the newest first."""
    return sorted(
        {view.event_hash: view for view in views}.values(),
        key=lambda view: (view.at, view.event_hash),
        reverse=True,
    )


def product_interests(
    views: Iterable[View], now: int, half_life_ms: int = HALF_LIFE_MS
) -> list[ProductInterest]:
    """By product, the strongest first."""
    groups: dict[str, list[View]] = {}
    for view in once(views):
        groups.setdefault(view.product_id, []).append(view)
    found = [
        ProductInterest(group[0], len(group), sum(decayed(view.at, now, half_life_ms) for view in group))
        for group in groups.values()
    ]
    return sorted(found, key=lambda one: (-one.score, one.latest.product_id))


def category_interests(
    views: Iterable[View], now: int, half_life_ms: int = HALF_LIFE_MS
) -> list[CategoryInterest]:
    """By category as the pages wrote it, in whatever case; the strongest first."""
    groups: dict[str, list[View]] = {}
    for view in once(views):
        if view.category is not None:
            groups.setdefault(view.category.casefold(), []).append(view)
    found = [
        CategoryInterest(
            category=group[0].category or key,
            views=len(group),
            score=sum(decayed(view.at, now, half_life_ms) for view in group),
            last_at=group[0].at,
        )
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.score, one.category))


def latest_products(views: Iterable[View], limit: int) -> list[View]:
    """The products looked at most recently, each with its newest view."""
    newest: dict[str, View] = {}
    for view in once(views):
        if len(newest) == limit:
            break
        newest.setdefault(view.product_id, view)
    return list(newest.values())


# The shop floor -------------------------------------------------------------------------------------------


def store_visits(visits: Iterable[StoreVisit]) -> list[StoreVisit]:
    """Visits to stores, the newest first; those that a tag and a phone made together are one."""
    found: dict[str, list[StoreVisit]] = {}
    for visit in sorted(visits, key=lambda visit: visit.entered_at):
        theirs = found.setdefault(visit.store_id, [])
        if theirs and (theirs[-1].left_at is None or visit.entered_at <= theirs[-1].left_at):
            theirs[-1] = _together(theirs[-1], visit)
        else:
            theirs.append(visit)
    joined = [visit for theirs in found.values() for visit in theirs]
    return sorted(joined, key=lambda visit: (visit.entered_at, visit.store_id), reverse=True)


def _together(earlier: StoreVisit, later: StoreVisit) -> StoreVisit:
    ends = [visit.left_at for visit in (earlier, later) if visit.left_at is not None]
    return StoreVisit(earlier.store_id, earlier.entered_at, max(ends) if len(ends) == 2 else None)


def dwell_by_zone(visits: Iterable[ZoneVisit], now: int) -> list[Dwell]:
    """By zone, the longest first; a stay that lasts counts until `now`."""
    by_zone: dict[Place, list[Span]] = {}
    for visit in visits:
        by_zone.setdefault((visit.store_id, visit.zone_id), []).append(_span(visit, now))
    found = [
        Dwell(*place, len(spans), _covered(spans), max(end for _, end in spans))
        for place, spans in by_zone.items()
    ]
    return sorted(found, key=lambda dwell: (-dwell.dwell_ms, dwell.store_id, dwell.zone_id))


def dwell_by_category(
    visits: Iterable[ZoneVisit], categories: Mapping[Place, Sequence[str]], now: int
) -> list[CategoryDwell]:
    """By the zones' product categories, the longest first."""
    spans: dict[str, list[Span]] = {}
    for visit in visits:
        for category in categories.get((visit.store_id, visit.zone_id), ()):
            spans.setdefault(category, []).append(_span(visit, now))
    found = [
        CategoryDwell(category, _covered(theirs), max(end for _, end in theirs))
        for category, theirs in spans.items()
    ]
    return sorted(found, key=lambda dwell: (-dwell.dwell_ms, dwell.category))


def _span(visit: ZoneVisit, now: int) -> Span:
    end = now if visit.left_at is None else visit.left_at
    return visit.entered_at, max(visit.entered_at, end)


def _covered(spans: Iterable[Span]) -> int:
    """How much time the spans cover together."""
    covered, reached = 0, None
    for start, end in sorted(spans):
        begins = start if reached is None else max(start, reached)
        covered += max(0, end - begins)
        reached = end if reached is None else max(reached, end)
    return covered


# Consent --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConsentStatement:
    """Somebody said yes or no to a purpose: as whom, when, and through which source.

    `said_by` is `type:id`; `event_id` is None for what only a refusal without proof is known from.
    """

    purpose: str
    granted: bool
    at: int
    event_hash: int
    event_id: int | None
    profile_id: str
    said_by: str
    proven: bool
    source: str | None
    channel: Channel
    kind: str | None


def consent_changes(statements: Iterable[ConsentStatement]) -> list[ConsentStatement]:
    """The statements that changed something, the newest first.

    SDKs with a consent manager repeat every answer with every event; only where the answer of one identifier
    on one channel differs from its previous one is it news. Of one moment a refusal comes later.
    """
    changes: list[ConsentStatement] = []
    last: dict[tuple[str, str, str], bool] = {}
    for one in sorted(statements, key=_consent_order):
        key = (one.profile_id, one.channel, one.purpose)
        if last.get(key) != one.granted:
            last[key] = one.granted
            changes.append(one)
    return changes[::-1]


def _consent_order(said: ConsentStatement) -> tuple[int, bool, int, str]:
    return said.at, not said.granted, said.event_hash, said.purpose


def latest_by_channel(changes: Iterable[ConsentStatement]) -> dict[str, dict[str, ConsentStatement]]:
    """What was last said of each purpose on each channel, given changes with the newest first."""
    latest: dict[str, dict[str, ConsentStatement]] = {}
    for change in changes:
        latest.setdefault(change.purpose, {}).setdefault(change.channel, change)
    return latest
