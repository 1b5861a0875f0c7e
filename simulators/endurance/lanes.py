"""A thousand radio faults over several lanes, each a process; how long until each radio was heard again.

The lanes take turns in what they hear: a fixed beacon that the configuration lists, a crowd, a single tag.
"""

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulators.children import ChildFailed, tied_to_us
from simulators.endurance.radio import LIMIT_SECONDS, SHOPS

LEAKED_FILES = 8  # a lane may end with so many more descriptors than it began with; a leak makes hundreds


@dataclass(slots=True)
class Recoveries:
    """Seconds from a fault's first moment until the radio was heard again, by kind of fault."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    never: list[str] = field(default_factory=list)
    lanes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.seconds.values())) + len(self.never)

    @property
    def within_limit(self) -> int:
        return sum(value <= LIMIT_SECONDS for values in self.seconds.values() for value in values)

    @property
    def worst(self) -> tuple[float, str]:
        """Seconds and kind of the slowest recovery."""
        return max(((max(values), kind) for kind, values in self.seconds.items()), default=(0.0, "none"))

    @property
    def leaked_files(self) -> int:
        return max((lane["more_files"] for lane in self.lanes), default=0)

    def table(self) -> list[str]:
        rows = [
            (kind, len(v), sorted(v)[len(v) // 2], max(v)) for kind, v in sorted(self.seconds.items()) if v
        ]
        return [
            f"{kind:24} {count:4} faults, heard again after {median:5.1f} s (median), {worst:5.1f} s (worst)"
            for kind, count, median, worst in rows
        ]


@dataclass(frozen=True, slots=True)
class Lane:
    """One process: where its log goes, how it draws lots, how many faults, and in which shop."""

    log: Path
    seed: int
    count: int
    shop: str
    silence_s: int | None

    @property
    def command(self) -> list[str]:
        words = [str(self.seed), str(self.count), self.shop]
        shortened = [] if self.silence_s is None else [str(self.silence_s)]
        return [sys.executable, "-m", "simulators.endurance.radio", *words, *shortened]


async def run_lanes(
    folder: Path,
    faults: int,
    lanes: int,
    seed: int,
    say: Callable[[str], None],
    silence_s: int | None = None,
) -> Recoveries:
    """Plays `faults` in all. Lane n has the seed `seed` + n. Raises ChildFailed where a lane broke down.

    The lanes' logs go to `folder`, which must exist. `silence_s` is for tests that cannot wait; without it
    everything is as the gateway comes.
    """
    recoveries = Recoveries()
    share, more = divmod(faults, lanes)
    shops = list(SHOPS)
    async with asyncio.TaskGroup() as tasks:
        for n in range(lanes):
            log, shop = folder / f"lane-{n}.log", shops[n % len(shops)]
            lane = Lane(log, seed + n, share + (n < more), shop, silence_s)
            tasks.create_task(_run(lane, recoveries, faults, say))
    return recoveries


async def _run(lane: Lane, recoveries: Recoveries, faults: int, say: Callable[[str], None]) -> None:
    command = lane.command
    with lane.log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *tied_to_us(command), stdout=subprocess.PIPE, stderr=errors
        )
    try:
        while line := await _line_of(process):
            _take(json.loads(line), recoveries, lane)
            if recoveries.count and recoveries.count % 50 == 0:
                say(f"radio faults {recoveries.count}/{faults}, worst so far {recoveries.worst[0]:.1f} s")
        if await process.wait():
            raise ChildFailed(f"the lane of seed {lane.seed} ended with {process.returncode}: see {lane.log}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _line_of(process: asyncio.subprocess.Process) -> bytes:
    return await process.stdout.readline() if process.stdout is not None else b""


def _take(fact: dict[str, Any], recoveries: Recoveries, lane: Lane) -> None:
    if "kind" not in fact:
        recoveries.lanes.append(fact)
    elif fact["recovered_s"] is None:
        recoveries.never.append(f"{fact['kind']}, {lane.shop} (seed {lane.seed})")
    else:
        recoveries.seconds[fact["kind"]].append(fact["recovered_s"])
