"""The command `python -m simulators.endurance`: the long runs, each with its progress and a last line."""

import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from simulators.endurance.kills import Reckoning, run_kills
from simulators.endurance.lanes import LEAKED_FILES, Recoveries, run_lanes

main = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Seed = Annotated[int | None, typer.Option(help="Repeats a run; without it, a new one is printed.")]


@main.callback()
def _root() -> None:
    """Long runs that prove endurance; docs/endurance.md tells what each one shows."""


@main.command()
def faults(
    radio: Annotated[int, typer.Option(help="How many radio faults.", min=0)] = 1000,
    kills: Annotated[int, typer.Option(help="How many gateways are killed.", min=0)] = 1000,
    lanes: Annotated[int, typer.Option(help="Radios side by side.", min=1)] = 16,
    chains: Annotated[int, typer.Option(help="Gateways side by side.", min=1)] = 4,
    seed: Seed = None,
) -> None:
    """Radio faults and SIGKILLs: what is heard again, and whether anything is lost or doubled."""
    chosen, folder = _seed(seed), Path(tempfile.mkdtemp(prefix="footfall-faults-"))
    say = _Speaker()

    (folder / "radio").mkdir()

    async def both() -> tuple[Recoveries, Reckoning]:
        async with asyncio.TaskGroup() as tasks:
            heard = tasks.create_task(run_lanes(folder / "radio", radio, lanes, chosen, say))
            held = tasks.create_task(run_kills(folder / "kills", kills, chains, chosen, say))
        return heard.result(), held.result()

    recoveries, reckoning = asyncio.run(both())
    print(*recoveries.table(), sep="\n")
    print(reckoning)
    worst, kind = recoveries.worst
    given_up = sum(lane["given_up"] for lane in recoveries.lanes)
    print(
        f"worst recovery {worst:.1f} s ({kind}); gateways that gave up and began anew: {given_up};"
        f" descriptors leaked: {recoveries.leaked_files}; {say.minutes:.1f} minutes"
    )
    print(
        f"lost {reckoning.lost} duplicated {reckoning.duplicated}"
        f" recovered {recoveries.within_limit}/{recoveries.count}"
    )
    clean = reckoning.is_clean and recoveries.within_limit == recoveries.count == radio
    _end(clean and recoveries.leaked_files <= LEAKED_FILES, folder)


def _seed(seed: int | None) -> int:
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"seed {chosen}", flush=True)
    return chosen


class _Speaker:
    """Progress lines with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    def __call__(self, line: str) -> None:
        print(f"{self.minutes:5.1f} min  {line}", flush=True)


def _end(good: bool, folder: Path) -> None:
    """Leaves the logs where something was wrong."""
    if good:
        shutil.rmtree(folder, ignore_errors=True)
        return
    print(f"what was wrong may be seen in {folder}")
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
