"""One adapter of BlueZ, without D-Bus: discovery sessions, filters, monitors, power, and being stuck."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from simulators.bluez_devices import RSSI_STEP_DB, TEMPORARY_TIMEOUT_S, Device, DeviceTable, Listening, Signal
from simulators.packets import Content, Packet, matches

Patterns: TypeAlias = Sequence[tuple[int, int, bytes]]
"""Or-patterns of an advertisement monitor: (start, AD type, bytes)."""

MAX_MONITORS = 64  # a client that registers without end must not fill the memory


class BluezError(Exception):
    """An error reply of bluetoothd: `name` follows `org.bluez.Error.`, the text is the daemon's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Cure(IntEnum):
    """The least remedy that gets a stuck discovery going; a stronger one does too."""

    RESCAN = 1  # StopDiscovery and StartDiscovery
    POWER_CYCLE = 2
    DAEMON_RESTART = 3
    REPLUG = 4


@dataclass(frozen=True, slots=True)
class BluezSettings:
    """What differs between installations. Seconds throughout.

    `version`: until 5.87 any discovery filter makes every RSSI a signal, from 5.88 on only one that sets
    RSSI or Pathloss. `experimental` is bluetoothd's option, without which there are no passive scans.
    `busy_after_restart_s`: bluetoothd 5.66 answered InProgress for 9–10 s, until the kernel's scan ended.
    """

    version: tuple[int, int] = (5, 88)
    experimental: bool = True
    busy_after_restart_s: float = 10.0
    temporary_timeout_s: float = TEMPORARY_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class DiscoveryFilter:
    """A client's SetDiscoveryFilter; the default is bluetoothd's for a client that set something."""

    rssi: int | None = None
    pathloss: int | None = None
    uuids: frozenset[str] = frozenset()
    pattern: str = ""
    duplicates: bool = True

    def __post_init__(self) -> None:
        if self.rssi is not None and self.pathloss is not None:
            raise BluezError("InvalidArguments", "Invalid arguments in method call")
        if self.rssi is not None and not -127 <= self.rssi <= 20:
            raise BluezError("InvalidArguments", "Invalid arguments in method call")

    def admits(self, address: str, content: Content, rssi: int) -> bool:
        """Whether BlueZ takes it in. Our packets carry no Tx power, so Pathloss admits none."""
        if self.pathloss is not None or (self.rssi is not None and rssi < self.rssi):
            return False
        if self.uuids and self.uuids.isdisjoint(content.service_uuids):
            return False
        return address.startswith(self.pattern) or (content.name or "").startswith(self.pattern)


@dataclass(slots=True)
class _Monitor:
    """A registered advertisement monitor; `patterns` is None until its client has exported the object."""

    patterns: Patterns | None = None


class Adapter:
    """State and rules of one hciX. Methods that stand for a D-Bus call raise BluezError."""

    def __init__(self, name: str, address: str, settings: BluezSettings) -> None:
        self.name = name
        self.address = address
        self.path = f"/org/bluez/{name}"
        self.plugged = True
        self.powered = True
        self.discoverer: str | None = None
        self.devices = DeviceTable(settings.temporary_timeout_s)
        self._settings = settings
        self._filters: dict[str, DiscoveryFilter] = {}
        self._monitors: dict[tuple[str, str], _Monitor] = {}
        self._busy_until = 0.0
        self._stuck: Cure | None = None

    @property
    def listeners(self) -> set[str]:
        """The bus names of the clients that an advertisement may reach."""
        active = {self.discoverer} if self.discoverer else set()
        return active | {client for client, _ in self._monitors}

    def set_filter(self, client: str, wanted: DiscoveryFilter | None) -> None:
        """SetDiscoveryFilter; None takes the client's filter away."""
        self._must_be_powered()
        self._filters.pop(client, None)
        if wanted is not None:
            self._filters[client] = wanted

    def start_discovery(self, client: str, now: float) -> None:
        self._must_be_powered()
        if self.discoverer is not None or now < self._busy_until:
            raise BluezError("InProgress", "Operation already in progress")
        self.discoverer = client

    def stop_discovery(self, client: str) -> list[Device]:
        """The devices whose signal strength is no longer valid."""
        self._must_be_powered()
        if self.discoverer != client:
            raise BluezError("Failed", "No discovery started")
        return self._end_discovery(Cure.RESCAN)

    def register_monitor(self, client: str, path: str) -> None:
        """RegisterMonitor; it hears nothing before `activate_monitor`."""
        if (client, path) in self._monitors:
            raise BluezError("AlreadyExists", "Already Exists")
        if len(self._monitors) >= MAX_MONITORS:
            raise BluezError("Failed", f"more than {MAX_MONITORS} monitors")
        self._monitors[client, path] = _Monitor()

    def activate_monitor(self, client: str, path: str, patterns: Patterns) -> bool:
        """The client has exported its monitor's object. Whether it had registered it before."""
        monitor = self._monitors.get((client, path))
        if monitor is None:
            return False
        monitor.patterns = patterns
        return True

    def unregister_monitor(self, client: str, path: str) -> None:
        if self._monitors.pop((client, path), None) is None:
            raise BluezError("DoesNotExist", "Does Not Exist")

    def forget_client(self, client: str) -> list[Device]:
        """The client left the bus: its discovery, filter and monitors end. Devices that lost their RSSI."""
        self._filters.pop(client, None)
        for key in [key for key in self._monitors if key[0] == client]:
            del self._monitors[key]
        return self._end_discovery(Cure.RESCAN) if self.discoverer == client else []

    def power(self, on: bool) -> list[Device]:
        """Switches the radio. Devices that lost their RSSI."""
        lost = self._end_discovery(Cure.POWER_CYCLE) if self.powered and not on else []
        self.powered = on
        return lost

    def unplug(self) -> list[str]:
        """Takes the adapter away, with all that clients had set. The addresses of its devices."""
        self.plugged = False
        self._begin_anew(Cure.REPLUG)
        return self.devices.clear()

    def replug(self) -> None:
        """The adapter is back, and powered, as BlueZ's AutoEnable has it."""
        self.plugged = self.powered = True

    def daemon_restarted(self, busy_until: float) -> None:
        """A new bluetoothd knows no device and no client; the kernel's scan still runs until `busy_until`."""
        self._begin_anew(Cure.DAEMON_RESTART)
        self.devices.clear()
        self._busy_until = busy_until

    def stall(self, cure: Cure) -> None:
        """Discovery gets stuck silently: it goes on claiming to run, and hears nothing."""
        self._stuck = cure

    def hear(self, address: str, packet: Packet, rssi: int, now: float) -> Signal | None:
        """One advertisement reaches the antenna. The signal that follows, if any."""
        if not (self.plugged and self.powered) or self._stuck is not None:
            return None
        wanted = self._filters.get(self.discoverer or "")
        if self.discoverer is not None and (wanted is None or wanted.admits(address, packet.active, rssi)):
            return self.devices.hear(address, packet.active, rssi, now, self._listening(wanted))
        if any(monitor.patterns and matches(packet, monitor.patterns) for monitor in self._monitors.values()):
            return self.devices.hear(address, packet.passive, rssi, now, Listening())
        return None

    def _listening(self, wanted: DiscoveryFilter | None) -> Listening:
        if wanted is None:
            return Listening()
        measured = wanted.rssi is not None or wanted.pathloss is not None
        every = measured or self._settings.version < (5, 88)
        return Listening(0 if every else RSSI_STEP_DB, wanted.duplicates)

    def _end_discovery(self, remedy: Cure) -> list[Device]:
        self.discoverer = None
        if self._stuck is not None and remedy >= self._stuck:
            self._stuck = None
        return self.devices.forget_rssi()

    def _begin_anew(self, remedy: Cure) -> None:
        self._end_discovery(remedy)
        self._filters.clear()
        self._monitors.clear()
        self._busy_until = 0.0

    def _must_be_powered(self) -> None:
        if not self.powered:
            raise BluezError("NotReady", "Resource Not Ready")
