"""What operators ask a gateway for: `doctor`, `status`, `record` and `replay` of `footfall-gateway`."""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec
import typer

from gateway.clock import SystemClock
from gateway.config import Config, ConfigError, load
from gateway.log import set_up

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
DEFAULT_CONFIG: Final = Path("/etc/footfall/gateway.toml")
PROGRESS_SECONDS: Final = 0.2
MEGABYTE: Final = 1024 * 1024

ConfigFile = Annotated[Path, typer.Option("--config", help="The gateway's TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def doctor(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Look for what keeps this gateway from hearing or telling, and say how to mend it.

    Exits 1 unless all is ok.
    """
    from gateway import doctor as examination  # noqa: PLC0415 - the others need neither D-Bus nor cryptography

    set_up("error", "auto")
    verdicts = examination.examine(config, SystemClock.of_this_machine())
    if as_json:
        _say(json.dumps(examination.as_object(verdicts), ensure_ascii=False, indent=2))
    else:
        _say("\n".join(examination.as_lines(verdicts)))
    raise typer.Exit(0 if examination.healthy(verdicts) else EXIT_FAILED)


def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Ask the running gateway how it does. Exits 1 where none answers."""
    from gateway.status import NoStatus, as_table, ask  # noqa: PLC0415 - as above

    try:
        answer = ask(_load(config).data_dir)
    except NoStatus as error:
        _end(str(error), EXIT_FAILED)
    _say(msgspec.json.format(msgspec.json.encode(answer)).decode() if as_json else as_table(answer))


def record(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="The new file; it must not be there yet.")],
    seconds: Annotated[float | None, typer.Option(help="End after so long; else Ctrl-C ends.", min=1)] = None,
    max_mb: Annotated[int, typer.Option(help="End when the file has so many megabytes.", min=1)] = 1024,
) -> None:
    """Record what the radio hears, as far as the allow-list lets it through. The gateway must be stopped."""
    from gateway.app import AlreadyRunning, only_one  # noqa: PLC0415 - bleak takes half a second on a Pi
    from gateway.outbox import OutboxUnavailable  # noqa: PLC0415
    from gateway.record import CaptureNotWritten, create  # noqa: PLC0415
    from gateway.scanner import RadiosLost  # noqa: PLC0415

    settings = _load(config)
    try:
        with only_one(settings.data_dir), create(out) as file:
            figures = asyncio.run(_record(settings, file, seconds, max_mb * MEGABYTE))
    except AlreadyRunning:
        _end("the gateway runs and has the radio; stop it first: sudo systemctl stop footfall-gateway", 1)
    except (CaptureNotWritten, OutboxUnavailable, RadiosLost) as error:
        _end(f"not recorded: {error}", EXIT_FAILED)
    _say("\n".join(f"{name}: {value}" for name, value in figures.items()))


async def _record(settings: Config, file: Any, seconds: float | None, max_bytes: int) -> dict[str, object]:
    from gateway import record as recording  # noqa: PLC0415 - as above

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    made = await recording.record(settings, SystemClock.of_this_machine(), file, stop, max_bytes=max_bytes)
    decided = made.decisions
    return {
        "recorded": made.recorded,
        "forgotten": made.forgotten,
        "dropped": made.dropped,
        "batches": decided.batches,
        "entered": decided.entered,
        "left": decided.left,
        "digest": decided.digest,
    }


def replay(
    capture: Annotated[Path, typer.Argument(help="What `record` or `footfall-sim capture` wrote.")],
    config: ConfigFile,
    as_json: AsJson = False,
) -> None:
    """Decide again on what was recorded: the batches (with --json) and who came into range and left it."""
    from gateway.capture import CaptureError, CaptureReader  # noqa: PLC0415 - bleak takes half a second
    from gateway.replay import Replay  # noqa: PLC0415

    settings = _load(config)
    try:
        with capture.open("rb") as file:
            run = Replay(CaptureReader(file), settings.allow, settings.presence)
            progress = _Progress(capture.stat().st_size)
            for batch in run.batches(progress):
                _say_batch(run, batch, as_json)
            progress.end()
    except (CaptureError, OSError) as error:
        _end(f"{capture}: {error}", EXIT_FAILED)
    figures = run.summary()
    if as_json:
        _say(json.dumps({"type": "summary", **figures}))
    else:
        _say("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()))


def _say_batch(run: Any, batch: Any, as_json: bool) -> None:
    from sdk_bridge.wire.codec import to_json_object  # noqa: PLC0415 - as above

    if as_json:
        _say(json.dumps(to_json_object(batch), separators=(",", ":")))
        return
    for change in batch.ranges:
        word = "in range " if change.near else "has left "
        _say(f"{run.moment(batch.base_ms + change.after_ms)}  {word} {batch.keys[change.beacon]}")


class _Progress:
    """How far a replay is, on a terminal; elsewhere it would only stand in the way."""

    def __init__(self, size: int) -> None:
        self._size = max(size, 1)
        self._told = time.monotonic()
        self._shown = sys.stderr.isatty()

    def __call__(self, run: Any) -> None:
        now = time.monotonic()
        if self._shown and now - self._told >= PROGRESS_SECONDS:
            self._told = now
            part = 100 * run.reader.position // self._size
            sys.stderr.write(f"\r{part:3d} %  {run.moment(run.now_ms)}  {run.adverts} adverts\033[K")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def add_commands(app: typer.Typer) -> None:
    """Puts the commands into the gateway's own."""
    for command in (doctor, status, record, replay):
        app.command()(command)


def _load(path: Path) -> Config:
    set_up("warning", "auto")  # on standard error: what is printed belongs to the command
    try:
        return load(path)
    except ConfigError as error:
        _end(str(error), EXIT_CONFIG)


def _say(text: str) -> None:
    typer.echo(text)


def _end(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
