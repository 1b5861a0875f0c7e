"""CDNOW's 69,659 real purchases, through the command into a backend that runs, and their scores."""

import datetime
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import pytest

from simulators.backend_process import BackendProcess
from simulators.cdnow import CUSTOMERS, ORDER_OPTIONS, PURCHASES, cdnow_rows, prepare_cdnow


@pytest.mark.timeout(180)
def test_cdnow(tmp_path, record_property):
    file = prepare_cdnow(tmp_path)
    with BackendProcess(tmp_path) as backend:
        command = [sys.executable, "-m", "backend", "import", "orders", str(file), *ORDER_OPTIONS]
        environment = {**os.environ, "FOOTFALL_TOKEN": backend.token("marketer")}
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--url", backend.url], env=environment, capture_output=True, text=True, check=False
        )
        backend.caught_up()
        seconds = time.monotonic() - began
        record_property("rows_per_second", round(PURCHASES / seconds))
        assert done.returncode == 0, done.stderr
        assert f"{PURCHASES} imported, 0 known before, 0 rows with errors" in done.stdout
        found = stored(tmp_path / "data" / "state.db")
        run = scored(backend)
        scores = stored_scores(tmp_path / "data" / "state.db")
    days = Counter(
        (customer, midnight(date), round(float(dollars) * 100))
        for customer, date, _pieces, dollars in cdnow_rows()
    )
    assert len({customer for customer, *_ in days}) == CUSTOMERS
    assert found == days  # every purchase, also those of one customer, day and amount, each on its own day
    bounds, expected = reckoned()
    assert scores == expected
    assert run["thresholds"] == bounds
    assert (run["people"], run["orders"], run["changed"]) == (CUSTOMERS, PURCHASES, CUSTOMERS)


def reckoned() -> tuple[dict[str, list[int]], dict[str, tuple[int, int, int]]]:
    """Every customer's scores by the definition alone: bounds at the quantiles, one point for each beaten."""
    last: dict[str, int] = {}
    times, spent = Counter(), Counter()
    for customer, date, _pieces, dollars in cdnow_rows():
        last[customer] = max(last.get(customer, 0), midnight(date))
        times[customer] += 1
        spent[customer] += round(float(dollars) * 100)
    bounds, scores = {}, {customer: [] for customer in last}
    for name, values in (("recency", last), ("frequency", times), ("monetary", spent)):
        ordered = sorted(values.values())
        bounds[name] = [ordered[(len(ordered) - 1) * fifth // 5] for fifth in (1, 2, 3, 4)]
        for customer, value in values.items():
            scores[customer].append(1 + sum(value > bound for bound in bounds[name]))
    return bounds, {customer: tuple(three) for customer, three in scores.items()}


def scored(backend: BackendProcess) -> dict:
    """Asks for a run and waits for it."""
    token = backend.token("marketer")
    headers = {"Authorization": f"Bearer {token}"}
    asked = urllib.request.Request(backend.url + "/api/rfm/runs", b"", headers, method="POST")  # noqa: S310
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - our own backend
        assert answer.status == 202
    until = time.monotonic() + 60
    while not (done := [run for run in backend.get("/api/rfm/runs", token)["runs"] if run["finished_at"]]):
        assert time.monotonic() < until, "the run did not come to its end"
        time.sleep(0.1)
    return done[0]


def stored_scores(path) -> dict[str, tuple[int, int, int]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "select id, r, f, m from rfm_scores join profiles using (profile_id) where id_type = 'user_id'"
        )
        return {customer: (r, f, m) for customer, r, f, m in rows}
    finally:
        connection.close()


def stored(path) -> Counter:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = connection.execute(
            "select id, occurred_at, properties from events join profiles using (profile_id)"
            " where id_type = 'user_id' and name = 'Order Completed'"
        )
        return Counter(
            (customer, at, round(json.loads(properties)["total"] * 100)) for customer, at, properties in found
        )
    finally:
        connection.close()


def midnight(date: str) -> int:
    day = datetime.datetime.strptime(date, "%Y%m%d").replace(tzinfo=datetime.UTC)
    return int(day.timestamp() * 1000)
