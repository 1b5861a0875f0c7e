"""RFM on both engines: what a run stores is what the rules say of each person's own orders."""

import asyncio
import json
from contextlib import suppress

import numpy as np
import pytest

from backend import scoring
from backend.fold import Fold
from backend.scoring import Scorer
from backend.segments.model import Definition, HasRfm
from backend.segments.rfm import CELLS, bounds_of, scores_of
from backend.storage import orders, rfm, segments
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000
DAY = 86_400_000
_numbers = iter(range(10**6))


def event(kind: str = "track", *, days_ago: int = 0, **more) -> AppEvent:
    number = next(_numbers)
    at = NOON - days_ago * DAY + number
    return AppEvent(kind, f"m{number}", "shop", at, NOON + number, **more)


def user(name: str) -> dict:
    return {"user_id": name, "proven": True}


def bought(who: dict, order_id: str, total: int, days_ago: int, **more) -> AppEvent:
    properties = {"order_id": order_id, "total": total, "currency": "EUR", **more}
    return event(name="Order Completed", properties=properties, days_ago=days_ago, **who)


def cancelled(who: dict, order_id: str) -> AppEvent:
    return event(name="Order Cancelled", properties={"order_id": order_id}, **who)


@pytest.fixture
async def folded(journal, state):
    """Appends events and waits until they are folded."""
    fold = Fold(journal, state, lambda: NOON + DAY, on_listening=lambda _: None)
    await fold.load()
    task = asyncio.create_task(fold.run())

    async def append(*events: AppEvent) -> None:
        await journal.append_events(list(events))
        assert await fold.caught_up("", 20)

    yield append
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def scorer(state, monkeypatch):
    """In the smallest of pages and portions."""
    monkeypatch.setattr(rfm, "PAGE", 3)
    monkeypatch.setattr(scoring, "FIRST_PORTION", 2)
    return Scorer(state, lambda: NOON + DAY, changed=lambda: None)


def _bought(session, roots: list[str]) -> dict[str, tuple[int, int, int]]:
    """When each person bought last, how often, for how much: from the orders, person by person."""
    found = {}
    for person in roots:
        own = [one for one in orders.orders_of(session, person) if one.status == "completed"]
        if own:
            money = sum((one.total or 0) - one.refunded for one in own)
            found[person] = (max(one.completed_at for one in own), len(own), money)
    return found


def _expected(bought: dict[str, tuple[int, int, int]]) -> dict[str, tuple]:
    """Their cells, by the rules alone."""
    columns = np.array(list(bought.values()), np.int64).reshape(-1, 3).T
    scores = np.stack([scores_of(column, bounds_of(column)) for column in columns], axis=1).tolist()
    return {person: (*cell, CELLS[tuple(cell)]) for person, cell in zip(bought, scores, strict=True)}


async def test_every_run_stores_what_the_rules_say_of_each_person(state, folded, scorer, raw):
    async def check() -> list[tuple]:
        """The newest run's changes."""
        run_id = await scorer.score()

        def read(session):
            roots = raw(session, "select profile_id from profiles where merged_into is null")
            bought, found = _bought(session, [one for (one,) in roots]), rfm.purchases(session)
            columns = (found.people.astype(str).tolist(), found.last_at, found.count, found.revenue)
            assert {person: tuple(row) for person, *row in zip(*columns, strict=True)} == bought
            stored = raw(session, "select profile_id, r, f, m, name from rfm_scores")
            news = f"select profile_id, r, f, m, name from rfm_changes where run_id = {run_id}"
            return {one: tuple(cell) for one, *cell in stored}, _expected(bought), raw(session, news)

        stored, expected, news = await state.read(read)
        assert stored == expected
        assert {one: tuple(cell) for one, *cell in news if cell[0]}.items() <= expected.items()
        [run] = await state.read(lambda session: rfm.runs(session, 1))
        assert (run["people"], run["changed"]) == (len(expected), len(news))
        return news

    assert await check() == []
    browser, other, old = ({"anonymous_id": f"browser-{number}"} for number in (1, 2, 3))
    await folded(
        *(
            bought(user(f"u{number}"), f"o{number}-{again}", 10 * number, days_ago=20 - number)
            for number in range(11)
            for again in range(number % 4 + 1)
        ),
        bought(browser, "guest", 7, days_ago=2),
        bought(other, "o3-0", 30, days_ago=17),
        bought(old, "before it was theirs", 1000, days_ago=300),
        bought(old, "since it is theirs", 1, days_ago=0),
    )
    assert len(await check()) == 14
    assert await check() == []
    # Browsers turn out to be somebody's: one with an order that its user reported as well, and one that was
    # used by others before.
    await folded(
        event("identify", **user("u1"), **browser),
        event("identify", **user("u3"), **other),
        event("identify", **user("u9"), **old),
    )
    gone = [one for one in await check() if one[1] is None]
    assert len(gone) == 3, "they are part of others now"
    # Orders end: of somebody with one identifier, and of somebody with two.
    await folded(
        cancelled(user("u0"), "o0-0"),
        *(cancelled(user("u1"), name) for name in ("o1-0", "o1-1")),
        cancelled(browser, "guest"),
    )
    gone = [one for one in await check() if one[1] is None]
    assert len(gone) == 2
    assert await check() == []


async def test_a_run_says_in_how_many_currencies_the_orders_were(folded, scorer, state):
    await folded(
        bought(user("u1"), "o1", 10, 1),
        bought(user("u1"), "o2", 10, 2),
        bought(user("u2"), "o3", 10, 3, currency="usd"),
        bought(user("u3"), "o4", 10, 4, currency=None),
        bought(user("u3"), "of no amount", None, 4, currency="GBP"),
        bought(user("u4"), "o5", 10, 5, currency="JPY"),
        cancelled(user("u4"), "o5"),
    )
    await scorer.score()
    [run] = await state.read(lambda session: rfm.runs(session, 1))
    assert json.loads(run["currencies"]) == {"": 1, "EUR": 2, "USD": 1}


async def test_an_order_that_two_identifiers_of_a_person_reported_is_in_its_currency_once(
    folded, scorer, state
):
    browser = {"anonymous_id": "browser-of-two-reports"}
    await folded(
        *(bought(user(f"u{number}"), "o1", 10, 1) for number in range(3)),
        *(bought(browser, order_id, 10, 1) for order_id in ("o1", "o2", "o5")),
        bought(browser, "o3", 10, days_ago=40),
        bought(browser, "o4", None, 2, currency="GBP"),
        event("identify", **user("u1"), **browser),
    )
    await scorer.score()
    [run] = await state.read(lambda session: rfm.runs(session, 1))
    assert (run["people"], run["orders"], json.loads(run["currencies"])) == (3, 6, {"EUR": 5})
    await folded(*(cancelled(user("u1"), order_id) for order_id in ("o1", "o2")), cancelled(browser, "o1"))
    await scorer.score()
    [run] = await state.read(lambda session: rfm.runs(session, 1))
    assert (run["people"], run["orders"], json.loads(run["currencies"])) == (3, 4, {"EUR": 3})


async def test_whoever_is_asked_again_is_asked_once_at_the_earlier_time(state, raw):
    for people, now in ((["p1", "p2", "p1"], 5), (["p2", "p3"], 3), (["p1"], 9), ([], 1)):
        await state.write(lambda session, some=people, at=now: segments.ask_again(session, some, at))
    timers = await state.read(
        lambda session: raw(session, "select * from segment_timers order by profile_id")
    )
    assert timers == [("p1", segments.EVERY, 5), ("p2", segments.EVERY, 3), ("p3", segments.EVERY, 3)]


async def test_a_segment_that_is_saved_while_scores_are_written_is_asked_about_the_rest(
    folded, scorer, state, raw, monkeypatch
):
    await folded(*(bought(user(f"u{number}"), f"o{number}", 100, number) for number in range(5)))
    put, best = rfm.put_changes, Definition("Best", HasRfm())

    def save_after_the_first(session, *written) -> None:
        put(session, *written)
        if segments.segment(session, "best") is None:
            segments.save_segment(session, "best", best, NOON, "test")

    monkeypatch.setattr(rfm, "put_changes", save_after_the_first)
    await scorer.score()
    timers = await state.read(lambda session: raw(session, "select profile_id from segment_timers"))
    assert len(timers) >= 3  # of five, two in a portion


def test_portions_are_everything_once_whatever_their_size():
    people = np.array([f"p{number}" for number in range(7)], np.bytes_)
    scores = np.array([(1 + number % 5, 2, 3) for number in range(7)], np.int8)
    scored = rfm.Scored(people, scores, None, 0, {})
    changes = rfm.Changes(scored, np.array([0, 2, 3, 6]), ["gone-1", "gone-2", "gone-3"])
    expected = sorted([("p0", 1), ("p2", 3), ("p3", 4), ("p6", 2), *((one, 0) for one in changes.gone)])
    for size in range(1, 9):
        found = [
            (one, cell[0] if cell else 0)
            for start in range(0, len(changes), size)
            for cell, some in changes.portion(start, size).items()
            for one in some
        ]
        assert sorted(found) == expected
        assert [sum(map(len, changes.portion(0, size).values()))] == [min(size, 7)]
