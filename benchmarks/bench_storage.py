"""Both engines side by side: transactions, queries, appends of many senders, the fold.

    PYTHONPATH=. .venv/bin/python benchmarks/bench_storage.py

SQLite in a folder, PostgreSQL on a server of its own, both waiting for the disk at each commit.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from backend.fold import Fold
from backend.storage.entries import LaneKey
from backend.storage.journal import GatewayAppend, Journal
from backend.storage.opening import open_area
from backend.storage.session import Database, Session
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.messages import Batch, Readings
from simulators.postgres import make_database, running_postgres

NOW = 1_750_075_200_000
KEYS = [f"ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:{number}" for number in range(50)]
READINGS = 100  # in a batch: a busy second or two of one gateway
SENDERS = 32
ROUNDS = 300


async def milliseconds(act: Callable[[int], Awaitable[object]]) -> str:
    took = []
    for number in range(ROUNDS):
        begun = time.perf_counter()
        await act(number)
        took.append(time.perf_counter() - begun)
    took.sort()
    return f"p50 {took[ROUNDS // 2] * 1e3:.2f}, p99 {took[ROUNDS * 99 // 100] * 1e3:.2f} ms"


async def per_second(count: int, work: Awaitable[object]) -> str:
    begun = time.perf_counter()
    await work
    return f"{count / (time.perf_counter() - begun):,.0f} /s"


def batch(second: int) -> bytes:
    beacons = [number % len(KEYS) for number in range(READINGS)]
    seconds = [number // len(KEYS) for number in range(READINGS)]
    same = [3] * READINGS, [60] * READINGS, [55] * READINGS
    return codec.encode(Batch("", NOW - 3_600_000 + second * 1000, KEYS, Readings(beacons, seconds, *same)))


def events(call: int, count: int = 20) -> list[AppEvent]:
    return [
        AppEvent(
            kind="track",
            name="Product Viewed",
            message_id=f"{call}-{number}",
            source="web",
            occurred_at=NOW,
            original_at=NOW,
            received_at=NOW,
            user_id=f"user-{(call * count + number) % 500}",
            proven=True,
        )
        for number in range(count)
    ]


def shop(session: Session) -> None:
    session.run("save_store", store_id="s1", name="Shop", timezone="UTC")
    session.run("save_zone", store_id="s1", zone_id="a", name="A", categories="[]")
    for number in range(SENDERS):
        where = {"store_id": "s1", "gateway_id": f"g{number}", "zone_id": "a", "name": "g"}
        session.run("save_gateway", **where, x_m=None, y_m=None)
    for key in KEYS:
        session.run("save_beacon", beacon_key=key, role="zone", store_id="s1", zone_id="a")


async def folded(fold: Fold) -> None:
    running = asyncio.create_task(fold.run())
    assert await fold.caught_up("anybody", within_s=600)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def measure(name: str, journal_file: Database, state: Database) -> None:
    await state.write(shop)
    key = {"beacon_key": "k"}
    print(
        name,
        "| write one row |",
        await milliseconds(lambda _: state.write(lambda s: s.run("number_key", **key))),
    )
    print(
        name,
        "| read one row |",
        await milliseconds(lambda _: state.read(lambda s: s.row("key_number", **key))),
    )

    def queries(session: Session) -> float:
        begun = time.perf_counter()
        for _ in range(ROUNDS):
            session.row("key_number", **key)
        return (time.perf_counter() - begun) / ROUNDS

    print(name, f"| one query inside a transaction | {await state.read(queries) * 1e3:.3f} ms")
    journal = Journal(journal_file, lambda: NOW)
    await journal.load()
    writing = asyncio.create_task(journal.run())

    async def send(sender: int, count: int) -> None:
        lane = LaneKey(f"s1/g{sender}", "e", "live")
        for seq in range(1, count + 1):
            await journal.append_gateway(GatewayAppend(lane, seq, seq, NOW, sender, 0, batch(seq)))

    alone = LaneKey("s1/alone", "e", "live")
    one = batch(0)
    print(
        name,
        "| append a batch, alone |",
        await milliseconds(
            lambda n: journal.append_gateway(GatewayAppend(alone, n + 1, n + 1, NOW, 63, 0, one))
        ),
    )
    sent = asyncio.gather(*(send(sender, 40) for sender in range(SENDERS)))
    print(name, f"| append batches, {SENDERS} senders |", await per_second(SENDERS * 40, sent))
    fold = Fold(journal, state, lambda: NOW, on_listening=lambda _: None)
    await fold.load()
    count = (SENDERS * 40 + ROUNDS) * READINGS
    print(name, "| fold readings |", await per_second(count, folded(fold)))
    told = asyncio.gather(*(journal.append_events(events(call)) for call in range(200)))
    print(name, "| append events, calls of 20 |", await per_second(200 * 20, told))
    print(name, "| fold events |", await per_second(200 * 20, folded(fold)))
    writing.cancel()


async def both(server: str | None, folder: Path) -> None:
    name = "PostgreSQL" if server else "SQLite"
    url = server and await asyncio.to_thread(make_database, server, "bench")
    async with (
        open_area(url, folder / "journal.db", "journal") as journal_file,
        open_area(url, folder / "state.db", "state") as state,
    ):
        await measure(name, journal_file, state)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        asyncio.run(both(None, Path(folder)))
        asyncio.run(both(server, Path(folder)))


if __name__ == "__main__":
    main()
