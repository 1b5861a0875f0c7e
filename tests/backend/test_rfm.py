"""RFM: bounds, scores and names; the run over people with one and with several identifiers."""

import asyncio
import time
from collections import Counter

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from backend import scoring
from backend.scoring import Scorer
from backend.segments.rfm import CELLS, NAMES, bounds_of, name_of, scores_of
from backend.storage import rfm
from backend.storage.session import StorageError
from simulators.backend_alone import running_backend

NOON = 1_750_075_200_000
DAY = 86_400_000


def test_every_name_occurs_and_every_cell_has_one():
    assert set(CELLS.values()) == set(NAMES)
    assert len(CELLS) == 125


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ((5, 5, 5), "Champions"),
        ((4, 3, 5), "Champions"),
        ((5, 1, 1), "New"),
        ((4, 1, 5), "New"),
        ((5, 2, 2), "Potential Loyalist"),
        ((4, 3, 3), "Loyal"),
        ((3, 4, 3), "Loyal"),
        ((3, 1, 3), "Promising"),
        ((3, 2, 3), "Need Attention"),
        ((2, 2, 2), "About To Sleep"),
        ((2, 5, 5), "At Risk"),
        ((1, 3, 3), "At Risk"),
        ((1, 5, 5), "Can't Lose"),
        ((1, 1, 1), "Lost"),
    ],
)
def test_names(cell, name):
    assert name_of(*cell) == name


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=300))
def test_equal_values_score_equal_and_more_never_scores_less(values):
    array = np.array(values, np.int64)
    bounds = bounds_of(array)
    scores = scores_of(array, bounds).tolist()
    assert set(bounds) <= set(values)
    assert set(scores) <= {1, 2, 3, 4, 5}
    by_value = {}
    for value, score in zip(values, scores, strict=True):
        assert by_value.setdefault(value, score) == score
    ordered = [by_value[value] for value in sorted(by_value)]
    assert ordered == sorted(ordered)
    if len(set(values)) == len(values) >= 5:
        counts = Counter(scores)
        assert max(counts.values()) - min(counts.values()) <= 2, "quantiles: as many in each"


def test_nobody_makes_no_bounds():
    assert bounds_of(np.array([], np.int64)) == ()
    nobody = rfm.Purchases(np.empty(0, np.bytes_), *np.empty((3, 0), np.int64), np.empty((0, 3), np.int64))
    assert len(rfm.changes(nobody, rfm.score(nobody))) == 0


async def order(shop, user: str, order_id: str, *, days_ago: int, total: float, **more) -> None:
    event = shop.event(
        "track",
        user_id=user,
        name="Order Completed",
        properties={"order_id": order_id, "total": total, "currency": "EUR"},
        occurred_at=shop.clock() - days_ago * DAY,
        **more,
    )
    await shop.journal.append_events([event])


@pytest.fixture
async def scorer(live_shop):
    asked = []
    made = Scorer(live_shop.state, live_shop.clock, changed=lambda: asked.append(1))
    made.asked = asked
    return made


async def test_a_run_scores_stores_its_bounds_and_tells_what_changed(live_shop, scorer):
    shop = live_shop
    for number in range(10):
        for extra in range(number + 1):
            await order(shop, f"u{number}", f"o{number}-{extra}", days_ago=100 - 10 * number, total=10)
    await shop.folded()
    first = await scorer.score()
    scores = await shop.rows(
        "select r, f, m, name from rfm_scores join profiles using (profile_id) order by id"
    )
    assert [row["r"] for row in scores] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [row["f"] for row in scores] == [row["r"] for row in scores]
    assert scores[-1]["name"] == "Champions"
    [run] = await shop.rows("select * from rfm_runs")
    assert (run["run_id"], run["people"], run["orders"], run["changed"]) == (first, 10, 55, 10)
    assert '"frequency":[' in run["thresholds"]
    again = await scorer.score()
    assert await shop.column(f"select changed from rfm_runs where run_id = {again}") == [0]
    await order(shop, "u0", "late", days_ago=0, total=5)
    await shop.folded()
    await scorer.score()
    history = await shop.rows(
        "select c.r from rfm_changes c join profiles e using (profile_id) where e.id = 'u0' order by 1"
    )
    assert [row["r"] for row in history] == [1, 5]
    assert len(scorer.asked) == 2


async def test_a_person_with_two_identifiers_is_scored_once_each_order_once(live_shop, scorer):
    shop = live_shop
    for number in range(5):
        await order(shop, f"u{number}", f"o{number}", days_ago=number, total=10)
    browser = {"anonymous_id": "browser", "proven": False}
    event = shop.event(
        "track",
        name="Order Completed",
        properties={"order_id": "o0", "total": 10, "currency": "EUR"},
        **browser,
    )
    await shop.journal.append_events([event])
    await shop.journal.append_events([shop.event("identify", user_id="u0", anonymous_id="browser")])
    await shop.folded()
    await scorer.score()
    assert await shop.column("select count(*) from rfm_scores") == [5]
    [run] = await shop.rows("select people, orders from rfm_runs")
    assert (run["people"], run["orders"]) == (5, 5)


async def test_whoever_has_no_orders_any_more_has_no_scores(live_shop, scorer):
    shop = live_shop
    await order(shop, "u0", "o0", days_ago=1, total=10)
    await order(shop, "u1", "o1", days_ago=1, total=10)
    await shop.folded()
    await scorer.score()
    event = shop.event("track", user_id="u0", name="Order Cancelled", properties={"order_id": "o0"})
    await shop.journal.append_events([event])
    await shop.folded()
    await scorer.score()
    assert await shop.column("select count(*) from rfm_scores") == [1]
    assert await shop.column("select count(*) from rfm_changes where r is null") == [1]


async def test_a_run_begins_when_it_is_asked_for_and_a_day_later_by_itself(
    live_shop, scorer, running, eventually
):
    shop = live_shop
    await order(shop, "u0", "o0", days_ago=1, total=10)
    await shop.folded()

    async def runs() -> int:
        return (await shop.column("select count(*) from rfm_runs where finished_at is not null"))[0]

    async def finished(count: int) -> None:
        for _ in range(1_000):
            if await runs() == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the run did not come to its end")

    async with running(scorer.run()):
        await asyncio.sleep(0)
        assert await runs() == 0
        scorer.request()
        await finished(1)
    shop.clock.forward(DAY)
    async with running(scorer.run()):
        await finished(2)


async def test_a_run_whose_process_died_is_done_by_the_next(live_shop, scorer, running, eventually):
    """Whoever asked for it was told that it begins."""
    shop = live_shop
    await order(shop, "u0", "o0", days_ago=1, total=10)
    await shop.folded()
    await shop.state.write(lambda session: rfm.begin_run(session, shop.clock()))
    assert not await scorer._is_due(), "it may still be under way in another process"
    shop.clock.forward(scoring.DIED_MS)
    async with running(scorer.run()):
        await eventually(lambda: scorer.asked)
    assert await shop.column("select count(*) from rfm_scores") == [1]


async def test_a_run_goes_on_from_the_moment_that_it_is_asked_for(live_shop, scorer, running, eventually):
    assert scorer.progress is None
    scorer.request()
    assert scorer.progress is not None, "whoever asks how far it is right after the answer 202"
    async with running(scorer.run()):
        await eventually(lambda: scorer.progress is None)
    assert await live_shop.column("select count(*) from rfm_runs where finished_at is not null") == [1]


async def test_a_run_that_the_disk_stopped_is_begun_again(
    live_shop, scorer, running, eventually, monkeypatch
):
    monkeypatch.setattr(scoring, "AGAIN_S", 0.01)
    failures = iter([StorageError("the disk is full")] * 2)
    begin, end = rfm.begin_run, rfm.end_run

    def failing(work):
        def once(*arguments):
            for failure in failures:
                raise failure
            return work(*arguments)

        return once

    monkeypatch.setattr(rfm, "begin_run", failing(begin))
    monkeypatch.setattr(rfm, "end_run", failing(end))
    scorer.request()
    async with running(scorer.run()):
        await eventually(lambda: scorer.progress is None)
    assert await live_shop.column("select count(*) from rfm_runs where finished_at is not null") == [1]


@pytest.fixture
def unreadable(monkeypatch):
    """Failures of the next tries to read the purchases, and when each try was."""
    read, failures, tries = rfm.purchases, [], []

    def purchases(session):
        tries.append(time.monotonic())
        if failures:
            raise failures.pop()
        return read(session)

    monkeypatch.setattr(rfm, "purchases", purchases)
    return failures, tries


TOO_SLOW = StorageError("statement took longer than 30 s")


async def test_tries_of_a_run_have_one_number_and_wait_ever_longer(
    live_shop, scorer, running, eventually, monkeypatch, unreadable
):
    monkeypatch.setattr(scoring, "AGAIN_S", 0.001)
    monkeypatch.setattr(scoring, "LOOK_EVERY_S", 0.006)
    failures, tries = unreadable
    failures += [TOO_SLOW] * 5
    scorer.request()
    with capture_logs() as said:
        async with running(scorer.run()):
            await eventually(lambda: scorer.progress is None)
    assert len(tries) == 6
    pauses = [line["again_in_s"] for line in said if line["event"] == "scoring_failed"]
    assert pauses == [0.001, 0.002, 0.004, 0.006, 0.006]
    assert all(later - one >= wait for one, later, wait in zip(tries, tries[1:], pauses, strict=False))
    assert await live_shop.rows("select run_id from rfm_runs") == [{"run_id": 1}]
    assert [await scorer.score(), await scorer.score()] == [2, 3], "what came to its end is not gone on with"


async def test_whoever_asks_for_a_run_that_failed_need_not_wait(
    live_shop, scorer, running, eventually, monkeypatch, unreadable
):
    monkeypatch.setattr(scoring, "AGAIN_S", 3600.0)
    failures, tries = unreadable
    failures.append(TOO_SLOW)
    scorer.request()
    async with running(scorer.run()):
        await eventually(lambda: len(tries) == 1)
        assert scorer.progress is not None
        scorer.request()
        await eventually(lambda: scorer.progress is None)
    assert len(tries) == 2
    assert await live_shop.column("select run_id from rfm_runs where finished_at is not null") == [1]


async def test_what_a_try_has_written_is_news_of_the_run(live_shop, scorer, running, eventually, monkeypatch):
    monkeypatch.setattr(scoring, "AGAIN_S", 0.01)
    shop = live_shop
    await order(shop, "u0", "o0", days_ago=1, total=10)
    await shop.folded()
    end, failures = rfm.end_run, [StorageError("the disk is full")]

    def failing(*arguments) -> None:
        if failures:
            raise failures.pop()
        end(*arguments)

    monkeypatch.setattr(rfm, "end_run", failing)
    scorer.request()
    async with running(scorer.run()):
        await eventually(lambda: scorer.progress is None)
    [run] = await shop.rows("select people, changed from rfm_runs")
    assert (run["people"], run["changed"]) == (1, 1)
    assert scorer.asked == [1]


async def test_amounts_of_several_currencies_are_warned_of(tmp_path):
    async with running_backend(tmp_path) as backend, aiohttp.ClientSession() as http:

        async def bought(order_id: str, currency: str) -> None:
            properties = {"order_id": order_id, "total": 10, "currency": currency}
            body = {"userId": "anna", "event": "Order Completed", "properties": properties}
            key = {"Authorization": f"Bearer {backend.write_key}"}
            async with http.post(f"{backend.url}/v1/track", json=body, headers=key) as answer:
                assert answer.status == 200

        async def told(method: str) -> dict:
            async with http.request(method, f"{backend.url}/api/rfm/runs", headers=backend.headers) as answer:
                assert answer.status in (200, 202)
                return await answer.json()

        async def scored_until(orders: int) -> dict:
            """The fold lags by milliseconds, so a run may come before the last order."""
            async with asyncio.timeout(20):
                while True:
                    await told("POST")
                    answer = await told("GET")
                    if answer["runs"] and answer["runs"][0]["orders"] == orders:
                        return answer["runs"][0]
                    await asyncio.sleep(0.01)

        await bought("o1", "EUR")
        run = await scored_until(1)
        assert (run["currencies"], run["warning"]) == ({"EUR": 1}, None)
        await bought("o2", "USD")
        run = await scored_until(2)
        assert run["currencies"] == {"EUR": 1, "USD": 1}
        assert "several currencies" in run["warning"]
