"""Retention: hours add up to their seconds, a kill loses and doubles nothing, the young is left alone."""

import asyncio
import contextlib
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend import retention as part
from backend.api.host import Host
from backend.api.retention import RETENTION
from backend.api.server import build
from backend.config import Retention as Settings
from backend.retention import DAY_MS, Retention
from backend.storage import erasure, floor
from backend.storage import retention as rows
from backend.storage.database import SqliteFile
from backend.storage.floor import Numbers, Sighting
from backend.storage.queries import named_queries
from sdk_bridge.wire.app_events import AppEvent, BeaconSighting

NOON = 1_750_075_200_000
DAYS = msgspec.structs.asdict(Settings())
RULES = {rule.kind: rule for rule in rows.RULES}
THIN = RULES["sightings"]
QUERIES = (Path(rows.__file__).parent / "sqlite/state/queries/retention.sql").read_text("utf-8")
BEFORE = NOON - 7 * DAY_MS


class Killed(Exception):
    """The process is no more: whatever was not committed never was."""


def heard(second: int, key: int, gateway: int, adverts: int, loss: int, best: int) -> Sighting:
    return Sighting(f"tag-{key}", f"s1/g{gateway}", second, adverts, loss, best)


def sums(session) -> dict:
    """What may never change by thinning: adverts, loss and the best by hour, beacon and gateway."""
    found: dict = {}
    for query in (
        "select second - second % 3600 as hour, gateway_number, key_number, adverts,"
        " loss * adverts as loss, best from sightings",
        "select hour, gateway_number, key_number, adverts, loss_sum as loss, best from sighting_hours",
    ):
        for row in session._connection.execute(query):
            place = row["hour"], row["gateway_number"], row["key_number"]
            adverts, loss_sum, best = found.get(place, (0, 0, 200))
            found[place] = adverts + row["adverts"], loss_sum + row["loss"], min(best, row["best"])
    return found


seconds = st.integers(BEFORE // 1000 - 9_000, BEFORE // 1000 + 50)
levels = st.integers(20, 120)
sightings = st.builds(
    heard, seconds, st.integers(0, 3), st.integers(0, 2), st.integers(1, 40), levels, levels
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(sightings, max_size=60),
    st.lists(sightings, max_size=20),
    st.lists(st.tuples(st.integers(1, 15), st.booleans()), min_size=1, max_size=8),
)
async def test_hours_are_the_sums_of_their_seconds_whatever_dies_in_between(
    first_start, first, late, portions
):
    """Each portion may be killed before its commit; in between an outage's backlog arrives."""
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(first_start / "state.db", folder)
        async with SqliteFile(Path(path), "state") as state:
            await state.write(lambda s: floor.add_sightings(s, Numbers(), first))
            before = await state.read(sums)
            await state.write(lambda s: rows.begin(s, THIN, NOON, BEFORE, 0))
            for limit, dies in portions:

                def work(session, limit=limit, dies=dies) -> int:
                    done = rows.portion(session, THIN, NOON, BEFORE, limit)
                    if dies:
                        raise Killed
                    return done

                with contextlib.suppress(Killed):
                    assert await state.write(work) <= limit
                assert await state.read(sums) == before
            await state.write(lambda s: floor.add_sightings(s, Numbers(), late))
            whole = await state.read(sums)
            await Retention(state, DAYS, lambda: NOON).sweep()
            assert await state.read(sums) == whole
            old = "select count(*) from sightings where second < ?"
            left = await state.read(lambda s: s._connection.execute(old, (BEFORE // 1000,)).fetchone()[0])
            young = {
                (s.second, s.beacon_key, s.gateway) for s in (*first, *late) if s.second >= BEFORE // 1000
            }
            kept = await state.read(
                lambda s: s._connection.execute("select count(*) from sightings").fetchone()[0]
            )
            assert (left, kept) == (0, len(young))


async def test_a_run_goes_on_where_a_killed_one_was_and_says_so(state, monkeypatch):
    made = [heard(BEFORE // 1000 - 50_000 + n, n % 5, n % 2, 2, 60, 50) for n in range(1_000)]
    await state.write(lambda s: floor.add_sightings(s, Numbers(), made))
    whole = await state.read(sums)
    work, turns = rows.portion, 0

    def dying(session, rule, *rest) -> int:
        nonlocal turns
        turns += rule is THIN
        done = work(session, rule, *rest)
        if turns == 4:
            raise Killed
        return done

    monkeypatch.setattr(rows, "portion", dying)
    monkeypatch.setattr(part, "PORTION_S", 1e-9)  # so that portions stay small
    with pytest.raises(Killed):
        await Retention(state, DAYS, lambda: NOON).sweep()
    died = (await state.read(rows.jobs))["sightings"]
    left = (await state.read(lambda s: s._connection.execute("select count(*) from sightings").fetchone()))[0]
    assert died.finished_at is None
    assert 0 < died.rows_done == 1_000 - left < 1_000
    monkeypatch.setattr(rows, "portion", work)
    again = Retention(state, DAYS, lambda: NOON + 5)
    assert await again.sweep() == left
    job = (await again.jobs())["sightings"]
    assert (job.rows_found, job.rows_done) == (1_000, 1_000)
    assert (job.begun_at, job.finished_at) == (NOON, NOON + 5)
    assert await state.read(sums) == whole
    assert await again.sweep() == 0
    assert (await again.jobs())["sightings"].rows_found == 0


async def test_accounts_count_hours_too(state):
    made = [heard(NOON // 1000 - n * 3_600, n % 5, n % 2, 1 + n % 3, 60, 50) for n in range(400)]

    def write(session) -> None:
        floor.add_sightings(session, Numbers(), made)
        untimed = [heard(n, 1, 1, 4, 60, 50) for n in range(30)]
        floor.add_sightings_without_time(session, Numbers(), "boot", NOON - 8 * DAY_MS, untimed)

    await state.write(write)
    wanted = Counter()
    for one in made:
        wanted[one.gateway] += one.adverts
    wanted["s1/g1"] += 120
    await Retention(state, DAYS, lambda: NOON).sweep()
    accounts = await state.read(lambda s: s.rows("adverts_by_gateway"))
    assert {row["gateway"]: row["adverts"] for row in accounts} == wanted
    untimed = await state.read(lambda s: s.rows("count_sightings_without_time", before=2 * NOON))
    assert untimed[0][0] == 0


def tables(session) -> dict[str, list]:
    """A young and an old row of everything that goes after a time; the times of what is left."""
    queries = {
        "alerts": "select at from alerts",
        "observations": "select received_at from events",
        "push_content": "select created_at from pushes where address_value <> push_id",
        "push_rows": "select created_at from pushes",
        "push_addresses": "select last_seen_at from push_addresses",
        "decision_subjects": "select decided_at from decisions where subject <> ''",
        "zone_visits": "select left_at from zone_visits",
        "visits": "select left_at from visits",
        "fence_visits": "select left_at from fence_visits",
        "hours": "select hour * 1000 from sighting_hours",
    }
    return {
        name: sorted(row[0] or 0 for row in session._connection.execute(sql)) for name, sql in queries.items()
    }


def at_age(session, number: int, at: int) -> None:
    """One row of everything, of that time."""
    run = session._connection.execute
    run("insert into alerts (at, kind, subject, detail) values (?, 'k', 's', 'd')", (at,))
    for offset, kind in enumerate(("location", "track")):
        event = AppEvent(kind, f"m{number}", "app", at, at, sighting=BeaconSighting("k", "range"))
        body = msgspec.msgpack.encode(event)
        run(
            "insert into events (event_id, event_hash, kind, source, message_id, occurred_at,"
            " received_at, body) values (?, 1, ?, 'app', ?, ?, ?, ?)",
            (number * 10 + offset, kind, f"m{number}", at, at, body),
        )
    decision = (number, f"p{number}", at, at, at, at, f"tag-{number}")
    run(
        "insert into decisions (decision_id, campaign_id, campaign_version, profile_id, store_id, zone_id,"
        " entered_at, due_at, completed_at, decided_at, verdict, reason, subject)"
        " values (?, 'c', 1, ?, 's1', 'a', ?, ?, ?, ?, 'sent', '', ?)",
        decision,
    )
    run(
        "insert into pushes (push_id, decision_id, campaign_id, profile_id, address_kind, address_value,"
        " content, state, next_try_at, expires_at, created_at, due_at, completed_at)"
        " values (?, ?, 'c', 'p', 'token', ?, x'00', 'accepted', 0, 0, ?, 0, 0)",
        (f"push-{number}", number, f"token-{number}", at),
    )
    run(
        "insert into push_addresses (kind, value, profile_id, bound_at, bound_hash, last_seen_at)"
        " values ('token', ?, 'p', 0, 0, ?)",
        (f"token-{number}", at),
    )
    for left_at in (at, None):
        run(
            "insert into zone_visits (beacon_key, store_id, zone_id, entered_at, left_at)"
            " values ('t', 's1', 'a', ?, ?)",
            (at - 1, left_at),
        )
        run(
            "insert into visits (subject, store_id, entered_at, left_at) values (?, 's1', ?, ?)",
            (f"t{number}-{left_at}", at - 1, left_at),
        )
        run(
            "insert into fence_visits (subject, profile_id, fence_id, entered_at, left_at, confidence)"
            " values ('phone:1', 'p', 'f', ?, ?, 'high')",
            (at - 1, left_at),
        )
    run("insert into sighting_hours values (?, ?, 1, 1, 60, 60)", (number, at // 1000))


async def test_erasing_a_person_reaches_the_hours_of_their_tags(state):
    """Also while seconds are still becoming hours: the eraser is killed in between, and begins again."""
    old = [heard(BEFORE // 1000 - n * 3_600, key, 1, 1, 60, 50) for n in range(1, 700) for key in (1, 2)]

    def write(session) -> None:
        floor.add_sightings(session, Numbers(), old)
        session._connection.execute(
            "update heard_keys set beacon_key = 'erased:1' where beacon_key = 'tag-1'"
        )
        rows.begin(session, THIN, NOON, BEFORE, 0)

    def erase_some(session) -> bool:
        person = erasure.Person(NOON, {}, [], [], [], {"tag-1": "erased:1"})
        rows.portion(session, THIN, NOON, BEFORE, 300)
        return erasure.erase_sightings(session, "none", person)

    await state.write(write)
    while await state.write(erase_some):
        pass
    await Retention(state, DAYS, lambda: NOON).sweep()
    left = "select distinct key_number from sighting_hours"
    keys = "select beacon_key from heard_keys"
    numbers, names = await state.read(
        lambda s: [[row[0] for row in s._connection.execute(sql)] for sql in (left, keys)]
    )
    assert (len(numbers), names) == (1, ["tag-2"])


async def test_each_kind_goes_after_its_own_days_and_nothing_younger(state):
    days = {setting: 10 * (number + 1) for number, setting in enumerate(DAYS)}
    ages = [NOON - age * DAY_MS for age in range(1, 100)]
    await state.write(lambda s: [at_age(s, number, at) for number, at in enumerate(ages, 1)])
    await Retention(state, days, lambda: NOON).sweep()
    left = await state.read(tables)

    def kept(setting: str) -> list[int]:
        return sorted(at for at in ages if at >= NOON - days[setting] * DAY_MS)

    open_ones = [0] * len(ages)
    assert left["alerts"] == kept("alerts_days")
    assert left["observations"] == sorted([*kept("observations_days"), *ages])
    assert left["push_content"] == left["decision_subjects"] == kept("content_days")
    assert left["push_addresses"] == kept("addresses_days")
    assert left["push_rows"] == sorted(ages), "figures stay"
    for visits in ("zone_visits", "visits", "fence_visits"):
        assert left[visits] == open_ones + kept("visits_days")
    assert left["hours"] == kept("sighting_hours_days")


async def test_days_of_nought_keep_everything(state):
    ages = [NOON - age * DAY_MS for age in range(1, 1_000, 100)]
    await state.write(lambda s: [at_age(s, number, at) for number, at in enumerate(ages, 1)])
    whole = await state.read(tables)
    await Retention(state, dict.fromkeys(DAYS, 0), lambda: 10 * NOON).sweep()
    assert await state.read(tables) == whole
    await Retention(state, DAYS, lambda: 2 * NOON).sweep()
    assert (await state.read(tables))["visits"] == whole["visits"], "kept for good by default"


async def test_of_too_many_alerts_the_newest_stay(state, monkeypatch):
    monkeypatch.setattr(rows, "ALERTS_KEPT", 50)
    await state.write(lambda s: [floor.raise_alert(s, NOON + n, "k", "s", str(n)) for n in range(220)])
    await Retention(state, DAYS, lambda: NOON).sweep()
    assert (await state.read(tables))["alerts"] == [NOON + n for n in range(170, 220)]


async def test_sightings_of_an_older_program_begin_to_age_when_they_are_found(state):
    untimed = [heard(n, 1, 1, 1, 60, 50) for n in range(300)]

    def write(session) -> None:
        floor.add_sightings_without_time(session, Numbers(), "boot", 0, untimed)
        session._connection.execute("update sightings_without_time set received_at = null")

    await state.write(write)
    for now, left in ((NOON, 300), (NOON + 7 * DAY_MS, 300), (NOON + 7 * DAY_MS + 1, 0)):
        await Retention(state, DAYS, lambda now=now: now).sweep()
        counted = await state.read(lambda s: s.row("count_sightings_without_time", before=9 * NOON))
        assert counted[0] == left


async def test_every_portion_finds_its_rows_by_an_index(state):
    """A table is read from end to end by none of them: it would hold the writer for seconds."""
    names = set(re.findall(r"^-- name: (\w+)", QUERIES, re.MULTILINE)) - {"retention_jobs"}
    assert len(names) > 20
    values = {
        "before": 1, "before_s": 1, "limit": 1, "most": 1, "content": b"", "now": 1, "kind": "", "rows": 1,
        "found": 1, "key_number": 1, "hour": 1, "gateway_number": 1, "adverts": 1, "loss_sum": 1, "best": 1,
    }  # fmt: skip

    def plans(session) -> list[str]:
        return [
            f"{name}: {row['detail']}"
            for name in names
            for row in session._connection.execute(
                f"explain query plan {named_queries('state')[name]}", values
            )
        ]

    scans = [plan for plan in await state.read(plans) if "SCAN" in plan and "INDEX" not in plan]
    assert [scan for scan in scans if "SUBQUERY" not in scan] == []


async def _first_run_over(told) -> None:
    """Else the run that began by itself finds what was meant for the one asked for."""
    deadline = time.monotonic() + 20
    while any(one["finished_at"] is None for one in (await told()).values() if one["days"]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_the_api_tells_and_begins_a_run(state, make_token, running, clock):
    retention = Retention(state, DAYS, clock)
    host = Host(state=state, journal=state, now_ms=clock, changed=lambda: None, health=dict)
    app = build(host, lambda _: None)
    app[RETENTION] = retention
    tokens = [await make_token(role) for role in ("admin", "viewer")]
    admin, viewer = ({"Authorization": f"Bearer {token}"} for token in tokens)
    old = [heard(BEFORE // 1000 - 5_000 + n, 1, 1, 1, 60, 50) for n in range(random.randint(20, 40))]
    async with TestClient(TestServer(app)) as client, running(retention.run()):

        async def told() -> dict:
            answer = await client.get("/api/retention", headers=viewer)
            assert answer.status == 200
            return {one["kind"]: one for one in (await answer.json())["kinds"]}

        await _first_run_over(told)
        assert (await client.get("/api/retention")).status == 401
        assert (await client.post("/api/retention/run", headers=viewer)).status == 403
        assert set(await told()) == set(RULES)
        assert (await told())["visits"]["days"] == 0
        await state.write(lambda s: floor.add_sightings(s, Numbers(), old))
        assert (await client.post("/api/retention/run", headers=admin)).status == 202
        deadline, kept = time.monotonic() + 20, (await told())["sightings"]
        while not kept["rows_done"] and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            kept = (await told())["sightings"]
        assert kept["rows_found"] == kept["rows_done"] == len(old)
        audit = await state.read(
            lambda s: [row["action"] for row in s._connection.execute("select * from audit")]
        )
        assert "retention asked for" in audit


async def test_seconds_that_are_told_twice_in_one_breath_add_up(state):
    """Rows go to the disk many at once; those of two boots that share a second are one all the same."""
    made = [heard(BEFORE // 1000, number % 3, 0, 2, 60 + number % 3, 50 - number) for number in range(45)]
    await state.write(lambda s: floor.add_sightings(s, Numbers(), made))
    told = "select adverts, loss, best from sightings order by key_number"
    rows_kept = await state.read(lambda s: [tuple(row) for row in s._connection.execute(told)])
    assert rows_kept == [(30, 60, 8), (30, 61, 7), (30, 62, 6)]
