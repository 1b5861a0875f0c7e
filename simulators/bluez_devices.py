"""BlueZ's table of heard devices, without D-Bus: which signal, if any, follows from an advertisement.

The rules are those of bluetoothd's `btd_adapter_update_found_device` and `device_set_rssi_with_delta`:
a device is one merged map of properties, not a packet, and a value is signalled only when a rule says so.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from simulators.packets import Content

K = TypeVar("K", int, str)

RSSI_STEP_DB = 8  # bluetoothd's RSSI_THRESHOLD: smaller changes are neither signalled nor remembered
TEMPORARY_TIMEOUT_S = 30.0  # bluetoothd's TemporaryTimeout: a device unheard for so long is removed


@dataclass(frozen=True, slots=True)
class Listening:
    """How an adapter listens at present.

    `rssi_step` is the least change in dB that is signalled; 0 signals every advertisement. `duplicates` is
    DuplicateData: a map of data is replaced and signalled even where nothing in it changed.
    """

    rssi_step: int = RSSI_STEP_DB
    duplicates: bool = False


@dataclass(slots=True)
class Device:
    """What BlueZ holds of one device. `rssi` is None from the end of a discovery until it is heard again."""

    address: str
    last_heard: float
    rssi: int | None = None
    name: str | None = None
    manufacturer_data: dict[int, bytes] = field(default_factory=dict)
    service_data: dict[str, bytes] = field(default_factory=dict)
    service_uuids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Signal:
    """The device is to be announced (`changed` is None), or these properties of it have changed."""

    device: Device
    changed: tuple[str, ...] | None


class DeviceTable:
    """The devices of one adapter, in the order in which they were last heard."""

    def __init__(self, timeout_s: float = TEMPORARY_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._devices: OrderedDict[str, Device] = OrderedDict()

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    def get(self, address: str) -> Device | None:
        return self._devices.get(address)

    def hear(
        self, address: str, content: Content, rssi: int, now: float, listening: Listening
    ) -> Signal | None:
        """Takes in one advertisement; None where BlueZ keeps it to itself."""
        device = self._devices.get(address)
        if device is None:
            device = self._devices[address] = Device(address, now)
            _merge(device, content, rssi, Listening(rssi_step=0))
            return Signal(device, None)
        device.last_heard = now
        self._devices.move_to_end(address)
        changed = _merge(device, content, rssi, listening)
        return Signal(device, changed) if changed else None

    def remove(self, address: str) -> bool:
        """Whether there was such a device."""
        return self._devices.pop(address, None) is not None

    def expire(self, now: float) -> list[str]:
        """Removes the devices that were not heard for the timeout; their addresses."""
        gone = []
        for device in self._devices.values():
            if now - device.last_heard < self._timeout_s:
                break
            gone.append(device.address)
        for address in gone:
            del self._devices[address]
        return gone

    def forget_rssi(self) -> list[Device]:
        """The end of a discovery: signal strengths become invalid. The devices that had one."""
        had = [device for device in self._devices.values() if device.rssi is not None]
        for device in had:
            device.rssi = None
        return had

    def clear(self) -> list[str]:
        """Removes every device; their addresses."""
        gone = list(self._devices)
        self._devices.clear()
        return gone


def _merge(device: Device, content: Content, rssi: int, listening: Listening) -> tuple[str, ...]:
    """Merges an advertisement into the device; the D-Bus properties that are to be signalled."""
    changed = []
    if device.rssi is None or abs(rssi - device.rssi) >= listening.rssi_step:
        device.rssi = rssi
        changed.append("RSSI")
    if _merge_map(device.manufacturer_data, content.manufacturer_data, listening.duplicates):
        changed.append("ManufacturerData")
    if _merge_map(device.service_data, content.service_data, listening.duplicates):
        changed.append("ServiceData")
    fresh = [uuid for uuid in content.service_uuids if uuid not in device.service_uuids]
    if fresh:
        device.service_uuids.extend(fresh)
        changed.append("UUIDs")
    if content.name is not None and content.name != device.name:
        device.name = content.name
        changed += ["Name", "Alias"]
    return tuple(changed)


def _merge_map(held: dict[K, bytes], heard: Mapping[K, bytes], duplicates: bool) -> bool:
    if not heard:
        return False
    if duplicates:
        held.clear()  # bluetoothd forgets the other keys of this map, and signals in any case
    elif all(held.get(key) == value for key, value in heard.items()):
        return False
    held.update(heard)
    return True
