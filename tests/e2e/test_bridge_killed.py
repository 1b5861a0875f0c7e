"""Bridges killed again and again under load, a fifth of it sent twice, out of order: each event once."""

import asyncio
import random
import socket
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from backend.clock import unix_ms
from backend.config import STATE_FILE
from backend.storage.database import open_for_writing, transaction
from backend.storage.sources import create_source
from simulators.children import Child

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
ROOT = Path(__file__).parent.parent.parent
EVENTS = 2_400
A_BATCH = 20
TWICE = 0.2
KILLS = 3
PHONES = 6
WITHIN_S = 90.0
SEED = 20_260_301


@dataclass
class Load:
    """Requests in the order in which they are sent, some of them again; what was answered 200."""

    urls: list[str]
    write_key: str
    chance: random.Random
    waiting: list[list[dict]] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)

    def fill(self) -> None:
        """Every event once, a fifth of the requests again, and all of it shuffled."""
        now = unix_ms()
        batches = [[self._event(number, now) for number in range(first, first + A_BATCH)]
                   for first in range(0, EVENTS, A_BATCH)]  # fmt: skip
        batches += self.chance.sample(batches, round(len(batches) * TWICE))
        self.chance.shuffle(batches)
        self.waiting = batches

    @staticmethod
    def _event(number: int, now: int) -> dict:
        """A third of them does not say when it happened: these are known by their id alone."""
        said = {} if number % 3 == 0 else {"timestamp": now - number}
        about = {"type": "track", "event": "Tick", "messageId": f"m{number}", "userId": f"u{number % 50}"}
        return {**about, **said, "properties": {"n": number}}

    async def phone(self, http: aiohttp.ClientSession) -> None:
        while self.waiting:
            batch = self.waiting.pop()
            while not await self._sent(http, batch):  # noqa: ASYNC110 - another process decides
                await asyncio.sleep(0.05 + self.chance.random() / 10)

    async def _sent(self, http: aiohttp.ClientSession, batch: list[dict]) -> bool:
        body = {"batch": batch, "writeKey": self.write_key}
        try:
            async with http.post(f"{self.chance.choice(self.urls)}/v1/batch", json=body) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.answers["none"] += 1
            return False
        self.answers[str(status)] += 1
        assert status in (200, 503), status
        if status == 200:
            self.acknowledged |= {event["messageId"] for event in batch}
        return status == 200


@pytest.fixture(params=[0, 2], ids=["mounted", "two-bridges-beside"])
async def programs(request, tmp_path):
    """A backend and so many bridges beside it, by where each will listen."""
    config = tmp_path / "backend.toml"
    # No broker listens at port 1: apps and sites do not need one.
    config.write_text(f'data_dir = "{tmp_path}/data"\n[mqtt]\nport = 1\n')
    children: dict[str, Child] = {}
    for only in ((), *[("--only", "bridge")] * request.param):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "backend", "serve", "-c", str(config), "--port", str(port), *only]
        child = Child(str(port), command, tmp_path / f"{port}.log", {"PYTHONPATH": str(ROOT)})
        children[f"http://127.0.0.1:{port}"] = child
    try:
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children.values()))


async def test_each_message_is_stored_once_whatever_dies_meanwhile(programs, tmp_path):
    child, *bridges = programs.values()
    load = Load([*programs], new_source(tmp_path / "data" / STATE_FILE), random.Random(SEED))
    load.fill()
    for one in (child, *bridges):
        one.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        phones = [asyncio.create_task(load.phone(http)) for _ in range(PHONES)]
        for kill in range(1, KILLS + 1):
            await until(child, lambda kill=kill: len(load.acknowledged) >= EVENTS * kill // (KILLS + 2))
            await asyncio.sleep(load.chance.random() / 20)
            killed = bridges[kill % 2] if bridges and kill > 1 else child
            await killed.kill()
            killed.start()
        await asyncio.wait_for(asyncio.gather(*phones), WITHIN_S)
        await until(child, lambda: len(stored(tmp_path)) >= EVENTS)
    assert len(load.acknowledged) == EVENTS
    assert load.answers["none"] > 0, "nothing was ever killed in the midst of it"
    counted = stored(tmp_path)
    assert counted.keys() == load.acknowledged
    assert set(counted.values()) == {1}
    await child.stop()
    assert letters(tmp_path) == 0


def new_source(state: Path) -> str:
    connection = open_for_writing(state, "state")
    try:
        made = transaction(
            connection, "state", lambda s: create_source(s, "shop", "Shop", "server", "off", unix_ms())
        )
    finally:
        connection.close()
    return made["write_key"]


def stored(folder: Path) -> Counter[str]:
    """How often each message id is in the state."""
    return Counter(row[0] for row in ask(folder / "data/state.db", "select message_id from events"))


def letters(folder: Path) -> int:
    return ask(folder / "data/journal.db", "select count(*) from dead_letters")[0][0]


def ask(path: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(sql).fetchall()


async def until(child: Child, holds) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        child.check()
        assert time.monotonic() < deadline, f"it did not come true in time\n{child.log_tail()}"
        await asyncio.sleep(0.02)
