"""Orders, behaviour, timeline, search, export and erasure of people: the same answers from both engines."""

import asyncio
import json
from contextlib import suppress

import pytest

from backend.eraser import Eraser, Places
from backend.fold import Fold
from backend.profiles.erasure import ErasureKeys, Tombstones
from backend.profiles.timeline import Window
from backend.storage import behaviour, orders, profiles, search
from backend.storage import export as export_module
from backend.storage.erasure import erasure_receipt
from backend.storage.export import TABLES, Export
from backend.storage.timeline import timeline_of
from sdk_bridge.server.ports import DeadLetter
from sdk_bridge.wire.app_events import AppEvent, PushAddress

NOON = 1_750_075_200_000
KEYS = ErasureKeys(b"k" * 32)
USER, MAIL, TAG = "anna-4711", "anna@example.com", "altbeacon:" + "ab12" * 10


def event(number: int, kind: str, **more) -> AppEvent:
    at = NOON + number
    who = more.pop("who", {"user_id": USER, "device_id": "device-anna-1", "proven": True})
    return AppEvent(kind, f"m{number}", more.pop("source", "app"), at, at, **who, **more)


WEB = {"anonymous_id": "visitor-anna-1"}
EVENTS = [
    event(1, "track", name="Product Viewed", properties={"product_id": "p1", "category": "Shoes"}, who=WEB),
    event(2, "identify", traits={"email": MAIL}, who={"user_id": USER, "proven": True, **WEB}),
    event(3, "device", push_address=PushAddress("token", "token-anna-1"), beacon_key=TAG),
    event(4, "consent", consent={"proximity": True}),
    event(5, "track", name="Order Completed", properties={"order_id": "o1", "total": 20, "currency": "EUR"}),
    event(6, "track", name="Order Refunded", properties={"order_id": "o1", "total": 5}),
    event(7, "track", name="Invited", properties={"mail": MAIL}, who={"user_id": "berta-1", "proven": True}),
]


@pytest.fixture
async def fold(journal, state):
    tombstones = Tombstones(KEYS.digest)
    fold = Fold(journal, state, lambda: NOON + 1000, on_listening=lambda _: None, tombstones=tombstones)
    await fold.load()
    fold.tombstones = tombstones
    task = asyncio.create_task(fold.run())
    await journal.append_events(EVENTS)
    assert await fold.caught_up("", 20)
    yield fold
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def root(state) -> str:
    found = await state.read(lambda session: profiles.resolve(session, "user_id", USER))
    assert found is not None
    return found


async def test_a_person_is_read(fold, state):
    person = await root(state)
    purchases = await state.read(lambda session: orders.purchases(session, person))
    assert (purchases.orders, purchases.spent[0].total, purchases.spent[0].refunded) == (1, 2000, 500)
    found = await state.read(lambda session: behaviour.behaviour_of(session, person, NOON + 1000))
    assert [(one.latest.product_id, one.views) for one in found.products] == [("p1", 1)]
    consents = await state.read(lambda session: behaviour.consent_history(session, person))
    assert [(one.purpose, one.granted) for one in consents] == [("proximity", True)]
    items = await state.read(lambda session: timeline_of(session, person, Window(50)))
    kinds = [item.position.kind for item in items]
    assert kinds == ["order", "order", "consent", "merge", "event", "merge", "event", "event"]
    again, edge = [], None
    while shown := await state.read(lambda s, at=edge: timeline_of(s, person, Window(2, at, newer=True))):
        again, edge = [*shown, *again], shown[0].position
    assert again == items


@pytest.mark.parametrize(
    ("by", "text"), [("identifier", "anna-"), ("email", "ANNA@"), ("identifier", "visitor-"), ("recent", "")]
)
async def test_a_person_is_found(fold, state, by, text):
    person = await root(state)
    found = await state.read(lambda session: search.search(session, by, text, None, 5))
    assert person in {one.profile_id for one in found.people}


async def test_a_person_is_given_out(fold, state):
    export = await state.read(lambda session: Export.of(session, profiles.resolve(session, "user_id", USER)))
    document = json.loads(b"".join([part async for part in export.parts(state, NOON)]))
    assert len(document["events"]) == 6
    assert document["orders"][0]["total"] == 2000
    assert document["push_addresses"][0]["value"] == "token-anna-1"


class Views:
    """A database that counts how often it is asked for a view."""

    def __init__(self, state) -> None:
        self.state, self.count = state, 0

    def view(self, work):
        self.count += 1
        return self.state.view(work)


@pytest.mark.parametrize(("page", "most"), [(500, len(TABLES) + 1), (7, 3 * len(TABLES))])
async def test_a_person_of_many_browsers_is_given_out_in_few_views(
    fold, journal, state, monkeypatch, page, most
):
    monkeypatch.setattr(export_module, "PAGE", page)
    logins = [
        event(10 + number, "identify", who={"user_id": USER, "anonymous_id": f"b{number}", "proven": True})
        for number in range(40)
    ]
    pages = [
        event(50 + number, "page", who={"anonymous_id": f"b{number % 40}"}, properties={"number": number})
        for number in range(100)
    ]
    await journal.append_events([*logins, *pages])
    assert await fold.caught_up("", 20)
    export = await state.read(lambda session: Export.of(session, profiles.resolve(session, "user_id", USER)))
    views = Views(state)
    document = json.loads(b"".join([part async for part in export.parts(views, NOON)]))
    assert len({one["event_id"] for one in document["events"]}) == len(document["events"]) == 6 + 140
    assert len({one["profile_id"] for one in document["profiles"]}) == len(document["profiles"]) == 43
    assert views.count <= most


async def test_a_person_is_erased(fold, state, journal, journal_file, raw):
    await journal.bury(DeadLetter("app", "no", f'{{"userId": "{USER}"}}'.encode(), 1, NOON))
    eraser = Eraser(Places(state, journal_file, journal, fold), KEYS, fold.tombstones, lambda: NOON + 2000)
    begun = await eraser.erase("user_id", USER, "tester")
    assert begun is not None
    while await eraser.work_off():
        pass
    receipt = await state.read(lambda session: erasure_receipt(session, begun.receipt_id))
    assert receipt is not None
    assert receipt.finished_at is not None
    assert (
        receipt.counts.items() >= {"events": 7, "orders": 1, "dead_letters": 1, "push_addresses": 1}.items()
    )
    assert await state.read(lambda s: raw(s, "select name, properties from events")) == [
        ("Invited", '{"mail":"[erased]"}')
    ]
    for table in ("orders", "order_statements", "traits", "devices", "push_addresses", "identity_claims"):
        assert await state.read(lambda s, name=table: raw(s, f"select * from {name}")) == [], table
    assert await journal_file.read(lambda s: raw(s, "select * from dead_letters")) == []
    assert await journal.append_events([event(20, "page", name="Late")]) == 1
    assert await fold.caught_up("", 20)
    assert await state.read(lambda s: raw(s, "select count(*) from events")) == [(1,)]
    assert await state.read(lambda session: profiles.resolve(session, "user_id", USER)) is None
