"""The gateway's configuration: one TOML file, checked whole at the start, frozen afterwards.

`KEYS` is the reference: every key with what it means, what it may be and what it is when left out. The
documentation is compared with it, and the error an operator reads is made from it.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.allow import AllowList
from gateway.homeassistant import (
    DEFAULT_PREFIX,
    MAX_BEACONS,
    HomeAssistantSettings,
    is_prefix,
    named_beacon,
)
from gateway.presence import PresenceSettings
from gateway.scanner import ScanSettings
from sdk_bridge.mqtt import Tls
from sdk_bridge.wire.topics import GatewayAddress, is_id

MAX_FILE_BYTES: Final = 1024 * 1024  # a configuration is a page; more is the wrong file
MAX_ENTRIES: Final = 4096  # in one list
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "console")


class ConfigError(ValueError):
    """The configuration cannot be used; one line names the file, the key and what it may be."""


@dataclass(frozen=True, slots=True)
class Mqtt:
    """How to reach the broker, for a gateway that is not enrolled; `host` None where the file names none."""

    host: str | None
    port: int
    username: str | None
    password: str | None
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class Bluetooth:
    """Which radios to listen with."""

    adapters: tuple[str, ...]
    silence_ms: int
    restart_bluetoothd: bool


@dataclass(frozen=True, slots=True)
class Log:
    """How much is written, and as what."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration; relative paths are already resolved against the file's folder."""

    address: GatewayAddress
    data_dir: Path
    mqtt: Mqtt
    bluetooth: Bluetooth
    allow: AllowList
    fixed_beacons: frozenset[str]
    fixed_silence_ms: int
    presence: PresenceSettings
    outbox_bytes: int
    log: Log
    metrics: Listen | None = None
    home_assistant: HomeAssistantSettings = field(default_factory=HomeAssistantSettings)

    @property
    def scanning(self) -> ScanSettings:
        """What the scanner needs to know."""
        radios, expected_ms = self.bluetooth, self.fixed_silence_ms if self.fixed_beacons else None
        return ScanSettings(radios.adapters, radios.silence_ms, expected_ms, radios.restart_bluetoothd)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file. `check` returns whether a value will do; `default` None means "not set"."""

    name: str
    meaning: str
    may_be: str
    check: Callable[[Any], bool]
    default: object = None
    required: bool = False


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1024 and value.isprintable()


def _id(value: Any) -> bool:
    return isinstance(value, str) and is_id(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _one_of(choices: Sequence[str]) -> Callable[[Any], bool]:
    return lambda value: value in choices


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_ENTRIES and all(_text(entry) for entry in value)


def _adapters(value: Any) -> bool:
    """hci0 and the like: the name becomes part of a D-Bus path."""
    good = _texts(value) and 0 < len(value) <= 16 and len(set(value)) == len(value)
    return good and all(name.isascii() and name.isalnum() for name in value)


def _few_texts(value: Any) -> bool:
    return _texts(value) and len(value) <= MAX_BEACONS


def _listen(value: Any) -> bool:
    """`host:port`, an IPv6 address in brackets."""
    if not _text(value):
        return False
    host, _, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    good_host = bool(bare) and (":" not in bare or host == f"[{bare}]")
    return good_host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535


KEYS: Final[tuple[Key, ...]] = (
    Key("store", "the shop this gateway hangs in", "1 to 64 of A–Z a–z 0–9 _ -", _id, required=True),
    Key("gateway", "its own name within the shop", "1 to 64 of A–Z a–z 0–9 _ -", _id, required=True),
    Key("data_dir", "folder of the outbox; must survive a reboot", "a path", _text, required=True),
    Key("mqtt.host", "the broker; an enrolled gateway knows it already", "a host name or address", _text),
    Key("mqtt.port", "its port; 8883 is usual with TLS", "1 to 65535", _whole(1, 65535), 1883),
    Key("mqtt.username", "user name at the broker", "text", _text),
    Key("mqtt.password", "its password; better kept in `mqtt.password_file`", "text", _text),
    Key("mqtt.password_file", "file whose first line is the password", "a path", _text),
    Key("mqtt.ca", "certificate authority of the broker; turns TLS on", "a path", _text),
    Key("mqtt.certificate", "this gateway's certificate, for mutual TLS", "a path", _text),
    Key("mqtt.key", "the certificate's private key", "a path", _text),
    Key("bluetooth.adapters", "radios to listen with", 'a list such as ["hci0"]', _adapters, ["hci0"]),
    Key(
        "bluetooth.silence_s",
        "patience with a radio that stays silent after the first, quick remedies, which come after 20 s",
        "10 to 3600 seconds",
        _whole(10, 3600),
        90,
    ),
    Key(
        "bluetooth.restart_bluetoothd",
        "restarts bluetooth.service when nothing else helps, where a polkit rule permits it",
        "true or false",
        _flag,
        True,
    ),
    Key("allow.ibeacon", "iBeacon UUIDs to relay", "a list of UUIDs", _texts, []),
    Key("allow.eddystone", "Eddystone namespaces", "a list of 20 hexadecimal digits each", _texts, []),
    Key(
        "allow.altbeacon", "starts of AltBeacon ids", "a list of 2 to 40 hexadecimal digits each", _texts, []
    ),
    Key("allow.url", "starts of Eddystone URLs", "a list of http:// or https:// addresses", _texts, []),
    Key("allow.eid", "relay Eddystone-EIDs, which only the backend can name", "true or false", _flag, True),
    Key(
        "zone_beacons.keys",
        "fixed beacons that this gateway should always hear; without any it cannot tell quiet from deaf",
        "a list of beacon keys such as ibeacon:<uuid>:<major>:<minor>",
        _texts,
        [],
    ),
    Key(
        "zone_beacons.silence_s",
        "the gateway counts as deaf when it has heard none of them for so long",
        "5 to 3600 seconds",
        _whole(5, 3600),
        30,
    ),
    Key(
        "presence.near_dbm",
        "smoothed strength that brings a beacon in range",
        "-120 to 0",
        _whole(-120, 0),
        -85,
    ),
    Key(
        "presence.far_dbm", "below it a beacon is out; lower than near_dbm", "-127 to 0", _whole(-127, 0), -93
    ),
    Key(
        "outbox.max_mb",
        "what may be kept during an outage; the oldest goes first",
        "1 to 65536 megabytes",
        _whole(1, 65536),
        256,
    ),
    Key(
        "metrics.listen",
        "where Prometheus may ask; whoever reaches it may read",
        "a host and port such as 127.0.0.1:9464",
        _listen,
    ),
    Key("homeassistant.enabled", "tell Home Assistant by MQTT discovery", "true or false", _flag, False),
    Key(
        "homeassistant.prefix",
        "its discovery prefix; the broker must let the gateway write below it",
        "topic levels of A–Z a–z 0–9 _ - with slashes between; not below footfall",
        is_prefix,
        DEFAULT_PREFIX,
    ),
    Key(
        "homeassistant.zone_beacons",
        "zones' beacons to tell of, by name",
        'a list of up to 64 such as ["Shoe shelf = ibeacon:<uuid>:<major>:<minor>"]',
        _few_texts,
        [],
    ),
    Key(
        "homeassistant.asset_beacons",
        "trolleys' and baskets' beacons to tell of, by name; never customers' tags",
        "a list as for zone_beacons",
        _few_texts,
        [],
    ),
    Key("log.level", "how much is logged", "debug, info, warning or error", _one_of(LOG_LEVELS), "info"),
    Key(
        "log.format",
        "auto writes for people on a terminal and JSON otherwise",
        "auto, json or console",
        _one_of(LOG_FORMATS),
        "auto",
    ),
)  # fmt: skip - one key a line where it fits


def load(path: Path) -> Config:
    """Reads and checks the file. Raises ConfigError, whose text is one line."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; name yours with --config FILE"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is this the right file?")
    try:
        table = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {str(error).splitlines()[0]}") from error
    return read(table, path)


def read(table: Mapping[str, Any], path: Path) -> Config:
    """Checks a table that stands in `path`. Raises ConfigError."""
    try:
        values = _values(table)
        return _config(values, path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def _values(table: Mapping[str, Any]) -> dict[str, Any]:
    given = _flat(table)
    known = {key.name: key for key in KEYS}
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown key `{_shown(name)}`{_nearest(name, list(known))}")
    return {key.name: _value(key, given) for key in KEYS}


def _value(key: Key, given: Mapping[str, Any]) -> Any:
    if key.name not in given:
        if key.required:
            raise ConfigError(f"`{key.name}` is missing: {key.meaning}; it may be {key.may_be}")
        return key.default
    if not key.check(given[key.name]):
        raise ConfigError(f"`{key.name}` may be {key.may_be}, not {_shown(given[key.name])}")
    return given[key.name]


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """`[mqtt] host` as `mqtt.host`; one level, as deep as the file goes."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": entry for inner, entry in value.items()} or {})
        else:
            flat[name] = value
    return flat


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"' if " " in value else value
    return "".join(letter if letter.isprintable() else "�" for letter in text)[:80]


def _config(values: Mapping[str, Any], folder: Path) -> Config:
    allow = _allow(values)
    return Config(
        address=GatewayAddress(values["store"], values["gateway"]),
        data_dir=folder / values["data_dir"],
        mqtt=_mqtt(values, folder),
        bluetooth=Bluetooth(
            tuple(values["bluetooth.adapters"]),
            values["bluetooth.silence_s"] * 1000,
            values["bluetooth.restart_bluetoothd"],
        ),
        allow=allow,
        fixed_beacons=_fixed_beacons(values["zone_beacons.keys"]),
        fixed_silence_ms=values["zone_beacons.silence_s"] * 1000,
        presence=_presence(values),
        outbox_bytes=values["outbox.max_mb"] * 1024 * 1024,
        log=Log(values["log.level"], values["log.format"]),
        metrics=_address(values["metrics.listen"]),
        home_assistant=_home_assistant(values, allow),
    )


def _address(text: str | None) -> Listen | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return Listen(host.removeprefix("[").removesuffix("]"), int(port))


def _home_assistant(values: Mapping[str, Any], allow: AllowList) -> HomeAssistantSettings:
    zones, assets = values["homeassistant.zone_beacons"], values["homeassistant.asset_beacons"]
    if len(zones) + len(assets) > MAX_BEACONS:
        raise ConfigError(f"`homeassistant.asset_beacons`: more than {MAX_BEACONS} with those of the zones")
    try:
        return HomeAssistantSettings.of(
            values["homeassistant.enabled"], values["homeassistant.prefix"], zones, assets, allow
        )
    except ValueError as error:
        raise ConfigError(f"`homeassistant`: {error}") from error


def _mqtt(values: Mapping[str, Any], folder: Path) -> Mqtt:
    if values["mqtt.password"] is not None and values["mqtt.password_file"] is not None:
        raise ConfigError("`mqtt.password` and `mqtt.password_file` exclude each other")
    if (values["mqtt.certificate"] is None) != (values["mqtt.key"] is None):
        raise ConfigError("`mqtt.certificate` and `mqtt.key` belong together")
    if values["mqtt.ca"] is None and values["mqtt.certificate"] is not None:
        raise ConfigError("`mqtt.ca` is missing: a client certificate needs TLS; it may be a path")
    return Mqtt(
        values["mqtt.host"],
        values["mqtt.port"],
        values["mqtt.username"],
        _password(values, folder),
        _tls(values, folder),
    )


def _password(values: Mapping[str, Any], folder: Path) -> str | None:
    name = values["mqtt.password_file"]
    if name is None:
        given: str | None = values["mqtt.password"]
        return given
    try:
        lines = Path(folder, name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("`mqtt.password_file` may be a path to a readable file of one line") from error
    if not lines or not _text(lines[0]):
        raise ConfigError("`mqtt.password_file` may be a path to a file whose first line is the password")
    return lines[0]


def _tls(values: Mapping[str, Any], folder: Path) -> Tls | None:
    if values["mqtt.ca"] is None:
        return None
    files: dict[str, Path | None] = {}
    for name in ("mqtt.ca", "mqtt.certificate", "mqtt.key"):
        files[name] = folder / values[name] if values[name] is not None else None
        path = files[name]
        if path is not None and not path.is_file():
            raise ConfigError(f"`{name}` may be a path to a file; {_shown(str(path))} is none")
    return Tls(folder / values["mqtt.ca"], files["mqtt.certificate"], files["mqtt.key"])


def _allow(values: Mapping[str, Any]) -> AllowList:
    """Each list by itself, so that the error names the right key."""
    arguments = {
        "allow.ibeacon": "ibeacons",
        "allow.eddystone": "eddystone_namespaces",
        "allow.altbeacon": "altbeacon_prefixes",
        "allow.url": "urls",
    }
    for name, argument in arguments.items():
        try:
            AllowList.of(**{argument: values[name]})
        except ValueError as error:
            raise ConfigError(f"`{name}`: {error}") from error
    lists = {argument: values[name] for name, argument in arguments.items()}
    return AllowList.of(**lists, eid=values["allow.eid"])


def _fixed_beacons(keys: Sequence[str]) -> frozenset[str]:
    """A key that no beacon has would make the gateway count as deaf for ever."""
    beacons = {key: named_beacon(key) for key in keys}
    for key, beacon in beacons.items():
        if beacon is None:
            wanted = "fixed beacons' keys such as ibeacon:<uuid>:<major>:<minor>"
            raise ConfigError(f"`zone_beacons.keys` may be a list of {wanted}; {key[:80]!r} is none")
    return frozenset(beacon.key for beacon in beacons.values() if beacon is not None)


def _presence(values: Mapping[str, Any]) -> PresenceSettings:
    try:
        return PresenceSettings(near_dbm=values["presence.near_dbm"], far_dbm=values["presence.far_dbm"])
    except ValueError as error:
        raise ConfigError(f"`presence.far_dbm`: {error}") from error
