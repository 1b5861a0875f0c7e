"""The command `footfall-sim`."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from simulators.broker import BrokerFailed, BrokerMissing
from simulators.bus import BusError
from simulators.children import ChildFailed

main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Simulated beacons, shops, shoppers, phones, BlueZ and FCM, for testers without hardware.",
)


@main.callback()
def _root() -> None:
    """Keeps `demo` a command of its own while it is the only one."""


@main.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(help="End after so long; without it, Ctrl-C ends.", min=5)
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same shop.")] = 1,
    shoppers: Annotated[int, typer.Option(help="How many people have the app.", min=1, max=200)] = 20,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="SIGKILL the backend, the broker and a gateway while it runs.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep databases, logs and settings here; else they are deleted.")
    ] = None,
) -> None:
    """A shop with every real part: broker, backend, three gateways, FCM and shoppers with phones.

    Prints the address of the live floor, shows who is where, and ends with what came of it. Exits 1 when
    anything was lost or doubled.
    """
    from simulators.demo.play import Script, play  # noqa: PLC0415 - a second of imports that --help can spare

    if json_file is not None:
        _must_be_writable(json_file)
    where = folder or Path(tempfile.mkdtemp(prefix="footfall-demo-"))
    try:
        figures = uvloop.run(play(Script(where.absolute(), seconds, seed, chaos, shoppers)))
    except (BrokerMissing, BrokerFailed, BusError, ChildFailed, TimeoutError) as error:
        print(f"The demo could not go on: {error}\nIts logs: {where / 'logs'}", file=sys.stderr)
        raise typer.Exit(1) from error
    if folder is None:
        shutil.rmtree(where, ignore_errors=True)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _print_summary(figures)
    if figures["lost"] or figures["duplicates"]:
        raise typer.Exit(1)


@main.command()
def capture(
    out: Annotated[Path, typer.Option(help="The new file; the configuration to replay with lies beside it.")],
    seconds: Annotated[float, typer.Option(help="How much of the shop's day.", min=1, max=7 * 86400)],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    gateway: Annotated[str | None, typer.Option(help="Whose radio; the first one's without.")] = None,
) -> None:
    """What one gateway of the simulated shop would have recorded, for `footfall-gateway replay`."""
    from gateway.record import CaptureNotWritten  # noqa: PLC0415 - imports that --help can spare
    from simulators.capture import write_capture  # noqa: PLC0415

    try:
        made = write_capture(seed, seconds, out, gateway, _progress(seconds))
    except (CaptureNotWritten, ValueError) as error:
        print(f"not captured: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{out}: {made.recorded} adverts of {made.gateway}, and {made.forgotten} of strangers, counted")
    print(f"a replay comes to {made.decisions.batches} batches with the digest {made.decisions.digest}")
    print(f"footfall-gateway replay {out} --config {out}.toml")


@main.command("evaluate-zones")
def evaluate_zones(
    dataset: Annotated[Path, typer.Option(help="A folder with receivers.csv and track_*.csv.")],
    receivers: Annotated[str, typer.Option(help="Who listens: `gateways`, or `all` receivers.")] = "gateways",
    as_json: Annotated[bool, typer.Option("--json", help="All figures, for programs.")] = False,
) -> None:
    """How often the production zone engine is right on real recordings, beside other projects' rules.

    Each second it says which gateway is nearest, told only what the receivers heard and where they hang.
    """
    from simulators.evaluate_zones import (  # noqa: PLC0415 - imports that --help can spare
        DatasetError,
        evaluate,
        table,
    )

    if receivers not in ("gateways", "all"):
        print(f"--receivers: {receivers} is unknown; it may be gateways or all", file=sys.stderr)
        raise typer.Exit(2)
    try:
        report = evaluate(dataset, "all" if receivers == "all" else "gateways")
    except DatasetError as error:
        print(f"not evaluated: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(json.dumps(report.figures(), indent=2, ensure_ascii=False) if as_json else table(report))


def _must_be_writable(path: Path) -> None:
    """Said before the shop opens, not after it has closed."""
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        print(f"--json: {path} cannot be written; it may be a file in a folder of yours", file=sys.stderr)
        raise typer.Exit(2)


def _progress(seconds: float) -> Callable[[float], None]:
    """How far it is, on a terminal."""
    shown = sys.stderr.isatty()

    def show(now_s: float) -> None:
        if shown and now_s % 60 == 0:
            sys.stderr.write(f"\r{100 * now_s / seconds:3.0f} %\033[K" + ("\r" if now_s >= seconds else ""))
            sys.stderr.flush()

    return show


def _print_summary(figures: dict[str, Any]) -> None:
    table = Table(title="What came of it", show_header=False)
    for name, value in figures.items():
        bad = name in ("lost", "duplicates") and value
        table.add_row(name.replace("_", " "), str(value), style="bold red" if bad else None)
    Console().print(table)


if __name__ == "__main__":
    main()
