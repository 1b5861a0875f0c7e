"""CDNOW's 69,659 real purchases, through the command into a backend that runs."""

import datetime
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from simulators.backend_process import BackendProcess
from simulators.cdnow import CUSTOMERS, ORDER_OPTIONS, PURCHASES, cdnow_rows, prepare_cdnow

FLOOR = 300  # rows a second, on two cores with a queue before them; on idle ones some 3,500


@pytest.mark.timeout(180)
@pytest.mark.xdist_group("heavy")
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
    days = Counter(
        (customer, midnight(date), round(float(dollars) * 100))
        for customer, date, _pieces, dollars in cdnow_rows()
    )
    assert len({customer for customer, *_ in days}) == CUSTOMERS
    assert found == days  # every purchase, also those of one customer, day and amount, each on its own day
    assert PURCHASES / seconds > FLOOR, f"{PURCHASES / seconds:.0f} rows/s"


def stored(path) -> Counter:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = connection.execute(
            "select id, occurred_at, properties from events join identity_edges using (profile_id)"
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
