"""RFM in the database: what people bought, their scores, the runs.

A million people come and go as JSON, a page or a portion of them in one value: so the interpreter's lock,
which the journal's thread needs too, is held for a millisecond at a time, while the database does the rest.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.profiles.orders import Order
from backend.segments.rfm import CELLS, Scores, Thresholds, Values, bounds_of, scores_of
from backend.storage import orders, segments
from backend.storage.segment_facts import as_json
from backend.storage.session import Row, Session

Ids: TypeAlias = NDArray[np.bytes_]
"""In one piece of memory: to let go of a million texts holds up the journal as well."""
Cell: TypeAlias = tuple[int, int, int]
Bought: TypeAlias = tuple[int, int, int]
"""When last, how many orders, for how much."""
Trees: TypeAlias = Mapping[str, Sequence[str]]
"""People with all the profiles that are theirs."""
ByCell: TypeAlias = Mapping[Cell | None, Sequence[str]]
"""People by their cell; None: no orders any more."""

PAGE = 1_000  # people at once; decoding more of them would hold up the journal
_texts = msgspec.json.Decoder(list[str])
_numbers = msgspec.json.Decoder(list[int])
_COLUMNS = ("last_at", "orders", "revenue", "r", "f", "m")


@dataclass(frozen=True, slots=True)
class Purchases:
    """People with orders, as columns; `before` are their scores of the last run, 0 where there are none.

    `gone` has scores and no orders any more. `currencies`: how many orders are in each; '' is none said.
    """

    people: Ids
    last_at: Values
    count: Values
    revenue: Values
    before: Values
    gone: Sequence[str] = ()
    currencies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """Everybody's scores, a row of three for each of the people, and the bounds behind them."""

    people: Ids
    scores: Scores
    thresholds: Thresholds
    orders: int
    currencies: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Changes:
    """Whose cell is another than before: people by their place among the scored, and those who are gone."""

    scored: Scored
    places: Values
    gone: Sequence[str]

    def __len__(self) -> int:
        return len(self.places) + len(self.gone)

    def portion(self, start: int, size: int) -> ByCell:
        """The next `size` of them after `start` of them, by the cell in which they are now."""
        places = self.places[start : start + size]
        beyond = max(start - len(self.places), 0)
        found: dict[Cell | None, list[str]] = defaultdict(list)
        people = self.scored.people[places].astype(np.str_).tolist()
        for person, (r, f, m) in zip(people, self.scored.scores[places].tolist(), strict=True):
            found[r, f, m].append(person)
        if len(places) < size and beyond < len(self.gone):
            found[None] += self.gone[beyond : beyond + size - len(places)]
        return found


class _Page(NamedTuple):
    """Some people, with a row of `_COLUMNS` for each."""

    people: Ids
    numbers: Values

    def where(self, chosen: NDArray[np.bool_]) -> "_Page":
        return _Page(self.people[chosen], self.numbers[chosen])


def purchases(session: Session) -> Purchases:
    """What everybody bought. Who bought by several identifiers is reckoned as one person, each order once."""
    tangled = _texts.decode(session.rows("rfm_merged_buyers")[0][0])
    trees = _trees(session, tangled)
    apart = {*tangled, *(profile for tree in trees.values() for profile in tree)}
    gone = [one for one in _texts.decode(session.rows("rfm_gone")[0][0]) if one not in trees]
    pages = [_Page(np.empty(0, np.bytes_), np.empty((0, len(_COLUMNS)), np.int64)), *_pages(session, apart)]
    currencies = Counter({row["currency"]: int(row["orders"]) for row in session.rows("rfm_currencies")})
    for page in _pages_of_people(session, trees, currencies):
        buys = page.numbers[:, 1] > 0
        gone += page.where(~buys & page.numbers[:, 3:].any(axis=1)).people.astype(np.str_).tolist()
        pages.append(page.where(buys))
    people = np.concatenate([page.people for page in pages])
    columns = np.concatenate([page.numbers for page in pages])
    return Purchases(
        people, columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:], gone, dict(+currencies)
    )


def _pages(session: Session, apart: AbstractSet[str]) -> Iterator[_Page]:
    """What each profile bought by itself, a page of them at a time; without those who are reckoned apart."""
    after = ""
    while (row := session.rows("rfm_purchases", after=after, limit=PAGE)[0])["last"] is not None:
        after = row["last"]
        people = _texts.decode(row["people"])
        columns = [_numbers.decode(row[column]) for column in _COLUMNS]
        page = _Page(np.array(people, np.bytes_), np.array(columns, np.int64).T)
        yield page.where(np.array([one not in apart for one in people], np.bool_)) if apart else page


def _trees(session: Session, profiles: Sequence[str]) -> Trees:
    trees: dict[str, list[str]] = {}
    for start in range(0, len(profiles), PAGE):
        trees.update(segments.trees(session, profiles[start : start + PAGE]))
    return trees


def _pages_of_people(session: Session, trees: Trees, currencies: Counter[str]) -> Iterator[_Page]:
    """What people bought by several identifiers; no orders are a row of zeros. `currencies` counted what each
    identifier reported, and then counts what each person bought.
    """
    people = sorted(trees)
    for start in range(0, len(people), PAGE):
        some = people[start : start + PAGE]
        bought = _added_up(session, {one: trees[one] for one in some})
        others = {one: _completed(session, one) for one in some if one not in bought}
        _count_by_person(session, currencies, {one: trees[one] for one in others}, others.values())
        bought |= {one: _bought(completed) for one, completed in others.items()}
        before = {row["profile_id"]: row for row in session.rows("segment_scores", profiles=as_json(some))}
        rows = [(*bought[one], *_scores(before.get(one))) for one in some]
        yield _Page(np.array(some, np.bytes_), np.array(rows, np.int64))


def _added_up(session: Session, trees: Trees) -> dict[str, Bought]:
    """What people bought whose identifiers' orders have nothing to do with each other: most of them."""
    rows = session.rows("rfm_purchases_of_people", trees=msgspec.json.encode(list(trees.items())).decode())
    return {row["person_id"]: (row["last_at"], row["orders"], row["revenue"]) for row in rows}


def _completed(session: Session, person: str) -> list[Order]:
    """What a person bought, order by order, from everything that was said of each."""
    return [order for order in orders.orders_of(session, person) if order.status == "completed"]


def _bought(completed: Sequence[Order]) -> Bought:
    times = [order.completed_at for order in completed if order.completed_at is not None]
    revenue = sum((order.total or 0) - order.refunded for order in completed)
    return (max(times), len(times), revenue) if times else (0, 0, 0)


def _count_by_person(
    session: Session, currencies: Counter[str], trees: Trees, bought: Iterable[Sequence[Order]]
) -> None:
    """Counts these people's orders by person instead of by identifier."""
    if trees:
        reported = session.rows("rfm_currencies_of", profiles=as_json(chain.from_iterable(trees.values())))
        currencies.subtract({row["currency"]: int(row["orders"]) for row in reported})
    currencies.update(
        order.currency or "" for completed in bought for order in completed if order.total is not None
    )


def _scores(row: Row | None) -> Cell:
    return (0, 0, 0) if row is None else (row["r"] or 0, row["f"] or 0, row["m"] or 0)


def score(bought: Purchases) -> Scored:
    """Everybody's cell, by quantiles over all of them."""
    thresholds = Thresholds(bounds_of(bought.last_at), bounds_of(bought.count), bounds_of(bought.revenue))
    columns = (
        scores_of(bought.last_at, thresholds.recency),
        scores_of(bought.count, thresholds.frequency),
        scores_of(bought.revenue, thresholds.monetary),
    )
    return Scored(
        bought.people, np.stack(columns, axis=1), thresholds, int(bought.count.sum()), bought.currencies
    )


def changes(bought: Purchases, scored: Scored) -> Changes:
    """Whose cell is another than what is stored."""
    places = np.flatnonzero((scored.scores != bought.before).any(axis=1))
    return Changes(scored, places, bought.gone)


def begin_run(session: Session, now: int) -> int:
    """The number of a new run."""
    row = session.row("begin_rfm_run", started_at=now)
    return int(row[0]) if row else 0


def end_run(session: Session, run_id: int, scored: Scored, changed: int, now: int) -> None:
    """Keeps what the run found."""
    session.run(
        "end_rfm_run",
        run_id=run_id,
        finished_at=now,
        people=len(scored.people),
        orders=scored.orders,
        changed=changed,
        thresholds=msgspec.json.encode(asdict(scored.thresholds)).decode(),
        currencies=msgspec.json.encode(scored.currencies).decode(),
    )


def put_changes(session: Session, run_id: int, changed: ByCell, now: int) -> None:
    """Stores the new cells of some people, also for their history."""
    cells = msgspec.json.encode([(*_named(cell), people) for cell, people in changed.items()]).decode()
    session.run("put_rfm_scores", cells=cells, run_id=run_id, scored_at=now)
    session.run("end_rfm_scores", people=as_json(changed.get(None, ())))
    session.run("add_rfm_changes", cells=cells, run_id=run_id, scored_at=now)


def runs(session: Session, limit: int) -> list[Row]:
    """The newest runs."""
    return session.rows("rfm_runs", limit=limit)


def _named(cell: Cell | None) -> tuple[int | str | None, ...]:
    """The three scores and their name."""
    return (None, None, None, None) if cell is None else (*cell, CELLS[cell])
