"""What is put through chaos: PostgreSQL, a broker, FCM and two replicas; all but FCM are mortal."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from backend.clock import unix_ms
from backend.secret_file import SECRET_BYTES, make_secret
from backend.storage import registry
from backend.storage.postgres.engine import PostgresDatabase
from sdk_bridge.wire.topics import PARTITIONS
from simulators.broker import HOST, RunningBroker, free_port, start_broker
from simulators.children import Child
from simulators.demo.shopkeeper import Shopkeeper
from simulators.fcm_process import FcmProcess
from simulators.postgres import MortalPostgres, make_database, mortal_postgres

REPLICAS = 2
SECRETS = ("erasure.key", "eid.key", "link.key")
RESTART_S = 1.0  # systemd's RestartSec, more or less
RECOVERED_WITHIN_S = 120.0  # an idle machine takes five; beyond this it stands still
HEALTH_S = 2.0
BEHIND = 20  # entries: under load there is always one on its way


class Stuck(RuntimeError):
    """The backend did not come back; the text carries the end of the logs."""


@dataclass(slots=True)
class Replica:
    """One backend process. `down`: on purpose, so nobody shall start it; `fell`: ended by itself so often."""

    child: Child
    url: str
    down: bool = False
    fell: int = 0

    async def kill(self) -> None:
        """SIGKILL, and it stays down until `start`."""
        self.down = True
        await self.child.kill()

    def start(self) -> None:
        """Starts it, or lets it be where it runs."""
        if not self.child.is_running:
            self.child.start()
        self.down = False


@dataclass(slots=True)
class Stage:
    """Everything that runs. `database` is the URL of the database that the replicas share."""

    postgres: MortalPostgres
    broker: RunningBroker
    fcm: FcmProcess
    replicas: list[Replica]
    http: aiohttp.ClientSession
    database: str
    kills: Counter[str] = field(default_factory=Counter)

    async def recovered(self, *, for_the_first_time: bool = False) -> None:
        """Waits until every partition is owned, listened to and folded. Raises Stuck.

        Nobody who starts for the first time may end by itself: then ChildFailed is raised at once.
        """
        began = time.monotonic()
        while not await self._is_whole():
            if for_the_first_time:
                for replica in self.replicas:
                    replica.child.check()
            if time.monotonic() - began > RECOVERED_WITHIN_S:
                raise Stuck("\n".join(replica.child.log_tail() for replica in self.replicas))
            await asyncio.sleep(0.1)

    async def fcm_says(self, path: str, body: Any = None) -> Any:
        """What the FCM server answers under /sim/."""
        return await asyncio.to_thread(self.fcm.call, path, body)

    async def shopkeeper(self) -> Shopkeeper:
        """Whoever sets the shop up, through the first replica."""
        async with PostgresDatabase(self.database, "state") as state:
            token = await state.write(lambda s: registry.create_token(s, "chaos", "admin", unix_ms()))
        return Shopkeeper(self.replicas[0].url, token, self.http)

    async def _is_whole(self) -> bool:
        living = [replica for replica in self.replicas if not replica.down]
        answers = await asyncio.gather(*(self._health(replica) for replica in living))
        ready = all(answer.get("broker") and answer["fold_behind"] <= BEHIND for answer in answers)
        return ready and sum(answer["partitions"] for answer in answers) == PARTITIONS

    async def _health(self, replica: Replica) -> dict[str, Any]:
        """What it says of itself; nothing where it does not answer."""
        limit = aiohttp.ClientTimeout(total=HEALTH_S)
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(f"{replica.url}/health", timeout=limit) as answer:
                found: dict[str, Any] = await answer.json()
                return found
        return {}


@asynccontextmanager
async def open_stage(folder: Path) -> AsyncIterator[Stage]:
    """Everything started and whole, alive inside the context. Raises ChildFailed, Stuck."""
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(mortal_postgres())
        database = await asyncio.to_thread(make_database, postgres.url, "chaos")
        broker = await stack.enter_async_context(await start_broker(folder / "broker"))
        (folder / "fcm").mkdir()
        fcm = stack.enter_context(FcmProcess(folder / "fcm"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        replicas = [_replica(folder, number, database, broker.port, fcm) for number in range(REPLICAS)]
        stage = Stage(postgres, broker, fcm, replicas, http, database)
        for replica in replicas:
            replica.start()
            stack.push_async_callback(replica.kill)
        await stage.recovered(for_the_first_time=True)
        watch = asyncio.create_task(_supervise(replicas))
        stack.callback(watch.cancel)
        yield stage


def _replica(folder: Path, number: int, database: str, mqtt_port: int, fcm: FcmProcess) -> Replica:
    name, port = f"replica-{number}", free_port()
    data = folder / name
    for secret in SECRETS:  # a chain copies them from its first replica
        make_secret(data / secret, secret.encode().ljust(SECRET_BYTES))
    settings = folder / f"{name}.toml"
    settings.write_text(
        f"data_dir = {json.dumps(str(data))}\n"
        f"[http]\nport = {port}\n"
        f"[mqtt]\nport = {mqtt_port}\n"
        f"[push]\nservice_account = {json.dumps(fcm.where.service_account)}\n"
        f'send_url = "{fcm.where.send_url}"\n'
        f"[database]\nurl = {json.dumps(database)}\nreplicas = true\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "backend", "serve", "--config", str(settings)]
    return Replica(Child(name, command, folder / f"{name}.log"), f"http://{HOST}:{port}")


async def _supervise(replicas: list[Replica]) -> None:
    """Starts again what ended by itself, as systemd would."""
    while True:
        await asyncio.sleep(RESTART_S)
        for replica in replicas:
            if not replica.down and not replica.child.is_running:
                replica.fell += 1
                replica.start()
