"""The backend's settings file."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from sdk_bridge.mqtt import Broker, Tls
from sdk_bridge.settings import SettingsError, load_settings

JOURNAL_FILE = "journal.db"
STATE_FILE = "state.db"
AUTHORITY_FOLDER = "authority"
"""What lies in the data folder."""

Text = Annotated[str, Meta(min_length=1)]
HttpUrl = Annotated[str, Meta(pattern="^https?://.", description="an address such as https://example.org")]
PostgresUrl = Annotated[
    str, Meta(pattern="^postgres(ql)?://.", description="postgresql://USER@HOST/DATABASE")
]
DeepLink = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:.*\{token\}",
        max_length=500,
        description="an address that holds {token}, of at most 500 characters",
    ),
]
Project = Annotated[
    str, Meta(pattern="^[a-z0-9-]{1,64}$", description="a Firebase project's id: 1 to 64 of a–z 0–9 -")
]
Level = Annotated[
    str, Meta(pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Days = Annotated[int, Meta(ge=0, le=36_500)]


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the API, the bridge and the live page listen."""

    host: Text = "127.0.0.1"  # never empty: that would mean every network there is
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    certificate: Text | None = None  # with it HTTPS; without, a proxy in front has to do that
    key: Text | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both, or neither")

    def tls(self) -> ssl.SSLContext | None:
        """What to serve HTTPS with. Raises OSError (ssl.SSLError is one)."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


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
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together: give both, or neither")

    def broker(self, client_id: str) -> Broker:
        """The connection to make; reads the password file."""
        password = Path(self.password_file).read_text("utf-8").strip() if self.password_file else None
        tls = None
        if self.ca is not None:
            certificate = Path(self.certificate) if self.certificate else None
            tls = Tls(Path(self.ca), certificate, Path(self.key) if self.key else None)
        return Broker(self.host, self.port, client_id, self.username, password, tls)


class Database(Struct, frozen=True, forbid_unknown_fields=True):
    """Where everything is kept: files in `data_dir`, unless the URL of a PostgreSQL is given.

    With `replicas` several backends share the work; see docs/operations.md.
    """

    url: PostgresUrl | None = None
    replicas: bool = False

    def __post_init__(self) -> None:
        if self.replicas and self.url is None:
            raise ValueError("replicas needs url: with files one process owns everything")


class Push(Struct, frozen=True, forbid_unknown_fields=True):
    """Firebase Cloud Messaging. `send_url` is for simulators; Google's own is used without it."""

    service_account: Text
    send_url: HttpUrl | None = None


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """What gateways are told at enrolment: where they reach the broker; without it, as the backend does."""

    broker_host: Text | None = None
    broker_port: Port | None = None
    certificate_days: Annotated[int, Meta(ge=1, le=397)] = 30


class Eid(Struct, frozen=True, forbid_unknown_fields=True):
    """Beacons whose ids rotate. `key_file` holds the secret that opens their keys; see eid_keys.py."""

    key_file: Text | None = None


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    """How apps and sites prove who somebody is, besides the hash; see docs/identity.md.

    `firebase_project` makes its ID tokens count; `certificates_url` is for tests. `deep_link` is what link
    tokens are shown as, `{token}` in the token's place; `link_key_file` holds the secret that signs them.
    """

    firebase_project: Project | None = None
    certificates_url: HttpUrl | None = None
    deep_link: DeepLink = "footfall://link?token={token}"
    link_key_file: Text | None = None


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """After how many days raw sightings become hours, and other rows go; 0 keeps them for good."""

    sightings_days: Days = 7
    sightings_without_time_days: Days = 7
    sighting_hours_days: Days = 400
    alerts_days: Days = 90
    observations_days: Days = 30
    addresses_days: Days = 270  # as FCM counts an app instance: unseen for so long it never comes back
    content_days: Days = 400
    visits_days: Days = 0


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """How much is logged, and whether as JSON lines."""

    level: Level = "info"
    json: bool = False


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """`backend.toml`. Only `data_dir` is required; without `push` nothing is ever sent."""

    data_dir: Text
    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    push: Push | None = None
    fleet: Fleet = Fleet()
    eid: Eid = Eid()
    identity: Identity = Identity()
    retention: Retention = Retention()
    log: Log = Log()
    database: Database = Database()

    @property
    def folder(self) -> Path:
        return Path(self.data_dir)

    @property
    def eid_key_file(self) -> Path:
        """Without a setting, beside the databases: back it up apart from them."""
        return Path(self.eid.key_file) if self.eid.key_file else self.folder / "eid.key"

    @property
    def link_key_file(self) -> Path:
        """Where several processes serve the bridge, all need the same."""
        return Path(self.identity.link_key_file) if self.identity.link_key_file else self.folder / "link.key"

    @property
    def erasure_key_file(self) -> Path:
        """The secret that tombstones of erased people are made with; in the data folder, in no database."""
        return self.folder / "erasure.key"

    @property
    def broker_for_gateways(self) -> tuple[str, int]:
        """Host and port at which gateways reach the broker."""
        return self.fleet.broker_host or self.mqtt.host, self.fleet.broker_port or self.mqtt.port


def load_config(path: Path) -> Config:
    """What the file says. Raises SettingsError.

    The files that it names may not be there yet: `authority client-certificate` makes some of them.
    """
    try:
        return load_settings(path, Config)
    except SettingsError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise SettingsError(f"{error}; name yours with --config FILE") from error
        raise


def read_config(path: Path) -> Config:
    """Reads and checks the file, and that the files it names can be used. Raises SettingsError."""
    config = load_config(path)
    for key, name in _files(config).items():
        if name is not None and not Path(name).is_file():
            raise SettingsError(f"{path}: {key}: {name} is not there; it may be the path of a readable file")
    for key, check, wanted in _CHECKS:
        try:
            check(config)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: {key}: {error}; it may be {wanted}") from error
    return config


def _check_broker(config: Config) -> None:
    tls = config.mqtt.broker("check").tls
    if tls is not None:
        tls.context()


_CHECKS: tuple[tuple[str, Callable[[Config], object], str], ...] = (
    ("http.certificate", lambda config: config.http.tls(), "a PEM file, with its private key in http.key"),
    ("mqtt", _check_broker, "PEM files in ca, certificate and key, and UTF-8 text in password_file"),
)


def _files(config: Config) -> dict[str, str | None]:
    named = {
        f"mqtt.{key}": getattr(config.mqtt, key) for key in ("password_file", "ca", "certificate", "key")
    }
    named["push.service_account"] = config.push.service_account if config.push else None
    return named | {
        "eid.key_file": config.eid.key_file,
        "identity.link_key_file": config.identity.link_key_file,
    }
