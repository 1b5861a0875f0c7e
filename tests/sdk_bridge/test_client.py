"""The typed client against a real bridge: nothing lost, nothing doubled, whatever the bridge answers."""

import asyncio
import itertools
import resource
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sdk_bridge.client import (
    MAX_EVENT_BYTES,
    MAX_PARTS,
    BridgeClient,
    ClientSettings,
    Crossing,
    Sighting,
    Who,
)
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import BeaconSighting, FenceTransition, Location, PushAddress
from sdk_bridge.wire.places import BeaconRegion, FenceRegion
from simulators.bridge_alone import SECRET, MemoryJournal, RunningBridge, running_bridge

ANNA = Who("anna", "a1", user_hash(SECRET, "anna"))
NOW = ClientSettings(linger_s=0)
FAST = ClientSettings(first_retry_s=0.01, longest_retry_s=0.05, linger_s=5)


@pytest.fixture
async def bridge() -> AsyncIterator[RunningBridge]:
    async with running_bridge() as running:
        yield running


def client(url: str, **options: Any) -> BridgeClient:
    return BridgeClient(url, "app-key", **{"settings": FAST, **options})


async def test_every_call_arrives_as_meant(bridge: RunningBridge) -> None:
    address = PushAddress("token", "t1")
    async with client(bridge.url) as phone:
        sent = [
            phone.identify(ANNA, {"city": "Graz"}),
            phone.track(ANNA, "Product Viewed", {"sku": "7"}),
            phone.page(ANNA, "Shoes"),
            phone.screen(ANNA, "Basket"),
            phone.group(ANNA, "club", {"name": "Club"}),
            phone.alias(ANNA, "a0"),
            phone.register_device(ANNA, "d1", "android", address, "altbeacon:" + "ab" * 20),
            phone.consent(ANNA, {"proximity": True}),
            phone.push_received("p1"),
            phone.push_opened("p1"),
            phone.logout("d1", "a1"),
        ]
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    events = [bridge.journal.of(message_id) for message_id in sent]
    kinds = [event.kind for event in events if event]
    assert kinds == [
        "identify", "track", "page", "screen", "group", "alias", "device", "consent", "push_receipt",
        "push_receipt", "logout",
    ]  # fmt: skip
    assert [event.proven for event in events if event] == [True] * 8 + [False] * 3
    device = events[6]
    assert device is not None
    assert (device.push_address, device.platform) == (address, "android")
    logout = events[-1]
    assert logout is not None
    assert (logout.device_id, logout.anonymous_id) == ("d1", "a1")


async def test_calls_travel_in_batches_and_in_order(bridge: RunningBridge) -> None:
    async with client(bridge.url) as phone:
        for number in range(250):
            phone.track(ANNA, "Tick", {"n": number})
        await phone.flush(5)
    assert [event.properties["n"] for event in bridge.journal.events] == list(range(250))
    assert bridge.journal.appends == 3


async def test_a_busy_bridge_is_asked_again_and_answers_once_count_once(bridge: RunningBridge) -> None:
    bridge.journal.busy = 3
    async with client(bridge.url) as phone:
        phone.track(ANNA, "Once")
        await phone.flush(5)
        assert (phone.tally.retries, len(phone.acknowledged)) == (3, 1)
    assert len(bridge.journal.events) == 1


async def test_an_answer_lost_on_its_way_doubles_nothing() -> None:
    """The bridge commits, the answer never comes: the client sends again under the same message id."""
    journal = MemoryJournal()
    async with (
        running_bridge(journal=journal) as bridge,
        lossy_proxy(bridge.url, losing=3) as url,
        client(url) as phone,
    ):
        sent = [phone.track(ANNA, "Tick", {"n": number}) for number in range(5)]
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    assert [event.message_id for event in journal.events] == sent
    assert journal.appends > 1


async def test_what_is_unsent_survives_the_process(bridge: RunningBridge, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    hurried = ClientSettings(first_retry_s=0.01, linger_s=0)
    async with client("http://127.0.0.1:9", queue_path=path, settings=hurried) as phone:
        sent = [phone.track(ANNA, "Offline", {"n": number}) for number in range(3)]
        assert phone.queued == 3
    assert bridge.journal.events == []
    async with client(bridge.url, queue_path=path) as phone:
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    assert [event.message_id for event in bridge.journal.events] == sent


KEY = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"
SHELF = Location(48.2, 16.37, 12.5, 0.5)


async def test_what_a_phone_observes_arrives_and_it_hears_what_to_watch(bridge: RunningBridge) -> None:
    fence = FenceRegion("f1", "Market", 48.2, 16.4, 150.0)
    bridge.places.keys = frozenset({KEY})
    bridge.places.regions = [fence, BeaconRegion("ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6", "s1")]
    async with client(bridge.url) as phone:
        heard = [Sighting(KEY, rssi=-60, proximity="near", accuracy_m=1.5), Sighting("altbeacon:" + "0" * 40)]
        phone.sighted(ANNA, "d1", heard)
        phone.crossed(ANNA, "d1", [Crossing("f1", "enter", SHELF)])
        phone.located(ANNA, "d1", SHELF)
        await phone.flush(5)
        assert phone.regions == tuple(bridge.places.regions)
    sighted, crossed, located = bridge.journal.events
    assert sighted.sighting == BeaconSighting(KEY, "range", -60, "near", 1.5)
    assert (crossed.fence, crossed.location) == (FenceTransition("f1", "enter"), SHELF)
    assert (located.location, located.device_id, located.proven) == (SHELF, "d1", True)
    assert bridge.bridge.tally.strangers == 1


async def test_many_sightings_become_several_calls_each_sent_once(bridge: RunningBridge) -> None:
    bridge.places.keys = frozenset({KEY})
    async with client(bridge.url) as phone:
        sent = phone.sighted(ANNA, "d1", [Sighting(KEY, rssi=-60)] * (2 * MAX_PARTS + 1))
        await phone.flush(5)
    assert len(sent) == 3
    assert len({event.message_id for event in bridge.journal.events}) == 2 * MAX_PARTS + 1


async def test_a_hotspots_own_page_is_no_answer() -> None:
    answers = ["<html>Welcome to our WLAN</html>", '{"success": false}', '{"success": true}']

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=answers.pop(0))

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
        assert (phone.tally.retries, len(phone.acknowledged)) == (2, 1)


async def test_large_bodies_are_packed() -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Content-Encoding"))
        return web.json_response({"success": True})

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
        phone.track(ANNA, "x", {"text": "y" * 2_000})
        await phone.flush(5)
    assert seen == [None, "gzip"]


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from sdk_bridge.client import BridgeClient, ClientSettings, Who

async def main():
    settings = ClientSettings(first_retry_s=0.01)
    async with BridgeClient("http://127.0.0.1:9", "app-key", Path(sys.argv[1]), settings=settings) as phone:
        for number in range(200):
            print(phone.track(Who("anna"), "Offline", {"n": number}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_is_unsent_survives_sigkill(bridge: RunningBridge, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(path), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    async with client(bridge.url, queue_path=path) as phone:
        await phone.flush(10)
    assert [event.message_id for event in bridge.journal.events] == told.decode().split()
    assert len(bridge.journal.events) == 200


async def test_a_queue_full_of_bytes_drops_the_oldest_too() -> None:
    settings = ClientSettings(queue_bytes=10_000, first_retry_s=0.01, linger_s=0)
    async with client("http://127.0.0.1:9", settings=settings) as phone:
        for number in range(25):
            phone.track(ANNA, "Offline", {"text": "x" * 800, "n": number})
        assert (phone.queued, phone.tally.dropped_full) == (9, 16)


def ruin(path: Path) -> None:
    """Overwrites a queue's file, whoever has it open; they notice with their next write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("create table noticed (x)")
        other.execute("pragma wal_checkpoint(truncate)")
    path.write_bytes(b"no database" * 99)


async def test_a_foreign_queue_is_set_aside(bridge: RunningBridge, tmp_path: Path) -> None:
    path = tmp_path / "queue"
    path.write_bytes(b"no database" * 99)
    async with client(bridge.url, queue_path=path) as phone:
        sent = phone.track(ANNA, "Later")
        await phone.flush(5)
        assert (list(phone.acknowledged), phone.tally.queues_broken) == ([sent], 1)
    assert (tmp_path / "queue.broken-1").read_bytes() == b"no database" * 99


async def test_what_a_damaged_queue_still_holds_is_sent_in_order(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    path = tmp_path / "queue"
    async with client("http://127.0.0.1:1", queue_path=path, settings=ClientSettings(linger_s=0)) as phone:
        before = [phone.track(ANNA, "Before", {"text": "x" * 100}) for _ in range(500)]
    cut = path.read_bytes()[: 20 * 1024]
    path.write_bytes(cut)
    async with client(bridge.url, queue_path=path) as phone:
        later = phone.track(ANNA, "Later")
        await phone.flush(5)
        *saved, last = phone.acknowledged
        assert (last, phone.queued, phone.tally.queues_broken) == (later, 0, 1)
    assert 10 < len(saved) < 100
    assert saved == before[: len(saved)]
    assert (tmp_path / "queue.broken-1").read_bytes() == cut


async def test_the_newest_calls_of_a_damaged_queue_are_set_aside_with_it(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    path = tmp_path / "queue"
    offline = ClientSettings(linger_s=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:  # keeps the log from being folded in
        async with client("http://127.0.0.1:1", queue_path=path, settings=offline) as phone:
            reader.execute("pragma wal_checkpoint(truncate)").fetchall()
            newest = phone.track(ANNA, "Newest")
        path.write_bytes(b"?" * 100 + path.read_bytes()[100:])
        async with client(bridge.url, queue_path=path) as phone:
            assert phone.tally.queues_broken == 1
        assert newest.encode() in (tmp_path / "queue.broken-1-wal").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        "body = x'ff00'",
        "body = cast(substr(body, 1, length(body) - 9) as blob)",
        'body = cast(replace(body, \'"messageId":"\', \'"messageId":\') as blob)',
        "message_id = cast(x'ff41' as text)",
        "body = 7",
        "body = '[7]'",
        "body = cast(replace(body, 'timestamp', cast(x'c3fc' as text)) as blob)",
        "path = replace(path, '/v1', 'ov1')",
    ],
)
async def test_a_call_that_the_disk_damaged_stops_no_other(
    bridge: RunningBridge, tmp_path: Path, damage: str
) -> None:
    """SQLite notices no changed byte in a row; that row must not spoil its batch, nor end the sender."""
    path = tmp_path / "queue"
    async with client("http://127.0.0.1:9", queue_path=path, settings=ClientSettings(linger_s=0)) as phone:
        sent = [phone.track(ANNA, "Tick", {"n": number}) for number in range(3)]
        sent += [phone.logout("d1"), phone.logout("d2")]
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"update calls set {damage} where number in (2, 4)")
        file.commit()
    async with client(bridge.url, queue_path=path) as phone:
        await phone.flush(5)
        assert (list(phone.acknowledged), phone.queued) == ([sent[0], sent[2], sent[4]], 0)
        assert phone.tally.dropped_damaged == 2


@pytest.mark.parametrize(
    ("damaged", "limit", "body", "lost"),
    [(99, 100, "{", None), (4, 100, "{", None), (99, 5, "{", 1), (99, 100, "[", 0), (99, 5, "[", 0)],
    ids=["alone", "another's", "in a full queue", "in a damaged call", "in a damaged call of a full queue"],
)
async def test_a_call_whose_number_the_disk_damaged_is_not_sent_for_ever(
    bridge: RunningBridge, tmp_path: Path, damaged: int, limit: int, body: str, lost: int | None
) -> None:
    """SQLite searches by number, and finds such a call no more when it is to be deleted."""
    path = tmp_path / "queue"
    async with client("http://127.0.0.1:9", queue_path=path, settings=ClientSettings(linger_s=0)) as phone:
        sent = [phone.track(ANNA, "Tick", {"n": number}) for number in range(5)]
    raw = bytearray(path.read_bytes())
    at = raw.index(sent[0].encode()) - 7  # before the six bytes that say what the row is made of
    assert raw[at] == 1
    raw[at] = damaged
    raw[raw.index(b"{", at)] = ord(body)
    path.write_bytes(raw)
    settings = ClientSettings(first_retry_s=0.01, longest_retry_s=0.05, queue_limit=limit)
    async with client(bridge.url, queue_path=path, settings=settings) as phone:
        sent.append(phone.track(ANNA, "Later"))
        await phone.flush(5)
        kept = [message_id for number, message_id in enumerate(sent) if number != lost]
        assert (sorted(phone.acknowledged), phone.tally.queues_broken) == (sorted(kept), 1)
        assert phone.tally.dropped_full + phone.tally.dropped_damaged == 6 - len(kept)


async def test_two_processes_on_one_file_send_what_is_in_it(bridge: RunningBridge, tmp_path: Path) -> None:
    """Each counts what the other took: neither waits for calls that are gone, nor drops its own for them."""
    path = tmp_path / "queue"
    bounded = ClientSettings(first_retry_s=0.01, longest_retry_s=0.05, linger_s=0, queue_limit=3)
    async with client("http://127.0.0.1:9", queue_path=path, settings=bounded) as offline:
        for number in range(3):
            offline.track(ANNA, "Tick", {"n": number})
        async with client(bridge.url, queue_path=path) as online:
            await online.flush(5)
        await offline.flush(5)
        later = [offline.track(ANNA, "Later", {"n": number}) for number in range(3)]
        assert (offline.queued, offline.tally.dropped_full) == (3, 0)
    async with client(bridge.url, queue_path=path) as online:
        await online.flush(5)
        assert list(online.acknowledged) == later


async def test_what_another_process_has_sent_is_looked_for_once(tmp_path: Path) -> None:
    """A look at the whole file for each of a hundred calls held the app's loop up for a second."""
    path = tmp_path / "queue"
    async with (
        client("http://127.0.0.1:9", queue_path=path, settings=NOW) as one,
        client("http://127.0.0.1:9", queue_path=path, settings=NOW) as other,
    ):
        for number in range(50):
            one.track(ANNA, "Tick", {"n": number})
        calls = other._queue.head()
        one._queue.delete(one._queue.head())
        asked: list[str] = []
        other._queue._database.set_trace_callback(asked.append)
        other._queue.delete(calls)
        assert (len(calls), sum(text.startswith("select 1") for text in asked)) == (50, 1)


async def test_an_answer_that_comes_after_damage_removes_no_newer_call(tmp_path: Path) -> None:
    path, arrived, go_on = tmp_path / "queue", asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        arrived.set()
        await go_on.wait()
        return web.json_response({"success": True})

    async with serving(answer) as url, client(url, queue_path=path) as phone:
        sent = [phone.track(ANNA, "On Its Way")]
        await arrived.wait()
        ruin(path)
        sent += [phone.track(ANNA, name) for name in ("Meets The Damage", "After It")]
        assert (phone.queued, phone.tally.queues_broken) == (2, 1)
        go_on.set()
        await phone.flush(5)
        assert (list(phone.acknowledged), phone.tally.dropped_unwritten) == (sent, 0)


async def test_of_many_damaged_queues_the_first_few_and_the_last_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    contents = [b"no database %d" % number * 99 for number in range(5)]
    for content in contents:
        path.write_bytes(content)
        async with client("http://127.0.0.1:1", queue_path=path, settings=ClientSettings(linger_s=0)):
            pass
    kept = [(tmp_path / f"queue.broken-{number}").read_bytes() for number in (1, 2, 3)]
    assert kept == [contents[0], contents[1], contents[4]]
    assert not (tmp_path / "queue.broken-4").exists()


async def test_damage_that_cannot_be_mended_now_is_mended_later(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    path = tmp_path / "queue"
    taken = [tmp_path / f"queue.broken{end}" for end in ("", "-1", "-2", "-3")]
    async with client(bridge.url, queue_path=path) as phone:
        for name in taken:  # nothing can be renamed to the name of a folder
            name.mkdir()
        ruin(path)
        sent = [phone.track(ANNA, "Held"), phone.track(ANNA, "Held As Well")]
        assert phone.tally.mends_failed == 2
        with pytest.raises(TimeoutError):
            await phone.flush(0.2)
        assert phone.tally.mends_failed > 2  # the sender lives on
        taken[-1].rmdir()
        await phone.flush(5)
        assert (list(phone.acknowledged), phone.tally.queues_broken) == (sent, 1)
    assert [event.message_id for event in bridge.journal.events] == sent


async def test_a_disk_that_takes_nothing_for_a_while_costs_nothing(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    path = tmp_path / "queue"
    async with client(bridge.url, queue_path=path) as phone:
        sent = [phone.track(ANNA, "Before")]
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            sent.append(phone.track(ANNA, "Meanwhile"))
            for _ in range(1_000):
                if phone.tally.retries:  # answered, and cannot be deleted
                    break
                await asyncio.sleep(0.01)
        sent.append(phone.track(ANNA, "After"))
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
        assert (phone.queued, phone.tally.dropped_unwritten) == (0, 0)
    assert {event.message_id for event in bridge.journal.events} == set(sent)


@contextmanager
def full_disk(_: Path) -> Iterator[None]:
    """No file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("begin exclusive")
        yield


@pytest.mark.parametrize("trouble", [full_disk, locked])
@pytest.mark.parametrize("earlier", [0, 1])
async def test_an_app_starts_though_the_disk_takes_nothing(
    bridge: RunningBridge, tmp_path: Path, trouble: Callable[[Path], Any], earlier: int
) -> None:
    path = tmp_path / "queue"
    sent = []
    if earlier:
        async with client("http://127.0.0.1:9", queue_path=path, settings=NOW) as phone:
            sent = [phone.track(ANNA, "Before")]
    with trouble(path):
        phone = client(bridge.url, queue_path=path)
        sent.append(phone.track(ANNA, "Meanwhile"))
    async with phone:
        await phone.flush(5)
        assert (list(phone.acknowledged), phone.queued, phone.tally.queues_broken) == (sent, 0, 0)


async def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        client("http://127.0.0.1:9", queue_path=tmp_path / "nowhere" / "queue")


async def test_of_what_the_disk_does_not_take_so_many_are_held(
    bridge: RunningBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue"
    monkeypatch.setattr("sdk_bridge.client.MAX_HELD", 3)
    monkeypatch.setattr("sdk_bridge.client.BUSY_S", 0.0)
    async with client(bridge.url, queue_path=path) as phone:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            sent = [phone.track(ANNA, "Meanwhile") for _ in range(5)]
            assert (phone.queued, phone.tally.dropped_unwritten) == (3, 2)
        await phone.flush(5)
        assert list(phone.acknowledged) == sent[2:]


async def test_a_call_is_written_even_if_nothing_can_make_room_for_it(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    settings = ClientSettings(queue_limit=1, linger_s=0)
    async with client("http://127.0.0.1:9", queue_path=path, settings=settings) as phone:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("create trigger t before delete on calls begin select raise(abort, 'no'); end")
            for _ in range(2):
                phone.track(ANNA, "Offline")
            assert (phone.queued, phone.tally.dropped_full, phone.tally.dropped_unwritten) == (2, 0, 0)
            other.execute("drop trigger t")
        phone.track(ANNA, "Offline")
        assert (phone.queued, phone.tally.dropped_full, phone.tally.dropped_unwritten) == (1, 2, 0)


async def test_a_full_queue_drops_the_oldest_and_counts_them(bridge: RunningBridge) -> None:
    ids = itertools.count()
    settings = ClientSettings(
        queue_limit=10, first_retry_s=0.01, linger_s=0, new_id=lambda: f"id-{next(ids)}"
    )
    async with client("http://127.0.0.1:9", settings=settings) as phone:
        for _ in range(25):
            phone.track(ANNA, "Offline")
        assert (phone.queued, phone.tally.dropped_full) == (10, 15)


async def test_whoever_is_cancelled_while_leaving_leaves_nothing_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            async with client("http://127.0.0.1:9", queue_path=tmp_path / "queue") as phone:
                phone.track(ANNA, "Offline")
    assert asyncio.all_tasks() == before
    assert not (tmp_path / "queue-wal").exists()  # the file is closed
    async with client("http://127.0.0.1:9", queue_path=tmp_path / "queue", settings=NOW) as phone:
        assert phone.queued == 1


@pytest.mark.parametrize(
    ("status", "again"),
    [(408, True), (410, True), (429, True), (460, True), (500, True), (503, True), (504, True),
     (400, False), (401, False), (403, False), (404, False), (501, False), (505, False),
     (301, True), (302, True)],
)  # fmt: skip
async def test_which_answers_are_final(status: int, again: bool) -> None:
    answers = [status, 200]

    async def answer(_: web.Request) -> web.Response:
        status = answers.pop(0) if answers else 200
        return web.json_response({"success": True}, status=status, headers={"Location": "/"})

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
        assert (phone.tally.retries, phone.tally.refused) == (int(again), int(not again))
        assert len(phone.acknowledged) == again


async def test_retry_after_is_honoured() -> None:
    seen: list[float] = []
    loop = asyncio.get_running_loop()

    async def answer(_: web.Request) -> web.Response:
        seen.append(loop.time())
        status = 429 if len(seen) == 1 else 200
        return web.json_response({"success": True}, status=status, headers={"Retry-After": "1"})

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
    assert seen[1] - seen[0] >= 1.0


async def test_a_call_too_large_for_the_bridge_is_told_to_its_maker(bridge: RunningBridge) -> None:
    async with client(bridge.url) as phone:
        with pytest.raises(ValueError, match="bytes"):
            phone.track(ANNA, "x", {"text": "y" * MAX_EVENT_BYTES})
        for number in range(40):
            phone.track(ANNA, "Large", {"text": "y" * 30_000, "n": number})
        await phone.flush(5)
    assert [event.properties["n"] for event in bridge.journal.events] == list(range(40))


@pytest.mark.parametrize("path", ["in a batch", "alone"])
async def test_the_largest_call_that_is_queued_is_taken(bridge: RunningBridge, path: str) -> None:
    async with client(bridge.url) as phone:
        for size in range(MAX_EVENT_BYTES, 0, -1):
            who = Who("u1", id_token="x" * size)
            with suppress(ValueError):
                phone.track(who, "x") if path == "in a batch" else phone.consent(who, {"push": True})
                break
        await phone.flush(5)
        assert list(phone.tally.refusals) == []
    assert len(bridge.journal.events) == 1


async def test_a_shared_session_stays_open(bridge: RunningBridge) -> None:
    async with aiohttp.ClientSession() as session:
        async with client(bridge.url, session=session) as phone:
            phone.track(ANNA, "x")
        assert not session.closed
    assert len(bridge.journal.events) == 1


async def test_what_is_said_to_a_closed_client_is_refused_loudly(bridge: RunningBridge) -> None:
    """Nothing would keep it, and nobody would hear that it is gone."""
    async with client(bridge.url) as phone:
        phone.track(ANNA, "Kept")
    with pytest.raises(RuntimeError, match="closed; make a new one"):
        phone.track(ANNA, "Too late")
    assert [event.name for event in bridge.journal.events] == ["Kept"]


async def test_a_shared_session_that_its_app_closed_loses_nothing(
    bridge: RunningBridge, tmp_path: Path
) -> None:
    path = tmp_path / "queue.db"
    session = aiohttp.ClientSession()
    hurried = ClientSettings(first_retry_s=0.01, longest_retry_s=0.01, linger_s=0)
    async with client(bridge.url, queue_path=path, session=session, settings=hurried) as phone:
        await session.close()
        phone.track(ANNA, "Waits")
        async with asyncio.timeout(5):
            while phone.tally.retries < 2:  # noqa: ASYNC110 - it has no event of its own
                await asyncio.sleep(0.005)
        assert phone.queued == 1
    async with client(bridge.url, queue_path=path) as phone:
        await phone.flush(5)
    assert [event.name for event in bridge.journal.events] == ["Waits"]


def serving(handler: Any) -> Any:
    return _Served(handler)


def lossy_proxy(target: str, losing: int) -> Any:
    """Passes requests on, but loses the first answers."""
    left = [losing]

    async def handler(request: web.Request) -> web.Response:
        headers = {"Authorization": request.headers["Authorization"]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(target + request.path, data=await request.read(), headers=headers) as answer,
        ):
            status, body = answer.status, await answer.read()
        if left[0] > 0:
            left[0] -= 1
            if request.transport is not None:
                request.transport.abort()
        return web.Response(status=status, body=body)

    return _Served(handler)


class _Served:
    def __init__(self, handler: Any) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def test_a_link_is_redeemed_and_a_token_proves_the_user(bridge: RunningBridge) -> None:
    async with aiohttp.ClientSession(bridge.url) as http:
        asked = {"anonymousId": "web", "writeKey": "web-key"}
        async with http.post("/v1/link", json=asked) as answer:
            token = (await answer.json())["token"]
    async with client(bridge.url) as phone:
        phone.redeem_link(Who(anonymous_id="app"), token, "d1", "android")
        phone.identify(Who("anna", "app", id_token="e.y.J"))
        await phone.flush(5)
    linked, claimed = bridge.journal.events
    assert (linked.kind, linked.device_id, linked.link.anonymous_id) == ("link", "d1", "web")
    assert (claimed.proven, "idToken" in claimed.context) == (False, False)
