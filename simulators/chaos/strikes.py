"""The blows: who is killed when, and in what mood FCM answers. All of it is drawn from one seed."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

import msgspec

from simulators.chaos.stage import Stage
from simulators.fcm_faults import Fault, Faults

CALM_S = (0.5, 3.0)  # between a recovery and the next blow
SHORT_S = (0.1, 2.0)  # how long something is down
DEAD_S = 11.0  # a replica that gave no sign for ten seconds counts as dead: its pushes are taken over
TWO_AT_ONCE = 0.25
LONG_RUN_S = 60.0  # a shorter one has no time for what is slow
SLOW = frozenset({"a replica for long", "429"})  # after a 429 the sender waits for a minute
MOOD_S = (1.5, 4.0)
SOON = 1  # FCM's Retry-After, seconds

MOODS: Mapping[str, Sequence[Fault]] = {
    "clear": (),
    "429": (Fault("quota_exceeded", 0.3, retry_after_s=SOON),),
    "500": (Fault("internal", 0.5),),
    "503": (Fault("unavailable", 0.5, retry_after_s=SOON),),
    "hangs": (Fault("silent", 0.3), Fault("silent_delivered", 0.4)),
    "drops": (Fault("dropped", 0.3), Fault("dropped_delivered", 0.4)),
    "another's answer": (Fault("bad_gateway", 0.3), Fault("bad_gateway_delivered", 0.4)),
    "slow": (Fault("delay", 0.5, delay_ms=3_000),),
    "a bit of everything": (
        Fault("unavailable", 0.1, retry_after_s=SOON),
        Fault("internal", 0.1),
        Fault("dropped", 0.1),
        Fault("dropped_delivered", 0.1),
        Fault("silent_delivered", 0.1),
        Fault("not_json_delivered", 0.1),
    ),
}


@dataclass(slots=True)
class Recoveries:
    """Seconds from a blow until everything worked again, by what was struck."""

    after: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def worst(self) -> tuple[float, str]:
        """The longest, and after what."""
        return max(((max(times), what) for what, times in self.after.items()), default=(0.0, "nothing"))


Strike: TypeAlias = Callable[[Stage, Random], Awaitable[None]]


async def strike_on(stage: Stage, dice: Random, seconds: float, recoveries: Recoveries) -> None:
    """Blow after blow for so long, each kind once before any comes again and at least once; at the end all
    is up. Raises Stuck."""
    thorough = seconds >= LONG_RUN_S
    blows = [what for what in STRIKES if thorough or what not in SLOW]
    missing, order, until = set(blows), list[str](), time.monotonic() + seconds
    while missing or time.monotonic() < until:
        order = order or dice.sample(blows, len(blows))
        struck = [order.pop()]
        missing.discard(struck[0])
        if thorough and dice.random() < TWO_AT_ONCE:
            struck.append(dice.choice(blows))
        began = time.monotonic()
        for what in struck:
            await STRIKES[what](stage, dice)
        await stage.recovered()
        recoveries.after[" and ".join(struck)].append(time.monotonic() - began)
        await _raise_the_dead(stage)
        await asyncio.sleep(dice.uniform(*CALM_S) if thorough else 0)


async def change_moods(stage: Stage, dice: Random, seconds: float) -> None:
    """FCM's mood, a new one every few seconds, each once before any comes again; until cancelled.

    `seconds`: how long the blows fall.
    """
    moods = [mood for mood in MOODS if seconds >= LONG_RUN_S or mood not in SLOW]
    order: list[str] = []
    while True:
        order = order or dice.sample(moods, len(moods))
        await set_mood(stage, order.pop())
        await asyncio.sleep(dice.uniform(*MOOD_S))


async def set_mood(stage: Stage, mood: str) -> None:
    """How FCM answers from now on."""
    await stage.fcm_says("/sim/faults", msgspec.to_builtins(Faults(list(MOODS[mood]))))


async def _kill_replica(stage: Stage, dice: Random) -> None:
    """Back within seconds, as by systemd."""
    replica = dice.choice(stage.replicas)
    stage.kills["replica"] += 1
    await replica.kill()
    await asyncio.sleep(dice.uniform(*SHORT_S))
    replica.start()


async def _bury_replica(stage: Stage, dice: Random) -> None:
    """It stays away until the others have taken over all that was its."""
    if any(replica.down for replica in stage.replicas):
        return
    stage.kills["replica"] += 1
    await dice.choice(stage.replicas).kill()


async def _raise_the_dead(stage: Stage) -> None:
    dead = [replica for replica in stage.replicas if replica.down]
    if dead:
        await asyncio.sleep(DEAD_S)
    for replica in dead:
        replica.start()


async def _kill_broker(stage: Stage, dice: Random) -> None:
    stage.kills["broker"] += 1
    await stage.broker.kill()
    await asyncio.sleep(dice.uniform(*SHORT_S))
    await stage.broker.start()


async def _kill_postgres(stage: Stage, dice: Random) -> None:
    stage.kills["PostgreSQL"] += 1
    await asyncio.to_thread(stage.postgres.kill)
    await asyncio.sleep(dice.uniform(*SHORT_S))
    await asyncio.to_thread(stage.postgres.start)


STRIKES: Mapping[str, Strike] = {
    "a replica": _kill_replica,
    "a replica for long": _bury_replica,
    "the broker": _kill_broker,
    "PostgreSQL": _kill_postgres,
}
