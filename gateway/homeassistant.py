"""Home Assistant, as an option: the gateway and named beacons appear there by MQTT discovery.

One retained message describes the whole device (`<prefix>/device/<store>/<gateway>/config`, understood by
Home Assistant 2024.11 and later), another holds its state. Both topics carry the gateway's own name, so a
broker's pattern ACL keeps gateways apart. Only beacons that the file lists by name, as a zone's or an
asset's, are told of; a customer's tag never is. Sources: Home Assistant's documentation of MQTT discovery, of
the MQTT sensor and binary sensor; its discovery schema.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import structlog

from gateway.allow import AllowList
from gateway.beacons import AltBeacon, EddystoneUid, EddystoneUrl, IBeacon, Identity
from gateway.clock import Clock
from sdk_bridge.files import replace_file
from sdk_bridge.wire.messages import ScanState
from sdk_bridge.wire.topics import GatewayAddress

DEFAULT_PREFIX: Final = "homeassistant"
MEMORY_FILE: Final = "homeassistant.json"
MAX_BEACONS: Final = 64  # each takes 400 bytes of one message, which must pass the broker's packet size
EXPIRE_SECONDS: Final = 60  # a state that old is unknown to Home Assistant
STATE_MS: Final = 10_000  # between states when nothing changes; four may go astray before they expire
SETTLED_MS: Final = 10_000  # a connection this old has delivered what it was given at its start
ONLINE_BYTE: Final = 8  # of a status message: the array's head, and `status` with its own, come before it
_TRUE: Final = 0xC3  # MessagePack's true
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
_NAME: Final = re.compile(r"[^=\x00-\x1f\x7f]{1,64}")

Role: TypeAlias = Literal["zone", "asset"]
Publish: TypeAlias = Callable[[str, bytes], bool]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NamedBeacon:
    """A beacon that the operator has listed, with the name that people will read."""

    name: str
    role: Role
    key: str
    beacon: Identity

    @property
    def component(self) -> str:
        """Its part of the device; of the key, so that a new name keeps its history."""
        return f"beacon_{hashlib.sha256(self.key.encode()).hexdigest()[:12]}"

    @classmethod
    def of(cls, entry: str, role: Role) -> "NamedBeacon":
        """From `name = key`. Raises ValueError."""
        name, equals, key = (part.strip() for part in entry.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"{entry[:80]!r} is not `name = beacon key`")
        beacon = named_beacon(key)
        if beacon is None:
            raise ValueError(
                f"{key[:80]!r} is no key of a fixed identity, such as ibeacon:<uuid>:<major>:<minor>"
            )
        return cls(name, role, beacon.key, beacon)


@dataclass(frozen=True, slots=True)
class HomeAssistantSettings:
    """What the file says. Raises ValueError where it cannot work."""

    enabled: bool = False
    prefix: str = DEFAULT_PREFIX
    beacons: tuple[NamedBeacon, ...] = ()

    @classmethod
    def of(
        cls, enabled: bool, prefix: str, zones: list[str], assets: list[str], allow: AllowList
    ) -> "HomeAssistantSettings":
        """Checked against the allow-list: a beacon that it holds back would look absent for ever."""
        beacons = tuple(NamedBeacon.of(entry, "zone") for entry in zones)
        beacons += tuple(NamedBeacon.of(entry, "asset") for entry in assets)
        if len({beacon.key for beacon in beacons}) != len(beacons):
            raise ValueError("a beacon is listed twice")
        for beacon in beacons:
            if not allow.allows(beacon.beacon):
                raise ValueError(f"{beacon.key} is not let through by `allow`, so it would never be heard")
        return cls(enabled, prefix, beacons)


def is_prefix(text: object) -> bool:
    """Whether discovery may live under it: plain levels, and not in the place of the wire's own topics."""
    return isinstance(text, str) and bool(_PREFIX.fullmatch(text)) and text.split("/")[0] != "footfall"


def named_beacon(key: str) -> Identity | None:
    """The beacon that a key names; None for a rotating identity, telemetry or no key at all."""
    for pattern, make in _KEYS:
        found = pattern.fullmatch(key)
        if found is not None:
            return make(found)
    return None


def _ibeacon(found: re.Match[str]) -> Identity | None:
    major, minor = int(found["major"]), int(found["minor"])
    if max(major, minor) > 0xFFFF:
        return None
    return IBeacon(bytes.fromhex(found["uuid"].replace("-", "")), major, minor, 0)


_KEYS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Identity | None]], ...]] = (
    (
        re.compile(
            r"ibeacon:(?P<uuid>[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
            r":(?P<major>[0-9]{1,5}):(?P<minor>[0-9]{1,5})"
        ),
        _ibeacon,
    ),
    (re.compile(r"altbeacon:([0-9a-fA-F]{40})"), lambda found: AltBeacon(bytes.fromhex(found[1]), 0, 0)),
    (
        re.compile(r"eddystone-uid:([0-9a-fA-F]{20}):([0-9a-fA-F]{12})"),
        lambda found: EddystoneUid(0, bytes.fromhex(found[1]), bytes.fromhex(found[2])),
    ),
    (re.compile(r"eddystone-url:(https?://[!-~]{1,128})"), lambda found: EddystoneUrl(0, found[1])),
)


# What is published ------------------------------------------------------------------------------------


def config_topic(prefix: str, address: GatewayAddress) -> str:
    """Where the device is described."""
    return f"{prefix}/device/{address.store}/{address.gateway}/config"


def state_topic(prefix: str, address: GatewayAddress) -> str:
    """Where its state is. Home Assistant looks for descriptions under `config` only."""
    return f"{prefix}/device/{address.store}/{address.gateway}/state"


def device_config(
    settings: HomeAssistantSettings, address: GatewayAddress, version: str, gone: Mapping[str, str]
) -> dict[str, Any]:
    """The device's description. `gone` are components of before, with their platforms, to be taken away."""
    components = components_of(settings, address)
    removed = {name: {"platform": platform} for name, platform in gone.items() if name not in components}
    return {
        "device": {
            "identifiers": [_id(address)],
            "name": f"Footfall {address.store} {address.gateway}",
            "manufacturer": "Footfall",
            "model": "Bluetooth gateway",
            "sw_version": version,
        },
        "origin": {"name": "footfall-gateway", "sw_version": version},
        "components": components | removed,
    }


def components_of(settings: HomeAssistantSettings, address: GatewayAddress) -> dict[str, dict[str, Any]]:
    """The gateway's own sensors, and the listed beacons."""
    measured = {"state_class": "measurement", "entity_category": "diagnostic"}
    own = {
        "connectivity": _connectivity(address),
        "scan": _sensor(settings, address, "scan", "Hearing", entity_category="diagnostic"),
        "adverts": _sensor(
            settings, address, "adverts_per_s", "Adverts", unit_of_measurement="adverts/s", **measured
        ),
        "outbox": _sensor(settings, address, "outbox", "Outbox", unit_of_measurement="records", **measured),
    }
    return own | {beacon.component: _presence(settings, address, beacon) for beacon in settings.beacons}


def _connectivity(address: GatewayAddress) -> dict[str, Any]:
    """From the status topic, which is also the last will: told by the broker when the gateway cannot."""
    return {
        "platform": "binary_sensor",
        "unique_id": f"{_id(address)}/connectivity",
        "name": "Connection",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": address.topic("status"),
        "value_template": _if_online("ON", "OFF"),
        "encoding": "",
    }


def _sensor(
    settings: HomeAssistantSettings, address: GatewayAddress, value: str, name: str, **more: str
) -> dict[str, Any]:
    told = {"platform": "sensor", "unique_id": f"{_id(address)}/{value}", "name": name}
    return told | _state(settings, address, f"value_json['{value}']") | more


def _presence(
    settings: HomeAssistantSettings, address: GatewayAddress, beacon: NamedBeacon
) -> dict[str, Any]:
    told = {
        "platform": "binary_sensor",
        "unique_id": f"{_id(address)}/{beacon.component}",
        "name": beacon.name,
        "device_class": "presence",
    }
    return told | _state(settings, address, f"value_json['beacons']['{beacon.component}']")


def _state(settings: HomeAssistantSettings, address: GatewayAddress, value: str) -> dict[str, Any]:
    """Where the value is, and when it may be believed.

    The status message is MessagePack, so its entity gets bytes (`encoding` empty) and looks at one of them.
    """
    return {
        "state_topic": state_topic(settings.prefix, address),
        "value_template": f"{{{{ {value} }}}}",
        "expire_after": EXPIRE_SECONDS,
        "availability_topic": address.topic("status"),
        "availability_template": _if_online("online", "offline"),
        "encoding": "",
    }


def _if_online(yes: str, no: str) -> str:
    return f"{{{{ '{yes}' if value[{ONLINE_BYTE}] == {_TRUE} else '{no}' }}}}"


def _id(address: GatewayAddress) -> str:
    return f"footfall/{address.store}/{address.gateway}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gateway says of itself: `adverts` since the start, and which beacons are in range."""

    scan: ScanState
    adverts: int
    outbox: int
    near: frozenset[str]


def state_of(settings: HomeAssistantSettings, reading: Reading, adverts_per_s: float) -> dict[str, Any]:
    """The state message. Of a gateway that is deaf or just starting, beacons are unknown (`None`)."""
    unknown = reading.scan in ("deaf", "starting")
    beacons = {
        beacon.component: "None" if unknown else "ON" if beacon.key in reading.near else "OFF"
        for beacon in settings.beacons
    }
    return {
        "scan": reading.scan,
        "adverts_per_s": round(adverts_per_s, 1),
        "outbox": reading.outbox,
        "beacons": beacons,
    }


# What was published before ----------------------------------------------------------------------------


class Memory(msgspec.Struct, frozen=True):
    """What Home Assistant was told of, so that it can be taken back: prefixes, components and platforms."""

    prefixes: list[str] = []
    components: dict[str, str] = {}


def messages(
    settings: HomeAssistantSettings, address: GatewayAddress, version: str, memory: Memory
) -> list[tuple[str, bytes]]:
    """What to publish, retained, when connected: the description, and nothing in the place of old ones."""
    old = [prefix for prefix in memory.prefixes if not settings.enabled or prefix != settings.prefix]
    cleared = [(topic(prefix, address), b"") for prefix in old for topic in (config_topic, state_topic)]
    if not settings.enabled:
        return cleared
    gone = {} if settings.prefix not in memory.prefixes else memory.components
    config = device_config(settings, address, version, gone)
    return [*cleared, (config_topic(settings.prefix, address), msgspec.json.encode(config))]


def remembered(settings: HomeAssistantSettings, address: GatewayAddress) -> Memory:
    """What will have been told once that is delivered."""
    if not settings.enabled:
        return Memory()
    components = components_of(settings, address)
    return Memory([settings.prefix], {name: told["platform"] for name, told in components.items()})


def _read_memory(path: Path) -> Memory:
    try:
        memory = msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return Memory()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("memory of Home Assistant's topics is damaged", cause=str(error))
        return Memory()
    return Memory([prefix for prefix in memory.prefixes if is_prefix(prefix)], memory.components)


# Doing it ---------------------------------------------------------------------------------------------


class Link(Protocol):
    """The gateway's connection to the broker: how often it was made, whether it is there, and its pen."""

    @property
    def connected(self) -> bool: ...

    @property
    def connection_number(self) -> int: ...

    def publish_retained(self, topic: str, payload: bytes, *, qos: int) -> bool: ...


class HomeAssistant:
    """Tells Home Assistant; `look` is to be called about once a second."""

    def __init__(
        self,
        settings: HomeAssistantSettings,
        address: GatewayAddress,
        version: str,
        clock: Clock,
        link: Link,
        read: Callable[[], Reading],
        data_dir: Path,
    ) -> None:
        self._settings = settings
        self._address = address
        self._version = version
        self._clock = clock
        self._link = link
        self._read = read
        self._file = data_dir / MEMORY_FILE
        self._memory = _read_memory(self._file)
        self._greeted = 0  # the connection that has its description
        self._greeted_ms = 0
        self._told: dict[str, Any] = {}
        self._told_ms = clock.boot_ms()
        self._adverts = 0

    def look(self) -> None:
        """Publishes what is new; after a new connection, everything."""
        now, link = self._clock.boot_ms(), self._link
        if not link.connected:
            return
        if self._greeted != link.connection_number:
            if not self._greet():
                return
            self._greeted, self._greeted_ms, self._told = link.connection_number, now, {}
        elif now - self._greeted_ms >= SETTLED_MS:
            self._remember(remembered(self._settings, self._address))
        if self._settings.enabled:
            self._tell(now)

    def _greet(self) -> bool:
        told = messages(self._settings, self._address, self._version, self._memory)
        if not all(self._link.publish_retained(topic, payload, qos=1) for topic, payload in told):
            return False
        if (
            self._settings.enabled
        ):  # at once, for what is delivered and then forgotten could not be taken back
            mine = remembered(self._settings, self._address)
            prefixes = list(dict.fromkeys([*self._memory.prefixes, *mine.prefixes]))[-8:]
            self._remember(Memory(prefixes, self._memory.components | mine.components))
        return True

    def _tell(self, now: int) -> None:
        reading = self._read()
        passed = max(now - self._told_ms, 1)
        rate = (reading.adverts - self._adverts) * 1000 / passed
        state = state_of(self._settings, reading, rate)
        changed = any(state[name] != self._told.get(name) for name in ("scan", "beacons"))
        if not changed and passed < STATE_MS:
            return
        topic = state_topic(self._settings.prefix, self._address)
        if self._link.publish_retained(topic, msgspec.json.encode(state), qos=0):
            self._told, self._told_ms, self._adverts = state, now, reading.adverts

    def _remember(self, memory: Memory) -> None:
        if memory == self._memory:
            return
        try:
            replace_file(self._file, msgspec.json.encode(memory), 0o600)
        except OSError as error:
            log.warning("memory of Home Assistant's topics not written", cause=str(error))
            return
        self._memory = memory
