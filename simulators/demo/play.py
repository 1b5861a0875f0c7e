"""Plays the demo: starts every real part, lets the shop live, sees it end, and reckons up."""

import asyncio
import json
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from backend.storage.accounts import read_accounts
from backend.storage.database import StorageError
from sdk_bridge.wire.app_events import PushAddress
from simulators.bluez import FakeBluez
from simulators.broker import RunningBroker, start_broker
from simulators.bus import private_bus
from simulators.children import Child, ChildFailed
from simulators.demo.ledger import Ledger
from simulators.demo.places import STORE, Places
from simulators.demo.reckoning import Evidence, read_deliveries, summary
from simulators.demo.screen import Scene, Screen
from simulators.demo.shopkeeper import Shopkeeper
from simulators.frames import ROTATING
from simulators.phones import AppSource, PhoneFleet, PhoneOwner
from simulators.shop import Shop, Shopper, Zone

ADAPTER = "hci0"
TOKEN_ORIGIN = "(its token was made by: footfall-backend token create --role viewer --name demo-page)"  # noqa: S105
STEP_S = 0.02  # the shop moves on fifty times a second
SCREEN_S = 0.25
START_TIMEOUT_S = 30.0  # two loaded cores import firebase-admin slowly
DRAIN_TIMEOUT_S = 25.0  # after the last advert: the longest back-off of a gateway, and then some
DOWN_S = 1.5  # systemd's RestartSec, more or less
CHAOS_SHARES = (("backend", 0.25), ("broker", 0.45), ("gateway", 0.65))
REFUSING_EVERY = 7  # every seventh shopper said no to being located
STRANGERS = 7  # one of each kind; the last sends rotating ids that nobody registered


@dataclass(frozen=True, slots=True)
class Script:
    """What was asked for. `seconds` None: until Ctrl-C."""

    folder: Path
    seconds: float | None
    seed: int
    chaos: bool
    shoppers: int = 20


@dataclass(slots=True)
class Stage:
    """Everything that runs."""

    script: Script
    places: Places
    shop: Shop
    scene: Scene
    session: aiohttp.ClientSession
    broker: RunningBroker
    fcm: dict[str, str]
    programs: dict[str, Child] = field(default_factory=dict)
    radios: dict[str, FakeBluez] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    url: str = ""
    registered_at: float = 0.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)


async def play(script: Script) -> dict[str, Any]:
    """The whole demo; its figures. Raises ChildFailed when a part of it dies unasked."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    scene = Scene(ends_after_s=script.seconds)
    async with AsyncExitStack() as stack:
        with Screen(scene) as screen:
            scene.tell("starting broker, FCM, backend and three gateways")
            screen.draw()
            stage = await stack.enter_async_context(_set(script, scene))
            stage.stop = stop
            phones = await _open_shop(stage, stack)
            screen.say(f"Live floor: {scene.page}\n{TOKEN_ORIGIN}")
            await run(stage, phones, screen)
            scene.tell("the shop closes; waiting until everything has arrived")
            screen.draw()
            await _drain(stage, phones)
        return await _reckon(stage, phones)


# Setting up ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _set(script: Script, scene: Scene) -> AsyncIterator[Stage]:
    """Every process and every radio, alive inside the context."""
    places = Places(script.folder)
    shop = Shop.demo(script.seed, shoppers=script.shoppers, strangers=STRANGERS)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        broker = await stack.enter_async_context(await start_broker(places.folder / "broker"))
        fcm = _program("fcm", "simulators.fcm_process", places, "--folder", str(places.fcm))
        fcm.start()
        stack.push_async_callback(fcm.stop)
        where = await _fcm_address(places, fcm)
        stage = Stage(script, places, shop, scene, session, broker, where)
        stage.programs["fcm"] = fcm
        stack.push_async_callback(_stop_programs, stage)
        await _start_backend(stage)
        for zone in shop.zones:
            await _hang_up_gateway(stage, stack, zone.gateway.name, zone.beacon_key)
        yield stage


async def _fcm_address(places: Places, fcm: Child) -> dict[str, str]:
    path = places.fcm / "fcm.json"
    async with asyncio.timeout(START_TIMEOUT_S):
        while not path.exists():
            fcm.check()
            await asyncio.sleep(0.05)
    found: dict[str, str] = json.loads(path.read_text("utf-8"))
    return found


async def _start_backend(stage: Stage) -> None:
    port = _free_port()
    stage.url = f"http://127.0.0.1:{port}"
    account = Path(stage.fcm["service_account"])
    stage.places.write_backend(port, stage.broker.port, stage.fcm["send_url"], account)
    backend = _program(
        "backend", "backend", stage.places, "serve", "--config", str(stage.places.backend_config)
    )
    backend.start()
    stage.programs["backend"] = backend
    await _healthy(stage)


async def _healthy(stage: Stage) -> None:
    """Waits until the backend answers and has found the broker."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            stage.programs["backend"].check()
            with suppress(aiohttp.ClientError):
                async with stage.session.get(f"{stage.url}/health") as answer:
                    if (await answer.json())["broker"]:
                        return
            await asyncio.sleep(0.05)


async def _hang_up_gateway(stage: Stage, stack: AsyncExitStack, gateway: str, fixed: str) -> None:
    """A gateway process with a BlueZ of its own on a bus of its own, as on a Pi of its own."""
    bus = await stack.enter_async_context(private_bus())
    stage.radios[gateway] = await stack.enter_async_context(FakeBluez(bus.address, adapters=(ADAPTER,)))
    config = stage.places.write_gateway(
        gateway, stage.broker.port, stage.shop.proximity_uuid, stage.shop.namespace.hex(), [fixed]
    )
    program = _program(
        gateway,
        "gateway",
        stage.places,
        "run",
        "--config",
        str(config),
        environment={"DBUS_SYSTEM_BUS_ADDRESS": bus.address},
    )
    program.start()
    stage.programs[gateway] = program


async def _open_shop(stage: Stage, stack: AsyncExitStack) -> PhoneFleet:
    """Tokens, zones, campaigns and phones; afterwards the gateways are heard and may begin."""
    tokens = (_token(stage, "admin", "demo-setup"), _token(stage, "viewer", "demo-page"))
    token, page_token = await asyncio.gather(*tokens)
    keeper = Shopkeeper(stage.url, token, stage.session)
    zones = {zone.name.lower(): zone.name for zone in stage.shop.zones}
    await keeper.set_up_store(
        STORE,
        zones,
        {zone.gateway.name: _hung(zone) for zone in stage.shop.zones},
        {zone.beacon_key: zone.name.lower() for zone in stage.shop.zones},
    )
    await keeper.start_campaigns(STORE, zones)
    stage.registered_at = time.monotonic()
    for name, key in (await keeper.register_eid_tags(stage.shop.eid_tags)).items():
        stage.shop.shoppers[name].beacon_key = key
    source = await keeper.open_app_source()
    stage.scene.page = f"{stage.url}/floor#token={page_token}"
    phones = await stack.enter_async_context(_fleet(stage, source))
    await _scanning(stage)
    return phones


def _hung(zone: Zone) -> dict[str, Any]:
    """The zone a gateway stands for, and where it hangs."""
    return {"zone_id": zone.name.lower(), "x_m": zone.gateway.at.x, "y_m": zone.gateway.at.y}


def _fleet(stage: Stage, source: Mapping[str, str]) -> PhoneFleet:
    """A phone for every shopper; each keeps its unsent calls on disk, as an app would."""
    app = AppSource(stage.url, source["write_key"], source["proof_secret"])
    owners = [_owner(number, shopper) for number, shopper in enumerate(stage.shop.shoppers.values(), start=1)]
    folder = stage.places.folder / "phones"
    folder.mkdir(exist_ok=True)
    return PhoneFleet(owners, app, stage.fcm["url"], seed=stage.script.seed, queue_folder=folder)


def _owner(number: int, shopper: Shopper) -> PhoneOwner:
    return PhoneOwner(
        user_id=shopper.name,
        device_id=f"phone-{number:03d}",
        push_address=PushAddress("fid" if number % 2 else "token", f"address-of-{shopper.name}-{'x' * 20}"),
        platform="ios" if number % 3 == 0 else "android",
        anonymous_id=f"visitor-{number:03d}",
        beacon_key=shopper.beacon_key,
        consent={"proximity": number % REFUSING_EVERY != 0, "push": True},
        traits={"firstName": shopper.name.replace("shopper-", "Guest ")},
    )


async def _token(stage: Stage, role: str, name: str) -> str:
    """Made as an operator makes it: by the command, beside the running backend."""
    command = [sys.executable, "-m", "backend", "token", "create", "--role", role, "--name", name]
    process = await asyncio.create_subprocess_exec(
        *command, "--config", str(stage.places.backend_config), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise ChildFailed(f"{' '.join(command[1:])} ended with {process.returncode}")
    return out.decode().strip()


async def _scanning(stage: Stage) -> None:
    """Waits until every gateway listens, so that the shop opens to open ears."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while not all(radio.discovering(ADAPTER) for radio in stage.radios.values()):
            for program in stage.programs.values():
                program.check()
            await asyncio.sleep(0.05)


# Running ------------------------------------------------------------------------------------------------


async def run(stage: Stage, phones: PhoneFleet, screen: Screen) -> None:
    """Until the time is up or somebody presses Ctrl-C; whatever fails ends all of it."""
    stage.scene.started = time.monotonic()
    stage.scene.tell("the shop is open")
    async with asyncio.TaskGroup() as group:
        group.create_task(_live(stage))
        showing = group.create_task(_show(stage, phones, screen))
        if stage.script.chaos:
            group.create_task(_chaos(stage))
        with suppress(TimeoutError):
            async with asyncio.timeout(stage.script.seconds):
                await stage.stop.wait()
        stage.stop.set()
        showing.cancel()


async def _live(stage: Stage) -> None:
    """The shop in real time, until it closes: people walk, beacons advertise, radios hear.

    It ends between two steps and is not cancelled: an advert on its way would be heard and not counted.
    """
    shop, start = stage.shop, time.monotonic()
    shop.open_after(start - stage.registered_at)
    listed = shop.known_keys
    while not stage.stop.is_set():
        now = time.monotonic() - start
        for sent in shop.transmissions(now):
            for gateway, rssi in shop.heard_by(sent):
                reached = await stage.radios[gateway].advertise(
                    ADAPTER,
                    sent.address,
                    manufacturer_data=sent.frame.manufacturer_data,
                    service_data=sent.frame.service_data,
                    rssi=rssi,
                )
                if reached and (sent.frame.key in listed or sent.frame.key.startswith(ROTATING)):
                    stage.ledger.heard(f"{STORE}/{gateway}", int(time.monotonic() * 1000))
        shop.advance(now - shop.now_s)
        for name, program in stage.programs.items():
            if name not in stage.scene.down:
                program.check()
        await asyncio.sleep(STEP_S)


async def _show(stage: Stage, phones: PhoneFleet, screen: Screen) -> None:
    token = stage.scene.page.partition("#token=")[2]
    keeper = Shopkeeper(stage.url, token, stage.session)
    while True:
        with suppress(aiohttp.ClientError):  # it may be down on purpose
            stage.scene.floor = await keeper.floor()
        truth = Counter(zone for zone in stage.shop.truth().values() if zone)
        stage.scene.truth = {zone.lower(): count for zone, count in truth.items()}
        stage.scene.outside = len(stage.shop.shoppers) - truth.total()
        stage.scene.adverts, stage.scene.opened = stage.ledger.total, phones.opened
        screen.draw()
        await asyncio.sleep(SCREEN_S)


async def _chaos(stage: Stage) -> None:
    """SIGKILL for the backend, the broker and one gateway, each started again as systemd would.

    Also where the shop closes meanwhile: what a gateway holds when it is killed has to arrive all the same.
    """
    total = stage.script.seconds or 60.0
    dice = random.Random(stage.script.seed)
    for what, share in CHAOS_SHARES:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, stage.scene.started + total * share - time.monotonic())):
                await stage.stop.wait()
        if stage.stop.is_set():
            return
        name = dice.choice(stage.shop.gateways) if what == "gateway" else what
        stage.scene.tell(f"SIGKILL: {name}")
        await _kill(stage, name)
        await asyncio.sleep(DOWN_S)
        await _restart(stage, name)
        stage.scene.tell(f"started again: {name}")


async def _kill(stage: Stage, name: str) -> None:
    stage.scene.down.add(name)
    if name == "broker":
        await stage.broker.kill()
        return
    killed_at = int(time.monotonic() * 1000)
    await stage.programs[name].kill()
    if name in stage.radios:
        async with asyncio.timeout(START_TIMEOUT_S):
            while stage.radios[name].listening(ADAPTER):  # noqa: ASYNC110 - what it hears counts until then
                await asyncio.sleep(0.005)
        stage.ledger.killed(f"{STORE}/{name}", killed_at)


async def _restart(stage: Stage, name: str) -> None:
    if name == "broker":
        await stage.broker.start()
    else:
        stage.programs[name].start()
    stage.scene.down.discard(name)


# Ending -------------------------------------------------------------------------------------------------


async def _drain(stage: Stage, phones: PhoneFleet) -> None:
    """No more adverts: waits until all that was sent has arrived, or for as long as that may take."""
    await phones.settle()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while not _arrived(stage, phones):  # noqa: ASYNC110 - other processes' files give no event
                await asyncio.sleep(0.25)


def _arrived(stage: Stage, phones: PhoneFleet) -> bool:
    try:
        accounts = read_accounts(stage.places.backend_data)
    except StorageError:
        return False
    figures = summary(_evidence(stage, phones), accounts)
    waiting = sum(accounts.pushes.get(state, 0) for state in ("queued", "claimed", "sending"))
    kept = sum(accounts.adverts.values()) + sum(accounts.forgotten.values())
    exact = kept + stage.ledger.in_hand.total() >= stage.ledger.total
    return exact and not figures["lost"] and not waiting


async def _reckon(stage: Stage, phones: PhoneFleet) -> dict[str, Any]:
    """Stops every program first, so that the files say all there is to say."""
    evidence = _evidence(stage, phones)
    await _stop_programs(stage)
    return summary(evidence, read_accounts(stage.places.backend_data))


def _evidence(stage: Stage, phones: PhoneFleet) -> Evidence:
    deliveries = read_deliveries(stage.places.fcm / "messages.jsonl")
    return Evidence(
        ledger=stage.ledger,
        acknowledged=set(phones.acknowledged),
        delivered=[(line["message"]["data"]["push_id"], line["value"]) for line in deliveries],
        promised=[(line["message"]["data"]["campaign_id"], line["value"]) for line in deliveries],
    )


async def _stop_programs(stage: Stage) -> None:
    """Gateways first, so that the backend still takes what they send on their way out."""
    for name in (*stage.radios, "backend"):
        await stage.programs[name].stop()


def _program(
    name: str, module: str, places: Places, *arguments: str, environment: dict[str, str] | None = None
) -> Child:
    command = [sys.executable, "-m", module, *arguments]
    return Child(name, command, places.log(name), environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
