"""The command `python -m simulators.endurance`: the long runs, each with its progress and a last line."""

import asyncio
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from simulators.endurance.density import Crowd, run_crowd
from simulators.endurance.figures import megabytes
from simulators.endurance.fuzz import run_fuzz
from simulators.endurance.kills import Reckoning, run_kills
from simulators.endurance.lanes import LEAKED_FILES, Recoveries, run_lanes
from simulators.endurance.outage import Outage, run_outage

main = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Seed = Annotated[int | None, typer.Option(help="Repeats a run; without it, a new one is printed.")]


@main.callback()
def _root() -> None:
    """Long runs that prove endurance; docs/endurance.md tells what each one shows."""


@main.command()
def faults(
    radio: Annotated[int, typer.Option(help="How many radio faults.", min=0)] = 1000,
    kills: Annotated[int, typer.Option(help="How many gateways are killed.", min=0)] = 1000,
    lanes: Annotated[int, typer.Option(help="Radios side by side.", min=1)] = 24,
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


@main.command()
def outage(
    hours: Annotated[float, typer.Option(help="How long the backend is away.", min=0.1)] = 72.0,
    beacons: Annotated[int, typer.Option(help="How many are heard in every second.", min=1)] = 50,
    max_mb: Annotated[int, typer.Option(help="The outbox's limit.", min=1)] = 256,
) -> None:
    """Days without a backend, compressed: bytes kept and written, and whether all of it comes out again."""
    with tempfile.TemporaryDirectory(prefix="footfall-outage-") as folder:
        wanted = Outage(hours, beacons, max_mb * 1024 * 1024)
        figures = run_outage(wanted, Path(folder) / "outbox.db", _Speaker())
    print(figures)
    lost = figures.readings - figures.drained_readings - figures.skipped_readings
    print(
        f"{figures.bytes_a_reading:.1f} B a reading, {megabytes(figures.outbox_bytes)} in the outbox,"
        f" {megabytes(figures.file_bytes)} on the card; an hour costs {figures.commits / hours:,.0f} commits"
        f" and {megabytes(figures.written_bytes / hours)} written;"
        f" lost {lost}, skipped {figures.skipped_readings}"
    )
    if lost:
        raise typer.Exit(1)


@main.command()
def density(
    beacons: Annotated[int, typer.Option(help="How many beacons.", min=1)] = 1000,
    rate: Annotated[int, typer.Option(help="Adverts of each in a second.", min=1)] = 10,
    seconds: Annotated[int, typer.Option(help="How long.", min=10)] = 3600,
    real_time: Annotated[bool, typer.Option("--real-time", help="As fast as a clock, not faster.")] = False,
) -> None:
    """A crowd of beacons through scanner, listener and outbox: memory stays flat, and what the CPU does."""
    with tempfile.TemporaryDirectory(prefix="footfall-density-") as folder:
        crowd = Crowd(beacons, rate, seconds, real_time)
        figures = asyncio.run(run_crowd(crowd, Path(folder), _Speaker()))
    print(
        f"{figures.adverts:,} adverts, {figures.readings:,} readings in {figures.batches:,} batches,"
        f" {figures.dropped} dropped, {figures.forgotten:,} of strangers forgotten"
    )
    print(
        f"memory {megabytes(min(figures.memory))} to {megabytes(max(figures.memory))}"
        f" (± {figures.swing:.1%}), CPU share {figures.cpu_share:.1%} of one core"
    )
    if not figures.is_flat or figures.dropped:
        raise typer.Exit(1)


@main.command()
def fuzz(
    payloads: Annotated[int, typer.Option(help="How many.", min=1)] = 10_000_000,
    processes: Annotated[int, typer.Option(help="Side by side.", min=1)] = 2,
    seed: Seed = None,
) -> None:
    """Hostile bytes at every door of the gateway and of the wire."""
    findings = run_fuzz(payloads, _seed(seed), processes, _Speaker())
    for name, count in findings.fed.most_common():
        print(f"{name:24} {count:>10,} payloads, {findings.refused[name]:,} refused")
    print(*findings.crashes, sep="\n", end="\n" if findings.crashes else "")
    print(f"payloads {findings.fed.total()} crashes {len(findings.crashes)}")
    if findings.crashes:
        raise typer.Exit(1)


@main.command()
def chaos(
    seconds: Annotated[
        float, typer.Option(help="How long the blows fall; then all of it settles.", min=5)
    ] = 600,
    seed: Seed = None,
) -> None:
    """Replicas, broker and PostgreSQL killed under load while FCM fails: every event and every push once."""
    from simulators.chaos.play import play  # noqa: PLC0415 - a server's dependencies, of no use to the others

    chosen, folder = _seed(seed), Path(tempfile.mkdtemp(prefix="footfall-chaos-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # PostgreSQL would outlive us
    outcome = asyncio.run(play(folder, seconds, chosen, _Speaker()))
    print(*outcome.table(), sep="\n")
    print(outcome.verdict)
    _end(outcome.verdict.is_clean, folder)


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
