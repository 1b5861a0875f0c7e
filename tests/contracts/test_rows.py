"""Rotating tags, the fleet and the floor in the database: the same answers from both engines."""

import asyncio
from uuid import UUID

import pytest

from backend.fleet.authority import Issued
from backend.fleet.configurations import SignedVersion
from backend.fleet.enrolment import Grant, StoredCertificate, StoredToken
from backend.storage import eid, fleet, floor
from backend.storage.eid import EidRows, Registration
from backend.storage.entries import Cursor
from backend.storage.fleet import SqlFleetRows
from backend.storage.floor import FoldMoved, Numbers, Sighting
from backend.storage.session import Database, Rows, Session, StorageConflict
from sdk_bridge.wire.messages import Heartbeat

NOON = 1_750_075_200_000
DAY_MS = 86_400_000
GATEWAY = "s1/g1"


def gateways(session: Session) -> None:
    session.run("save_store", store_id="s1", name="Shop", timezone="UTC")
    session.run("save_zone", store_id="s1", zone_id="a", name="A", categories="[]")
    for name in ("g1", "g2"):
        session.run("save_gateway", store_id="s1", gateway_id=name, zone_id="a", name=name, x_m=1, y_m=None)


# Rows by position -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["profile_id name value occurred_at event_hash",
                                     "value event_hash occurred_at name profile_id"])  # fmt: skip
async def test_rows_by_position_go_where_their_columns_say(state: Database, columns: str) -> None:
    trait = {"profile_id": "p1", "name": "tier", "value": '"gold"', "occurred_at": 5, "event_hash": 7}
    names = tuple(columns.split())
    rows = Rows(names, [tuple(trait[name] for name in names)])
    await state.write(lambda session: session.many("add_trait", rows))
    found = await state.read(
        lambda session: session.rows("export_traits", profile_id="p1", limit=9, offset=0)
    )
    assert [dict(row) for row in found] == [trait]


# Rotating tags --------------------------------------------------------------------------------------------


def key(number: int) -> str:
    return f"eid:{UUID(int=number)}"


def tag(number: int, exponent: int = 9, ahead_s: int = 0) -> Registration:
    return Registration(key(number), b"wrapped\0", bytes([number]), exponent, ahead_s, NOON)


async def test_a_tag_registered_twice_is_one_with_the_clock_that_was_told_last(state: Database) -> None:
    def write(session: Session) -> list[tuple[str, bool]]:
        again = Registration(key(99), b"", bytes([1]), 8, 77, NOON + 1)
        return [eid.register(session, one, NOON) for one in (tag(1), tag(2), again)]

    assert await state.write(write) == [(key(1), True), (key(2), True), (key(1), False)]
    known = await state.read(lambda session: eid.registered(session, "", 10))
    assert [(row["beacon_key"], row["exponent"], row["drift_s"]) for row in known] == [
        (key(1), 8, 0),
        (key(2), 9, 0),
    ]
    assert await state.read(lambda session: eid.registered(session, key(1), 10)) == known[1:]
    assert await state.write(lambda session: eid.remove(session, key(1)))
    assert not await state.write(lambda session: eid.remove(session, key(1)))


@pytest.mark.parametrize(("learned", "kept"), [(50, 50), (10**6, 61), (-(10**6), -61)])
async def test_a_tags_clock_runs_away_no_faster_than_a_crystal_can(
    state: Database, learned: int, kept: int
) -> None:
    await state.write(lambda session: eid.register(session, tag(1), NOON))
    await EidRows(state).save_clocks({1: learned}, NOON + eid.DRIFT_MS)
    [row] = await state.read(lambda session: eid.registered(session, "", 10))
    assert (row["drift_s"], row["learned_at"]) == (kept, NOON + eid.DRIFT_MS)


async def test_tables_of_ids_are_read_page_by_page_beside_everything_else(
    state: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eid, "PAGE", 2)
    await state.write(
        lambda session: [eid.register(session, tag(number, number % 2), NOON) for number in range(7)]
    )
    rows = EidRows(state)
    roll = await asyncio.to_thread(rows.roll)
    found = await asyncio.to_thread(rows.sealed, 1, list)
    assert [one.beacon_key for one in found] == [key(1), key(3), key(5)]
    assert {one.wrapped_key for one in found} == {b"wrapped\0"}
    assert roll is not None


# The fleet ------------------------------------------------------------------------------------------------


def issued(serial: str, key: bytes = b"key", life: int = DAY_MS) -> Issued:
    return Issued("PEM " + serial, serial, key, NOON, NOON + life)


async def test_a_token_is_spent_by_one_key(state: Database) -> None:
    def write(session: Session) -> list[StoredToken | None]:
        gateways(session)
        rows = SqlFleetRows(session)
        fleet.add_token(session, GATEWAY, b"first", NOON, NOON + DAY_MS)
        fleet.add_token(session, GATEWAY, b"second", NOON, NOON + DAY_MS)
        rows.spend_token(b"second", b"mine", NOON)
        rows.spend_token(b"second", b"yours", NOON + 1)
        return [rows.token(secret) for secret in (b"first", b"second", b"third")]

    first, second, third = await state.write(write)
    assert first == StoredToken(GATEWAY, NOON + DAY_MS, None, True)
    assert second == StoredToken(GATEWAY, NOON + DAY_MS, b"mine", False)
    assert third is None


async def test_only_the_newest_certificate_and_the_one_before_are_in_line(state: Database) -> None:
    def write(session: Session) -> list[StoredCertificate | None]:
        gateways(session)
        rows = SqlFleetRows(session)
        for serial, follows in (("01", None), ("02", "01"), ("03", "02")):
            rows.add(Grant(GATEWAY, issued(serial), NOON, follows))
        rows.add(Grant("s1/g2", issued("04", b"other"), NOON, None))
        return [rows.certificate(serial) for serial in ("01", "02", "03", "04", "05")]

    found = await state.write(write)
    assert [one and one.in_line for one in found] == [False, True, True, True, None]
    assert await state.read(lambda s: SqlFleetRows(s).certificate_of_key(GATEWAY, b"key", NOON)) == "PEM 03"
    with pytest.raises(StorageConflict):
        await state.write(lambda s: SqlFleetRows(s).add(Grant(GATEWAY, issued("03"), NOON, None)))
    assert await state.write(lambda session: fleet.revoke(session, GATEWAY, NOON)) == 3
    revoked = await state.read(lambda session: fleet.revoked_certificates(session, NOON))
    assert revoked == [("01", NOON), ("02", NOON), ("03", NOON)]
    shown = await state.read(fleet.fleet)
    assert [(row["gateway_id"], row["serial"], row["revoked_at"]) for row in shown] == [
        ("g1", "03", NOON),
        ("g2", "04", None),
    ]


async def test_versions_rise_old_ones_go_and_reports_stay_beside_theirs(state: Database) -> None:
    def write(session: Session) -> list[int]:
        gateways(session)
        versions = []
        for _ in range(103):
            versions.append(fleet.version_to_come(session, GATEWAY))
            signed = SignedVersion(GATEWAY, versions[-1], b'{"settings": {}}', b"signed")
            fleet.add_configuration(session, signed, NOON)
        return versions

    assert await state.write(write) == list(range(1, 104))
    told = Heartbeat(
        "b" * 8, 1, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0", config_version=103, config_state="applied"
    )
    await state.write(lambda session: fleet.note_report(session, GATEWAY, NOON, told))
    newest, before, *_ = await state.read(lambda session: fleet.configurations_of(session, GATEWAY))
    assert (newest["version"], newest["state"], newest["reported_at"]) == (103, "applied", NOON)
    assert (before["version"], before["state"]) == (102, "issued")
    assert await state.read(lambda s: [one.version for one in fleet.newest_configurations(s)]) == [103]


async def test_the_very_same_alert_is_raised_once_in_ten_minutes(state: Database) -> None:
    bad = Heartbeat(
        "b" * 8,
        1,
        "hearing",
        10,
        1,
        0,
        0,
        0,
        0,
        True,
        "1.0.0",
        config_version=1,
        config_state="rolled-back: deaf",
    )
    good = Heartbeat(
        "b" * 8, 1, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0", config_version=1, config_state="applied"
    )

    def write(session: Session) -> None:
        gateways(session)
        for minute, said in enumerate((bad, good, bad, good, bad)):
            fleet.note_report(session, GATEWAY, NOON + minute * 200_000, said)

    await state.write(write)
    alerts = await state.read(lambda session: session.rows("newest_alerts", limit=9))
    assert [row["at"] for row in alerts] == [NOON + 4 * 200_000, NOON]


# The floor ------------------------------------------------------------------------------------------------


async def test_two_boots_that_share_a_second_add_up(state: Database, raw) -> None:
    def write(session: Session) -> list[tuple]:
        numbers = Numbers()
        for adverts, loss, best in ((1, 60, 50), (3, 80, 55), (0, 99, 40)):
            heard = [
                Sighting("tag", GATEWAY, 100, adverts, loss, best),
                Sighting("tag", "s1/g2", 100, 1, 70, 70),
            ]
            floor.add_sightings(session, numbers, heard)
        for _ in range(2):
            floor.add_sightings_without_time(
                session, numbers, "boot", 1, [Sighting("tag", GATEWAY, 5, 2, 60, 50)]
            )
        return raw(session, "select adverts, loss, best from sightings order by loss") + raw(
            session, "select adverts from sightings_without_time"
        )

    assert await state.write(write) == [(3, 70, 70), (4, 75, 40), (4,)]
    accounts = await state.read(lambda session: session.rows("adverts_by_gateway"))
    assert {row["gateway"]: row["adverts"] for row in accounts} == {GATEWAY: 8, "s1/g2": 3}


async def test_the_fold_goes_on_only_from_where_it_was_left(state: Database) -> None:
    begun = await state.read(floor.position)
    ahead = Cursor({**begun.positions, 0: 7})
    await state.write(lambda session: floor.move_to(session, begun, ahead))
    assert await state.read(floor.position) == ahead
    with pytest.raises(FoldMoved):
        await state.write(lambda session: floor.move_to(session, begun, Cursor({**begun.positions, 0: 8})))
    assert await state.read(floor.position) == ahead


async def test_a_beacons_older_word_changes_nothing(state: Database, raw) -> None:
    def write(session: Session) -> list[tuple]:
        for at, battery in ((NOON, 2900), (NOON - 1, 3000), (NOON, 2800)):
            told = {"battery_mv": battery, "temperature_c": 21, "adverts": None, "uptime_s": 1.5}
            session.run("save_beacon_health", beacon_key="tag", at=at, gateway=GATEWAY, **told)
        return raw(session, "select at, battery_mv, temperature_c, adverts, uptime_s from beacon_health")

    assert await state.write(write) == [(NOON, 2800, 21.0, None, 1.5)]
