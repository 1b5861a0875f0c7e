"""SIGKILL at random points, of gateways most, of broker and receiver now and then; then the reckoning."""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from backend.storage.entries import Entry
from sdk_bridge.wire.codec import decode_up
from sdk_bridge.wire.messages import Batch, Skip
from simulators.broker import RunningBroker, start_broker
from simulators.children import Child
from simulators.endurance.receiver import entries
from simulators.endurance.sender import KEYS, Notes

RATE = 25.0  # seconds stored by a gateway in a second, on average
LIFE_SECONDS = 1.2  # at the most, from a gateway's first commit to its end
STILLBORN = 0.1  # of all gateways die while they start, when the outbox is just being opened
START_SECONDS = 0.5
FIRST_COMMIT_SECONDS = 30.0  # a loaded machine was seen to need three
RECEIVER_EVERY_S = (1.5, 6.0)
BROKER_EVERY_S = (3.0, 10.0)
SHORT_OUTAGE_S = (0.05, 1.0)
LONG_OUTAGE_S = (7.0, 12.0)  # what is fresh becomes backlog after four, by the senders' fast clock
LONG_OUTAGES = 0.25
DRAIN_SECONDS = 120.0


@dataclass(slots=True)
class Reckoning:
    """What the journal holds against what the outboxes had committed; observations are beacon-seconds."""

    committed: int = 0
    held: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    skips: int = 0
    joined_batches: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        killed = ", ".join(f"{count} of a {what}" for what, count in self.kills.items())
        return (
            f"SIGKILLs: {killed}; {self.committed:,} readings committed, {self.held:,} in the journal"
            f" (a kill amid fsync may commit unnoted); {self.out_of_order} out of order, {self.skips} skips,"
            f" {self.joined_batches} joined batches"
        )

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.skips)


class Chain:
    """One gateway: its folder, its process, and how often that was killed."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.name = name
        self.notes = folder / "notes"
        self._folder = folder
        self._port = port
        self._child: Child | None = None
        folder.mkdir(parents=True)

    async def live_and_die(self, dice: Random) -> None:
        """One life, of random length."""
        child = self.start(RATE)
        if dice.random() < STILLBORN:
            await asyncio.sleep(dice.uniform(0, START_SECONDS))
        else:
            await self._first_commit(child)
            await asyncio.sleep(dice.uniform(0, LIFE_SECONDS))
        child.check()
        await child.kill()

    def start(self, rate: float) -> Child:
        words = [str(self._folder), self.name, str(self._port), str(rate)]
        command = [sys.executable, "-m", "simulators.endurance.sender", *words]
        self._child = Child(self.name, command, self._folder / "log")
        self._child.start()
        return self._child

    async def end(self) -> None:
        if self._child is not None and self._child.is_running:
            await self._child.kill()

    async def _first_commit(self, child: Child) -> None:
        before = self._noted_bytes()
        deadline = time.monotonic() + FIRST_COMMIT_SECONDS
        while self._noted_bytes() == before and time.monotonic() < deadline:
            child.check()
            await asyncio.sleep(0.01)

    def _noted_bytes(self) -> int:
        return self.notes.stat().st_size if self.notes.exists() else 0


async def run_kills(
    folder: Path, kills: int, chains: int, seed: int, say: Callable[[str], None]
) -> Reckoning:
    """Kills `kills` gateway processes, of `chains` outboxes side by side; then drains and reckons.

    Raises ChildFailed where a process ended by itself.
    """
    dice = Random(seed)
    async with await start_broker(folder / "broker") as broker:
        gateways = [Chain(folder / f"gw-{n}", f"gw-{n}", broker.port) for n in range(chains)]
        command = [sys.executable, "-m", "simulators.endurance.receiver", str(folder / "journal.db")]
        names = [gateway.name for gateway in gateways]
        receiver = Child("receiver", [*command, str(broker.port), *names], folder / "receiver.log")
        receiver.start()
        reckoning = Reckoning()
        try:
            await _kill_all(gateways, kills, broker, receiver, dice, reckoning, say)
            await _drain(gateways, folder / "journal.db", say)
        finally:
            for gateway in gateways:
                await gateway.end()
            await receiver.stop()
    reckon(await entries(folder / "journal.db"), {g.name: Notes.read(g.notes) for g in gateways}, reckoning)
    return reckoning


async def _kill_all(
    gateways: list[Chain],
    kills: int,
    broker: RunningBroker,
    receiver: Child,
    dice: Random,
    reckoning: Reckoning,
    say: Callable[[str], None],
) -> None:
    left = iter(range(kills))

    async def kill(gateway: Chain, own: Random) -> None:
        for number in left:
            await gateway.live_and_die(own)
            reckoning.kills["gateway"] += 1
            if (number + 1) % 50 == 0:
                say(f"gateways killed {number + 1}/{kills}, {dict(reckoning.kills)}")

    disturbers = [
        asyncio.create_task(_disturb_receiver(receiver, Random(dice.getrandbits(64)), reckoning)),
        asyncio.create_task(_disturb_broker(broker, Random(dice.getrandbits(64)), reckoning)),
    ]
    try:
        async with asyncio.TaskGroup() as tasks:
            for gateway in gateways:
                tasks.create_task(kill(gateway, Random(dice.getrandbits(64))))
    finally:
        for disturber in disturbers:
            disturber.cancel()
        ends = await asyncio.gather(*disturbers, return_exceptions=True)
        if not receiver.is_running:
            receiver.start()
        await broker.start()
    for end in ends:
        if not isinstance(end, asyncio.CancelledError) and isinstance(end, BaseException):
            raise end


async def _disturb_receiver(receiver: Child, dice: Random, reckoning: Reckoning) -> None:
    while True:
        await asyncio.sleep(dice.uniform(*RECEIVER_EVERY_S))
        receiver.check()
        await receiver.kill()
        reckoning.kills["receiver"] += 1
        await asyncio.sleep(_outage(dice))
        receiver.start()


async def _disturb_broker(broker: RunningBroker, dice: Random, reckoning: Reckoning) -> None:
    while True:
        await asyncio.sleep(dice.uniform(*BROKER_EVERY_S))
        await broker.kill()
        reckoning.kills["broker"] += 1
        await asyncio.sleep(_outage(dice))
        await broker.start()


def _outage(dice: Random) -> float:
    return dice.uniform(*(LONG_OUTAGE_S if dice.random() < LONG_OUTAGES else SHORT_OUTAGE_S))


async def _drain(gateways: list[Chain], journal: Path, say: Callable[[str], None]) -> None:
    """Lets every gateway hand on what it has, until the journal holds all that was noted."""
    say("no more kills; what is left drains")
    for gateway in gateways:
        gateway.start(0)
    noted = _expected({gateway.name: Notes.read(gateway.notes) for gateway in gateways})
    until = time.monotonic() + DRAIN_SECONDS  # what is missing then is lost
    while noted - _held(await entries(journal)).keys() and time.monotonic() < until:  # noqa: ASYNC110 - what
        # is waited for happens in other processes
        await asyncio.sleep(0.5)


def reckon(found: Iterable[Entry], noted: dict[str, list[int]], reckoning: Reckoning) -> None:
    """Compares journal and notes, and counts what is wrong."""
    found = list(found)
    held = _held(found)
    expected = _expected(noted)
    reckoning.committed = len(expected) * len(KEYS)
    reckoning.held = held.total()
    reckoning.lost = sum(max(0, len(KEYS) - held[name]) for name in expected)
    reckoning.duplicated = sum(max(0, count - len(KEYS)) for count in held.values())
    reckoning.out_of_order = _out_of_order(found)
    messages = [decode_up(entry.payload) for entry in found]
    reckoning.skips = sum(isinstance(message, Skip) for message in messages)
    reckoning.joined_batches = sum(
        isinstance(message, Batch) and len(message.readings.beacon) > len(KEYS) for message in messages
    )


def _expected(noted: dict[str, list[int]]) -> set[tuple[str, int]]:
    return {(gateway, serial) for gateway, serials in noted.items() for serial in serials}


def _held(found: Iterable[Entry]) -> Counter[tuple[str, int]]:
    """Readings in the journal by gateway and serial number."""
    held: Counter[tuple[str, int]] = Counter()
    for entry in found:
        gateway = entry.source.rpartition("/")[2]
        for serial, count in _serials(entry).items():
            held[gateway, serial] += count
    return held


def _serials(entry: Entry) -> Counter[int]:
    """Readings in an entry by serial number, in its order."""
    message = decode_up(entry.payload)
    if not isinstance(message, Batch):
        return Counter()
    first = message.base_ms // 1000
    return Counter({first + second: n for second, n in Counter(message.readings.second).items()})


def _out_of_order(found: Iterable[Entry]) -> int:
    """Seconds that came after a later one of their lane."""
    latest: dict[tuple[str, str | None], int] = defaultdict(int)
    wrong = 0
    for entry in found:
        lane = (entry.source, entry.lane)
        for serial in _serials(entry):
            wrong += serial < latest[lane]
            latest[lane] = max(latest[lane], serial)
    return wrong
