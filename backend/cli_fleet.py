"""The commands `footfall-backend authority …` and `footfall-backend gateway …`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from backend.cli_running import DEFAULT_CONFIG, ConfigOption, RunningBackend, TokenOption, UrlOption
from backend.cli_running import fail as _fail
from backend.cli_running import settings_of as _settings
from backend.clock import unix_ms
from backend.config import AUTHORITY_FOLDER, STATE_FILE, Config
from backend.fleet.authority import RequestRefused, Subject, new_key
from backend.fleet.keys import AuthorityUnusable, Keys, open_keys
from backend.storage import registry
from backend.storage.opening import write_once
from backend.storage.session import StorageError
from sdk_bridge.files import replace_file

authority = typer.Typer(no_args_is_help=True, help="The backend's own certificate authority.")
gateway = typer.Typer(no_args_is_help=True, help="The life of gateways; these ask the running backend.")

OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to; made where it is missing.")]
StoreOption = Annotated[str, typer.Option("--store", help="The shop's id.")]
GatewayOption = Annotated[str, typer.Option("--gateway", help="The gateway's id within the shop.")]


@authority.command("export")
def export(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Prints the authority's certificate, for a broker's `cafile`; makes the authority on first use."""
    typer.echo(_keys(_settings(config)).authority.pem, nl=False)


@authority.command("broker-certificate")
def broker_certificate(
    host: Annotated[str, typer.Option(help="The name or address by which the broker is reached.")],
    out: OutOption,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Writes server.pem, server.key and ca.pem for a broker, or for HTTPS, at this host."""
    try:
        subject = Subject.server(host)
    except RequestRefused as error:
        _fail(f"--host: {error}")
    _write_certificate(_settings(config), subject, out, "server")


@authority.command("client-certificate")
def client_certificate(
    out: OutOption,
    name: Annotated[str, typer.Option(help="The user that the broker takes it for.")] = "footfall-backend",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Writes client.pem, client.key and ca.pem, by which the backend itself reaches the broker."""
    if "/" in name or not 0 < len(name) <= 64:
        _fail("--name may be 1 to 64 characters without a slash; gateways get theirs by enrolling")
    _write_certificate(_settings(config), Subject.service(name), out, "client")


@gateway.command("enrol-token")
def enrol_token(
    store: StoreOption,
    gateway: GatewayOption,
    api_token: TokenOption,
    minutes: Annotated[int, typer.Option(help="How long it may be used.")] = 60,
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Makes a one-time token for `footfall-gateway enroll` and prints it, this once."""
    path = f"/api/gateways/{store}/{gateway}/enrol-token"
    answer = RunningBackend.of(url, api_token, config).post(path, {"minutes": minutes})
    typer.echo(answer["token"])


@gateway.command("revoke")
def revoke(
    store: StoreOption,
    gateway: GatewayOption,
    api_token: TokenOption,
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Refuses a gateway from now on, until it is enrolled anew; brokers read the new revocation list."""
    path = f"/api/gateways/{store}/{gateway}/revoke"
    answer = RunningBackend.of(url, api_token, config).post(path, {})
    typer.echo(f"{answer['gateway']}: {answer['certificates_revoked']} certificates revoked")


def _write_certificate(settings: Config, subject: Subject, out: Path, stem: str) -> None:
    keys, now = _keys(settings), unix_ms()
    public, private = new_key()
    issued = keys.authority.issue(public, subject, now, x509.random_serial_number())
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / f"{stem}.key", private.encode(), 0o600)
        replace_file(out / f"{stem}.pem", (issued.pem + keys.authority.pem).encode(), 0o644)
        replace_file(out / "ca.pem", keys.authority.pem.encode(), 0o644)
    except OSError as error:
        _fail(f"{out}: {error.strerror}")
    detail = {"serial": issued.serial, "usage": stem, "not_after": issued.not_after}
    _note(settings, now, subject.host or subject.name, detail)
    typer.echo(f"{out / stem}.pem, {out / stem}.key, {out / 'ca.pem'}; crlfile {keys.revoked_file}")


def _note(settings: Config, now: int, subject: str, detail: dict[str, Any]) -> None:
    try:
        write_once(
            settings.database.url,
            settings.folder / STATE_FILE,
            lambda s: registry.note(s, now, "command line", "certificate issued", subject, detail),
        )
    except StorageError as error:
        _fail(str(error))


def _keys(settings: Config) -> Keys:
    try:
        return open_keys(settings.folder / AUTHORITY_FOLDER, unix_ms())
    except AuthorityUnusable as error:
        _fail(str(error))
