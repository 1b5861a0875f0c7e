"""The command `footfall-backend`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
import uvloop
from msgspec.structs import replace

from backend import cli_fleet, cli_import, cli_letters
from backend.clock import unix_ms
from backend.config import STATE_FILE, Config, load_config, read_config
from backend.fleet.keys import AuthorityUnusable
from backend.log import set_up_logging
from backend.proximity.eid_keys import EidKeysUnusable
from backend.secret_file import SecretUnusable
from backend.storage import registry, sqlite_memory
from backend.storage.opening import write_once
from backend.storage.session import Session, StorageError
from sdk_bridge.settings import SettingsError

T = TypeVar("T")
main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The Footfall backend: takes in what gateways and apps report, decides, and pushes offers.",
)
token = typer.Typer(no_args_is_help=True, help="API tokens. Only their hashes are stored.")
main.add_typer(token, name="token")
main.add_typer(cli_fleet.authority, name="authority")
main.add_typer(cli_fleet.gateway, name="gateway")
main.add_typer(cli_letters.letters, name="dead-letters")
main.add_typer(cli_import.import_, name="import")
_CANNOT_START = (AuthorityUnusable, EidKeysUnusable, SecretUnusable, StorageError, OSError)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The settings file.", envvar="FOOTFALL_BACKEND_CONFIG")
]
DEFAULT_CONFIG = Path("/etc/footfall/backend.toml")


@main.command()
def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    only: Annotated[
        str | None,
        typer.Option(
            help="`bridge`: only take events in, beside a backend with the same settings that folds them."
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Listen here, not at http.port.", min=0, max=65535)] = None,
) -> None:
    """Runs the backend until SIGTERM or Ctrl-C.

    Example of a settings file:

    \b
        data_dir = "/var/lib/footfall"
        [push]
        service_account = "/etc/footfall/firebase.json"

    With `--only bridge --port 8081` beside it, and a proxy that hands it /v1/, taking events in has a core of
    its own. It may be stopped, killed and run several times.
    """
    if only not in (None, "bridge"):
        _fail(f"--only: {only} is unknown; it may be bridge")
    settings = _settings(config, read_config)
    sqlite_memory.count_no_more()
    from backend import app  # noqa: PLC0415 - over a second of imports that a mistake in a file can spare
    from backend.push.fcm import PushSetupError  # noqa: PLC0415 - as above

    if port is not None:
        settings = replace(settings, http=replace(settings.http, port=port))
    set_up_logging(settings.log)
    try:
        uvloop.run(app.serve(settings, only_bridge=only == "bridge"))
    except (app.AlreadyRunning, app.CannotListen, PushSetupError, *_CANNOT_START) as error:
        _fail(f"{config}: {error}")


@main.command()
def inspect(
    table: Annotated[str | None, typer.Argument(help="Show this table's newest rows.")] = None,
    limit: Annotated[int, typer.Option(help="How many rows.", min=1, max=10_000)] = 20,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Looks into the databases, read-only, also beside a running backend: tables, or one table's rows."""
    from backend.storage import inspection  # noqa: PLC0415 - sqlite-utils, which the others can spare

    settings = _settings(config)
    folder = settings.folder
    if settings.database.url is not None:
        _fail("database.url is set; ask psql, in the schemas footfall_state and footfall_journal")
    try:
        if table is None:
            for size in inspection.tables(folder):
                typer.echo(f"{size.file}\t{size.table}\t{size.rows}")
        else:
            for row in inspection.newest_rows(folder, table, limit):
                typer.echo(json.dumps(row, ensure_ascii=False))
    except StorageError as error:
        _fail(str(error))


@main.command()
def openapi(
    calls: Annotated[bool, typer.Option("--calls", help="Only a list of the calls, in Markdown.")] = False,
) -> None:
    """Prints the OpenAPI document of the HTTP API, as GET /api/openapi.json serves it."""
    from backend.api import openapi, server  # noqa: PLC0415 - as in `serve`

    document = server.document()
    typer.echo(openapi.calls(document) if calls else openapi.render(document), nl=False)


@token.command("create")
def create(
    role: Annotated[str, typer.Option(help="viewer, marketer, operator or admin.")],
    name: Annotated[str, typer.Option(help="Whose token it is; shown in the audit.")] = "first",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Makes a token and prints it, this once. Works with and without a running backend."""
    if role not in ("viewer", "marketer", "operator", "admin"):
        _fail(f"--role: {role} is unknown; it may be viewer, marketer, operator or admin")
    typer.echo(_in_state(_settings(config), lambda s: registry.create_token(s, name, role, unix_ms())))


@token.command("revoke")
def revoke(
    name: Annotated[str, typer.Option(help="Every token of this name is refused from now on.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Revokes tokens by name; acts at once."""
    revoked = _in_state(_settings(config), lambda s: registry.revoke_token(s, name, unix_ms()))
    if not revoked:
        _fail(f"no token in use is named {name}; see `footfall-backend token list`")
    typer.echo(f"{revoked} revoked")


@token.command("list")
def list_tokens(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Lists the tokens by name; the tokens themselves are not known."""
    for row in _in_state(_settings(config), lambda s: s.rows("tokens")):
        state = "revoked" if row["revoked_at"] else "in use"
        typer.echo(f"{row['name']}\t{row['role']}\t{state}")


def _settings(path: Path, read: Callable[[Path], Config] = load_config) -> Config:
    try:
        return read(path)
    except SettingsError as error:
        _fail(str(error))


def _in_state(settings: Config, work: Callable[[Session], T]) -> T:
    try:
        return write_once(settings.database.url, settings.folder / STATE_FILE, work)
    except StorageError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)
