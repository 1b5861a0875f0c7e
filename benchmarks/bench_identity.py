"""How fast identities are worked out: logins that merge, events of known people, the whole fold of both.

Rates are medians of the rounds; `undisturbed` is what comes of the fastest round of each part (machine.py).
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from backend import garbage
from backend.fold import Fold
from backend.ids import uuid7
from backend.profiles.service import Numbered, ProfileService
from backend.segments.model import (
    Agreed,
    AllOf,
    AnyOf,
    Condition,
    Contains,
    DaysAgo,
    Definition,
    Did,
    Dwelt,
    Filter,
    HasIdentifier,
    HasRfm,
    HasTrait,
    InSegment,
    Is,
    IsIn,
    IsNear,
    Not,
    NumberIs,
)
from backend.storage import segments, sqlite_memory
from backend.storage.database import SqliteFile, open_for_writing, transaction
from backend.storage.journal import Journal, message_hash
from backend.storage.profile_rows import ProfileRows
from backend.storage.session import Session
from benchmarks import fold_lag
from benchmarks.machine import stolen_s, undisturbed
from benchmarks.peer_edges import Edges
from sdk_bridge.wire.app_events import AppEvent

NOW = 1_750_075_200_000
DAY_S = 86_400
clock = time.process_time  # seconds of one core: what others do on the machine meanwhile is not ours
LOGIN_GOAL, FOLD_GOAL = 20_000, 15_000
"""Per second on one core."""
PEER, OURS = "edges alone, no rules", "logins that merge"
GOALS = {
    OURS: LOGIN_GOAL,
    "whole fold, these three": FOLD_GOAL,
    "with ten usual segments": FOLD_GOAL,
    "with ten hot segments": FOLD_GOAL,
}
LAG_GOAL_MS, LAG_S, LAG_TURNS = 100, 20.0, 3
FOLDED_TOGETHER = 5_000  # events; turns shorter than a machine's slow times


def page(number: int, person: int) -> AppEvent:
    return AppEvent(
        kind="page", message_id=f"m{number}", source="web",
        occurred_at=NOW + number, received_at=NOW + number,
        anonymous_id=f"a-{person}", name="Shoes", properties={"path": "/shoes", "price": 59.9},
    )  # fmt: skip


def identify(number: int, person: int) -> AppEvent:
    return AppEvent(
        kind="identify", message_id=f"m{number}", source="web", occurred_at=NOW + number,
        received_at=NOW + number, anonymous_id=f"a-{person}", user_id=f"u-{person}", proven=True,
        traits={"name": f"Person {person}"},
    )  # fmt: skip


def track(number: int, person: int) -> AppEvent:
    return AppEvent(
        kind="track", message_id=f"m{number}", source="web",
        occurred_at=NOW + number, received_at=NOW + number,
        anonymous_id=f"a-{person}", user_id=f"u-{person}", proven=True, name="Product Viewed",
        properties={"product_id": f"P-{person % 500}", "category": "shoes", "price": 59.9},
    )  # fmt: skip


def identities(
    folder: Path, events: Sequence[AppEvent], batch: int, before: Sequence[AppEvent]
) -> list[float]:
    """Seconds of each batch through the rules into SQLite, commits included; `before` is there already."""
    connection = open_for_writing(folder / "state.db", "state")
    service, numbers, times = ProfileService(), itertools.count(), itertools.count(NOW)
    kept: list[ProfileRows] = []

    def apply(part: Sequence[AppEvent]) -> None:
        now = next(times)
        numbered = [Numbered(one, next(numbers), message_hash(one.source, one.message_id)) for one in part]

        def work(session: Session) -> None:
            # As in the fold; the events are needed only where somebody logs out, which nobody does here.
            rows = kept[0] if kept else ProfileRows(session, events_follow=True)
            rows.begin(session)
            service.apply_all(rows, numbered, lambda: uuid7(now))
            rows.flush()
            rows.end()
            kept[:] = [rows]

        transaction(connection, "state", work)

    for part in parts(before, batch):
        apply(part)
    garbage.settle()  # as the backend does; and the lists of events here are nobody's burden but this one's
    spent = [timed(lambda part=part: apply(part)) for part in parts(events, batch)]
    connection.close()
    return spent


def timed(work: Callable[[], None]) -> float:
    started = clock()
    work()
    return clock() - started


def least(folder: Path, events: Sequence[AppEvent], batch: int, before: Sequence[AppEvent]) -> list[float]:
    """The same events through the peer."""
    edges = Edges(folder / "edges.db")
    for part in parts(before, batch):
        edges.apply(part)
    garbage.settle()
    spent = [timed(lambda part=part: edges.apply(part)) for part in parts(events, batch)]
    edges.close()
    return spent


def hot_segments() -> list[Definition]:
    """Ten whose answers hang on what the events tell: each event concerns four to eight of them."""
    view, page = "Product Viewed", "Shoes"
    shoes = (Filter("category", Is("shoes")),)
    bought = Did("Order Completed", within_s=90 * DAY_S)
    conditions: list[Condition] = [
        Did(view, within_s=30 * DAY_S),
        Did(view, at_least=3, within_s=7 * DAY_S, where=shoes),
        Did(view, within_s=7 * DAY_S, where=(Filter("price", NumberIs(at_least=50)),)),
        AllOf((Did(view, at_least=2, within_s=30 * DAY_S), Not(bought))),
        Did(page, "page", at_least=5, within_s=7 * DAY_S),
        AllOf((Did(page, "page"), Not(HasIdentifier("user_id")))),
        AllOf((HasIdentifier("user_id"), Did(kind="any", at_least=10, within_s=30 * DAY_S))),
        AllOf((HasTrait("name"), Did(view, at_least=5))),
        Did(kind="any", at_most=3, within_s=30 * DAY_S),
        AnyOf((InSegment("s1"), InSegment("s3"))),
    ]
    return [Definition(f"Segment {number}", one) for number, one in enumerate(conditions)]


def usual_segments() -> list[Definition]:
    """Ten as a shop has them (docs/segments.md): most events concern none of them, or one."""
    push, bought = Agreed("push"), "Order Completed"
    shoes, coffee = Is("shoes"), Is("coffee")
    on_cart, on_thanks = (Filter("path", Contains(page)) for page in ("/cart", "/thank-you"))
    coffee_bought = Did(bought, where=(Filter(("products", "[]", "category"), coffee),))
    conditions: dict[str, Condition] = {
        "Keen on shoes": AllOf(
            (
                Did("Product Viewed", at_least=3, within_s=7 * DAY_S, where=(Filter("category", shoes),)),
                Did(bought, at_most=0, within_s=7 * DAY_S),
            )
        ),
        "Left in the cart": AllOf((Did("Product Added", within_s=DAY_S), Not(Did(bought, within_s=DAY_S)))),
        "At the coffee shelf": AllOf((coffee_bought, Dwelt(300, "coffee", within_s=30 * DAY_S), push)),
        "Slipping away, and near": AllOf((HasRfm(("At Risk", "Can't Lose")), IsNear(store_id="vienna-1"))),
        "Left the site's cart": AllOf(
            (
                Did(kind="page", within_s=3600, where=(on_cart,)),
                Did(kind="page", at_most=0, within_s=3600, where=(on_thanks,)),
            )
        ),
        "Silent customers": AllOf((Did(kind="any", at_most=0, within_s=30 * DAY_S), Did(bought))),
        "Trial ends": HasTrait("trial_ends_at", DaysAgo(at_least=-3, at_most=0)),
        "Champions to be told": AllOf((HasRfm(("Champions",)), push)),
        "Bought twice": Did(bought, at_least=2, within_s=90 * DAY_S),
        "In the shoe zone": AllOf((IsIn("vienna-1", "shoes"), Agreed("proximity"))),
    }
    return [Definition(name, condition) for name, condition in conditions.items()]


def save_segments(session: Session, definitions: Sequence[Definition]) -> None:
    """Computed for everybody already, since nobody is there yet: it is their following that is measured."""
    session.run("save_store", store_id="vienna-1", name="Vienna", timezone="Europe/Vienna")
    session.run("save_zone", store_id="vienna-1", zone_id="shoes", name="Shoes", categories="[]")
    for number, definition in enumerate(definitions):
        segment_id = f"s{number}"
        segments.save_segment(session, segment_id, definition, NOW, "bench")
        segments.start_computing(session, segment_id, segments.basis_of(session, definition.condition))
        segments.end_computing(session, segment_id, 1, NOW)


async def whole_fold(
    folder: Path, events: Sequence[AppEvent], batch: int, definitions: Sequence[Definition] = ()
) -> list[float]:
    """Seconds of each portion from the journal through the fold: identities, events, audiences, offers,
    commits."""
    async with (
        SqliteFile(folder / "journal.db", "journal") as journal_file,
        SqliteFile(folder / "state.db", "state") as state,
    ):
        await state.write(lambda session: save_segments(session, definitions))
        journal = Journal(journal_file, lambda: NOW)
        await journal.load()
        appending = asyncio.create_task(journal.run())
        times = itertools.count(NOW + len(events))  # a clock that stands would make ids that no clock orders
        fold = Fold(journal, state, lambda: next(times), on_listening=lambda _: None)
        await fold.load()
        spent: list[float] = []
        for portion in parts(events, FOLDED_TOGETHER):
            for part in parts(portion, batch):
                await journal.append_events(part)
            garbage.settle()  # as the backend does
            started = clock()
            folding = asyncio.create_task(fold.run())
            await fold.caught_up("", within_s=600.0)
            spent.append(clock() - started)
            await stopped(folding)
        await stopped(appending)
    return spent


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def parts(events: Sequence[AppEvent], size: int) -> Iterable[Sequence[AppEvent]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]


class Run(NamedTuple):
    """So many events, and the seconds of each part of them."""

    events: int
    parts: list[float]

    @property
    def rate(self) -> float:
        return self.events / sum(self.parts)


def measure(people: int, batch: int) -> dict[str, Run]:
    pages = [page(number, number) for number in range(people)]
    logins = [identify(people + number, number) for number in range(people)]
    tracks = [track(2 * people + number, number * 7919 % people) for number in range(people)]
    mixed = [*pages, *logins, *tracks]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        usual, hot = usual_segments(), hot_segments()
        runs: dict[str, tuple[Sequence[AppEvent], Callable[[Path], list[float]]]] = {
            PEER: (logins, lambda at: least(at, logins, batch, pages)),
            OURS: (logins, lambda at: identities(at, logins, batch, pages)),
            "first events of strangers": (pages, lambda at: identities(at, pages, batch, [])),
            "events of known people": (tracks, lambda at: identities(at, tracks, batch, [*pages, *logins])),
            "whole fold, these three": (mixed, lambda at: asyncio.run(whole_fold(at, mixed, batch))),
            "with ten usual segments": (mixed, lambda at: asyncio.run(whole_fold(at, mixed, batch, usual))),
            "with ten hot segments": (mixed, lambda at: asyncio.run(whole_fold(at, mixed, batch, hot))),
        }
        found = {}
        for number, (what, (events, run)) in enumerate(runs.items()):
            at = folder / str(number)
            at.mkdir()
            found[what] = Run(len(events), run(at))
    return found


def lag(rate: float) -> None:
    for what, beside in [("backend beside a bridge", True)] * LAG_TURNS + [("one process for both", False)]:
        with tempfile.TemporaryDirectory() as name:
            found = fold_lag.measure(Path(name), rate, LAG_S, people=20_000, beside=beside)
            report_lag(what, found)


def report_lag(what: str, found: fold_lag.Lag) -> None:
    print(
        f"accepted to folded, {what:23} {found.rate:,.0f} events/s   p50 {found.quantile(0.5):.0f} ms   "
        f"p95 {found.quantile(0.95):.0f} ms   p99 {found.quantile(0.99):.0f} ms   goal p95 {LAG_GOAL_MS} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("rates", "lag"))
    given = parser.parse_args()
    sqlite_memory.count_no_more()  # as the backend does
    if given.only != "rates" and not given.json:
        lag(FOLD_GOAL / 2)
    if given.only == "lag":
        return
    stolen, began = stolen_s(), time.perf_counter()
    rounds = [measure(given.people, given.batch) for _ in range(given.rounds)]
    medians = {what: statistics.median(one[what].rate for one in rounds) for what in rounds[0]}
    if given.json:
        print(json.dumps(medians))
        return
    for what, rate in medians.items():
        best = rounds[0][what].events / undisturbed([one[what].parts for one in rounds])
        goal = f"   goal {GOALS[what]:,}" if what in GOALS else ""
        print(f"{what:28} {rate:10,.0f} events/s   undisturbed {best:7,.0f}{goal}")
    ratio = statistics.median(one[OURS].rate / one[PEER].rate for one in rounds)
    print(f"logins are {ratio:.2f} of what the same merges take without any rule")
    share = (stolen_s() - stolen) / (time.perf_counter() - began)
    print(f"meanwhile the host gave {share:.0%} of a core of this machine to others")


if __name__ == "__main__":
    main()
