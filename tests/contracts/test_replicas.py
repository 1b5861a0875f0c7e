"""Two replicas on one PostgreSQL and one broker: stopped, cut off and killed, everything counts once."""

import asyncio
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import structlog

from backend.clock import unix_ms
from backend.config import read_config
from backend.secret_file import SECRET_BYTES, make_secret
from backend.storage.journal import Journal
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.postgres.line import Address, Line
from backend.storage.postgres.locks import LOCKS
from backend.storage.session import Session
from sdk_bridge.mqtt import Broker
from sdk_bridge.settings import SettingsError
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import HOST, start_broker
from simulators.children import Child
from simulators.postgres import tell
from simulators.pretend_gateway import PretendGateway

log = structlog.get_logger()
pytestmark = pytest.mark.timeout(240)
STOPPED_S = 30.0
STORES = [f"s{number}" for number in range(8)]


def shelf(store: str) -> str:
    return f"ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:100:{STORES.index(store)}"


def tag(store: str) -> str:
    return f"ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:{STORES.index(store)}"


def set_up(session: Session) -> None:
    for store in STORES:
        session.run("save_store", store_id=store, name=store, timezone="Europe/Vienna")
        session.run("save_zone", store_id=store, zone_id="a", name="Zone a", categories="[]")
        where = {"store_id": store, "gateway_id": "g", "zone_id": "a", "name": "g"}
        session.run("save_gateway", **where, x_m=None, y_m=None)
        session.run("save_beacon", beacon_key=shelf(store), role="zone", store_id=store, zone_id="a")


def event(kind: str, number: int, **more: object) -> AppEvent:
    at = unix_ms()
    return AppEvent(
        kind=kind,
        message_id=f"m{number}",
        source="app",
        occurred_at=at,
        original_at=at,
        received_at=at,
        proven=True,
        **more,
    )


@dataclass
class Replicas:
    """The test's own view of it all."""

    url: str
    children: list[Child]
    ports: list[int]
    http: aiohttp.ClientSession
    journal: Journal
    gateways: list[PretendGateway]
    quiet: bool = False
    told: set[str] = field(default_factory=set)
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    async def held(self, replica: int) -> int:
        """How many partitions a replica says it has."""
        address = f"http://{HOST}:{self.ports[replica]}/health"
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(address, timeout=aiohttp.ClientTimeout(total=1)) as answer:
                return int((await answer.json())["partitions"])
        return -1

    async def share(self) -> bool:
        return [await self.held(0), await self.held(1)] == [32, 32]

    async def tell(self, kind: str, **more: object) -> None:
        number = next(self._numbers)
        assert await self.journal.append_events([event(kind, number, **more)]) == 1
        self.told.add(f"m{number}")

    async def talk(self) -> None:
        """Somebody is always doing something, in every partition in turn."""
        for number in itertools.count():
            if self.quiet:
                return
            await self.tell("track", name="Seen", user_id=f"u{number % 200}")
            await asyncio.sleep(0.02)

    def ask(self, sql: str) -> list[tuple]:
        line = Line(Address(self.url, "state"))
        try:
            line.open()
            return [tuple(row) for row in line.ask(sql)]
        finally:
            line.close()

    async def folded(self) -> bool:
        """Whether everybody's position is where the journal's head is."""
        behind = (
            "select count(*) from footfall_journal.partitions p join fold f using (partition)"
            " where f.position <> p.head"
        )
        return (await asyncio.to_thread(self.ask, behind))[0][0] == 0

    def signal(self, replica: int, number: signal.Signals) -> None:
        os.kill(self.children[replica]._process.pid, number)


@pytest.fixture
async def replicas(tmp_path: Path, database_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(await start_broker(tmp_path / "broker", kind="mosquitto"))
        state = await stack.enter_async_context(PostgresDatabase(database_url, "state"))
        await state.write(set_up)
        file = await stack.enter_async_context(PostgresDatabase(database_url, "journal"))
        journal = Journal(file, unix_ms)
        await journal.load()
        _task(stack, journal.run())
        ports, children = [free_port(), free_port()], []
        for number, port in enumerate(ports):
            path = tmp_path / f"r{number}.toml"
            same_secrets(tmp_path / f"data{number}")
            path.write_text(
                f'data_dir = "{tmp_path}/data{number}"\n[http]\nport = {port}\n[mqtt]\nport = {broker.port}\n'
                f'[database]\nurl = "{database_url}"\nreplicas = true\n',
                "utf-8",
            )
            command = [sys.executable, "-m", "backend", "serve", "--config", str(path)]
            child = Child(f"r{number}", command, tmp_path / f"r{number}.log")
            child.start()
            stack.push_async_callback(child.kill)
            children.append(child)
        gateways = []
        for store in STORES:
            address = Broker(HOST, broker.port, f"{store}-{os.urandom(4).hex()}")
            gateway = PretendGateway(GatewayAddress(store, "g"), address, [shelf(store), tag(store)])
            gateways.append(gateway)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        made = Replicas(database_url, children, ports, http, journal, gateways)
        try:
            yield made
        finally:
            for child in children:
                log.info(child.name, said=child.log_tail())


def same_secrets(folder: Path) -> None:
    for secret in ("erasure.key", "eid.key", "link.key"):
        make_secret(folder / secret, secret.encode().ljust(SECRET_BYTES))


def _task(stack: AsyncExitStack, work) -> None:
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 40) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - other processes' answers have no event
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def test_whoever_is_stopped_cut_off_or_killed_everything_counts_once(replicas: Replicas) -> None:
    async with AsyncExitStack() as stack:
        log.info("share", after_s=await eventually(replicas.share))
        for store in STORES:
            more = {"user_id": f"walker-{store}"}
            await replicas.tell("device", device_id=f"d-{store}", beacon_key=tag(store), **more)
            await replicas.tell("consent", consent={"proximity": True}, **more)
        talking = asyncio.create_task(replicas.talk())
        stack.callback(talking.cancel)
        for gateway in replicas.gateways:
            _task(stack, gateway.run())
        inside = "select count(*) from presences where zone_id is not null"

        async def all_inside() -> bool:
            return (await asyncio.to_thread(replicas.ask, inside))[0][0] == len(STORES)

        log.info("everybody is seen", after_s=await eventually(all_inside))

        replicas.signal(0, signal.SIGSTOP)
        began = time.monotonic()

        async def alone() -> bool:
            return await replicas.held(1) == 64

        log.info("stopped: taken over", after_s=await eventually(alone))
        await asyncio.sleep(max(0.0, STOPPED_S - (time.monotonic() - began)))
        replicas.signal(0, signal.SIGCONT)
        log.info("awake: shared again", after_s=await eventually(replicas.share))

        epochs = "select sum(epoch) from fold"
        before = (await asyncio.to_thread(replicas.ask, epochs))[0][0]
        cut = f"select pg_terminate_backend(pid) from (select distinct pid from pg_locks where locktype = 'advisory' and classid = {LOCKS} and cast(objid as bigint) >= 1000 limit 1) one"  # fmt: skip # noqa: E501
        await asyncio.to_thread(tell, replicas.url, cut)

        async def again() -> bool:
            moved = (await asyncio.to_thread(replicas.ask, epochs))[0][0] >= before + 32
            return moved and await replicas.share()

        log.info("cut off: shared again", after_s=await eventually(again))

        await replicas.children[0].kill()
        log.info("killed: taken over", after_s=await eventually(alone))
        for gateway in replicas.gateways:
            gateway.hearing = False
        replicas.quiet = True
        await talking

        async def delivered() -> bool:
            return all(gateway.delivered for gateway in replicas.gateways)

        await eventually(delivered)
        visits = await asyncio.to_thread(replicas.ask, "select beacon_key, left_at from zone_visits")
    await eventually(replicas.folded)
    messages = [row[0] for row in await asyncio.to_thread(replicas.ask, "select message_id from events")]
    assert sorted(messages) == sorted(replicas.told)
    heard = "select coalesce(sum(adverts), 0) from {}"
    tables = ("sightings", "sightings_without_time", "forgotten_late", "footfall_journal.forgotten")
    every = " union all ".join(heard.format(table) for table in tables)
    stored = sum(int(row[0]) for row in await asyncio.to_thread(replicas.ask, every))
    assert stored == sum(gateway.adverts for gateway in replicas.gateways)
    assert sorted(key for key, _ in visits) == sorted(map(tag, STORES)), "nobody left or came twice"
    assert all(left_at is None for _, left_at in visits)


async def test_a_backend_without_replicas_is_refused_beside_them(
    replicas: Replicas, tmp_path: Path, database_url: str
) -> None:
    await eventually(replicas.share)
    path = tmp_path / "alone.toml"
    same_secrets(tmp_path / "alone")
    path.write_text(f'data_dir = "{tmp_path}/alone"\n[database]\nurl = "{database_url}"\n', "utf-8")
    alone = Child(
        "alone", [sys.executable, "-m", "backend", "serve", "--config", str(path)], tmp_path / "a.log"
    )
    alone.start()

    async def ended() -> bool:
        return not alone.is_running

    try:
        await eventually(ended)
        assert "another backend uses this database" in alone.log_tail()
    finally:
        await alone.kill()


def test_replicas_need_a_postgresql(tmp_path: Path) -> None:
    path = tmp_path / "backend.toml"
    path.write_text(f'data_dir = "{tmp_path}"\n[database]\nreplicas = true\n', "utf-8")
    with pytest.raises(SettingsError, match="replicas needs url"):
        read_config(path)
