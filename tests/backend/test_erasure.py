"""Erasure end to end: no blob and no raw byte knows the person any more, and only the past is refused."""

import asyncio
import contextlib
import random
import re
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from backend.campaigns.model import parse_campaign
from backend.erased_elsewhere import KNOWN_MS, ErasedElsewhere
from backend.eraser import Eraser, FoldBehind, GuardedJournal, Places
from backend.profiles.erasure import ErasureKeys, Tombstones, Traces
from backend.profiles.model import EVER
from backend.push.model import NewPush, PushContent
from backend.segments.model import (
    AnyOf,
    Definition,
    HasIdentifier,
    HasTrait,
    NumberIs,
    SegmentInvalid,
    check,
    parse_definition,
)
from backend.storage import campaigns as campaign_rows
from backend.storage import erasure, erasure_letters, personal, pushes, segments
from backend.storage.database import SqliteFile
from backend.storage.queries import named_queries
from backend.storage.session import StorageError
from backend.storage.wipe import SqliteWiper
from sdk_bridge.server.ports import DeadLetter, JournalBusy
from sdk_bridge.wire.app_events import AppEvent, ExternalId, PushAddress
from sdk_bridge.wire.messages import Batch, Readings

KEYS = ErasureKeys(b"k" * 32)
USER, MAIL, PHONE = "anna-4711-secret", "anna.secret@example.com", "+43660777888999"
VISITOR, DEVICE, TOKEN = "visitor-anna-0001", "device-anna-0001", "token-anna-0001"
TAG = "altbeacon:" + "ab12" * 10
NAMES = [USER, MAIL, PHONE, VISITOR, DEVICE, TOKEN, TAG]
DAY = 86_400_000


class Office:
    """A shop with an eraser, and a look into every byte of its folder."""

    def __init__(self, shop, folder: Path) -> None:
        self.shop, self.folder = shop, folder
        self.tombstones = Tombstones(KEYS.digest)
        shop.fold._tombstones = self.tombstones
        self.door = GuardedJournal(shop.journal, self.tombstones)
        places = Places(
            shop.state,
            shop.journal_file,
            shop.journal,
            shop.fold,
            folder,
            SqliteWiper(shop.state, may_rebuild=True),
            SqliteWiper(shop.journal_file, may_rebuild=False),
        )
        self.eraser = Eraser(places, KEYS, self.tombstones, shop.clock)

    async def send(self, *events: AppEvent) -> int:
        return await self.door.append_events(events)

    async def erase(self, who: str = f"user_id:{USER}") -> str:
        id_type, _, name = who.partition(":")
        receipt = await self.eraser.erase(id_type, name, "tester")
        assert receipt is not None
        while await self.eraser.work_off():
            pass
        return receipt.receipt_id

    async def receipt(self, receipt_id: str):
        return await self.shop.state.read(lambda s: erasure.erasure_receipt(s, receipt_id))

    def raw(self, *names: str) -> dict[str, list[str]]:
        """Which files hold which names, in any case."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.folder.rglob("*")):
            content = path.read_bytes().lower() if path.is_file() else b""
            for name in names:
                if name.lower().encode() in content:
                    found.setdefault(name, []).append(path.name)
        return found

    async def decoded(self, *names: str) -> list[str]:
        """Rows in which a name stands once every blob is decoded."""
        found = []
        for file in (self.shop.state, self.shop.journal_file):
            for table, row in await file.read(lambda s: list(every_row(s._connection))):
                text = repr([_plain(value) for value in row])
                found += [f"{table}: {name}" for name in names if name.lower() in text.lower()]
        return found


def every_row(connection: sqlite3.Connection):
    tables = connection.execute("select name from sqlite_schema where type = 'table'").fetchall()
    for (table,) in tables:
        for row in connection.execute(f'select * from "{table}"'):
            yield table, tuple(row)


def _plain(value):
    if not isinstance(value, bytes):
        return value
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return decode(value)
    return value.decode("latin-1")


@pytest.fixture
async def office(live_shop, tmp_path):
    return Office(live_shop, tmp_path)


def life(shop) -> list[AppEvent]:
    """Everything that somebody leaves behind: web, app, purchase, consent, tag."""
    web = {"anonymous_id": VISITOR, "source": "web", "proven": False}
    view = {"product_id": "sku-1", "category": "Shoes", "name": "Runner"}
    order = {
        "order_id": "order-anna-77",
        "total": 49.9,
        "currency": "EUR",
        "products": [{"product_id": "sku-1"}],
    }
    app = {"user_id": USER, "device_id": DEVICE}
    return [
        shop.event("page", name="Start", context={"page": {"url": f"/welcome?mail={MAIL}"}}, **web),
        shop.event("track", name="Product Viewed", properties=view, **web),
        shop.event(
            "identify",
            anonymous_id=VISITOR,
            traits={"email": MAIL, "phone": PHONE, "firstName": "Anna"},
            **app,
        ),
        shop.event(
            "device", platform="android", push_address=PushAddress("token", TOKEN), beacon_key=TAG, **app
        ),
        shop.event("consent", consent={"proximity": True, "push": True}, **app),
        shop.event("track", name="Order Completed", properties=order, **app),
    ]


async def lived(office) -> None:
    shop = office.shop
    await shop.campaign()
    await office.send(*life(shop))
    await shop.folded()
    await shop.hear(TAG, seconds=8)
    await shop.folded()
    shop.clock.forward(1000)


async def test_nothing_is_left_of_an_erased_person(office):
    shop = office.shop
    await lived(office)
    await shop.person("berta-0002-keeps", "altbeacon:" + "c" * 40)
    await shop.folded()
    [profile] = await shop.column(f"select profile_id from profiles where id = '{USER}'")
    assert set(office.raw(*NAMES)) == set(NAMES)
    assert await shop.column("select count(*) from pushes") == [1]
    started = time.monotonic()
    receipt_id = await office.erase()
    assert time.monotonic() - started < 20
    await shop.folded()
    assert await office.decoded(*NAMES, profile) == []
    assert office.raw(*NAMES, profile) == {}
    receipt = await office.receipt(receipt_id)
    assert receipt.finished_at is not None
    assert receipt.counts.items() >= {"events": 6, "orders": 1, "push_addresses": 1, "traits": 3}.items()
    kept = await shop.column("select id from profiles where id_type = 'user_id'")
    assert kept == ["berta-0002-keeps"]


async def test_the_work_that_is_left_names_nobody(office):
    await lived(office)
    await office.eraser.erase("user_id", USER, "tester")
    [row] = await office.shop.rows("select step, work from erasure_work")
    assert row["step"] == "history"
    assert not any(name.encode() in row["work"] for name in NAMES)


async def test_nobody_cannot_be_erased(office):
    assert await office.eraser.erase("user_id", "nobody-at-all", "tester") is None
    assert await office.shop.column("select count(*) from erasures") == [0]


async def test_what_is_not_folded_yet_cannot_be_erased(office, monkeypatch):
    async def behind(*_):
        return False

    monkeypatch.setattr(office.shop.fold, "caught_up", behind)
    with pytest.raises(FoldBehind):
        await office.eraser.erase("user_id", USER, "tester")


# Only the past is refused -----------------------------------------------------------------------------------


async def test_the_same_person_may_register_anew(office):
    shop = office.shop
    await lived(office)
    [before] = await shop.column(f"select profile_id from profiles where id = '{USER}'")
    await office.erase()
    shop.clock.forward(1000)
    assert await office.send(*life(shop)) == 6
    await shop.hear(TAG, seconds=8)
    await shop.folded()
    [after] = await shop.column(f"select profile_id from profiles where id = '{USER}'")
    assert after != before
    assert await shop.column("select count(*) from events") == [6]
    assert await shop.column(f"select zone_id from presences where profile_id = '{after}'") == ["a"]
    assert await shop.column(f"select state from pushes where profile_id = '{after}'") == ["queued"]


async def test_an_erasure_does_not_touch_a_new_beginning_that_came_before_its_end(office):
    shop = office.shop
    await lived(office)
    assert await office.eraser.erase("user_id", USER, "tester")
    shop.clock.forward(1000)
    await office.send(*life(shop))
    await shop.folded()
    await office.eraser.work_off()
    assert await shop.column("select count(*) from events") == [6]
    assert await shop.column("select count(*) from traits") == [3]
    [receipt] = await shop.rows("select finished_at from erasures")
    assert receipt["finished_at"] is not None


@pytest.mark.parametrize("door", [True, False], ids=["at the door", "in the fold"])
async def test_their_past_is_refused_however_late_it_comes(office, door):
    shop = office.shop
    await lived(office)
    past = [msgspec.structs.replace(event, message_id=f"again-{event.message_id}") for event in life(shop)]
    shop.clock.forward(DAY)
    await office.erase()
    late = [msgspec.structs.replace(event, received_at=shop.clock()) for event in past]
    sent = await (office.door if door else shop.journal).append_events(late)
    await shop.folded()
    assert sent == (0 if door else 6)
    assert await shop.column("select count(*) from events") == [0]
    assert await shop.column("select count(*) from profiles") == [0]
    await shop.journal.delete_folded(shop.fold.position)  # as the fold does once a second
    assert await office.decoded(*NAMES) == []


async def test_another_processs_door_knows_within_a_second_whom_we_erased(office, monkeypatch):
    shop, theirs = office.shop, Tombstones(KEYS.digest)
    others = ErasedElsewhere(shop.state, theirs, shop.clock)
    door = GuardedJournal(shop.journal, theirs, others.look)
    await lived(office)
    past = [msgspec.structs.replace(event, message_id=f"again-{event.message_id}") for event in life(shop)]
    await door.append_events([])  # it looks
    await office.erase()
    assert await door.append_events(past[:1]) == 1, "the fold refuses what comes so soon"
    shop.clock.forward(KNOWN_MS)
    assert await door.append_events(past) == 0
    shop.clock.forward(-DAY)
    assert await door.append_events(past) == 0

    async def fails(_work):
        raise StorageError("disk I/O error")

    monkeypatch.setattr(shop.state, "read", fails)
    shop.clock.forward(KNOWN_MS)
    with pytest.raises(JournalBusy, match="disk I/O error"):
        await door.append_events(past)


async def test_a_gateways_backlog_does_not_bring_the_tags_past_back(office):
    shop = office.shop
    await lived(office)
    erased_from = shop.clock()
    await office.erase()
    shop.clock.forward(60_000)
    await office.send(*life(shop))  # the same tag, registered anew
    await shop.folded()
    past = Batch("", erased_from - 5_000, [TAG], Readings([0], [0], [1], [60], [60]))
    await shop.append(past, lane="backlog")
    await shop.append(past, lane="backlog", boot_offset=None)  # at an unknown time
    await shop.hear(TAG, seconds=2)
    await shop.folded()
    seconds = await shop.column("select second from sightings")
    assert len(seconds) == 2
    assert min(seconds) * 1000 > erased_from
    assert await shop.column("select count(*) from sightings_without_time") == [0]


async def test_what_lay_in_the_journal_is_refused_by_the_fold(office, running):
    """The fold stops, her events are accepted, and then she is erased."""
    shop = office.shop
    await lived(office)
    past = [msgspec.structs.replace(event, message_id=f"again-{event.message_id}") for event in life(shop)]
    assert await office.eraser.erase("user_id", USER, "tester")
    await shop.journal.append_events(past)
    await shop.append(Batch("", shop.clock() - 3_000, [TAG], Readings([0], [0], [1], [60], [60])))
    await office.eraser.work_off()
    await shop.folded()
    assert await office.decoded(*NAMES) == []
    assert office.raw(*NAMES) == {}


async def test_the_live_state_forgets_though_nobody_told_it(office, monkeypatch):
    """A transaction of the fold that was under way, or another replica's, still knows them."""
    shop = office.shop
    await lived(office)
    monkeypatch.setattr(shop.fold, "refresh", lambda: None)
    assert await office.eraser.erase("user_id", USER, "tester")
    await shop.append(Batch("", shop.clock() + 500, [TAG], Readings([0], [0], [1], [60], [60])))
    await shop.folded()
    assert await shop.column("select count(*) from presences") == [0]
    assert await shop.column("select sum(adverts) from forgotten_late") == [1]
    assert TAG not in shop.heard[-1].people


# Others -----------------------------------------------------------------------------------------------------


async def shared_phone(office) -> None:
    shop = office.shop
    for user in (USER, "berta-0002-keeps"):
        shop.clock.forward(1000)
        both = {"user_id": user, "anonymous_id": VISITOR, "device_id": DEVICE}
        await office.send(
            shop.event("identify", traits={"firstName": user[:5]}, **both),
            shop.event("device", push_address=PushAddress("token", TOKEN), **both),
            shop.event("track", name="Product Viewed", properties={"product_id": user[:5]}, **both),
        )
        await office.send(shop.event("page", anonymous_id=VISITOR, source="web", proven=False))
    await shop.folded()
    shop.clock.forward(1000)


async def test_of_a_shared_phone_only_their_part_goes(office):
    shop = office.shop
    await shared_phone(office)
    [anna] = await shop.column(f"select profile_id from profiles where id = '{USER}'")
    [berta] = await shop.column("select profile_id from profiles where id = 'berta-0002-keeps'")
    await office.erase()
    assert await office.decoded(USER, anna) == []
    assert office.raw(USER, anna) == {}
    assert await shop.column(f"select count(*) from events where profile_id = '{berta}'") == [3]
    assert await shop.column("select profile_id from devices") == [berta]
    assert await shop.column("select profile_id from push_addresses") == [berta]
    shop.clock.forward(1000)
    early = shop.clock() - 60_000  # before everything: where the browser belongs is worked out afresh
    both = {"anonymous_id": VISITOR, "device_id": DEVICE, "occurred_at": early}
    assert await office.send(shop.event("page", user_id="berta-0002-keeps", **both)) == 1
    await shop.folded()
    parents = await shop.column("select merged_into from profiles where id_type = 'anonymous_id'")
    assert parents == [None]  # what both did anonymously never becomes one's own


async def test_what_others_are_said_to_be_and_audiences_forget_the_name(office):
    shop = office.shop
    await lived(office)
    told = {"friend": USER, "note": f"came with {MAIL}", "likes": ["tea", {"with": VISITOR}], "city": "Graz"}
    await shop.person("berta-0002-keeps", "altbeacon:" + "c" * 40)
    await office.send(shop.event("identify", user_id="berta-0002-keeps", traits=told))
    audience = f'{{"type": "identifier", "kind": "user_id", "one_of": ["{USER}", "berta-0002-keeps"]}}'
    definition = parse_definition(f'{{"name": "Testers", "condition": {audience}}}'.encode())
    await shop.state.write(lambda s: segments.save_segment(s, "testers", definition, shop.clock(), "t"))
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    assert await office.decoded(*NAMES) == []
    assert office.raw(*NAMES) == {}
    rows = await shop.rows("select name, value from traits where name <> 'name' order by name")
    assert {row["name"]: row["value"] for row in rows} == {
        "city": '"Graz"',
        "friend": '"[erased]"',
        "likes": '["tea",{"with":"[erased]"}]',
        "note": '"[erased]"',
    }
    [kept] = await shop.column("select definition from segment_versions where segment_id = 'testers'")
    assert parse_definition(kept.encode()).condition.one_of == ("[erased]", "berta-0002-keeps")
    assert await shop.column("select count(*) from alerts") == [0]


async def test_audiences_that_would_not_be_taken_any_more_forget_the_name_all_the_same(office):
    """An earlier version took bounds with nothing between them; what it saved is still in use."""
    shop = office.shop
    named = HasIdentifier("user_id", (USER, "berta-0002-keeps"))
    audience = AnyOf((named, HasTrait("age", NumberIs(at_least=5, less_than=5))))
    with pytest.raises(SegmentInvalid):
        check(audience)
    campaign = msgspec.structs.replace(a_campaign("friends"), audience=audience)
    await lived(office)
    await shop.state.write(
        lambda s: segments.save_segment(s, "testers", Definition("Testers", audience), shop.clock(), "t")
    )
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    assert await office.decoded(*NAMES) == []
    assert office.raw(*NAMES) == {}
    expected = ("[erased]", "berta-0002-keeps")
    kept = (await shop.state.read(segments.segments))["testers"]
    assert kept.condition.of[0].one_of == expected
    found = (await shop.state.read(campaign_rows.campaigns))["friends"]
    assert found.campaign.audience.of[0].one_of == expected


def a_campaign(campaign_id: str, **more):
    definition = {
        "campaign_id": campaign_id,
        "name": f"For {USER} and friends",
        "trigger": {"type": "event", "name": "Cart"},
        "audience": {"type": "identifier", "kind": "user_id", "one_of": [USER, "berta-0002-keeps"]},
        "offer": {"title": "Hello", "body": "There"},
        **more,
    }
    return parse_campaign(msgspec.json.encode(definition))


async def test_campaigns_as_they_are_and_were_forget_the_name(office):
    """Audiences and texts; the rest of a text stays, for it is everybody's."""
    shop = office.shop
    await lived(office)
    chosen = "{% if profile.email == '" + MAIL.upper() + "' %}Dear tester{% else %}Dear all{% endif %}"
    offer = {"title": "Hello", "body": chosen}
    variants = [{"variant_id": "v", "offer": {"title": f"For {USER} only", "body": "There"}}]
    await shop.state.write(
        lambda s: [
            campaign_rows.save_campaign(s, campaign, shop.clock())
            for campaign in (a_campaign("tests"), a_campaign("tests", offer=offer, variants=variants))
        ]
    )
    shop.fold.refresh()
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    assert await office.decoded(*NAMES) == []
    assert office.raw(*NAMES) == {}
    found = await shop.state.read(campaign_rows.campaigns)
    assert found["tests"].version == 2
    campaign = found["tests"].campaign
    assert campaign.audience.one_of == ("[erased]", "berta-0002-keeps")
    assert campaign.offer.body == chosen.replace(MAIL.upper(), "[erased]")
    assert campaign.variants[0].offer.title == "For [erased] only"
    [first, second] = await shop.column(
        "select definition from campaign_versions where campaign_id = 'tests' order by version"
    )
    assert parse_campaign(first).audience.one_of == ("[erased]", "berta-0002-keeps")
    assert parse_campaign(second) == campaign
    assert await shop.column("select count(*) from alerts") == [0]


async def test_a_device_forgets_that_they_were_the_last(office):
    shop = office.shop
    await shared_phone(office)
    await office.erase("user_id:berta-0002-keeps")
    assert await shop.column("select profile_id from devices") == [None]
    assert await shop.column("select profile_id from push_addresses") == [None]
    assert await office.decoded("berta-0002-keeps") == []
    assert office.raw("berta-0002-keeps") == {}


async def test_others_events_lose_the_name_and_nothing_else(office):
    shop = office.shop
    await lived(office)
    claim = {"anonymous_id": "stranger-1", "user_id": USER, "proven": False}
    invited = {"invited": MAIL, "text": f"Dear {MAIL}, come!", "rows": [{"to": MAIL.upper()}], "n": 4}
    await office.send(
        shop.event("track", name="Invited", user_id="berta-0002-keeps", properties=invited),
        shop.event("identify", traits={"email": "x@y.zz"}, **claim),
        shop.event("track", name="Order Completed", properties={"order_id": "o-1", "total": 5}, **claim),
    )  # fmt: skip
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    [properties] = await shop.column("select properties from events where name = 'Invited'")
    assert msgspec.json.decode(properties) == {
        "invited": "[erased]", "text": "[erased]", "rows": [{"to": "[erased]"}], "n": 4,
    }  # fmt: skip
    assert await shop.column("select count(*) from events") == [
        1
    ]  # whoever claimed to be her is gone with her
    assert await shop.column("select count(*) from orders") == [0]
    assert await shop.column("select count(*) from traits") == [0]
    assert await office.decoded(*NAMES) == []
    assert office.raw(*NAMES) == {}


@pytest.mark.parametrize(
    "who", ["12345678", "bob-erased"], ids=["the browser's name has it", "it goes itself"]
)
async def test_whose_browser_an_event_told_stays_known_though_it_changes(office, who):
    """It was the last of its hour, and a logout from before it comes late."""
    shop = office.shop
    browser, mail = "GA1.2.1234567890.1700000000", [ExternalId("email", "alice@example.at")]
    alice = {"user_id": None, "proven": False, "anonymous_id": browser, "external_ids": mail}
    claimed = {"user_id": "bob-erased"} if who == "bob-erased" else {}
    await office.send(shop.event("identify", user_id=who), shop.event("track", name="Seen", **alice))
    await shop.folded()
    shop.clock.forward(1000)
    left = shop.event("logout", anonymous_id=browser, user_id=None, proven=False)
    shop.clock.forward(1000)
    await office.send(shop.event("track", name="Seen", **alice | claimed))
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase(f"user_id:{who}")
    await office.send(left)
    await shop.folded()
    until = "select attach_until from profiles where id_type = 'anonymous_id'"
    assert await shop.column(until) == [EVER], "she was seen there after that logout"


async def test_whoever_loses_what_they_did_leaves_the_segments_that_ask_for_it(office):
    shop = office.shop
    buyers = parse_definition(b'{"name": "Buyers", "condition": {"type": "event", "name": "Bought"}}')
    await shop.state.write(lambda s: segments.save_segment(s, "buyers", buyers, shop.clock(), "t"))
    shop.fold.refresh()
    claim = {"anonymous_id": "stranger-1", "user_id": USER, "proven": False}
    await office.send(shop.event("identify", user_id=USER), shop.event("track", name="Bought", **claim))
    await shop.folded()
    assert await shop.column("select count(*) from segment_members") == [1]
    shop.clock.forward(1000)
    await office.erase()
    for _ in range(500):
        if await shop.column("select count(*) from segment_members") == [0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the stranger is still taken for a buyer")


async def test_an_address_that_a_family_shares_stays_the_others(office):
    shop = office.shop
    await lived(office)
    await office.send(shop.event("identify", user_id="berta-0002-keeps", traits={"email": MAIL}))
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    assert await shop.column("select value from traits") == [f'"{MAIL}"']
    shop.clock.forward(1000)
    past = shop.event(
        "identify", user_id="berta-0002-keeps", occurred_at=shop.clock() - 5_000, traits={"email": MAIL}
    )
    assert await office.send(past) == 1


async def test_an_address_by_which_somebody_else_is_known_stays_theirs(office):
    """Anna only wrote it into a form; the till and the account know Berta by it."""
    shop = office.shop
    known = [ExternalId("email", MAIL)]
    await office.send(
        shop.event("identify", user_id=USER, traits={"email": MAIL.upper()}),
        shop.event("identify", user_id="berta-0002-keeps", external_ids=known),
        shop.event("track", name="Bought", user_id=None, external_ids=known, properties={"email": MAIL}),
    )
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase()
    assert await shop.column("select properties from events where name = 'Bought'") == [
        f'{{"email":"{MAIL}"}}'
    ]
    bodies = [_plain(body) for body in await shop.column("select body from events")]
    assert [body["external_ids"] for body in bodies] == [[{"type": "email", "id": MAIL}]] * 2
    late = shop.event("track", name="Late", external_ids=known, occurred_at=shop.clock() - 5_000)
    assert await office.send(late) == 1
    assert await shop.column("select kind from alerts") == []


async def test_whoever_is_known_anew_by_an_address_alone_is_no_trace(office):
    shop = office.shop
    await office.send(shop.event("identify", user_id=USER, traits={"email": MAIL}))
    await shop.folded()
    shop.clock.forward(1000)
    await office.eraser.erase("user_id", USER, "tester")
    shop.clock.forward(1000)
    await office.send(shop.event("track", name="Bought", external_ids=[ExternalId("email", MAIL)]))
    await shop.folded()
    while await office.eraser.work_off():
        pass
    assert await shop.column("select kind from alerts") == []
    assert await shop.column("select id from profiles") == [MAIL]


CHLOE, DORA = "chloe-0003-old", "dora-0004-new"


async def aliased(office) -> None:
    """An alias that says that two users are one: a question to an operator, no merge."""
    shop = office.shop
    await office.send(
        shop.event("track", name="Bought", user_id=CHLOE),
        shop.event("identify", user_id=DORA, traits={"firstName": "Dora"}),
        shop.event("alias", user_id=DORA, previous_id=CHLOE),
    )
    await shop.folded()
    shop.clock.forward(1000)


async def test_whom_an_alias_called_theirs_is_not_erased_with_them(office):
    shop = office.shop
    await aliased(office)
    await office.erase(f"user_id:{DORA}")
    assert (await office.decoded(DORA), office.raw(DORA)) == ([], {})
    assert [body["user_id"] for body in map(_plain, await shop.column("select body from events"))] == [CHLOE]
    late = shop.event("track", name="Late", user_id=CHLOE, occurred_at=shop.clock() - 5_000)
    assert await office.send(late) == 1


async def test_whom_an_alias_called_theirs_leaves_no_trace_with_them(office):
    await aliased(office)
    await office.erase(f"user_id:{CHLOE}")
    assert (await office.decoded(CHLOE), office.raw(CHLOE)) == ([], {})
    assert await office.shop.column("select id from profiles where id_type = 'user_id'") == [DORA]


async def test_short_identifiers_hit_nobody_else(office):
    """A user called 42, and somebody who wears size 42."""
    shop = office.shop
    await office.send(
        shop.event("identify", user_id="42", traits={"firstName": "Zoë"}),
        shop.event("track", name="Bought", user_id="berta-0002-keeps", properties={"size": "42", "n": 42}),
        shop.event("track", name="Claimed", user_id="42", proven=False, anonymous_id="stranger-1"),
    )
    await shop.journal.bury(DeadLetter("app", "no", b'{"userId":"42","x":1}', 1, shop.clock()))
    await shop.journal.bury(DeadLetter("app", "no", b'{"userId":"43","size":"42"}', 1, shop.clock()))
    await shop.folded()
    shop.clock.forward(1000)
    await office.erase("user_id:42")
    assert await shop.column("select name from events") == ["Bought"]
    assert await shop.column("select properties from events") == ['{"size":"42","n":42}']
    letters = await shop.journal_file.read(
        lambda s: s._connection.execute("select payload from dead_letters").fetchall()
    )
    assert [bytes(row[0]) for row in letters] == [b'{"userId":"43","size":"42"}']


# Pushes, letters, notes, files ----------------------------------------------------------------------------


async def test_pushes_on_their_way_are_stopped_and_figures_stay(office):
    shop = office.shop
    await lived(office)
    [(decision, profile)] = [
        tuple(row.values()) for row in await shop.rows("select decision_id, profile_id from decisions")
    ]
    content = PushContent(title="Hello Anna", body="x", campaign_id="c1", expires_at=shop.clock() + DAY)

    def more(session) -> None:
        for number, state in enumerate(("claimed", "sending", "accepted")):
            push = NewPush(
                push_id=f"push-{state}", decision_id=decision, profile_id=profile, address_kind="token",
                address_value=f"{TOKEN}-{number}", platform=None, content=content, created_at=shop.clock(),
                not_before=shop.clock(), due_at=shop.clock(), completed_at=shop.clock(),
            )  # fmt: skip
            pushes.insert_pushes(session, [push])
            session._connection.execute(
                "update pushes set state = ? where push_id = ?", (state, push.push_id)
            )

    await shop.state.write(more)
    assert await office.eraser.erase("user_id", USER, "tester")
    ended = {row["state"]: row["reason"] for row in await shop.rows("select state, reason from pushes")}
    assert ended == {"suppressed": "erased", "unknown": "erased", "accepted": None}
    await office.eraser.work_off()
    assert await shop.column("select count(*) from pushes") == [4]
    assert await shop.column("select count(distinct profile_id) from pushes") == [1]
    assert await shop.column("select verdict from decisions") == ["sent"]
    assert await office.decoded(*NAMES, profile, "Hello Anna") == []


LETTERS = {
    "plain": f'{{"userId": "{USER}"}}'.encode(),
    "another case": MAIL.upper().encode(),
    "JSON escapes": "".join(f"\\u{ord(letter):04x}" for letter in MAIL).encode(),
    "MessagePack": msgspec.msgpack.encode([{"device_id": DEVICE}]),
    "a gateway's": msgspec.msgpack.encode(["batch", "", 0, [TAG], [[0]]]),
    "percent": b"data=" + MAIL.replace("@", "%40").encode(),
    "broken": b"\xff\xfe" + TOKEN.encode() + b"\x00{{{",
}


async def test_dead_letters_about_them_go_in_whatever_form(office):
    shop = office.shop
    await lived(office)
    others = [b'{"userId": "berta-0002-keeps"}', b"\x80\x81nonsense"]
    for payload in (*LETTERS.values(), *others):
        await shop.journal.bury(DeadLetter("app", "not understood", payload, 1, shop.clock()))
    await office.erase()
    read = await shop.journal_file.read(
        lambda s: s._connection.execute("select payload from dead_letters").fetchall()
    )
    assert [bytes(row[0]) for row in read] == others
    room = await shop.journal_file.read(
        lambda s: tuple(s._connection.execute("select letters, bytes from dead_letter_room").fetchone())
    )
    assert room == (2, sum(map(len, others)))
    assert office.raw(*NAMES) == {}


async def test_the_audit_keeps_that_and_not_to_whom(office):
    shop = office.shop
    await lived(office)

    def note(session) -> None:
        for subject, detail in (
            (f"user_id:{USER}", "{}"),
            ("profile 1", f'{{"into": "{DEVICE}"}}'),
            ("store s1", "{}"),
        ):
            session.run("audit", at=1, actor="me", action="merged", subject=subject, detail=detail)
            session.run("raise_alert", at=1, kind="odd", subject=subject, detail=detail)

    await shop.state.write(note)
    await office.erase()
    assert await shop.column("select subject from audit where action = 'merged'") == [
        "[erased]",
        "[erased]",
        "store s1",
    ]
    assert await shop.column("select subject from alerts where kind = 'odd'") == [
        "[erased]",
        "[erased]",
        "store s1",
    ]


async def test_files_about_them_go(office, tmp_path):
    await lived(office)
    for folder, name, text in (
        ("exports", "audience.csv", f"id,mail\n1,{MAIL}\n"),
        ("imports", "errors/rows.jsonl", f'{{"row": 3, "user_id": "{USER}"}}'),
        ("exports", "others.csv", "id,mail\n2,berta@example.com\n"),
        ("authority", "ca.pem", f"never looked at {MAIL}"),
    ):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    await office.erase()
    left = {path.name for folder in ("exports", "imports") for path in (tmp_path / folder).rglob("*.*")}
    assert left == {"others.csv"}
    assert (tmp_path / "authority" / "ca.pem").exists()
    (tmp_path / "authority" / "ca.pem").unlink()
    assert office.raw(*NAMES) == {}


# What there is to be found --------------------------------------------------------------------------------

LIKE_A_PERSONS = (
    r"(^|_)(profile|person|visitor|anonymous|device|customer|contact|user|beacon|merged_into)(_id|_key|_into)?$"
    r"|^(id|value|subject|detail|payload|body|properties|traits?|registers|engine|envelope|digest|nonce|phone|email"
    r"|key_number|content|work|latitude|longitude)$|(^|_)(address_value|token)$"
)
SHOPS_OWN = {
    "stores", "zones", "gateways", "zone_beacons", "api_tokens", "sources", "source_keys", "campaigns",
    "campaign_versions", "segments", "segment_versions", "certificates", "enrolment_tokens", "configurations",
    "configuration_reports", "revoked_gateways", "heard_gateways", "categories", "category_mappings",
    "category_ancestors", "products", "code_pools", "codes", "message_ids", "recent_message_ids",
    "sorted_message_ids", "lanes", "forgotten", "forgotten_late",
}  # fmt: skip
"""Tables about the shop, its things and its staff, in which no customer is named."""

HOW_TO_ADD = """
{table}.{column} looks as if it named a person, and erasure knows nothing of it.

If it does: add to AT_ONCE (whatever makes somebody known, reached or seen) or HISTORY in
backend/storage/personal.py

    _row("{table}", "profile", "erase_{table}", "{column}", exported=True),

and to backend/storage/sqlite/state/queries/erasure.sql and export.sql

    -- name: erase_{table}!
    -- What the table holds of a profile.
    delete from {table} where {column} = :profile_id;

    -- name: export_{table}
    -- What `{table}` holds.
    select * from {table} where {column} = :profile_id order by 1 limit :limit offset :offset;

`By` in personal.py says what else a row may be found by (:subject, :device_id ...). A table of thousands of
rows a person deletes `limit :limit` at a time. If figures hang on the row, replace the person by :hidden.
If it is free text that may mention anybody, it belongs to SEARCHED, and erasure.py has to read it.

If it does not: add "{table}.{column}" to IMPERSONAL there, with the reason; or the table to SHOPS_OWN here.
"""


def columns_of(connection: sqlite3.Connection) -> dict[str, list[str]]:
    tables = connection.execute(
        "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'"
    ).fetchall()
    return {
        table: [row[1] for row in connection.execute(f'pragma table_info("{table}")')] for (table,) in tables
    }


async def test_every_column_that_may_name_a_person_is_known_to_erasure(state, journal_file):
    known = {(one.table, column) for one in (*personal.AT_ONCE, *personal.HISTORY) for column in one.columns}
    known |= {(table, column) for table, columns in personal.SEARCHED.items() for column in columns}
    known |= {tuple(name.split(".")) for name in personal.IMPERSONAL}
    schema = {}
    for file in (state, journal_file):
        schema |= await file.read(lambda s: columns_of(s._connection))
    unknown = [
        HOW_TO_ADD.format(table=table, column=column)
        for table, columns in schema.items()
        for column in columns
        if table not in SHOPS_OWN and re.search(LIKE_A_PERSONS, column) and (table, column) not in known
    ]
    assert not unknown, "\n".join(unknown)
    gone = [f"{table}.{column}" for table, column in known if column not in schema.get(table, ())]
    assert not gone, f"there are no such columns: {gone}"


def test_every_query_of_the_list_is_there():
    queries = named_queries("state")
    wanted = {one.erase for one in (*personal.AT_ONCE, *personal.HISTORY)}
    wanted |= {f"export_{one.table}" for one in (*personal.AT_ONCE, *personal.HISTORY) if one.exported}
    assert not wanted - queries.keys()


# Bytes ----------------------------------------------------------------------------------------------------


async def test_copies_in_pages_that_sqlite_split_are_found_and_removed(tmp_path):
    """What `secure_delete` leaves behind: 300 of 3,000 people go, who came in no order."""
    random.seed(4)
    people = [f"person-{random.getrandbits(64):016x}" for _ in range(3_000)]
    gone = people[::10]
    async with SqliteFile(tmp_path / "state.db", "state") as file:

        def fill(session) -> None:
            for name in people:
                session._connection.execute(
                    "insert into identity_edges values ('user_id', ?, ?, 1, null, 'x', 1)",
                    (name, f"profile-{name}"),
                )
                session._connection.execute(
                    "insert into devices values (?, ?, null, 1, ?)",
                    (f"dev-{name}", None, b"x" * random.randint(20, 200)),
                )
            for name in people:
                session._connection.execute(
                    "update devices set registers = ? where device_id = ?",
                    (b"y" * random.randint(100, 400), f"dev-{name}"),
                )

        def forget(session) -> None:
            for name in gone:
                session._connection.execute("delete from identity_edges where id = ?", (name,))
                session._connection.execute("delete from devices where device_id = ?", (f"dev-{name}",))

        await file.write(fill)
        await file.write(forget)
        wiper, traces = SqliteWiper(file, may_rebuild=False), Traces(gone)
        left = await wiper.wipe(traces)
        assert left, "the fault that this guards against did not show; make the file busier"
        assert (tmp_path / "state.db-wal").stat().st_size == 0
        content = (tmp_path / "state.db").read_bytes()
        assert any(name.encode() in content for name in gone)
        assert await SqliteWiper(file, may_rebuild=True).wipe(traces) == 0
        content = (tmp_path / "state.db").read_bytes()
        assert not any(name.encode() in content for name in gone)
        assert (
            len(await file.read(lambda s: s._connection.execute("select * from devices").fetchall())) == 2_700
        )


async def test_letters_that_moved_leave_nothing_where_they_were(office):
    """Dead letters in hundreds, the oldest of which fell out: pages were merged."""
    shop = office.shop
    await lived(office)
    for number in range(150):
        text = f'{{"n": {number}, "user": "{USER}"}}' if number % 3 == 0 else f'{{"n": {number}}}'
        await shop.journal.bury(DeadLetter("app", "no", text.encode(), 1, shop.clock()))

    def drop(session) -> None:
        session._connection.execute("delete from dead_letters where letter_id <= 40")

    await shop.journal_file.write(drop)
    await office.erase()
    assert office.raw(USER) == {}
    until = await shop.journal_file.read(erasure_letters.last_letter)
    before = await shop.journal_file.read(
        lambda s: s._connection.execute("select payload from dead_letters order by 1").fetchall()
    )
    while await shop.journal_file.write(lambda s: erasure_letters.move_letters(s, until)):
        pass
    after = await shop.journal_file.read(
        lambda s: s._connection.execute("select payload from dead_letters order by 1").fetchall()
    )
    assert list(map(tuple, before)) == list(map(tuple, after))
    assert await shop.journal_file.read(erasure_letters.last_letter) > until


# Killed at any instant ------------------------------------------------------------------------------------

KILLED = """
    import asyncio, os, shutil, signal, sys, traceback
    sys.path.insert(0, {tests!r})
    import conftest, test_erasure
    from backend.storage.database import SqliteFile
    from backend.storage.journal import Journal

    async def in_office(folder, work):
        opened = SqliteFile(folder / "journal.db", "journal"), SqliteFile(folder / "state.db", "state")
        async with opened[0] as journal_file, opened[1] as state:
            clock = conftest.SetClock()
            journal = Journal(journal_file, clock)
            await journal.load()
            shop = conftest.Shop(journal, journal_file, state, clock)
            tasks = [asyncio.create_task(journal.run())]
            if await state.read(lambda s: s.row("stores")) is None:
                await shop.set_up()
            await shop.fold.load()
            tasks.append(asyncio.create_task(shop.fold.run()))
            try:
                return await work(test_erasure.Office(shop, folder), state)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def live(office, state):
        await test_erasure.lived(office)
        await office.shop.folded()

    async def die(office, state, at):
        commits, write = 0, state.write
        async def counted(work, **more):
            nonlocal commits
            if commits == at:
                os.kill(os.getpid(), signal.SIGKILL)
            commits += 1
            return await write(work, **more)
        state.write = counted
        office.shop.clock.forward(60_000)
        await office.erase()

    async def revive(office, state):
        office.shop.clock.forward(120_000)
        if not await office.shop.column("select 1 from erasures"):
            await office.eraser.erase("user_id", test_erasure.USER, "tester")
        while await office.eraser.work_off():
            pass
        assert await office.decoded(*test_erasure.NAMES) == []
        assert office.raw(*test_erasure.NAMES) == {{}}
        [receipt] = await office.shop.rows("select * from erasures")
        assert receipt["finished_at"] is not None
        assert await office.shop.column("select count(*) from erasure_work") == [0]

    def forked(folder, work):
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(in_office(folder, work))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    from pathlib import Path
    base = Path({folder!r})
    (base / "life").mkdir()
    assert forked(base / "life", live) == 0
    deaths = 0
    for at in range(0, 40, 3):
        folder = base / str(at)
        shutil.copytree(base / "life", folder)
        killed = forked(folder, lambda office, state: die(office, state, at)) == signal.SIGKILL
        assert forked(folder, revive) == 0, at
        deaths += killed
        if not killed:
            break
    print("deaths", deaths)
"""


def test_a_kill_before_any_commit_loses_nothing_of_the_erasure(tmp_path):
    """Before one of its commits the process dies; the next one goes on and finishes."""
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    deaths = int(done.stdout.split("deaths ")[1].split()[0])
    assert deaths > 3
