"""Scores of a million customers with five million orders, while the journal takes events beside it.

    python benchmarks/bench_rfm.py [--people 1000000] [--orders 5000000] [--folder DIR]

Prints how long a first run (everybody's scores are new) and a rescoring (a few in a hundred change) take, how
much of that is processor time, and beside it how long appends to the journal took without any run, before and
after them, and during each: the disk and the other programs have their own say in these.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from backend.clock import unix_ms
from backend.scoring import Scorer
from backend.storage.database import SqliteFile
from backend.storage.journal import Journal
from sdk_bridge.wire.app_events import AppEvent

DAY_MS = 86_400_000
LIMIT_MS = 20  # what the journal may be held up at most
ALONE_S = 8.0  # as long as a run, so that both see the same share of the disk's bad moments


def fill(connection, people: int, orders: int) -> None:
    """Orders as folding leaves them, without the events; every fifth customer bought once only."""
    chance = random.Random(7)
    now = unix_ms()
    ids = [f"{number:032x}" for number in range(people)]
    connection.execute("begin")
    rows = ((one, "user_id", now, None) for one in ids)
    connection.executemany(
        "insert into profiles (profile_id, id_type, created_at, merged_into) values (?, ?, ?, ?)", rows
    )
    sizes = [1 if number % 5 == 0 else 0 for number in range(people)]
    for _ in range(orders - sum(sizes)):
        number = min(int(chance.expovariate(4 / people)), people - 1)
        sizes[number] += 1
    rows = (
        (
            ids[number],
            f"{number}-{order}",
            now - chance.randrange(1_000 * DAY_MS),
            chance.randrange(500, 30_000),
        )
        for number, size in enumerate(sizes)
        for order in range(size)
    )
    connection.executemany(
        "insert into orders"
        " (profile_id, order_id, status, completed_at, total, currency, refunded, stated_at, stated_hash)"
        " values (?, ?, 'completed', ?, ?, 'EUR', 0, 0, 0)",
        rows,
    )
    connection.execute("commit")


def buy_again(connection) -> None:
    """A tenth of the people have a newer order; the disk has it before this returns."""
    connection.execute(
        "update orders set completed_at = completed_at + 9000000000 where order_id like '%7-0'"
    )
    os.sync()


async def beside(journal: Journal, name: str, work: Awaitable[object]) -> None:
    """Appends while something else goes on, and tells how long they took."""
    over = asyncio.Event()
    appending = asyncio.create_task(appends(journal, over))
    await work
    over.set()
    told(name, await appending)


async def scored(journal: Journal, scorer: Scorer, name: str) -> None:
    """One run, with appends beside it."""
    began, used = time.perf_counter(), time.process_time()
    await beside(journal, f"in the {name}", scorer.score())
    took, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"{name}: {took:.1f} s, of the processors' time {cpu:.1f} s, the journal's included", flush=True)


async def appends(journal: Journal, until: asyncio.Event) -> list[float]:
    """Milliseconds of one append after the other, each durable."""
    took, number = [], 0
    while not until.is_set():
        now = unix_ms()
        events = [
            AppEvent(
                "track",
                f"m{number}-{index}",
                "bench",
                now,
                now,
                user_id=f"u{index}",
                name="Seen",
                proven=True,
            )
            for index in range(20)
        ]
        began = time.perf_counter()
        await journal.append_events(events)
        took.append((time.perf_counter() - began) * 1000)
        number += 1
        await asyncio.sleep(0.005)
    return took


def told(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    slow = sum(one > LIMIT_MS for one in took)
    print(
        f"  journal {name}: {len(took)} appends, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"worst {ordered[-1]:.1f} ms, {slow} above {LIMIT_MS} ms"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--orders", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        await run(Path(folder), asked.people, asked.orders)


async def run(folder: Path, people: int, orders: int) -> None:
    async with (
        SqliteFile(folder / "journal.db", "journal") as file,
        SqliteFile(folder / "state.db", "state") as state,
    ):
        print(f"making {people:,} customers with {orders:,} orders …", flush=True)
        await state.write(lambda session: None)
        import sqlite3  # noqa: PLC0415 - only to fill the file faster than any program of ours would

        connection = sqlite3.connect(folder / "state.db", isolation_level=None)
        fill(connection, people, orders)
        journal = Journal(file, unix_ms)
        await journal.load()
        running = asyncio.create_task(journal.run())
        scorer = Scorer(state, unix_ms, changed=lambda: None)
        os.sync()  # what filling left to write is none of the journal's waiting
        await beside(journal, "alone", asyncio.sleep(ALONE_S))
        await scored(journal, scorer, "first run")
        buy_again(connection)
        await scored(journal, scorer, "rescoring")
        await beside(journal, "alone again", asyncio.sleep(ALONE_S))
        connection.close()
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
