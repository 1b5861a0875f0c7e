"""RFM in the database: what people bought, their scores, the runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from backend.segments.rfm import CELLS, Thresholds, Values, bounds_of, scores_of
from backend.storage import orders, segments
from backend.storage.session import Row, Session

Cell = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Purchases:
    """People with orders, in the order of their ids, as columns."""

    people: Sequence[str]
    last_at: Values
    count: Values
    revenue: Values


@dataclass(frozen=True, slots=True)
class Scored:
    """Everybody's cell, and the bounds behind it."""

    cells: Mapping[str, Cell]
    thresholds: Thresholds
    orders: int


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """A person whose cell is another than before; None: no orders any more."""

    profile_id: str
    cell: Cell | None


def purchases(session: Session) -> Purchases:
    """What everybody bought. Who has several identifiers is reckoned as one person, each order once."""
    rows = session.rows("rfm_purchases")
    entangled = {row["profile_id"] for row in session.rows("rfm_merged_buyers")}
    columns = [
        (row["profile_id"], row["last_at"], row["orders"], row["revenue"])
        for row in rows
        if row["profile_id"] not in entangled
    ]
    columns += _of_people(session, entangled)
    columns.sort()
    people = [column[0] for column in columns]
    values = np.array([column[1:] for column in columns], np.int64).reshape(-1, 3)
    return Purchases(people, values[:, 0], values[:, 1], values[:, 2])


def _of_people(session: Session, profile_ids: Iterable[str]) -> list[tuple[str, int, int, int]]:
    found = []
    for person in segments.trees(session, sorted(profile_ids)):
        bought = [order for order in orders.orders_of(session, person) if order.status == "completed"]
        times = [order.completed_at for order in bought if order.completed_at is not None]
        if times:
            revenue = sum((order.total or 0) - order.refunded for order in bought)
            found.append((person, max(times), len(times), revenue))
    return found


def score(bought: Purchases) -> Scored:
    """Everybody's cell, by quantiles over all of them."""
    thresholds = Thresholds(bounds_of(bought.last_at), bounds_of(bought.count), bounds_of(bought.revenue))
    columns = (
        scores_of(bought.last_at, thresholds.recency),
        scores_of(bought.count, thresholds.frequency),
        scores_of(bought.revenue, thresholds.monetary),
    )
    cells = zip(*(column.tolist() for column in columns), strict=True)
    return Scored(dict(zip(bought.people, cells, strict=True)), thresholds, int(bought.count.sum()))


def changes(session: Session, scored: Scored) -> list[ScoreChange]:
    """Whose cell is another than what is stored."""
    known = {row["profile_id"]: (row["r"], row["f"], row["m"]) for row in session.rows("rfm_scores")}
    changed = [
        ScoreChange(person, cell) for person, cell in scored.cells.items() if known.get(person) != cell
    ]
    return [*changed, *(ScoreChange(person, None) for person in known if person not in scored.cells)]


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
        people=len(scored.cells),
        orders=scored.orders,
        changed=changed,
        thresholds=msgspec.json.encode(asdict(scored.thresholds)).decode(),
    )


def put_changes(session: Session, run_id: int, changed: Sequence[ScoreChange], now: int) -> None:
    """Stores some people's new cells, and has their segments asked again."""
    rows = [_row(run_id, change, now) for change in changed]
    session.many("put_rfm_score", [row for row in rows if row["r"] is not None])
    session.many("end_rfm_score", [{"profile_id": row["profile_id"]} for row in rows if row["r"] is None])
    session.many("add_rfm_change", rows)


def runs(session: Session, limit: int) -> list[Row]:
    """The newest runs."""
    return session.rows("rfm_runs", limit=limit)


def _row(run_id: int, change: ScoreChange, now: int) -> dict[str, Any]:
    r, f, m = change.cell or (None, None, None)
    name = CELLS[change.cell] if change.cell else None
    told = {"r": r, "f": f, "m": m, "name": name, "scored_at": now}
    return {"profile_id": change.profile_id, "run_id": run_id, **told}
