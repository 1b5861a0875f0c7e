"""What is kept for how long, in the database: thinning and forgetting by portions that say what they did.

A portion takes rows away and writes down what is left of them in one transaction, so a process may die
between any two: what is too old still lies there, and is found again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from backend.push.model import PushContent, encode_content
from backend.storage.session import Row, Session

HOUR_S: Final = 3_600
ALERTS_KEPT: Final = 100_000
"""However young: a gateway that fails every second must not fill the disk."""
_NO_CONTENT: Final = encode_content(PushContent(title="", body="", campaign_id="", expires_at=0))

Portion: TypeAlias = Callable[[Session, Mapping[str, Any]], int]
"""Works off at most `limit` rows of those from `before`; how many it was."""


@dataclass(frozen=True, slots=True)
class Job:
    """How far a kind of rows is; times in unix milliseconds, `finished_at` None while there is more to do."""

    kind: str
    begun_at: int
    finished_at: int | None
    before_at: int
    rows_found: int
    rows_done: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one kind of rows, and the setting that says after how many days."""

    kind: str
    setting: str
    count: str
    portion: Portion


def _run(session: Session, values: Mapping[str, Any], *, query: str) -> int:
    return session.run(query, **values)


def _thin(session: Session, values: Mapping[str, Any], *, query: str) -> int:
    """What is taken away is what is added to the hours, row by row, so nothing is lost between the two."""
    taken = session.rows(query, **values)
    hours: dict[tuple[int, int, int], dict[str, int]] = {}
    for row in taken:
        _add_to_hour(hours, row)
    session.many("add_sighting_hours", hours.values())
    return len(taken)


def _add_to_hour(hours: dict[tuple[int, int, int], dict[str, int]], row: Row) -> None:
    hour = row["second"] - row["second"] % HOUR_S
    place = row["key_number"], hour, row["gateway_number"]
    names = ("key_number", "hour", "gateway_number")
    held = hours.setdefault(
        place, {**dict(zip(names, place, strict=True)), "adverts": 0, "loss_sum": 0, "best": row["best"]}
    )
    held["adverts"] += row["adverts"]
    held["loss_sum"] += row["loss"] * row["adverts"]
    held["best"] = min(held["best"], row["best"])


def _thin_without_time(session: Session, values: Mapping[str, Any]) -> int:
    dated = session.run("date_sightings_without_time", **values)
    return dated or _thin(session, values, query="take_sightings_without_time")


def _forget(kind: str, setting: str, query: str, count: str) -> Rule:
    return Rule(kind, setting, count, partial(_run, query=query))


RULES: Final = (
    Rule("sightings", "sightings_days", "count_sightings", partial(_thin, query="take_sightings")),
    Rule(
        "sightings_without_time",
        "sightings_without_time_days",
        "count_sightings_without_time",
        _thin_without_time,
    ),
    _forget("sighting_hours", "sighting_hours_days", "forget_sighting_hours", "count_sighting_hours"),
    _forget("alerts", "alerts_days", "forget_alerts", "count_alerts"),
    _forget("surplus_alerts", "alerts_days", "forget_surplus_alerts", "count_surplus_alerts"),
    _forget("observations", "observations_days", "forget_observations", "count_observations"),
    _forget("push_addresses", "addresses_days", "forget_push_addresses", "count_push_addresses"),
    _forget("push_content", "content_days", "empty_pushes", "count_pushes_to_empty"),
    _forget("decision_subjects", "content_days", "empty_decisions", "count_decisions_to_empty"),
    _forget("zone_visits", "visits_days", "forget_zone_visits", "count_zone_visits"),
    _forget("visits", "visits_days", "forget_visits", "count_visits"),
    _forget("fence_visits", "visits_days", "forget_fence_visits", "count_fence_visits"),
)
"""Everything that does not stay for good. What is in no rule stays: the audit, people, campaigns, orders."""


def count(session: Session, rule: Rule, before: int) -> int:
    """How many rows are from before a time, unix milliseconds."""
    row = session.row(rule.count, **_values(before))
    return int(row[0]) if row is not None else 0


def begin(session: Session, rule: Rule, now: int, before: int, found: int) -> None:
    """A job begins, or goes on where a process died."""
    session.run("begin_retention", kind=rule.kind, now=now, before=before, found=found)


def portion(session: Session, rule: Rule, now: int, before: int, limit: int) -> int:
    """Works off at most so many rows from before a time; how many it was, 0 when nothing is left."""
    rows = rule.portion(session, {**_values(before), "now": now, "limit": limit})
    if rows:
        session.run("retention_portion", kind=rule.kind, rows=rows)
    return rows


def end(session: Session, rule: Rule, now: int) -> None:
    """Nothing is left that is too old."""
    session.run("end_retention", kind=rule.kind, now=now)


def jobs(session: Session) -> dict[str, Job]:
    """How far each kind is, or how its last run ended."""
    return {row["kind"]: Job(**dict(row)) for row in session.rows("retention_jobs")}


def _values(before: int) -> dict[str, Any]:
    return {"before": before, "before_s": before // 1000, "most": ALERTS_KEPT, "content": _NO_CONTENT}
