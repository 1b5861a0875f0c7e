"""The backend's settings file."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from sdk_bridge.mqtt import Broker, Tls
from sdk_bridge.settings import load_settings

Text = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the API, the bridge and the live page listen."""

    host: Text = "127.0.0.1"  # never empty: that would mean every network there is
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080


class Mqtt(Struct, frozen=True, forbid_unknown_fields=True):
    """The broker that the gateways use."""

    host: Text = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password_file: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both, or neither")
        if self.certificate is not None and self.ca is None:
            raise ValueError("ca is required beside certificate: the file with the broker's authority")

    def broker(self, client_id: str) -> Broker:
        """The connection to make; reads the password file."""
        password = Path(self.password_file).read_text("utf-8").strip() if self.password_file else None
        tls = None
        if self.ca is not None:
            certificate = Path(self.certificate) if self.certificate else None
            tls = Tls(Path(self.ca), certificate, Path(self.key) if self.key else None)
        return Broker(self.host, self.port, client_id, self.username, password, tls)


class Push(Struct, frozen=True, forbid_unknown_fields=True):
    """Firebase Cloud Messaging. `send_url` is for simulators; Google's own is used without it."""

    service_account: Text
    send_url: str | None = None


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """How much is logged, and whether as JSON lines."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    json: bool = False


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """`backend.toml`. Only `data_dir` is required; without `push` nothing is ever sent."""

    data_dir: Text
    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    push: Push | None = None
    log: Log = Log()

    @property
    def folder(self) -> Path:
        return Path(self.data_dir)


def read_config(path: Path) -> Config:
    """Reads and checks the file. Raises SettingsError."""
    return load_settings(path, Config)
