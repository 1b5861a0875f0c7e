"""The fold: order, poison, faults, restarts, consent, dwell, lanes, decisions and their reasons."""

import asyncio
import random
import signal
import sqlite3
import textwrap
from contextlib import closing
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from backend import fold as fold_module
from backend.folding import people as people_part
from backend.storage.database import SqliteFile, StorageConflict, StorageError, StorageRetry
from backend.storage.entries import BEGINNING, Cursor
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.app_events import decode_events, encode_events
from sdk_bridge.wire.messages import Batch, BeaconHealth, Readings, Skip, SkipCounts

ANNA, BERTA = "altbeacon:" + "a" * 40, "altbeacon:" + "b" * 40
BOOT = "11111111-2222-3333-4444-555555555555"


def two_seconds(beacon: str, base: int, gap: int = 1) -> Batch:
    """Two seconds in one batch: enough to enter."""
    return Batch("", base, [beacon], Readings([0, 0], [0, gap], [1, 1], [60, 60], [60, 60]))


async def visits(shop) -> list[tuple]:
    rows = await shop.rows(
        "select beacon_key, zone_id, entered_at, left_at from zone_visits order by visit_id"
    )
    return [tuple(row.values()) for row in rows]


async def decisions(shop) -> list[tuple[str, str]]:
    rows = await shop.rows("select verdict, reason from decisions order by decision_id")
    return [(row["verdict"], row["reason"]) for row in rows]


async def ready(shop, user: str = "anna", beacon: str = ANNA, **more) -> None:
    """A person whom the shop may see, folded."""
    await shop.person(user, beacon, **more)
    await shop.folded()


# Order, position, poison ----------------------------------------------------------------------------------


async def test_everything_is_folded_in_order_and_leaves_the_journal(live_shop, eventually):
    shop = live_shop
    await ready(shop)
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    assert await shop.column("select position from fold") == [*shop.journal.head.positions.values()]
    assert await shop.column("select name from events where kind = 'track'") == []
    assert await shop.column("select count(*) from sightings") == [3]
    assert await shop.column("select sum(adverts) from sightings") == [3]
    [(beacon, zone, _entered, left)] = await visits(shop)
    assert (beacon, zone, left) == (ANNA, "a", None)

    async def left_over() -> int:
        return len(await shop.journal.after(BEGINNING, 100))

    async with asyncio.timeout(5):
        while await left_over():  # swept once a second, after further entries
            await shop.heartbeat()
            await asyncio.sleep(0.1)


async def test_a_backlog_is_folded_without_a_rest_however_little_is_taken_at_once(shop, running, monkeypatch):
    monkeypatch.setattr("backend.storage.journal.FOLDED_BYTES", 1)
    monkeypatch.setattr("backend.fold.TICK_S", 60.0)
    for number in range(10):
        await shop.journal.append_events([shop.event("track", user_id=f"u{number}", name="Seen")])
    await shop.fold.load()
    async with running(shop.fold.run()):
        assert await shop.fold.caught_up("anybody", within_s=20)
    assert await shop.column("select count(*) from events") == [10]


@pytest.mark.parametrize("kind", ["gateway", "app", "rejected by the state"])
async def test_a_poisoned_entry_is_buried_and_stops_nobody(live_shop, kind):
    shop = live_shop
    await ready(shop)
    if kind == "rejected by the state":
        sql = """create trigger poison before insert on events when new.message_id = 'poison'
                 begin select raise(abort, 'no'); end"""
        await shop.state.write(lambda s: s._connection.execute(sql))
    await shop.hear(ANNA, seconds=1)
    if kind == "gateway":
        await shop.append(b"nonsense")
    elif kind == "app":
        await _append_app(shop, b"nonsense")
    else:
        await shop.journal.append_events([shop.event("track", user_id="anna", message_id="poison")])
    await shop.hear(ANNA, seconds=2)
    await shop.journal.append_events([shop.event("track", user_id="anna", message_id="after")])
    await shop.folded()
    letters = await shop.journal_file.read(
        lambda s: [
            dict(row) for row in s.rows("dead_letters_newest", limit=9, before=None, reason=None, origin=None)
        ]
    )
    assert len(letters) == 1
    assert "could not be folded" in letters[0]["reason"]
    assert await shop.column("select sum(adverts) from sightings") == [3]
    assert await shop.column("select count(*) from events where message_id = 'after'") == [1]
    assert len(await visits(shop)) == 1


async def _append_app(shop, payload: bytes) -> None:
    values = {"partition": 0, "kind": "app", "source": "web", "lane": None, "boot_offset": None}
    await shop.journal_file.write(
        lambda s: s.run("append_entry", **values, received_at=shop.clock(), payload=payload)
    )


POISON = """create trigger poison before insert on events when new.message_id like 'poison%'
            begin select raise(abort, 'no'); end"""


async def test_a_poisoned_event_is_buried_alone(live_shop):
    """A request may be of many people; what the poison itself would have said leaves nothing behind."""
    shop = live_shop
    await shop.state.write(lambda s: s._connection.execute(POISON))
    poison = shop.event("identify", user_id="anna", traits={"city": "Graz"}, message_id="poison")
    good = [shop.event("track", user_id="anna", message_id=f"good-{number}") for number in range(9)]
    named = shop.event("identify", user_id="anna", traits={"name": "Anna"}, message_id="named")
    await shop.journal.append_events([*good[:4], poison, named, *good[4:]])
    await shop.folded()
    found = await shop.column("select message_id from events order by event_id")
    assert found == [*(f"good-{number}" for number in range(4)), "named", *(f"good-{n}" for n in range(4, 9))]
    assert await shop.column("select name from traits") == ["name"]
    [letter] = await _letters(shop)
    assert [event.message_id for event in decode_events(letter["payload"])] == ["poison"]


async def test_an_event_that_cannot_be_read_is_buried_alone(live_shop):
    """What no door should have let in, or another version wrote, costs none of its neighbours."""
    shop = live_shop
    tracks = [shop.event("track", user_id="anna", message_id=f"good-{number}") for number in range(3)]
    strange = shop.event("track", user_id="u" * 600, message_id="strange")
    await _append_app(shop, encode_events([tracks[0], strange, tracks[1]]))
    await shop.journal.append_events(tracks[2:])
    await shop.folded()
    found = await shop.column("select message_id from events order by event_id")
    assert found == ["good-0", "good-1", "good-2"]
    [letter] = await _letters(shop)
    assert (b"strange" in letter["payload"], b"good" in letter["payload"]) == (True, False)


async def test_an_entry_of_poison_alone_leaves_nothing_of_itself(live_shop):
    shop = live_shop
    await shop.state.write(lambda s: s._connection.execute(POISON))
    told = [shop.event("identify", user_id="anna", message_id=f"poison-{number}") for number in range(3)]
    await shop.journal.append_events(told)
    await shop.folded()
    for table in ("events", "traits", "profiles"):
        assert await shop.column(f"select count(*) from {table}") == [0]
    assert len(await _letters(shop)) == 1


async def test_events_that_fail_only_together_lose_the_later_one(live_shop):
    shop = live_shop
    sql = """create trigger poison before insert on events when new.message_id = 'b'
             and exists (select 1 from events where message_id = 'a') begin select raise(abort, 'no'); end"""
    await shop.state.write(lambda s: s._connection.execute(sql))
    names = ["a", *(f"g{number}" for number in range(20)), "b"]
    await shop.journal.append_events([shop.event("track", user_id="anna", message_id=one) for one in names])
    await shop.folded()
    assert await shop.column("select message_id from events order by event_id") == names[:-1]
    [letter] = await _letters(shop)
    assert [event.message_id for event in decode_events(letter["payload"])] == ["b"]


@pytest.mark.parametrize(
    ("turns", "bad"),
    [
        pytest.param([StorageConflict("a race")] * 2, [], id="refused twice for nothing of its own"),
        pytest.param([None, None, StorageRetry("a race")], ["bad-1", "bad-2"], id="sifted, and then a race"),
    ],
)
async def test_what_met_a_race_is_folded_and_nothing_is_buried_twice(live_shop, monkeypatch, turns, bad):
    shop = live_shop
    await shop.state.write(lambda s: s._connection.execute(POISON.replace("poison%", "bad%")))
    fold, left = fold_module.Fold._fold, iter(turns)

    async def racing(self, entries, *, only_try=False):
        if entries and not only_try and (error := next(left, None)) is not None:
            raise error
        await fold(self, entries, only_try=only_try)

    monkeypatch.setattr(fold_module.Fold, "_fold", racing)
    names = ["g1", *bad[:1], "g2", *bad[1:]]
    await shop.journal.append_events([shop.event("track", user_id="anna", message_id=one) for one in names])
    await shop.folded()
    assert await shop.column("select message_id from events order by event_id") == ["g1", "g2"]
    told = [[event.message_id for event in decode_events(one["payload"])] for one in await _letters(shop)]
    assert told == ([bad] if bad else [])


async def _letters(shop) -> list[dict]:
    def read(session):
        found = session.rows("dead_letters_newest", limit=9, before=None, reason=None, origin=None)
        return [dict(session.row("letter", letter_id=row["letter_id"])) for row in found]

    return await shop.journal_file.read(read)


async def test_a_full_disk_makes_the_fold_wait_and_buries_nothing(shop, running, monkeypatch, eventually):
    monkeypatch.setattr(fold_module, "STORAGE_RETRY_S", 0.02)

    def limit(pages: int):
        return lambda s: s._connection.execute(f"pragma max_page_count = {pages}").fetchone()[0]

    await shop.state.write(limit(1))
    big = [shop.event("track", user_id="anna", properties={"text": "x" * 20_000}) for _ in range(20)]
    await shop.journal.append_events(big)
    async with running(shop.fold.run()) as folding:
        await asyncio.sleep(0.2)
        assert not folding.done()
        assert shop.fold.position == Cursor({0: 0})
        await shop.state.write(limit(1_000_000))
        await shop.folded()
    assert await shop.column("select count(*) from events") == [20]
    assert (
        await shop.journal_file.read(
            lambda s: s.rows("dead_letters_newest", limit=9, before=None, reason=None, origin=None)
        )
        == []
    )


@pytest.mark.parametrize("broken", ["after", "delete_folded", "bury"])
async def test_a_journal_that_fails_for_a_while_ends_nothing(shop, running, monkeypatch, broken):
    monkeypatch.setattr(fold_module, "STORAGE_RETRY_S", 0.02)
    monkeypatch.setattr(fold_module, "DELETE_EVERY_S", 0.0)
    works, failures = getattr(shop.journal, broken), 3

    async def fails_at_first(*arguments):
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise JournalBusy("full") if broken == "bury" else StorageError("full")
        return await works(*arguments)

    setattr(shop.journal, broken, fails_at_first)
    async with running(shop.fold.run()):
        await shop.person("anna", ANNA)
        await shop.append(b"nonsense")
        await shop.hear(ANNA, seconds=3)
        async with asyncio.timeout(5):
            while failures > -1:
                await shop.heartbeat()
                await asyncio.sleep(0.02)
        await shop.folded()
    assert await shop.column("select sum(adverts) from sightings") == [3]
    assert (
        len(
            await shop.journal_file.read(
                lambda s: s.rows("dead_letters_newest", limit=9, before=None, reason=None, origin=None)
            )
        )
        == 1
    )


# Zones ----------------------------------------------------------------------------------------------------


async def test_whoever_falls_silent_has_left_when_last_heard(live_shop, eventually):
    shop = live_shop
    await ready(shop)
    await shop.hear(ANNA, seconds=3)
    last = shop.clock() - 500
    for _ in range(5):
        shop.clock.forward(2_500)
        await shop.heartbeat()
    await shop.folded()
    assert [left for *_rest, left in await visits(shop)] == [last]
    assert await shop.column("select zone_id from presences") == []


async def test_a_silent_gateway_makes_its_zone_unknown_within_ten_seconds(live_shop, eventually):
    """Nothing comes in any more: the fold looks at the clock by itself."""
    shop = live_shop
    await ready(shop)
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    heard_at = shop.clock()
    while (await visits(shop))[0][-1] is None:
        shop.clock.forward(250)
        assert shop.clock() - heard_at <= 10_000
        await asyncio.sleep(0.02)
        shop.journal.appended.set()
    assert shop.clock() - heard_at > 8_000


async def test_the_backlog_builds_history_and_moves_nobody(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=1)
    await ready(shop)
    await shop.hear(ANNA, seconds=10, lane="backlog")
    await shop.folded()
    assert await shop.column("select sum(adverts) from sightings") == [10]
    assert await visits(shop) == []
    assert await decisions(shop) == []


async def test_an_unknown_time_is_history_only(live_shop):
    shop = live_shop
    await ready(shop)
    for _ in range(2):  # two batches of one boot, of the same seconds
        await shop.append(
            Batch(BOOT, 61_000, [ANNA], Readings([0, 0], [0, 9], [2, 3], [60, 61], [55, 56])),
            boot_offset=None,
        )
    await shop.folded()
    rows = await shop.rows(
        "select boot_id, boot_second, adverts from sightings_without_time order by boot_second"
    )
    assert [tuple(row.values()) for row in rows] == [(BOOT, 61, 4), (BOOT, 70, 6)]
    assert await shop.column("select count(*) from sightings") == [0]
    assert await visits(shop) == []


async def test_a_clock_that_runs_ahead_keeps_nobody_in_a_zone(live_shop):
    shop = live_shop
    await ready(shop)
    ahead = 365 * 86_400_000
    await shop.append(two_seconds(ANNA, shop.clock() + ahead))
    shop.clock.forward(1_000)
    await shop.append(two_seconds(ANNA, shop.clock() + ahead))
    shop.clock.forward(1_000)
    await shop.append(two_seconds(ANNA, shop.clock() + ahead))
    for _ in range(8):
        shop.clock.forward(2_000)
        await shop.heartbeat()
    await shop.folded()
    assert await shop.column("select count(*) from presences") == [0]
    assert [left is not None for *_rest, left in await visits(shop)] == [True]


async def test_a_boots_offset_places_its_seconds(live_shop):
    shop = live_shop
    await ready(shop)
    start = shop.clock() - 10_000
    await shop.append(
        Batch(BOOT, 5_000, [ANNA], Readings([0, 0], [0, 1], [1, 1], [60, 60], [60, 60])),
        boot_offset=start - 5_000,
    )
    await shop.folded()
    assert await shop.column("select second from sightings order by 1") == [start // 1000, start // 1000 + 1]


async def test_while_the_fold_catches_up_nobody_leaves_because_it_is_late(shop, running):
    """A minute of entries waits; folded much later, the minute is still one visit."""
    await shop.person("anna", ANNA)
    await shop.hear(ANNA, seconds=150)
    shop.clock.forward(3_600_000)
    async with running(shop.fold.run()):
        await shop.folded()
        assert len(await visits(shop)) == 1


async def test_our_own_absence_ends_no_visit(shop, running):
    async with running(shop.fold.run()):
        await ready(shop)
        await shop.hear(ANNA, seconds=5)
        await shop.folded()
    shop.clock.forward(30_000)
    shop.fold = shop.new_fold()
    await shop.fold.load()
    async with running(shop.fold.run()):
        await shop.heartbeat()
        await shop.folded()
        await shop.hear(ANNA, seconds=2)
        await shop.folded()
    assert [left for *_rest, left in await visits(shop)] == [None]


async def test_gateways_say_how_they_are_and_what_they_left_out(live_shop):
    shop = live_shop
    await shop.heartbeat()
    await shop.append(Skip(to=1, reason="outbox full", counts=SkipCounts(3, 400)), "g-b", boot_offset=None)
    health = BeaconHealth(0, 500, 2900, 21.5)
    sighted = Batch("", shop.clock() - 1000, [ANNA], Readings([0], [0], [1], [60], [60]), health=[health])
    await ready(shop)
    await shop.append(sighted)
    await shop.folded()
    assert await shop.column("select gateway from gateway_health") == ["s1/g-a"]
    assert await shop.column("select subject || ' ' || detail from alerts") == [
        "s1/g-b outbox full: 3 batches, 400 readings"
    ]
    assert await shop.column("select battery_mv from beacon_health") == [2900]


# Consent --------------------------------------------------------------------------------------------------


async def test_a_withdrawal_acts_at_once_also_on_what_the_journal_holds_already(shop, running):
    await shop.campaign(dwell_s=1)
    async with running(shop.fold.run()):
        await ready(shop)
        await shop.hear(ANNA, seconds=1)
        await shop.folded()
    await shop.journal.append_events([shop.event("consent", user_id="anna", consent={"proximity": False})])
    await shop.hear(ANNA, seconds=10)
    async with running(shop.fold.run()):
        await shop.folded()
    assert await visits(shop) == []
    assert await decisions(shop) == []
    assert await shop.column("select sum(adverts) from sightings") == [1]
    assert await shop.rows("select * from forgotten_late") == [{"gateway": "s1/g-a", "adverts": 10}]
    assert shop.heard[-1].people == {}


async def test_a_withdrawal_ends_the_presence_and_the_dwell(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=60)
    await ready(shop)
    await shop.hear(ANNA, seconds=5)
    await shop.folded()
    assert await shop.column("select count(*) from campaign_waits") == [1]
    await shop.journal.append_events([shop.event("consent", user_id="anna", consent={"proximity": False})])
    await shop.folded()
    for table in ("campaign_waits", "presences"):
        assert await shop.column(f"select count(*) from {table}") == [0]
    assert [left for *_rest, left in await visits(shop)] == [shop.clock()]
    assert not shop.heard[-1].may_keep(ANNA)


async def test_agreeing_again_opens_the_ears_again(live_shop):
    shop = live_shop
    await ready(shop)
    assert shop.heard[-1].may_keep(ANNA)
    for granted in (False, True):
        shop.clock.forward(1000)
        await shop.journal.append_events(
            [shop.event("consent", user_id="anna", consent={"proximity": granted})]
        )
        await shop.folded()
        assert shop.heard[-1].may_keep(ANNA) is granted


async def test_a_tag_that_changes_hands_takes_no_visit_along(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=60)
    await ready(shop)
    await shop.hear(ANNA, seconds=5)
    await shop.person("berta", None)
    shop.clock.forward(1)
    await shop.journal.append_events(
        [shop.event("device", user_id="berta", device_id="phone-anna", beacon_key=ANNA)]
    )
    await shop.folded()
    assert [left is not None for *_rest, left in await visits(shop)] == [True]
    assert await shop.column("select count(*) from campaign_waits") == [0]
    await shop.hear(ANNA, seconds=5)
    await shop.folded()
    assert len(set(await shop.column("select profile_id from zone_visits"))) == 2


async def test_only_the_people_concerned_are_looked_up(live_shop, monkeypatch):
    """With a hundred thousand tags in the shop's files, one more must not read them all."""
    shop = live_shop
    await ready(shop)
    whole = []
    monkeypatch.setattr(people_part.profiles, "consented_beacons", lambda _s: whole.append(1) or {})
    await ready(shop, "berta", BERTA)
    assert whole == []
    assert set(shop.heard[-1].people) == {ANNA, BERTA}


# Dwell and decisions --------------------------------------------------------------------------------------


async def test_a_completed_dwell_makes_one_push_for_each_address(live_shop, eventually):
    shop, woken = live_shop, []
    shop.fold.on_pushes = lambda: woken.append(1)
    await shop.campaign(dwell_s=3)
    await ready(shop)
    await shop.hear(ANNA, seconds=10)
    await shop.folded()
    assert await decisions(shop) == [("sent", "eligible")]
    [push] = await shop.rows("select *, content ->> 'title' as title, content ->> 'body' as body from pushes")
    assert (push["state"], push["address_value"], push["title"], push["body"]) == (
        "queued",
        "token-anna",
        "Hello anna",
        "In Zone a",
    )
    [entered] = await shop.column("select entered_at from zone_visits")
    assert push["due_at"] == entered + 3000
    assert push["completed_at"] >= push["due_at"]
    assert push["expires_at"] == push["due_at"] + 300_000
    assert woken
    assert await shop.column("select count(*) from campaign_waits") == [0]


async def test_a_dwell_needs_evidence_from_its_end_or_later(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=5)
    await ready(shop)
    await shop.hear(ANNA, seconds=5)  # heard at +0 … +4 s
    await shop.folded()
    for _ in range(3):  # time passes, the gateway lives, the person is silent
        shop.clock.forward(2_000)
        await shop.heartbeat()
    await shop.folded()
    assert await decisions(shop) == []
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    assert await decisions(shop) == [("sent", "eligible")]


async def test_another_zones_gateway_is_no_evidence(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=3)
    await ready(shop)
    await shop.hear(ANNA, seconds=3)
    await shop.hear(ANNA, "g-b", loss=90, seconds=2)
    await shop.folded()
    assert await decisions(shop) == []


async def test_whoever_left_before_the_end_is_no_candidate(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=8)
    await ready(shop)
    await shop.hear(ANNA, seconds=4, loss=70)
    await shop.hear(ANNA, "g-b", seconds=10, loss=50)
    await shop.folded()
    assert [zone for _b, zone, *_rest in await visits(shop)] == ["a", "b"]
    assert await decisions(shop) == []
    assert await shop.column("select count(*) from campaign_waits") == [0]


async def test_a_timer_outlives_a_restart(shop, running):
    await shop.campaign(dwell_s=5)
    async with running(shop.fold.run()):
        await ready(shop)
        await shop.hear(ANNA, seconds=3)
        await shop.folded()
    shop.fold = shop.new_fold()
    await shop.fold.load()
    async with running(shop.fold.run()):
        await shop.hear(ANNA, seconds=4)
        await shop.folded()
    assert await decisions(shop) == [("sent", "eligible")]


@pytest.mark.parametrize(
    ("why", "campaign", "person", "reason"),
    [
        ("no pushes, please", {}, {"consent": {"proximity": True, "push": False}}, "no consent: push"),
        ("paused", {"then": "paused"}, {}, "campaign is paused"),
        (
            "nothing to say",
            {"offer": {"title": "{{ profile.none }}"}},
            {},
            "offer cannot be rendered: the title",
        ),
        ("another purpose", {"guardrails": {"consent": ["mail"]}}, {}, "no consent: mail"),
    ],
)
async def test_every_candidate_ends_in_a_decision_with_its_reason(live_shop, why, campaign, person, reason):
    shop, then = live_shop, campaign.pop("then", None)
    await shop.campaign(dwell_s=4, **campaign)
    await ready(shop, **person)
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    if then:
        await shop.campaign(dwell_s=4, state=then)
    await shop.hear(ANNA, seconds=4)
    await shop.folded()
    [(verdict, told)] = await decisions(shop)
    assert verdict == "suppressed", why
    assert told.startswith(reason)
    assert await shop.column("select count(*) from pushes") == [0]


async def test_without_an_address_there_is_no_push_and_the_reason_is_kept(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=1)
    await ready(shop)
    shop.clock.forward(1)
    await shop.journal.append_events([shop.event("logout", user_id="anna", device_id="phone-anna")])
    await shop.hear(ANNA, seconds=4)
    await shop.folded()
    assert await decisions(shop) == [("suppressed", "no push address")]


async def test_a_moment_that_passed_is_not_made_up_for(shop, running):
    await shop.campaign(dwell_s=2, offer={"life_s": 30})
    await shop.person("anna", ANNA)
    await shop.hear(ANNA, seconds=6)
    shop.clock.forward(60_000)
    async with running(shop.fold.run()):
        await shop.folded()
    assert await decisions(shop) == [("suppressed", "moment passed")]


async def stay(shop, beacon: str = ANNA, seconds: int = 4) -> None:
    """Enters, stays, and leaves again."""
    await shop.hear(beacon, seconds=seconds)
    for _ in range(6):
        shop.clock.forward(2_500)
        await shop.heartbeat()
    await shop.folded()
    await shop.state.write(deliver)


def deliver(session) -> None:
    """Every push that was queued has arrived."""
    session._connection.execute("update pushes set state = 'accepted', sending_at = created_at")
    for row in session._connection.execute("select decision_id from decisions").fetchall():
        session.run("end_decision", decision_id=row[0])


async def test_cooldown_and_caps(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=1, guardrails={"cooldown_s": 600, "max_total": 2, "max_per_day": 99})
    await ready(shop)
    await stay(shop)
    await stay(shop)
    shop.clock.forward(600_000)
    await stay(shop)
    shop.clock.forward(600_000)
    await stay(shop)
    assert [reason for _verdict, reason in await decisions(shop)] == [
        "eligible",
        "cooldown",
        "eligible",
        "cap: total",
    ]


async def test_of_campaigns_that_compete_for_a_moment_the_highest_priority_wins(live_shop):
    shop = live_shop
    for name, priority in (("c1", 0), ("c2", 5), ("c3", -5)):
        await shop.campaign(name, dwell_s=1, guardrails={"priority": priority})
    await ready(shop)
    await stay(shop)
    assert await shop.rows("select campaign_id, verdict, reason from decisions order by campaign_id") == [
        {"campaign_id": "c1", "verdict": "suppressed", "reason": "priority: c2"},
        {"campaign_id": "c2", "verdict": "sent", "reason": "eligible"},
        {"campaign_id": "c3", "verdict": "suppressed", "reason": "priority: c2"},
    ]


async def test_campaigns_share_the_days_cap(live_shop):
    shop = live_shop
    for name, dwell_s in (("c1", 1), ("c2", 5), ("c3", 9)):
        await shop.campaign(name, dwell_s=dwell_s, guardrails={"max_per_day": 2})
    await ready(shop)
    await stay(shop, seconds=12)
    assert sorted(await decisions(shop)) == [
        ("sent", "eligible"),
        ("sent", "eligible"),
        ("suppressed", "cap: day"),
    ]


@pytest.mark.parametrize(
    ("traits", "second_visit", "reason"),
    [
        # 26 October 2025 has 25 hours in Vienna. The first visit is at 00:10, local time.
        ({}, "2025-10-26T23:50+01:00", "cap: day"),
        ({}, "2025-10-27T00:10+01:00", "eligible"),
        # In New York it is still the 25th at first.
        ({"timezone": "America/New_York"}, "2025-10-26T05:30+01:00", "eligible"),
        ({"timezone": "nowhere"}, "2025-10-26T23:50+01:00", "cap: day"),
    ],
)
async def test_a_day_is_the_persons_calendar_day(live_shop, traits, second_visit, reason):
    shop = live_shop
    shop.clock.now = _ms("2025-10-26T00:10+02:00")
    guardrails = {"max_per_day": 1, "max_total": 9, "cooldown_s": 0, "quiet_hours": None}
    await shop.campaign(dwell_s=1, guardrails=guardrails)
    await ready(shop, traits=traits)
    await stay(shop)
    shop.clock.now = _ms(second_visit)
    await stay(shop)
    assert [told for _verdict, told in await decisions(shop)] == ["eligible", reason]


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def test_that_night_had_25_hours():
    vienna = ZoneInfo("Europe/Vienna")
    start = datetime(2025, 10, 26, tzinfo=vienna).timestamp()
    assert datetime(2025, 10, 27, tzinfo=vienna).timestamp() - start == 25 * 3600


async def test_a_person_with_two_beacons_gets_one_offer(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=2, guardrails={"max_total": 1})
    await ready(shop)
    await shop.journal.append_events(
        [shop.event("device", user_id="anna", device_id="watch", beacon_key=BERTA)]
    )
    for _ in range(5):
        await shop.hear(ANNA)
        await shop.append(two_seconds(BERTA, shop.clock() - 2_000))
    await shop.folded()
    assert len(await visits(shop)) == 2
    assert sorted(await decisions(shop)) == [("sent", "eligible"), ("suppressed", "cap: total")]


async def test_a_campaign_that_goes_live_counts_from_the_next_entering(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=1, state="draft")
    await ready(shop)
    await stay(shop)
    await shop.campaign(dwell_s=1, state="live")
    await stay(shop)
    assert await decisions(shop) == [("sent", "eligible")]


async def test_a_receipt_is_noted(live_shop):
    shop = live_shop
    await shop.campaign(dwell_s=1)
    await ready(shop)
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    [push_id] = await shop.column("select push_id from pushes")
    receipt = shop.event("push_receipt", device_id="phone-anna", push_id=push_id, receipt="opened")
    await shop.journal.append_events([receipt])
    await shop.folded()
    assert await shop.column("select opened_at from pushes") == [shop.clock()]


# Those who wait for the fold ------------------------------------------------------------------------------


async def test_caught_up_waits_for_what_was_journalled(shop, running):
    assert await shop.fold.caught_up("anybody")
    await shop.person("anna", ANNA)
    assert not await shop.fold.caught_up("anybody", within_s=0.01)
    waiting = [asyncio.create_task(shop.fold.caught_up("anybody", within_s=5)) for _ in range(20)]
    await asyncio.sleep(0)
    async with running(shop.fold.run()):
        assert all(await asyncio.gather(*waiting))


async def test_folding_needs_no_time_of_day(live_shop):
    """An entry whose events carry absurd times is folded like any other."""
    shop = live_shop
    events = [shop.event("track", user_id="anna", occurred_at=at) for at in (0, 1, 2**53, -(2**53))]
    await shop.journal.append_events(events)
    await shop.folded()
    assert await shop.column("select count(*) from events") == [4]


# SIGKILL --------------------------------------------------------------------------------------------------

CHILD = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from backend import fold as fold_module
    from backend.fold import Fold
    from backend.storage.database import SqliteFile
    from backend.storage.journal import Journal

    fold_module.ENTRIES_A_TRANSACTION = 8
    fold_module.DELETE_EVERY_S = 0.0

    async def main(folder, now):
        async with (SqliteFile(folder / "journal.db", "journal") as journal_file,
                    SqliteFile(folder / "state.db", "state") as state):
            journal = Journal(journal_file, lambda: now)
            await journal.load()
            fold = Fold(journal, state, lambda: now, on_listening=lambda _: None)
            await fold.load()
            writing, running = asyncio.create_task(journal.run()), asyncio.create_task(fold.run())
            while not fold.position.covers(journal.head):
                before = fold.position
                while fold.position == before and not running.done():
                    await asyncio.sleep(0.001)
                print(fold.position.positions[0], flush=True)
            running.cancel()
            writing.cancel()

    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
""")

CONTENTS = {
    "position": "select position from fold",
    "sightings": "select * from sightings",
    "visits": """select beacon_key, store_id, zone_id, entered_at, left_at, e.id from zone_visits
                 join profiles e using (profile_id)
                 where e.id_type = 'user_id' order by beacon_key, entered_at""",
    # Not seen_at: whether the last second was weighed already depends on when the child was stopped.
    "presences": "select beacon_key, zone_id, entered_at from presences order by 1",
    "timers": "select * from campaign_waits order by 1, 2, 3",
    "decisions": """select d.campaign_id, e.id, d.entered_at, d.due_at, d.completed_at, d.verdict, d.reason
                    from decisions d join profiles e using (profile_id)
                    where e.id_type = 'user_id' order by decision_id""",
    "pushes": """select decision_id, campaign_id, address_value, state, due_at, completed_at
                 from pushes order by 1, 3""",
    "events": "select event_id, message_id, kind from events order by 1",
    "consents": """select e.id, c.purpose, c.granted from consents c join profiles e using (profile_id)
                   where e.id_type = 'user_id' order by 1, 2""",
    "forgotten": "select * from forgotten_late",
}


async def a_busy_minute(shop) -> None:
    """Three people walk about, one of them withdraws; one batch is nonsense."""
    people = {f"user{n}": f"altbeacon:{n:040}" for n in range(3)}
    chance = random.Random(3)
    for user, beacon in people.items():
        await shop.person(user, beacon)
    for second in range(60):
        shop.clock.forward(1000)
        heard = []
        for user, beacon in people.items():
            near = (second // 20 + len(user)) % 2
            for number, gateway in enumerate(("g-a", "g-b")):
                if chance.random() < 0.8:
                    loss = 60 if number == near else 75
                    heard.append(shop.append(_reading(beacon, shop.clock() - 1000, loss), gateway))
        await asyncio.gather(*heard)  # an entry each, committed together
        if second == 30:
            await shop.append(b"nonsense")
            await shop.journal.append_events(
                [shop.event("consent", user_id="user1", consent={"proximity": False})]
            )
        await shop.journal.append_events([shop.event("track", name="seen", user_id="user0")])


def _reading(beacon: str, base: int, loss: int) -> Batch:
    return Batch("", base, [beacon], Readings([0], [0], [1], [loss], [loss]))


async def contents(folder) -> dict[str, list]:
    async with SqliteFile(folder / "state.db", "state") as state:
        return {
            name: await state.read(lambda s, sql=sql: [tuple(row) for row in s._connection.execute(sql)])
            for name, sql in CONTENTS.items()
        }


def fold_in_a_child(child, folder, now: int, transactions: int | None) -> bool:
    """Whether it came to the end; else it was killed after so many transactions, in whatever it did then."""
    with child(CHILD, folder, now) as (process, printed):
        positions = (line for line in printed if line.strip().isdigit())  # the others are its log
        for number, _position in enumerate(positions, start=1):
            if number == transactions:
                process.kill()
        process.join(30)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def copy_file(path, to) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


async def test_a_fold_that_is_killed_again_and_again_ends_in_the_same_rows(shop, tmp_path, child):
    await shop.campaign(dwell_s=5, guardrails={"max_total": 3, "cooldown_s": 0})
    await a_busy_minute(shop)
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
        for file in (shop.journal_file, shop.state):
            copy_file(file.path, tmp_path / name / file.path.name)
    assert fold_in_a_child(child, tmp_path / "once", shop.clock(), None)
    chance, kills = random.Random(11), 0
    while not fold_in_a_child(child, tmp_path / "killed", shop.clock(), chance.randrange(1, 6)):
        kills += 1
    once, killed = await contents(tmp_path / "once"), await contents(tmp_path / "killed")
    assert kills >= 5
    assert killed == once
    assert len(once["decisions"]) >= 3
    assert len(once["pushes"]) == sum(row[5] == "sent" for row in once["decisions"]) > 0
    assert len(once["visits"]) >= 6


async def test_traits_that_no_profile_takes_are_counted_and_their_event_is_kept(live_shop):
    shop = live_shop
    much = {"email": "anna@example.org", "picture": "x" * 10_000, **{f"t{n:03}": n for n in range(500)}}
    await shop.journal.append_events([shop.event("identify", user_id="anna", traits=much)])
    await shop.folded()
    await shop.journal.append_events([shop.event("identify", user_id="anna", traits={"city": "Graz"})])
    await shop.folded()
    assert shop.fold.traits_left_out == 3, "the picture, then one, then another"
    assert await shop.column("select count(*) from traits") == [500]
    assert await shop.column("select value from traits where name in ('email', 'city') order by name") == [
        '"Graz"',
        '"anna@example.org"',
    ]
    assert await shop.column("select count(*) from events where kind = 'identify'") == [2]
