"""How commands ask the running backend: where it is, whose certificates count, one line for an error."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from backend.config import AUTHORITY_FOLDER, Config, load_config
from backend.fleet.keys import CERTIFICATE_FILE
from sdk_bridge.settings import SettingsError

TIMEOUT_SECONDS: Final = 60.0  # a backend that hangs must not hold the terminal
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The settings file.", envvar="FOOTFALL_BACKEND_CONFIG")
]
TokenOption = Annotated[
    str, typer.Option("--api-token", help="An operator's API token.", envvar="FOOTFALL_API_TOKEN")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The running backend; by default, where the settings say.")
]
DEFAULT_CONFIG: Final = Path("/etc/footfall/backend.toml")


@dataclass(frozen=True, slots=True)
class RunningBackend:
    """Where it is, whom it takes us for, and whose certificates we believe."""

    url: str
    api_token: str
    trust: ssl.SSLContext

    @classmethod
    def of(cls, url: str | None, api_token: str, config: Path) -> "RunningBackend":
        """The one that the options name. Ends the command where they make no sense."""
        base = (url or own_url(config)).rstrip("/")
        if not base.startswith(("http://", "https://")):
            fail("--url begins with http:// or https://")
        return cls(base, api_token, _trust(config))

    def get(self, path: str) -> dict[str, Any]:
        """What it answers. Ends the command where that is an error."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What it answers. Ends the command where that is an error."""
        return self._call("POST", path, json.dumps(body).encode())

    def post_if_there(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """What it answers, None where there is nothing at the path. Ends the command at any other error."""
        try:
            return self._asked("POST", path, json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            fail(_told(error))

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        try:
            return self._asked(method, path, body)
        except urllib.error.HTTPError as error:
            fail(_told(error))

    def _asked(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        """Raises HTTPError."""
        url = self.url + path
        headers = {"Authorization": f"Bearer {self.api_token}", "Content-Type": "application/json"}
        try:
            request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - checked in `of`
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=self.trust) as response:  # noqa: S310
                answer: dict[str, Any] = json.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            fail(f"{url}: {getattr(error, 'reason', error)}; is the backend running?")
        return answer


def own_url(config: Path) -> str:
    """Where a backend with these settings listens."""
    settings = settings_of(config).http
    scheme = "http" if settings.certificate is None else "https"
    return f"{scheme}://{settings.host}:{settings.port}"


def settings_of(path: Path) -> Config:
    """The settings. Ends the command where they cannot be used."""
    try:
        return load_config(path)
    except SettingsError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the command with one line of error."""
    typer.echo(message, err=True)
    raise typer.Exit(2)


def _trust(config: Path) -> ssl.SSLContext:
    """The machine's usual authorities, and our own where this machine has it."""
    context = ssl.create_default_context()
    if config.is_file():
        own = settings_of(config).folder / AUTHORITY_FOLDER / CERTIFICATE_FILE
        if own.is_file():
            context.load_verify_locations(own)
    return context


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(MAX_ANSWER_BYTES))["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the backend answered {error.code}"
