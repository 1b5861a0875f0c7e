"""Taking in events, side by side with FastAPI + pydantic + SQLAlchemy; the fold; the table of message ids.

    python benchmarks/bench_ingest.py [--seconds 5] [--only http|fold|insert|identify]

Each server has one core to itself, whoever loads it another. Both check each event, store it once by its
message id, and answer after a commit with synchronous=FULL. Ratios are what counts; a second run on another
machine gives other absolutes.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TypeAlias

from backend.storage.database import open_for_writing, transaction
from backend.storage.entries import HOUR_MS, Parcel
from backend.storage.group import Group
from backend.storage.message_ids import RecentFirst
from backend.storage.session import Session

HERE = Path(__file__).parent
AUTHORISATION = "Basic " + base64.b64encode(b"key:").decode()
CONNECTIONS = 32
WARM_S = 1.0
TURNS = 5
GOALS: dict[int, int | None] = {1: 4, 20: 6, 100: None}
"""By events a request, how many times the peer's speed."""
FIRST_CORE, LAST_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
TIMED_ROWS, TURN_ROWS = 640_000, 32_000  # many portions of what is put off, and turns shorter than slow times
Take: TypeAlias = Callable[[int, list[int]], None]
"""Inserts so many ids of an hour."""
Finish: TypeAlias = Callable[[], None]
"""Does what was put off."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of loading a server."""

    requests: int
    events: int
    seconds: float
    cpu_s: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @classmethod
    def of(cls, turns: Sequence["Load"]) -> "Load":
        """All of them together."""
        return cls(
            sum(one.requests for one in turns),
            sum(one.events for one in turns),
            sum(one.seconds for one in turns),
            sum(one.cpu_s for one in turns),
            [latency for one in turns for latency in one.latencies],
        )

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return sorted(self.latencies)[min(int(len(self.latencies) * share), len(self.latencies) - 1)] * 1000


def call(number: int) -> dict[str, object]:
    """An event as a shop's site sends it."""
    return {
        "type": "track",
        "messageId": f"bench-{number}",
        "userId": f"user-{number % 5_000}",
        "anonymousId": f"visitor-{number % 5_000}",
        "event": "Product Viewed",
        "timestamp": datetime.now(UTC).isoformat(),
        "properties": {
            "product_id": f"P-{number % 700}",
            "category": "Shoes > Running",
            "price": 59.9,
            "currency": "EUR",
        },
        "context": {
            "page": {"path": "/shoes", "title": "Shoes"},
            "library": {"name": "bench", "version": "1"},
        },
    }


def request(numbers: "Iterator[int]", batch: int) -> bytes:
    """A whole request of so many events."""
    if batch == 1:
        path, body = "/v1/track", json.dumps(call(next(numbers)))
    else:
        path = "/v1/batch"
        body = json.dumps(
            {"batch": [call(next(numbers)) for _ in range(batch)], "sentAt": datetime.now(UTC).isoformat()}
        )
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: {AUTHORISATION}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body.encode()


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs: its port, its process, and the numbers of the events that it has not had yet."""

    port: int
    pid: int
    numbers: Iterator[int] = field(default_factory=count)


@contextmanager
def server(script: str, folder: Path) -> Iterator[Server]:
    """A server on the first core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(HERE / script), str(folder), str(port)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(["taskset", "-c", str(FIRST_CORE), *command], env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield Server(port, process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(loaded: Server, batch: int, seconds: float, rate: float = 0) -> Load:
    """As fast as answers come on 32 connections, or so many requests a second."""
    made = [
        request(loaded.numbers, batch)
        for _ in range(min(20_000, max(200, int(400_000 * seconds / 5 / batch))))
    ]
    waiting = iter(made)
    latencies: list[float] = []
    began = time.perf_counter()
    until = began + seconds
    spent = cpu_seconds(loaded.pid)
    turn = count()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", loaded.port)
        for body in waiting:
            now = time.perf_counter()
            if rate:
                due = began + next(turn) / rate
                if due > now:
                    await asyncio.sleep(due - now)
                now = max(due, time.perf_counter() - 0.001) if due > now else due
            if time.perf_counter() > until:
                break
            writer.write(body)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if b" 200 " not in answer[:16]:
                raise RuntimeError(answer.decode())
            latencies.append(time.perf_counter() - now)
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - began
    return Load(len(latencies), len(latencies) * batch, took, cpu_seconds(loaded.pid) - spent, latencies)


async def http(seconds: float) -> None:
    """Durable acceptance over HTTP: turn about, for a machine that is slow at times is so for both."""
    os.sched_setaffinity(0, {LAST_CORE})
    for batch, goal in GOALS.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            peer = stack.enter_context(server("peer_fastapi.py", folder / "peer.db"))
            ours = stack.enter_context(server("acceptance.py", folder))
            ratio = await compare(peer, ours, batch, seconds)
        print(f"  ×{batch}: {ratio:.1f} times the peer" + (f" (goal {goal})" if goal else ""), flush=True)


async def compare(peer: Server, ours: Server, batch: int, seconds: float) -> float:
    """How many times the peer's events a second are ours, in the median of the turns."""
    turns: dict[str, list[Load]] = {}
    for name, loaded in (("FastAPI + pydantic + SQLAlchemy", peer), ("Footfall", ours)):
        turns[name] = []
        await load(loaded, batch, WARM_S)
    for _ in range(TURNS):
        for loads, loaded in zip(turns.values(), (peer, ours), strict=True):
            loads.append(await load(loaded, batch, seconds / TURNS))
    for name, loads in turns.items():
        whole = Load.of(loads)
        print(
            f"  {name:<34} ×{batch:<4} {whole.per_second:>9,.0f} events/s  "
            f"{whole.events / whole.cpu_s:>9,.0f} a CPU second  p99 {whole.quantile(0.99):6.1f} ms",
            flush=True,
        )
    theirs, own = turns.values()
    full = Load.of(own)
    rate = full.requests / full.seconds / 2
    halves = [await load(ours, batch, seconds / TURNS, rate) for _ in range(TURNS)]
    half = Load.of(halves)
    print(
        f"  {'at half of that':<34} ×{batch:<4} {half.per_second:>9,.0f} events/s  "
        f"{'':>23}  p99 {half.quantile(0.99):6.1f} ms (goal 25), "
        f"of the turns {', '.join(f'{one.quantile(0.99):.1f}' for one in halves)}"
    )
    return statistics.median(
        one.per_second / other.per_second for one, other in zip(own, theirs, strict=True)
    )


def insert(rows: int) -> None:
    """Message ids once each, as the journal takes them, against the bare insert of integers.

    Turn about, for a disk that is slow at times is so for both.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ids_of_the_journal(Path(folder)) as ours,
        integers(Path(folder)) as bare,
    ):
        took = {"each once": 0.0, "integer key": 0.0}
        both = dict(zip(took, (ours, bare), strict=True))
        for take, finish in both.values():
            inserting(take, 0, rows)
            finish()
        for start in range(rows, rows + TIMED_ROWS, TURN_ROWS):
            for name, (take, _) in both.items():
                took[name] += inserting(take, start, TURN_ROWS)
        for name, (_, finish) in both.items():
            began = time.perf_counter()
            finish()
            took[name] += time.perf_counter() - began
    for name, seconds in took.items():
        print(f"  {name:<12} {TIMED_ROWS / seconds:>9,.0f} rows/s at {rows:,} rows")
    print(f"  {took['integer key'] / took['each once']:.0%} of the integer key's speed (goal 70 %)")


def inserting(take: Take, start: int, rows: int) -> float:
    """Inserts so many, a thousand at a time; the seconds it took."""
    took = 0.0
    for first in range(start, start + rows, 1_000):
        hashes = [number * 0x9E3779B97F4A7C15 % (1 << 63) for number in range(first, first + 1_000)]
        began = time.perf_counter()
        take(1 + first // 40_000, hashes)
        took += time.perf_counter() - began
    return took


@contextmanager
def ids_of_the_journal(folder: Path) -> Iterator[tuple[Take, Finish]]:
    """A commit of a thousand: asked for, compared, remembered; 40,000 in an hour of the clients' clocks.

    What is put off is done here, too, as soon as it is due, and all of it before the time is taken.
    """
    connection = open_for_writing(folder / "journal.db", "journal")
    ids = RecentFirst()

    def take(hour: int, hashes: list[int]) -> None:
        parcel = Parcel((0, "bench"), hour, hour * HOUR_MS, hashes, [b""] * len(hashes))

        def work(session: Session) -> None:
            group = Group(session, ids, (), [parcel])
            if group.take(parcel) != len(hashes):
                raise RuntimeError("a new id was taken for an old one")
            group.write()

        transaction(connection, "journal", work)
        while ids.due:
            transaction(connection, "journal", ids.settle)

    def finish() -> None:
        while transaction(connection, "journal", lambda session: ids.settle(session, whole=True)):
            pass

    yield take, finish
    connection.close()


@contextmanager
def integers(folder: Path) -> Iterator[tuple[Take, Finish]]:
    """The least that SQLite can do for a row: behind the last one, by a number, without a question."""
    connection = sqlite3.connect(folder / "integers.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table ids (id integer primary key, hash integer, received_hour integer)")
    numbers = count()

    def take(hour: int, hashes: list[int]) -> None:
        connection.execute("begin")
        connection.executemany(
            "insert into ids values (?, ?, ?)", [(next(numbers), value, hour) for value in hashes]
        )
        connection.execute("commit")

    yield take, lambda: None
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=("http", "insert"))
    asked = parser.parse_args()
    if asked.only in (None, "http"):
        print("durable acceptance over HTTP, one core each")
        asyncio.run(http(asked.seconds))
    if asked.only in (None, "insert"):
        print("message ids, each once")
        insert(2_000_000)


if __name__ == "__main__":
    main()
