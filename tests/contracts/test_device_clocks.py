"""Where the person's clock comes from when nobody says: their devices, on both engines."""

import asyncio
import json
from contextlib import suppress
from itertools import permutations

import pytest

from backend.eraser import Eraser, Places
from backend.fold import Fold
from backend.profiles.erasure import ErasureKeys, Tombstones
from backend.storage import profiles
from backend.storage.export import Export
from backend.storage.offers import zone_of_person
from sdk_bridge.wire.app_events import AppEvent

NOON, HOUR = 1_750_075_200_000, 3_600_000
KEYS = ErasureKeys(b"k" * 32)
SOURCES = {"site": "web", "app": "app", "crm": "server"}


def said(number: int, timezone: object, *, hours: int = 0, source: str = "app", **who) -> AppEvent:
    at = NOON + hours * HOUR + number
    who = who or {"user_id": "anna", "proven": True}
    return AppEvent("page", f"m{number}", source, at, at, name="Start", context={"timezone": timezone}, **who)


@pytest.fixture
async def fold(journal, state):
    def set_up(session) -> None:
        session.run("save_store", store_id="s1", name="Shop", timezone="Europe/Vienna")
        for source, kind in SOURCES.items():
            session.run(
                "add_source",
                source_id=source,
                name=source,
                kind=kind,
                key_hash=source.encode(),
                proof="off",
                proof_secret="",
                created_at=NOON,
            )

    await state.write(set_up)
    tombstones = Tombstones(KEYS.digest)
    fold = Fold(journal, state, lambda: NOON + 99 * HOUR, on_listening=lambda _: None, tombstones=tombstones)
    await fold.load()
    fold.tombstones = tombstones
    task = asyncio.create_task(fold.run())
    yield fold
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def zone(state, user: str = "anna") -> str:
    def read(session) -> str:
        person = profiles.resolve(session, "user_id", user)
        assert person is not None
        return zone_of_person(session, person, "s1").key

    return await state.read(read)


TOLD = {
    "no device says": ([said(1, None)], "Europe/Vienna"),
    "a device says": ([said(1, "America/New_York")], "America/New_York"),
    "a site says": ([said(1, "Asia/Tokyo", source="site")], "Asia/Tokyo"),
    "a server is nowhere": ([said(1, "Asia/Tokyo", source="crm")], "Europe/Vienna"),
    "nor is an import": ([said(1, "Asia/Tokyo", source="import")], "Europe/Vienna"),
    "the newest counts": ([said(1, "Asia/Tokyo"), said(2, "Asia/Seoul", hours=2)], "Asia/Seoul"),
    "whatever came last": ([said(1, "Asia/Seoul", hours=2), said(2, "Asia/Tokyo")], "Asia/Seoul"),
    "what is no zone": ([said(1, "Asia/Tokyo"), said(2, "../../etc/passwd", hours=2)], "Asia/Tokyo"),
    "nor text": ([said(1, "Asia/Tokyo"), said(2, {"a": 1}, hours=2)], "Asia/Tokyo"),
}


@pytest.mark.parametrize(("events", "expected"), TOLD.values(), ids=TOLD)
async def test_the_persons_clock_is_their_devices(fold, state, journal, events, expected):
    for event in events:
        await journal.append_events([event])
        assert await fold.caught_up("", 20)
    assert await zone(state) == expected


async def test_a_trait_says_more_than_a_device(fold, state, journal):
    trait = AppEvent(
        "identify",
        "t",
        "crm",
        NOON - HOUR,
        NOON,
        user_id="anna",
        proven=True,
        traits={"timezone": "Asia/Seoul"},
    )
    await journal.append_events([trait, said(1, "America/New_York")])
    assert await fold.caught_up("", 20)
    assert await zone(state) == "Asia/Seoul"


async def test_the_browser_that_turns_out_to_be_theirs_tells_too(fold, state, journal):
    await journal.append_events(
        [said(1, "Asia/Tokyo"), said(2, "America/Lima", hours=3, source="site", anonymous_id="browser")]
    )
    assert await fold.caught_up("", 20)
    assert await zone(state) == "Asia/Tokyo"
    at = NOON + 4 * HOUR
    known = AppEvent("identify", "k", "site", at, at, user_id="anna", proven=True, anonymous_id="browser")
    await journal.append_events([known])
    assert await fold.caught_up("", 20)
    assert await zone(state) == "America/Lima"


async def test_the_order_of_arrival_is_nothing(fold, state, journal):
    told = [("Asia/Tokyo", 0), ("Asia/Seoul", 0), ("America/Lima", -1)]
    found = set()
    for number, order in enumerate(permutations(told)):
        for place, (name, hours) in enumerate(order):
            event = said(10 * number + place, name, hours=hours, user_id=f"u{number}", proven=True)
            await journal.append_events([event])
            assert await fold.caught_up("", 20)
        found.add(await zone(state, f"u{number}"))
    assert len(found) == 1


async def test_it_is_given_out_and_erased_with_the_person(fold, state, journal, journal_file, raw):
    await journal.append_events([said(1, "Asia/Tokyo")])
    assert await fold.caught_up("", 20)
    export = await state.read(lambda s: Export.of(s, profiles.resolve(s, "user_id", "anna")))
    document = json.loads(b"".join([part async for part in export.parts(state, NOON)]))
    assert [one["timezone"] for one in document["device_clocks"]] == ["Asia/Tokyo"]
    eraser = Eraser(
        Places(state, journal_file, journal, fold), KEYS, fold.tombstones, lambda: NOON + 99 * HOUR
    )
    assert await eraser.erase("user_id", "anna", "tester") is not None
    assert await state.read(lambda session: raw(session, "select * from device_clocks")) == []
