"""How long what was accepted waits for the fold: beside a bridge, and in a process that accepts it, too.

As in bench_ingest.py the backend has a core to itself, and whoever loads it, the bridge among them, another.
"""

import asyncio
import json
import os
import sqlite3
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from backend.clock import unix_ms
from backend.config import STATE_FILE
from backend.storage import sources
from backend.storage.database import open_for_writing, transaction
from backend.storage.session import Session
from backend.storage.sources import SourceTerms
from sdk_bridge.server.rates import Rate
from simulators.backend_process import BackendProcess

EVENTS_A_CALL = 25
CONNECTIONS = 4
POLL_S = 0.002  # how exactly the end of a wait is seen
GIVE_UP_S = 60.0
STRIDE = 1_000_003  # a prime
FOLDED = "select 1 from profiles where id_type = 'anonymous_id' and id = ?"


def known_person(number: int, people: int) -> int:
    """Anybody of those who came before the person of this number, of so many at most."""
    return number * 7919 % STRIDE % max(1, min(number, people))


@dataclass(frozen=True, slots=True)
class Lag:
    """Milliseconds from a call's answer until its last event is in the state."""

    rate: float
    waits: list[float]

    def quantile(self, part: float) -> float:
        return sorted(self.waits)[min(len(self.waits) - 1, int(part * len(self.waits)))]


def measure(folder: Path, rate: float, seconds: float, people: int, *, beside: bool) -> Lag:
    """At so many events a second: strangers' pages, logins that merge, views of known people in turn.

    `beside`: a bridge in a process of its own takes them in, on the core of the load.
    """
    write_key = _with_source(folder / "data")
    with ExitStack() as stack:
        door = stack.enter_context(_on_a_core_of_its_own(BackendProcess(folder)))
        if beside:
            door = stack.enter_context(BackendProcess(folder, only_bridge=True))
        load = _Load(door.port, folder / "data" / STATE_FILE, write_key, people)
        began = time.perf_counter()
        waits = asyncio.run(load.run(rate, seconds))
        return Lag(len(waits) * EVENTS_A_CALL / (time.perf_counter() - began), waits)


@contextmanager
def _on_a_core_of_its_own(backend: BackendProcess) -> Iterator[BackendProcess]:
    """The backend on the first core, we on the last."""
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})  # a child inherits it
        with backend:
            os.sched_setaffinity(0, {max(cores)})
            yield backend
    finally:
        os.sched_setaffinity(0, cores)


def _with_source(data: Path) -> str:
    def make(session: Session) -> str:
        made = sources.create_source(session, "shop", "Shop", "server", "off", unix_ms())
        sources.change_source(session, "shop", SourceTerms("Shop", "off", rate=Rate(1e5, 1e5)))
        return made["write_key"]

    data.mkdir(parents=True)
    connection = open_for_writing(data / STATE_FILE, "state")
    try:
        return transaction(connection, "state", make)
    finally:
        connection.close()


class _Load:
    """Calls at a steady rate, each followed until it is folded."""

    def __init__(self, port: int, state: Path, write_key: str, people: int) -> None:
        self._port = port
        self._key = b64encode(f"{write_key}:".encode()).decode()
        self._people = people
        self._numbers = count()
        self._state = sqlite3.connect(f"file:{state}?mode=ro", uri=True)
        self._waits: list[float] = []
        self._answered: deque[tuple[str, float]] = deque()

    async def run(self, rate: float, seconds: float) -> list[float]:
        """Every wait that began in these seconds."""
        calls = rate / EVENTS_A_CALL
        turns, began = count(), time.perf_counter()
        due = (began + turn / calls for turn in turns)
        following = asyncio.create_task(self._follow())
        await asyncio.gather(*(self._connection(due, began + seconds) for _ in range(CONNECTIONS)))
        self._answered.append(("", 0.0))
        await following
        return self._waits

    async def _connection(self, due: Iterator[float], until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for at in due:
            if at > until:
                break
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            name, request = self._request()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if b" 200 " not in answer[:16]:
                raise RuntimeError(answer.decode())
            self._answered.append((name, time.perf_counter()))
        writer.close()

    async def _follow(self) -> None:
        """In the order of the answers, which is nearly that of the fold: one question at a time, for hundreds
        would take the core from whom they ask about."""
        while True:
            while not self._answered:  # noqa: ASYNC110 - the wait is what the questions are spaced by
                await asyncio.sleep(POLL_S)
            name, answered = self._answered.popleft()
            if not name:
                return
            while self._state.execute(FOLDED, (name,)).fetchone() is None:
                if time.perf_counter() - answered > GIVE_UP_S:
                    raise RuntimeError("the fold stands still")
                await asyncio.sleep(POLL_S)
            self._waits.append(1000 * (time.perf_counter() - answered))

    def _request(self) -> tuple[str, bytes]:
        """Events of the mix, and at the end one of somebody new, whose name is returned."""
        events = [self._event(number) for number in (next(self._numbers) for _ in range(EVENTS_A_CALL - 1))]
        last = f"probe-{next(self._numbers)}"
        events.append({"type": "page", "messageId": last, "anonymousId": last, "name": "Shoes"})
        body = json.dumps({"batch": events}).encode()
        head = (
            f"POST /v1/batch HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return last, head.encode() + body

    def _event(self, number: int) -> dict[str, object]:
        kind, person = number % 3, number // 3
        if kind == 0:
            return {"type": "page", "messageId": f"m{number}", "anonymousId": f"a-{person}", "name": "Shoes"}
        if kind == 1:
            who = {"anonymousId": f"a-{person}", "userId": f"u-{person}"}
            return {"type": "identify", "messageId": f"m{number}", **who, "traits": {"name": "Anna"}}
        known = known_person(person, self._people)
        properties = {"product_id": f"P-{known % 500}", "category": "shoes", "price": 59.9}
        who = {"anonymousId": f"a-{known}", "userId": f"u-{known}"}
        told = {"type": "track", "messageId": f"m{number}", "event": "Product Viewed"}
        return {**told, **who, "properties": properties}
