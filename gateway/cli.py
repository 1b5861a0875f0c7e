"""The command `footfall-gateway`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import structlog
import typer

from gateway import VERSION
from gateway.cli_operate import add_commands
from gateway.clock import SystemClock
from gateway.config import KEYS, Config, ConfigError, load
from gateway.log import configure, tell_held_back
from sdk_bridge.wire.codec import WireError

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
EXIT_RADIO: Final = 3  # systemd starts a new process, with a new D-Bus connection

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="A shop's Bluetooth gateway.")
ConfigFile = Annotated[Path, typer.Option("--config", help="The gateway's TOML file.")]


@app.command()
def run(config: ConfigFile) -> None:
    """Hear beacons and hand on what was heard, until SIGTERM."""
    settings = _load(config)
    configure(settings.log.level, settings.log.format, version=VERSION, gateway=settings.address.gateway)
    raise typer.Exit(_run(settings, config))


@app.command()
def enroll(
    backend: Annotated[str, typer.Option(help="The backend's address, https://…")],
    token: Annotated[
        str,
        typer.Option(
            help="The one-time token; - reads it from standard input.", envvar="FOOTFALL_ENROL_TOKEN"
        ),
    ],
    config: ConfigFile,
    insecure: Annotated[bool, typer.Option(help="Allow http:// beyond this machine.")] = False,
) -> None:
    """Make a key, get this gateway's certificate for it, and keep both in `identity` of the data folder."""
    from gateway.certificate import KnownTime  # noqa: PLC0415 - the other commands need no cryptography
    from gateway.enrol import Backend, EnrolmentFailed, enrol  # noqa: PLC0415
    from gateway.identity import IdentityUnusable  # noqa: PLC0415
    from sdk_bridge.wire.enrolment import EnrolmentToken  # noqa: PLC0415

    settings = _load(config)
    try:
        from_input = token == "-"  # noqa: S105 - a dash, not a secret
        given = EnrolmentToken.parse(sys.stdin.read(1024) if from_input else token)
        time = KnownTime(settings.data_dir, SystemClock.of_this_machine())
        where = Backend.at(backend, given.authority, time, insecure=insecure)
        identity = enrol(settings.data_dir, settings.address, given, where)
    except (WireError, EnrolmentFailed, IdentityUnusable, OSError) as error:
        _end(f"not enrolled: {error}", EXIT_FAILED)
    facts = identity.facts
    print(f"enrolled as {facts.store}/{facts.gateway}; broker {facts.broker_host}:{facts.broker_port}")


@app.command()
def check(config: ConfigFile) -> None:
    """Check a configuration and say what it configures."""
    settings = _load(config)
    tls = "TLS" if settings.mqtt.tls else "no TLS"
    print(f"{config}: gateway {settings.address.gateway} of store {settings.address.store}")
    if settings.mqtt.host is None:
        print("broker: as the enrolment says")
    else:
        print(f"broker {settings.mqtt.host}:{settings.mqtt.port} ({tls}), unless enrolled")
    print(f"adapters {', '.join(settings.bluetooth.adapters)}; outbox in {settings.data_dir}")


@app.command()
def keys() -> None:
    """List every key of the configuration."""
    for key in KEYS:
        default = "required" if key.required else "not set" if key.default is None else f"{key.default!r}"
        print(f"{key.name}: {key.meaning}; {key.may_be} ({default})")


@app.command()
def version() -> None:
    """Print the version."""
    print(VERSION)


add_commands(app)


def main() -> None:
    """The console script."""
    app()


def _load(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        _end(str(error), EXIT_CONFIG)


def _run(settings: Config, path: Path) -> int:
    from gateway.app import AlreadyRunning, serve  # noqa: PLC0415 - bleak takes half a second on a Pi
    from gateway.identity import IdentityUnusable  # noqa: PLC0415
    from gateway.outbox import OutboxUnavailable  # noqa: PLC0415
    from gateway.scanner import RadiosLost  # noqa: PLC0415

    log = structlog.get_logger()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _end(f"{path}: `data_dir` may be a folder that can be made and written: {error}", EXIT_CONFIG)
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        _end(f"{path}: `data_dir` may be a folder that can be written, not {settings.data_dir}", EXIT_CONFIG)
    try:
        asyncio.run(serve(settings, SystemClock.of_this_machine(), path))
    except (ConfigError, IdentityUnusable) as error:
        log.error("cannot run", cause=str(error))  # noqa: TRY400 - the cause is the message
        return EXIT_CONFIG
    except (AlreadyRunning, OutboxUnavailable) as error:
        log.error("cannot run", cause=str(error))  # noqa: TRY400 - the cause is the message
        return EXIT_FAILED
    except RadiosLost as error:
        log.error("radios lost", cause=str(error))  # noqa: TRY400 - as above
        return EXIT_RADIO
    except Exception:
        log.exception("a worker died")
        return EXIT_FAILED
    finally:
        tell_held_back(everything=True)
    return 0


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)
