"""One backend on PostgreSQL and two replicas of it fold the same stores; with what each process spent.

On a machine whose cores PostgreSQL, the load and the replicas share, the seconds of processor time say more
than the clock: `could` is what cores enough for everybody would allow.
"""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backend.clock import unix_ms
from backend.secret_file import SECRET_BYTES, make_secret
from backend.storage.journal import Journal
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.postgres.line import Address, Line
from benchmarks import pipeline_shop as shop
from simulators.broker import HOST, free_port, start_broker
from simulators.children import Child
from simulators.postgres import make_database, running_postgres

BEHIND = """select coalesce(sum(p.head - f.position), 0) from footfall_journal.partitions p
join fold f using (partition)"""
READINGS = "select count(*) from sightings"
POLL_S = 0.2  # a connection each time, which costs the server more than the answer
WITHIN_S = 120.0
NEWS_S = 3.0  # until each replica has read who agreed at the other
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Folding:
    """What so many replicas made of the stores: seconds by the clock, and of processor time."""

    readings: int
    took_s: float
    replicas_cpu_s: list[float]
    server_cpu_s: float
    load_cpu_s: float

    @property
    def per_second(self) -> float:
        return self.readings / self.took_s

    @property
    def could(self) -> float:
        """Readings a second, had each replica a core of its own and PostgreSQL the rest."""
        return self.readings / max(self.replicas_cpu_s)


async def folding(chain: shop.Chain, seconds: int, replicas: int, folder: Path) -> Folding:
    """Starts everything, tells of everybody, and folds what their gateways hear in so many seconds."""
    with running_postgres() as server:
        url = await asyncio.to_thread(make_database, server, "replicas")
        async with (
            PostgresDatabase(url, "state") as state,
            PostgresDatabase(url, "journal") as file,
            await start_broker(folder / "broker") as broker,
            _alive(Journal(file, unix_ms)) as journal,
        ):
            await state.write(lambda s: shop.stand(s, chain))
            definitions = shop.dwells()
            await state.write(lambda s: shop.start_campaigns(s, definitions, unix_ms()))
            async with _replicas(replicas, url, broker.port, folder) as children:
                for call in shop.introductions(chain, unix_ms()):
                    await journal.append_events(call)
                await _until(lambda: _asked(url, BEHIND) == 0)
                await asyncio.sleep(NEWS_S)
                return await _measured(chain, seconds, journal, url, children)


async def _measured(
    chain: shop.Chain, seconds: int, journal: Journal, url: str, children: list[Child]
) -> Folding:
    numbers = [child.pid for child in children]
    before, server = [cpu_s(number) for number in numbers], await asyncio.to_thread(_server_cpu_s, url)
    own, began = time.process_time(), time.perf_counter()
    readings = await shop.fill(journal, chain, unix_ms(), seconds)
    own = time.process_time() - own
    await _until(lambda: _asked(url, BEHIND) == 0)
    took = time.perf_counter() - began
    spent = [cpu_s(number) - start for number, start in zip(numbers, before, strict=True)]
    server = await asyncio.to_thread(_server_cpu_s, url) - server
    kept = await asyncio.to_thread(_asked, url, READINGS)
    if kept != readings:
        raise RuntimeError(f"{kept:,} of {readings:,} readings were folded")
    return Folding(readings, took, spent, server, own)


@asynccontextmanager
async def _alive(journal: Journal) -> AsyncIterator[Journal]:
    await journal.load()
    running = asyncio.create_task(journal.run())
    try:
        yield journal
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def _replicas(count: int, url: str, broker: int, folder: Path) -> AsyncIterator[list[Child]]:
    """Replicas that share the partitions evenly."""
    children, ports = [], []
    try:
        for number in range(count):
            data, port = folder / f"data{number}", free_port()
            for secret in ("erasure.key", "eid.key", "link.key"):
                make_secret(data / secret, secret.encode().ljust(SECRET_BYTES))
            config = folder / f"replica{number}.toml"
            config.write_text(
                f'data_dir = "{data}"\n[http]\nport = {port}\n[mqtt]\nport = {broker}\n'
                f'[database]\nurl = "{url}"\nreplicas = true\n',
                "utf-8",
            )
            command = [sys.executable, "-m", "backend", "serve", "--config", str(config)]
            child = Child(f"replica {number}", command, folder / f"replica{number}.log")
            child.start()
            children.append(child)
            ports.append(port)
        await _until(lambda: [_held(port) for port in ports] == [64 // count] * count)
        yield children
    finally:
        for child in children:
            await child.kill()


def _held(port: int) -> int:
    """How many partitions a replica says it has."""
    with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1) as answer:
        return int(json.loads(answer.read())["partitions"])
    return -1


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(POLL_S)


def _asked(url: str, sql: str) -> int:
    line = Line(Address(url, "state"))
    try:
        line.open()
        return int(next(iter(line.ask(sql)))[0])
    finally:
        line.close()


def cpu_s(process: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _server_cpu_s(url: str) -> float:
    """Of the processes that serve connections now."""
    line, total = Line(Address(url, "state")), 0.0
    try:
        line.open()
        for row in line.ask("select pid from pg_stat_activity"):
            with suppress(OSError):
                total += cpu_s(int(row[0]))
    finally:
        line.close()
    return total
