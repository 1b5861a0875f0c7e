"""A seeded schedule of what befalls BlueZ and its bus, and how each fault is done and ended."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, get_args

from simulators.bluez import FakeBluez
from simulators.bluez_adapter import Cure
from simulators.bus import PrivateBus

Kind: TypeAlias = Literal[
    "daemon_restart", "daemon_down", "unplug", "power_off", "hang", "stall", "bus_restart", "bus_down", "hung"
]
EVERY_KIND: tuple[Kind, ...] = get_args(Kind)
KINDS = tuple(kind for kind in EVERY_KIND if kind != "hung")  # those that end with nobody's permission
Sleep: TypeAlias = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, to which adapter, and for how long: until its end, or InProgress after a restart."""

    kind: Kind
    adapter: str
    seconds: float
    cure: Cure = Cure.RESCAN


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: how long faults last, and how long it is calm between them, so that recovery can be seen."""

    lasting: tuple[float, float] = (0.05, 1.0)
    calm: tuple[float, float] = (1.0, 5.0)


CURES = (Cure.RESCAN, Cure.POWER_CYCLE)  # those that need nobody's permission


def schedule(
    seed: int,
    count: int,
    adapters: Sequence[str] = ("hci0",),
    pace: Pace | None = None,
    kinds: Sequence[Kind] = KINDS,
    cures: Sequence[Cure] = CURES,
) -> list[tuple[float, Fault]]:
    """(time in seconds, fault) in order, never two at once. Every kind comes before one comes again."""
    dice, pace = Random(seed), pace or Pace()
    time_s, faults, deck = 0.0, [], list[Kind]()
    for _ in range(count):
        if not deck:
            deck = dice.sample(list(kinds), k=len(kinds))
        time_s += dice.uniform(*pace.calm)
        cure = dice.choice(cures)
        fault = Fault(deck.pop(), dice.choice(adapters), round(dice.uniform(*pace.lasting), 3), cure)
        faults.append((round(time_s, 3), fault))
        time_s += fault.seconds
    return faults


async def inflict(fault: Fault, bluez: FakeBluez, bus: PrivateBus, sleep: Sleep = asyncio.sleep) -> None:
    """Does the fault, lets it last, and ends it; a stall ends only by its cure."""
    await _FAULTS[fault.kind](fault, bluez, bus, sleep)


async def _daemon_restart(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    await bluez.restart_daemon(busy_s=fault.seconds)
    await sleep(fault.seconds)


async def _daemon_down(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    await bluez.stop_daemon()
    try:
        await sleep(fault.seconds)
    finally:
        await bluez.start_daemon()


async def _unplug(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    await bluez.unplug(fault.adapter)
    try:
        await sleep(fault.seconds)
    finally:
        await bluez.replug(fault.adapter)


async def _power_off(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    await bluez.power(fault.adapter, False)
    try:
        await sleep(fault.seconds)
    finally:
        await bluez.power(fault.adapter, True)


async def _hang(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    bluez.hang()
    try:
        await sleep(fault.seconds)
    finally:
        await bluez.unhang()


async def _hung(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    """For good: only a new bluetoothd ends it."""
    bluez.hang()
    await sleep(fault.seconds)


async def _stall(fault: Fault, bluez: FakeBluez, _bus: PrivateBus, sleep: Sleep) -> None:
    bluez.stall(fault.adapter, fault.cure)
    await sleep(fault.seconds)


async def _bus_restart(fault: Fault, bluez: FakeBluez, bus: PrivateBus, sleep: Sleep) -> None:
    await bus.restart()
    await bluez.start_daemon()
    await sleep(fault.seconds)


async def _bus_down(fault: Fault, bluez: FakeBluez, bus: PrivateBus, sleep: Sleep) -> None:
    await bus.kill()
    try:
        await sleep(fault.seconds)
    finally:
        await bus.start()
        await bluez.start_daemon()


_FAULTS: dict[Kind, Callable[[Fault, FakeBluez, PrivateBus, Sleep], Awaitable[None]]] = {
    "daemon_restart": _daemon_restart,
    "daemon_down": _daemon_down,
    "unplug": _unplug,
    "power_off": _power_off,
    "hang": _hang,
    "hung": _hung,
    "stall": _stall,
    "bus_restart": _bus_restart,
    "bus_down": _bus_down,
}
