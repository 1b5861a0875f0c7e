"""From MQTT to the offer beside a plain consumer: accepted, folded, pushed, located, waiting, replicated.

    PYTHONPATH=. .venv/bin/python benchmarks/bench_pipeline.py [--quick] [--only accept fold ...] [--profile]

The plain consumer is paho, json, and an insert by sqlite-utils for each message. Both wait for the disk at
each commit, and have a real broker before them. Ratios are what counts; another machine gives others, and a
disk that is slow to commit is kind to whoever commits seldom: so the commits it makes a second are printed.
"""

import argparse
import asyncio
import cProfile
import json
import logging
import os
import pstats
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import sqlite_utils
import structlog
import uvloop
from paho.mqtt.enums import CallbackAPIVersion

from backend import garbage
from backend.clock import unix_ms
from backend.config import JOURNAL_FILE, STATE_FILE
from backend.custody import Custody
from backend.fold import Fold
from backend.ingest import Ingest
from backend.listening import Gateway, Listening
from backend.proximity.fences import Circle, Fence, Fences
from backend.push.fcm import FcmSettings, open_fcm
from backend.push.sender import Guards, PushSender, Rim
from backend.storage import fences as fence_rows
from backend.storage.database import SqliteFile
from backend.storage.entries import LaneKey
from backend.storage.journal import Journal
from backend.storage.offers import SendChecks, objection_to
from backend.storage.pushes import PushStore
from backend.storage.session import Session
from benchmarks import pipeline_shop as shop
from benchmarks.pipeline_load import Outgoing, publishing
from benchmarks.pipeline_replicas import folding
from sdk_bridge import mqtt
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, Location
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import GatewayAddress
from simulators.backend_process import BackendProcess
from simulators.broker import RunningBroker, start_broker
from simulators.fcm import FcmServerSettings
from simulators.fcm_process import FcmProcess

NOON = 1_750_075_200_000
BOOT = "11111111-2222-3333-4444-555555555555"
KEYS = [shop.tag(number) for number in range(100)]
GATEWAYS = [GatewayAddress(f"s{number % 10}", f"g{number // 10}") for number in range(40)]
POLL_S = 0.001
SENT_WITHIN_S = 60.0
ENTERED = "select count(*) from zone_visits"
KEPT = "select count(*) from sightings"
UNSENT = """select count(*) from pushes
where state in ('claimed', 'sending') or state = 'queued' and next_try_at <= :now"""
ACCEPTED = """select d.store_id, p.completed_at, p.finished_at
from pushes p join decisions d using (decision_id) where p.state = 'accepted'"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; `QUICK` finds what is broken, not how fast it is."""

    batches: int = 12_000
    singles: int = 60_000
    plain: int = 12_000
    stores: int = 10
    people: int = 1_000
    folded_s: int = 40
    pushed_s: int = 60
    fences: int = 23_000
    points: int = 400_000
    stored: int = 40_000
    waiting: int = 1_000_000
    chain: int = 32
    replicated_s: int = 20


QUICK = Sizes(400, 1_000, 400, 2, 40, 12, 20, 500, 20_000, 1_000, 2_000, 8, 5)


@dataclass(slots=True)
class Bench:
    """One run: its sizes, and what it found (figures by name)."""

    sizes: Sizes
    profile: bool = False
    found: dict[str, float] = field(default_factory=dict)

    def tell(
        self, name: str, figure: float, unit: str, goal: str, good: bool, ratio: float | None = None
    ) -> None:
        """A line: figure, ratio to the plain consumer, goal."""
        self.found[name] = figure
        beside = f"{ratio:8.1f} x plain" if ratio is not None else " " * 16
        verdict = "reached" if good else "MISSED"
        digits = 0 if figure >= 100 else 1
        print(
            f"  {name:<44} {figure:>12,.{digits}f} {unit:<11} {beside}   goal {goal}: {verdict}", flush=True
        )

    def spent(self, name: str, count: int, cpu_s: float) -> None:
        """Under a figure: how many a second of this process's own work; a busy machine gives it fewer."""
        self.found[f"{name}, a CPU second"] = count / cpu_s
        print(f"    {count / cpu_s:,.0f} a CPU second", flush=True)

    def rate(self, name: str, per_second: float, unit: str, least: float) -> None:
        self.tell(name, per_second, unit, f">= {least:,.0f}", per_second >= least)

    def times(self, name: str, per_second: float, unit: str, least: float) -> None:
        plain = self.found["plain consumer"]
        self.tell(name, per_second, unit, f">= {least:g} x", per_second >= least * plain, per_second / plain)


# Accepted -------------------------------------------------------------------------------------------------


async def plain(bench: Bench, folder: Path) -> None:
    """The plain consumer: what everything else is compared with."""
    events = [
        Outgoing(
            "plain",
            json.dumps(
                {
                    "beacon": KEYS[number % 100],
                    "gateway": "s1/g1",
                    "at": NOON + number,
                    "rssi": -60,
                    "count": 3,
                }
            ).encode(),
        )
        for number in range(bench.sizes.plain)
    ]
    async with await start_broker(folder / "plain broker") as broker:
        cpu = time.process_time()
        took = await asyncio.to_thread(_consume_plainly, broker.port, events, folder / "plain.db")
    rate = bench.found["plain consumer"] = len(events) / took
    print(f"  {'plain consumer':<44} {rate:>12,.0f} events/s", flush=True)
    bench.spent("plain consumer", len(events), time.process_time() - cpu)


def _consume_plainly(port: int, events: Sequence[Outgoing], path: Path) -> float:
    database = sqlite_utils.Database(path)
    database.enable_wal()
    database.execute("pragma synchronous = full")
    done, subscribed = 0, False
    with publishing(port, events) as flow:

        def stored(_client: object, _data: object, message: paho.MQTTMessage) -> None:
            nonlocal done
            database["events"].insert(json.loads(message.payload))
            done += 1
            flow.consumed.value = done

        def ready(*_: object) -> None:
            nonlocal subscribed
            subscribed = True

        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message, client.on_subscribe = stored, ready
        client.connect("127.0.0.1", port)
        client.subscribe("plain", qos=1)
        while not subscribed:
            client.loop(0.1)
        began = time.perf_counter()
        flow.begin.value = 1
        while done < len(events):
            client.loop(0.1)
        took = time.perf_counter() - began
        client.disconnect()
    database.conn.close()
    return took


def batches(count: int, readings: int) -> list[Outgoing]:
    """Real batches of forty gateways in turn, each with its own sequence."""
    rows = list(range(readings))
    made = []
    now = unix_ms()
    for number in range(count):
        gateway, seq = GATEWAYS[number % len(GATEWAYS)], number // len(GATEWAYS) + 1
        losses = [55 + (number + row) % 20 for row in rows]
        seconds = [row * 2 // readings for row in rows]
        columns = Readings(rows, seconds, [3] * readings, losses, losses)
        batch = Batch(BOOT, 1_000_000 + seq * 1000, KEYS[:readings], columns)
        envelope = Envelope("live", shop.EPOCH, seq, now, BOOT, 100_000_000)
        made.append(Outgoing(gateway.topic("up"), codec.encode(batch), envelope.properties()))
    return made


async def accept(bench: Bench, folder: Path) -> None:
    """MQTT, checked, journalled, acknowledged; nothing is folded."""
    await plain(bench, folder)
    for name, count, readings, goal in (
        ("accepted, batches of 100", bench.sizes.batches, 100, 40),
        ("accepted, one by one", bench.sizes.singles, 1, 4),
    ):
        async with await start_broker(folder / f"broker {readings}") as broker:
            messages, cpu = batches(count, readings), time.process_time()
            took = await _take(broker, messages, folder / f"accept-{readings}.db")
        cpu = time.process_time() - cpu
        bench.times(name, count * readings / took, "events/s", goal)
        bench.spent(name, count * readings, cpu)


async def _take(broker: RunningBroker, messages: Sequence[Outgoing], path: Path) -> float:
    with publishing(broker.port, messages) as flow:
        async with SqliteFile(path, "journal") as file:
            journal = Journal(file, unix_ms)
            custody = Custody(await journal.load())
            ingest = Ingest(mqtt.Broker("127.0.0.1", broker.port, "bench"), journal, custody, unix_ms)
            known = [Gateway(one.store, one.gateway, "z") for one in GATEWAYS]
            ingest.listening = Listening({one.name: one for one in known}, frozenset(KEYS))
            lanes = [LaneKey(one.name, shop.EPOCH, "live") for one in known]
            connected = asyncio.Event()
            ingest.on_connected = connected.set
            async with _alive(journal.run(), ingest.run()):
                await connected.wait()
                garbage.settle()  # as the backend does once it stands
                began = time.perf_counter()
                flow.begin.value = 1
                done = 0
                while done < len(messages):
                    await asyncio.sleep(POLL_S)
                    done = flow.consumed.value = sum(map(custody.committed, lanes))
                return time.perf_counter() - began


@asynccontextmanager
async def _alive(*works: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


# Folded ---------------------------------------------------------------------------------------------------


async def fold(bench: Bench, folder: Path) -> None:
    """What 40 gateways heard of 1,000 people, through zones, visits, ten campaigns and pushes."""
    if "plain consumer" not in bench.found:
        await plain(bench, folder)
    chain = shop.Chain(bench.sizes.stores, bench.sizes.people)
    async with (
        SqliteFile(folder / "fold-journal.db", "journal") as journal_file,
        SqliteFile(folder / "fold-state.db", "state") as state,
    ):
        await state.write(lambda s: shop.stand(s, chain))
        definitions = shop.dwells()
        await state.write(lambda s: shop.start_campaigns(s, definitions, NOON))
        journal = Journal(journal_file, lambda: NOON)
        await journal.load()
        async with _alive(journal.run()):
            await shop.introduce(chain, journal, state, NOON)
            readings = await shop.fill(journal, chain, NOON + 1_000, bench.sizes.folded_s)
            folding = Fold(journal, state, lambda: NOON, on_listening=lambda _: None)
            await folding.load()
            cpu = time.process_time()
            took = await _measured(bench, state, lambda: shop.folded(folding))
            cpu = time.process_time() - cpu
        entered, kept = await state.read(lambda s: [s.found(sql, {})[0][0] for sql in (ENTERED, KEPT)])
        ended, send_cpu = await _send(folder, chain, state, folding)
    if kept != readings:
        raise RuntimeError(f"{kept:,} of {readings:,} readings were folded")
    bench.times("folded, with zones and ten campaigns", readings / took, "readings/s", 15)
    bench.spent("folded", readings, cpu)
    print(f"    {readings:,} readings, {entered:,} zones entered; beyond 15 x the wish is 40 x")
    told = ", ".join(f"{count:,} {state}" for state, count in sorted(ended.items()))
    print(f"    its pushes, each checked once more before it leaves: {told}", flush=True)
    if sum(ended.values()):
        bench.spent("pushes ended", sum(ended.values()), send_cpu)


async def _send(
    folder: Path, chain: shop.Chain, state: SqliteFile, folding: Fold
) -> tuple[dict[str, int], float]:
    """Sends what the fold has queued, with every check: how each ended, and the processor time. Who has gone
    on to another zone meanwhile gets nothing, as in a shop.
    """
    began = time.monotonic()

    def now() -> int:
        return NOON + 60_000 + round((time.monotonic() - began) * 1000)

    (folder / "fcm").mkdir()
    with FcmProcess(folder / "fcm", FcmServerSettings(per_device_per_minute=10_000)) as simulator:
        await _register(chain, simulator)
        settings = FcmSettings(Path(simulator.where.service_account), send_url=simulator.where.send_url)
        async with open_fcm(settings) as client:
            guards, rim = Guards(SendChecks(state), folding), Rim("bench", now, random.random)
            sender = PushSender(PushStore(state, objection_to), client, guards, rim)
            cpu = time.process_time()
            async with _alive(sender.run()), asyncio.timeout(SENT_WITHIN_S):
                while (await state.read(lambda s: s.found(UNSENT, {"now": now()})))[0][0]:  # noqa: ASYNC110 - rows
                    await asyncio.sleep(0.02)
            return sender.status().counts, time.process_time() - cpu


async def _register(chain: shop.Chain, simulator: FcmProcess) -> None:
    tokens = [{"value": f"token-{person}", "kind": "token"} for person in range(chain.people)]
    await asyncio.to_thread(simulator.call, "/sim/register", tokens)


async def _measured(bench: Bench, state: SqliteFile, work: Callable[[], Awaitable[None]]) -> float:
    """Seconds; with --profile where the writer's thread spent them."""
    profiler = cProfile.Profile()
    garbage.settle()  # as the backend does once it stands
    if bench.profile:
        await state.write(lambda _: profiler.enable())
    began = time.perf_counter()
    await work()
    took = time.perf_counter() - began
    if bench.profile:
        await state.write(lambda _: profiler.disable())
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    return took


# Pushed ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Moves:
    """Who stands at which corner, and when each gateway's batches left (store → unix ms, rising)."""

    corner: dict[int, int]
    sent: dict[str, list[int]] = field(default_factory=dict)


async def push(bench: Bench, folder: Path) -> None:
    """People enter a zone; how long until FCM has accepted the offer, counted from the batch that told it."""
    chain = shop.Chain(bench.sizes.stores, bench.sizes.people)
    data = folder / "push" / "data"
    data.mkdir(parents=True)
    (folder / "fcm").mkdir()
    await _furnish(chain, data)
    with FcmProcess(folder / "fcm", FcmServerSettings(per_device_per_minute=10_000)) as fcm:
        await _register(chain, fcm)
        async with await start_broker(folder / "push broker") as broker:
            backend = BackendProcess(folder / "push")
            config = folder / "push" / "backend.toml"
            text = config.read_text("utf-8").replace("port = 1\n", f"port = {broker.port}\n")
            where = fcm.where
            push = f'[push]\nservice_account = "{where.service_account}"\nsend_url = "{where.send_url}"\n'
            config.write_text(text + push, "utf-8")
            with backend:
                await _connected(backend)
                moves = await _live(chain, broker.port, bench.sizes.pushed_s)
                await asyncio.sleep(1)
                await asyncio.to_thread(backend.stop)
    latencies = await _latencies(moves, data)
    if not latencies:
        raise RuntimeError("nobody was sent an offer")
    for share, goal in ((0.95, 300), (0.99, 1_000)):
        figure = float(np.quantile(latencies, share))
        name = f"zone entered to FCM's yes, p{share * 100:.0f}"
        bench.tell(name, figure, "ms", f"<= {goal}", figure <= goal)
    print(f"    {len(latencies):,} offers while {chain.people:,} people were heard every second")


async def _furnish(chain: shop.Chain, data: Path) -> None:
    now = unix_ms() - 60_000
    async with (
        SqliteFile(data / JOURNAL_FILE, "journal") as journal_file,
        SqliteFile(data / STATE_FILE, "state") as state,
    ):
        await state.write(lambda s: shop.stand(s, chain))
        definitions = shop.entries_of_last_corner(chain)
        await state.write(lambda s: shop.start_campaigns(s, definitions, now))
        journal = Journal(journal_file, lambda: now)
        await journal.load()
        async with _alive(journal.run()):
            await shop.introduce(chain, journal, state, now)


async def _connected(backend: BackendProcess) -> None:
    async with asyncio.timeout(30):
        while not (await asyncio.to_thread(backend.get, "/health"))["broker"]:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)


async def _live(chain: shop.Chain, port: int, seconds: int) -> Moves:
    """Every gateway tells every second; from the sixth on somebody in each store goes to the last corner."""
    dice = random.Random(7)
    moves = Moves({person: dice.randrange(len(shop.CORNERS) - 1) for person in range(chain.people)})
    gateways = list(chain.gateways)
    async with mqtt.connect(mqtt.Broker("127.0.0.1", port, "gateways"), lambda *_: None) as connection:
        began = time.monotonic() + 0.5
        for second in range(seconds):
            if second > 5 and second < seconds - 6:
                for store in range(chain.stores):
                    waiting = [p for p in chain.people_of(store) if moves.corner[p] < len(shop.CORNERS) - 1]
                    if waiting and (second + store) % 2:
                        moves.corner[dice.choice(waiting)] = len(shop.CORNERS) - 1
            for number, (store, corner, address) in enumerate(gateways):
                due = began + second + number / len(gateways)
                await asyncio.sleep(max(due - time.monotonic(), 0))
                people = [(one, moves.corner[one] == corner) for one in chain.people_of(store)]
                now = unix_ms()
                batch = shop.heard(people, now - 1_000, dice)
                envelope = Envelope("live", shop.EPOCH, second + 1, now)
                moves.sent.setdefault(address.store, []).append(now)
                connection.publish(address.topic("up"), codec.encode(batch), properties=envelope.properties())
    return moves


async def _latencies(moves: Moves, data: Path) -> list[float]:
    """From the newest batch of the store that had left when the candidate was complete, to the answer."""
    async with SqliteFile(data / STATE_FILE, "state") as state:
        rows = await state.read(lambda s: s.found(ACCEPTED, {}))
    found = []
    for row in rows:
        sent = [at for at in moves.sent[row["store_id"]] if at <= row["completed_at"]]
        found.append(float(row["finished_at"] - max(sent)))
    return found


# Located --------------------------------------------------------------------------------------------------


def circles(count: int) -> list[Fence]:
    """Fences all over a country."""
    dice = random.Random(7)
    return [
        Fence(
            fence_id=f"f{number}",
            name="Fence",
            shape=Circle(dice.uniform(46.4, 49.0), dice.uniform(9.5, 17.1), dice.uniform(50, 1_500)),
            approach_m=500.0,
        )
        for number in range(count)
    ]


async def locate(bench: Bench, folder: Path) -> None:
    """Locations against every fence, in batches; and stored, one event each, through journal and fold."""
    made = circles(bench.sizes.fences)
    dice = np.random.default_rng(7)
    latitudes, longitudes = (
        dice.uniform(46.4, 49.0, bench.sizes.points),
        dice.uniform(9.5, 17.1, bench.sizes.points),
    )
    fences = Fences.of(made)
    fences.around_all(latitudes[:10], longitudes[:10])
    began = time.perf_counter()
    for start in range(0, bench.sizes.points, 1_000):
        fences.around_all(latitudes[start : start + 1_000], longitudes[start : start + 1_000])
    took = time.perf_counter() - began
    bench.rate(
        f"located, {len(made):,} fences, batches of 1,000", bench.sizes.points / took, "points/s", 100_000
    )
    chain = shop.Chain(bench.sizes.stores, bench.sizes.people)
    async with (
        SqliteFile(folder / "locate-journal.db", "journal") as journal_file,
        SqliteFile(folder / "locate-state.db", "state") as state,
    ):
        await state.write(lambda s: shop.stand(s, chain))
        await state.write(lambda s: fence_rows.put_fences(s, made, NOON))
        journal = Journal(journal_file, lambda: NOON)
        await journal.load()
        async with _alive(journal.run()):
            await shop.introduce(chain, journal, state, NOON)
            folding = Fold(journal, state, lambda: NOON, on_listening=lambda _: None)
            await folding.load()
            told = [_place(chain, number, latitudes, longitudes) for number in range(bench.sizes.stored)]
            cpu = time.process_time()
            took = await _measured(bench, state, lambda: _stored(journal, folding, told))
    bench.rate("located and stored", len(told) / took, "points/s", 10_000)
    bench.spent("located and stored", len(told), time.process_time() - cpu)


def _place(chain: shop.Chain, number: int, latitudes: np.ndarray, longitudes: np.ndarray) -> AppEvent:
    person, at = number % chain.people, NOON + 1_000 + number // chain.people * 1_000
    spot = number % len(latitudes)
    return AppEvent(
        kind="location",
        message_id=f"l{number}",
        source="app",
        occurred_at=at,
        received_at=at,
        user_id=f"user-{person}",
        device_id=f"phone-{person}",
        proven=True,
        location=Location(float(latitudes[spot]), float(longitudes[spot]), 20.0),
    )


async def _stored(journal: Journal, folding: Fold, told: Sequence[AppEvent]) -> None:
    async def send() -> None:
        """In calls of a hundred, sixteen at a time: bridges do not wait for each other."""
        for start in range(0, len(told), 1_600):
            calls = range(start, min(start + 1_600, len(told)), 100)
            await asyncio.gather(*(journal.append_events(told[call : call + 100]) for call in calls))

    async with _alive(folding.run()):
        await send()
        if not await folding.caught_up("anybody", within_s=3_600):
            raise RuntimeError("the fold did not catch up")


# Waiting --------------------------------------------------------------------------------------------------


async def wait(bench: Bench, folder: Path) -> None:
    """A look at a queue in which everything is to leave later; the sender claims where something is due."""
    async with SqliteFile(folder / "wait.db", "state") as state:
        await state.write(lambda s: _queue(s, bench.sizes.waiting))
        figure = 1e6 * await state.write(lambda s: _poll(s, "next_push_due", {}))
        bench.tell(f"empty poll of {bench.sizes.waiting:,}, next due", figure, "us", "<= 10", figure <= 10)
        claim = {"now": NOON, "limit": 100, "owner": "o"}
        lost = 1e6 * await state.write(lambda s: _poll(s, "claim_pushes", claim))
        print(f"    a claim for which another sender left nothing: {lost:.1f} us", flush=True)


def _queue(session: Session, count: int) -> None:
    row = session.row(
        "record_decision",
        **dict.fromkeys(("zone_id", "fence_id", "reason", "subject", "variant", "store_id"), ""),
        **dict.fromkeys(("entered_at", "due_at", "completed_at", "decided_at", "send_at"), NOON),
        campaign_id="c",
        campaign_version=1,
        profile_id="p",
        verdict="sent",
        holds="nothing",
        confidence="high",
        active=1,
    )
    common = {
        **{
            "decision_id": row[0] if row else 1,
            "campaign_id": "c",
            "profile_id": "p",
            "address_kind": "token",
        },
        **{"platform": None, "content": b"x" * 200, "created_at": NOON, "due_at": NOON, "completed_at": NOON},
        **{"not_before": NOON + 60_000, "expires_at": NOON + 90_000},
    }
    rows = (
        {**common, "push_id": f"p{number:08}", "address_value": f"t{number:08}"} for number in range(count)
    )
    session.many("insert_push", rows)


def _poll(session: Session, query: str, values: dict[str, object]) -> float:
    """Seconds for one, the median of rounds of a thousand."""
    rounds = []
    for _ in range(9):
        began = time.perf_counter()
        for _ in range(1_000):
            session.rows(query, **values)
        rounds.append((time.perf_counter() - began) / 1_000)
    return sorted(rounds)[4]


# Replicas -------------------------------------------------------------------------------------------------


async def replicas(bench: Bench, folder: Path) -> None:
    """Two replicas on PostgreSQL beside one, with the processor time of each process."""
    chain = shop.Chain(bench.sizes.chain, bench.sizes.people)
    seconds = bench.sizes.replicated_s
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    one = await folding(chain, seconds, 1, folder / "one")
    two = await folding(chain, seconds, 2, folder / "two")
    for name, found in (("one replica on PostgreSQL", one), ("two replicas on PostgreSQL", two)):
        bench.found[name] = found.per_second
        print(f"  {name:<44} {found.per_second:>12,.0f} readings/s", flush=True)
        spent = " + ".join(f"{cpu:.1f}" for cpu in found.replicas_cpu_s)
        print(
            f"    in {found.took_s:.1f} s: replicas {spent} s of processor time, "
            f"PostgreSQL {found.server_cpu_s:.1f} s, the load {found.load_cpu_s:.1f} s",
            flush=True,
        )
    ratio, could = two.per_second / one.per_second, two.could / one.could
    bench.tell("two replicas beside one, by the clock", ratio, "times", ">= 1.6", ratio >= 1.6)
    bench.tell("two replicas beside one, a core for each", could, "times", ">= 1.6", could >= 1.6)


PARTS = {
    "accept": accept,
    "fold": fold,
    "push": push,
    "locate": locate,
    "wait": wait,
    "replicas": replicas,
}


def _commits() -> float:
    """How often a second this disk is waited for; the plain consumer waits once an event."""
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder) / "x.db")) as file:
        file.isolation_level = None
        file.execute("pragma journal_mode = wal")
        file.execute("pragma synchronous = full")
        file.execute("create table one (number integer)")
        began = time.perf_counter()
        for _ in range(100):
            file.execute("insert into one values (1)")
        return 100 / (time.perf_counter() - began)


async def run(bench: Bench, parts: Sequence[str]) -> None:
    """The parts, each in a folder that vanishes."""
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            await PARTS[part](bench, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all of it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--profile", action="store_true", help="where the fold's time goes")
    parser.add_argument("--json", type=Path, help="a file for the figures, by name")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    bench = Bench(QUICK if asked.quick else Sizes(), asked.profile)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.1f}, {_commits():,.0f} commits a second", flush=True)
    uvloop.run(run(bench, asked.only))  # as the backend runs
    print(f"load average at the end {os.getloadavg()[0]:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(bench.found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
