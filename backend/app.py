"""Joins the backend's parts into one process; a part that dies ends it, and systemd starts it again."""

import asyncio
import fcntl
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import aiohttp
import msgspec
import structlog
from aiohttp import web

from backend import garbage
from backend.api.dead_letters import LETTERS
from backend.api.eid import EID, EidRegistrar
from backend.api.erasures import ERASER
from backend.api.errors import answer_errors
from backend.api.fleet import FLEET, Fleet
from backend.api.host import Host
from backend.api.imports import IMPORTS
from backend.api.previews import VALIDATOR
from backend.api.retention import RETENTION
from backend.api.rfm import SCORER
from backend.api.server import build
from backend.clock import unix_ms
from backend.config import AUTHORITY_FOLDER, JOURNAL_FILE, STATE_FILE, Config
from backend.custody import Custody
from backend.dead_letters import DeadLetterDesk, Stores
from backend.eid_desk import EidDesk
from backend.erased_elsewhere import OTHERS_KNOW_MS, ErasedElsewhere
from backend.eraser import Eraser, GuardedJournal, Places
from backend.fleet.authority import DAY_MS
from backend.fleet.configurations import ConfigurationPublisher
from backend.fleet.keys import open_keys
from backend.fold import Fold
from backend.identity_proofs import open_proofs
from backend.import_desk import ImportDesk
from backend.ingest import Ingest
from backend.listening import Listening
from backend.profiles.erasure import ErasureKeys, Tombstones
from backend.proximity.eid_keys import open_eid_keys
from backend.push.fcm import FcmClient, FcmSettings, open_fcm
from backend.push.sender import Guards, PushSender, Rim
from backend.retention import Retention
from backend.scoring import Scorer
from backend.secret_file import SECRET_BYTES, SecretUnusable, kept_secret
from backend.storage.database import SqliteFile
from backend.storage.eid import EidRows, any_registered
from backend.storage.erasure import has_key, is_key
from backend.storage.fleet import newest_configurations
from backend.storage.journal import Journal
from backend.storage.offers import SendChecks, objection_to
from backend.storage.opening import open_area, open_replica
from backend.storage.ownership import Ownership, Sole
from backend.storage.places import StoredPlaces
from backend.storage.pushes import PushStore
from backend.storage.session import Database, StorageError
from backend.storage.sources import StoredSources
from backend.storage.wipe import SqliteWiper
from sdk_bridge.server.answers import tell_of_nowhere
from sdk_bridge.server.app import Bridge

if TYPE_CHECKING:
    from backend.replicas import Replica

log = structlog.get_logger()

MAX_LINE_BYTES = 64 * 1024  # a pixel's address carries a whole event, and must be answered with the image
HOUSEKEEPING_S = 3600.0
RECOVER_EVERY_S = 3.0  # how late a dead replica's pushes are found, once it counts as dead
SOURCES_MS = 1_000  # how late what another process changed about write keys may act
SENDER_STOP_S = 5.0  # an answer that takes longer leaves its push `unknown`


class AlreadyRunning(RuntimeError):
    """Another backend uses this data folder; with SQLite one process owns everything."""


class CannotListen(RuntimeError):
    """The address that the settings name cannot be listened on; the text names the keys."""


@dataclass(frozen=True, slots=True)
class Running:
    """A backend that serves: where it listens."""

    host: str
    port: int
    scheme: str = "http"


async def serve(
    config: Config, ready: Callable[[Running], None] | None = None, *, only_bridge: bool = False
) -> None:
    """Runs until SIGTERM or SIGINT. Raises AlreadyRunning, StorageError, OSError when it cannot start.

    With `only_bridge` the process takes events into the same journal, for a backend beside it to fold.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    whole = bridge_alone(config) if only_bridge else running(config)
    async with whole as (backend, parts):
        garbage.settle()
        if ready is not None:
            ready(backend)
        log.info("serving", url=f"{backend.scheme}://{backend.host}:{backend.port}")
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({stopped, *parts}, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()  # raises what ended it
                    raise RuntimeError(f"{part.get_name()} ended by itself")
        finally:
            stopped.cancel()
    log.info("stopped")


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[Running, set[asyncio.Task[None]]]]:
    """The whole backend, alive inside the context; the tasks are its parts."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_OnlyOwner(config.folder))
        url = config.database.url
        journal_file = await stack.enter_async_context(
            open_area(url, config.folder / JOURNAL_FILE, "journal")
        )
        client_id = f"footfall-backend-{os.getpid()}-{os.urandom(4).hex()}"
        state, replica, ownership = await _open_state(stack, config, client_id)
        journal = Journal(journal_file, unix_ms)
        custody = Custody(await journal.load())
        ingest = Ingest(config.mqtt.broker(client_id), journal, custody, unix_ms)

        def listen(listening: Listening) -> None:
            ingest.listening = listening

        erasure_keys, tombstones = await _erasure_keys(config, state)
        fold = Fold(journal, state, unix_ms, on_listening=listen, tombstones=tombstones, ownership=ownership)
        await fold.load()
        eids = await _eids(config, state)
        ingest.resolver = eids.desk
        stack.push_async_callback(eids.desk.close)
        fcm = await _fcm(stack, config)
        sender = None if fcm is None else _sender(config, state, fold, fcm, client_id)
        if sender is not None:
            fold.on_pushes = sender.wake
        door = GuardedJournal(journal, tombstones)
        sources = StoredSources(state, unix_ms, known_for_ms=SOURCES_MS)
        bridge = await _bridge(stack, config, door, state, sources)

        def changed() -> None:
            sources.forget()
            fold.refresh()

        host = Host(
            state=state,
            journal=journal_file,
            now_ms=unix_ms,
            changed=changed,
            health=lambda: _health(ingest, fold, ownership),
            tally=lambda: {
                "bridge": bridge.tally,
                "gateways": ingest.counts,
                "traits_left_out": fold.traits_left_out,
            },
        )
        app = build(host, bridge.add_to)
        fleet = app[FLEET] = await _fleet(config, state, ingest)
        app[EID] = eids
        if fcm is not None:
            app[VALIDATOR] = fcm
        letters = app[LETTERS] = DeadLetterDesk(Stores(journal, journal_file, state), ingest, unix_ms)
        app[IMPORTS] = ImportDesk(state, door, fold, unix_ms)
        wipers = _wipers(state, journal_file)
        places = Places(state, journal_file, journal, fold, config.folder, *wipers, OTHERS_KNOW_MS)
        eraser = app[ERASER] = Eraser(places, erasure_keys, tombstones, unix_ms)
        eraser.on_tags_gone = eids.desk.all_removed
        scorer = app[SCORER] = Scorer(
            state, unix_ms, changed=fold.refresh, leads=lambda: ownership.holding.leads
        )
        if replica is not None:
            replica.on_change, replica.on_lead = changed, eraser.wake
            replica.on_audit = eids.desk.changed
        retention = app[RETENTION] = Retention(state, msgspec.structs.asdict(config.retention), unix_ms)
        parts = {
            asyncio.create_task(part, name=name)
            for name, part in (
                ("journal", journal.run()),
                ("fold", fold.run()),
                ("eraser", eraser.run()),
                ("eid tables", eids.desk.run()),
                ("ingest", ingest.run()),
                ("housekeeping", _led(replica, ownership, partial(_housekeeping, journal))),
                ("dead letters", _led(replica, ownership, letters.run)),
                ("scores", scorer.run()),
                ("retention", retention.run()),
                ("configurations", fleet.publisher.run()),
                *((("sender", sender.run()),) if sender else ()),
                *((("replica", replica.run()),) if replica else ()),
            )
        }
        stack.push_async_callback(_end, parts, ingest, sender)
        yield await _listen(stack, app, config), parts


async def _open_state(
    stack: AsyncExitStack, config: Config, replica_id: str
) -> tuple[Database, "Replica | None", Ownership]:
    """The state: ours alone, or with `database.replicas` shared, partition by partition."""
    url = config.database.url
    if url is None or not config.database.replicas:
        state = await stack.enter_async_context(
            open_area(url, config.folder / STATE_FILE, "state", owner=True)
        )
        if url is not None:
            await state.write(lambda _: None)  # the lock first: whoever is second shall hear just that
        return state, None, Sole()
    from backend.replicas import Replica  # noqa: PLC0415 - asyncpg, which most shops have not
    from backend.storage.postgres.ownership import ReplicaOwnership  # noqa: PLC0415 - as above

    ownership = ReplicaOwnership(replica_id, f"{config.http.host}:{config.http.port}")
    shared = await stack.enter_async_context(open_replica(url, ownership))
    replica = Replica(shared, ownership, unix_ms)
    stack.push_async_callback(replica.leave)
    return shared, replica, ownership


def _led(
    replica: "Replica | None", ownership: Ownership, part: Callable[[], Coroutine[Any, Any, None]]
) -> Coroutine[Any, Any, None]:
    """What one replica does for all."""
    if replica is None:
        return part()
    from backend.replicas import while_leading  # noqa: PLC0415 - as above

    return while_leading(lambda: ownership.holding.leads, part)


@asynccontextmanager
async def bridge_alone(config: Config) -> AsyncIterator[tuple[Running, set[asyncio.Task[None]]]]:
    """Only the bridge, as many as are wanted, beside the backend that folds.

    With files it lives in the backend's data folder, and both append to one journal.
    """
    url = config.database.url
    async with AsyncExitStack() as stack:
        journal_file = await stack.enter_async_context(
            open_area(url, config.folder / JOURNAL_FILE, "journal")
        )
        state = await stack.enter_async_context(open_area(url, config.folder / STATE_FILE, "state"))
        journal = Journal(journal_file, unix_ms)
        await journal.load()
        app = web.Application(middlewares=[answer_errors, tell_of_nowhere])
        sources = StoredSources(state, unix_ms, known_for_ms=SOURCES_MS)
        door = await _door_of_others(config, journal, state)
        (await _bridge(stack, config, door, state, sources)).add_to(app)
        app.router.add_get("/health", _bridge_health)
        parts = {asyncio.create_task(journal.run(), name="journal")}
        stack.push_async_callback(_cancel, parts)
        yield await _listen(stack, app, config), parts


async def _door_of_others(config: Config, journal: Journal, state: Database) -> GuardedJournal | Journal:
    """Refuses whom the backend erased. With PostgreSQL where its secret was copied; else the fold does."""
    if config.database.url is not None and not config.erasure_key_file.exists():
        return journal
    _, tombstones = await _erasure_keys(config, state)
    others = ErasedElsewhere(state, tombstones, lambda: time.monotonic_ns() // 1_000_000)
    return GuardedJournal(journal, tombstones, others.look)


async def _bridge_health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _cancel(parts: set[asyncio.Task[None]]) -> None:
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)


async def _bridge(
    stack: AsyncExitStack,
    config: Config,
    journal: GuardedJournal | Journal,
    state: Database,
    sources: StoredSources,
) -> Bridge:
    places = StoredPlaces(state, unix_ms)
    http = await stack.enter_async_context(aiohttp.ClientSession())
    proofs = await open_proofs(config, state, http)
    return Bridge(
        journal,
        sources,
        unix_ms,
        beacons=places,
        places=places,
        id_tokens=proofs.id_tokens,
        links=proofs.links,
    )


async def _fcm(stack: AsyncExitStack, config: Config) -> FcmClient | None:
    if config.push is None:
        log.warning("no_push", hint="without [push] in the settings no offer is ever sent")
        return None
    settings = FcmSettings(Path(config.push.service_account), send_url=config.push.send_url)
    return await stack.enter_async_context(open_fcm(settings))


def _sender(config: Config, state: Database, fold: Fold, fcm: FcmClient, owner: str) -> PushSender:
    guards = Guards(may_send=SendChecks(state), caught_up=fold)
    every_s = RECOVER_EVERY_S if config.database.replicas else None
    rim = Rim(owner, unix_ms, random.random)
    return PushSender(PushStore(state, objection_to), fcm, guards, rim, recover_every_s=every_s)


async def _fleet(config: Config, state: Database, ingest: Ingest) -> Fleet:
    keys = await asyncio.to_thread(open_keys, config.folder / AUTHORITY_FOLDER, unix_ms())
    publisher = ConfigurationPublisher(lambda: state.read(newest_configurations), ingest.publish_retained)
    ingest.on_connected = publisher.connected
    life_ms = config.fleet.certificate_days * DAY_MS
    fleet = Fleet.of(keys, publisher, config.broker_for_gateways, life_ms)
    await fleet.write_revocations(state, unix_ms())
    return fleet


async def _eids(config: Config, state: Database) -> EidRegistrar:
    """A new secret is made only while there is no key that the lost one would have to open."""
    may_make = config.eid.key_file is None and not await state.read(any_registered)
    keys = await asyncio.to_thread(open_eid_keys, config.eid_key_file, may_make=may_make)
    desk = EidDesk(EidRows(state), keys.wrap, unix_ms)
    await desk.load()
    return EidRegistrar(keys, desk)


_FROM_ELSEWHERE = "copy it from the backup, or from another replica: it tells whose past to refuse"


async def _erasure_keys(config: Config, state: Database) -> tuple[ErasureKeys, Tombstones]:
    """A secret is made once for a database: another could not tell whom to refuse."""
    path = config.erasure_key_file
    if not path.exists() and await state.read(has_key) and not path.exists():  # nor made meanwhile, beside us
        raise SecretUnusable(f"{path} is not there; {_FROM_ELSEWHERE}")
    secret = await asyncio.to_thread(kept_secret, path, partial(os.urandom, SECRET_BYTES))
    keys = ErasureKeys(secret)
    if not await state.write(lambda session: is_key(session, keys)):
        raise SecretUnusable(f"{path} is not the one of this database; {_FROM_ELSEWHERE}")
    return keys, Tombstones(keys.digest)


def _wipers(state: Database, journal: Database) -> tuple[SqliteWiper | None, SqliteWiper | None]:
    """The journal is never built anew, for senders would wait; PostgreSQL's VACUUM does all of it."""
    return (
        SqliteWiper(state, may_rebuild=True) if isinstance(state, SqliteFile) else None,
        SqliteWiper(journal, may_rebuild=False) if isinstance(journal, SqliteFile) else None,
    )


async def _listen(stack: AsyncExitStack, app: web.Application, config: Config) -> Running:
    # Whoever reads a body unpacks it, within its limit: aiohttp would unpack a bomb to its end, to ignore it.
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=2.0,
        auto_decompress=False,
        max_line_size=MAX_LINE_BYTES,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        listener = socket.create_server((config.http.host, config.http.port), backlog=512, reuse_port=False)
    except OSError as error:
        raise CannotListen(
            f"http.host, http.port: {error}; an address of this machine, a free port"
        ) from error
    await web.SockSite(runner, listener, ssl_context=config.http.tls()).start()
    scheme = "http" if config.http.certificate is None else "https"
    return Running(config.http.host, listener.getsockname()[1], scheme)


async def _housekeeping(journal: Journal) -> None:
    while True:
        try:
            await journal.forget_old_messages()
        except StorageError as error:  # a full disk is no reason to end; an hour later it may have room
            log.warning("housekeeping_failed", error=str(error))
        await asyncio.sleep(HOUSEKEEPING_S)


async def _end(parts: set[asyncio.Task[None]], ingest: Ingest, sender: PushSender | None) -> None:
    """Lets what was taken reach the disk and what is on its way to FCM be answered, then stops every part."""
    await ingest.drain()
    if sender is not None:
        sender.stop()
        sending = [part for part in parts if part.get_name() == "sender"]
        await asyncio.wait(sending, timeout=SENDER_STOP_S)
    await _cancel(parts)


def _health(ingest: Ingest, fold: Fold, ownership: Ownership) -> dict[str, Any]:
    partitions = ownership.holding.partitions
    shared = {} if partitions is None else {"partitions": len(partitions)}
    return {**shared, "status": "ok", "broker": ingest.connected, "fold_behind": fold.behind}


class _OnlyOwner:
    """Holds the data folder's lock for the life of the process; the kernel frees it, also after SIGKILL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            self._file = (self._folder / "owner.lock").open("a+")
        except OSError as error:
            raise StorageError(f"data_dir: {error}; it may be a folder that we may write to") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise AlreadyRunning(
                f"data_dir: {self._folder} is in use by another backend; each needs a folder of its own"
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
