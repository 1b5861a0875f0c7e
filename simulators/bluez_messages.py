"""What BlueZ says on the bus: the properties of its objects, its signals, and the filters it is given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant

from simulators.bluez_adapter import Adapter, BluezError, DiscoveryFilter
from simulators.bluez_devices import Device, Signal

OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
MONITOR = "org.bluez.AdvertisementMonitor1"
MONITOR_MANAGER = "org.bluez.AdvertisementMonitorManager1"
MONITOR_MANAGER_PROPERTIES = {
    "SupportedMonitorTypes": Variant("as", ["or_patterns"]),
    "SupportedFeatures": Variant("as", []),
}


def signal_message(radio: Adapter, signal: Signal) -> Message:
    path = device_path(radio, signal.device.address)
    if signal.changed is None:
        return interfaces_added(path, {DEVICE: device_properties(radio, signal.device)})
    values = {name: _DEVICE_VALUES[name](signal.device) for name in signal.changed}
    return properties_changed(path, DEVICE, values)


def interfaces_added(path: str, interfaces: dict[str, dict[str, Variant]]) -> Message:
    return _signal("/", OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", [path, interfaces])


def interfaces_removed(path: str, *interfaces: str) -> Message:
    return _signal("/", OBJECT_MANAGER, "InterfacesRemoved", "oas", [path, [*interfaces, PROPERTIES]])


def properties_changed(
    path: str, interface: str, changed: dict[str, Variant], invalidated: Sequence[str] = ()
) -> Message:
    body = [interface, changed, list(invalidated)]
    return _signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)


def _signal(path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    return Message(
        path=path,
        interface=interface,
        member=member,
        message_type=MessageType.SIGNAL,
        signature=signature,
        body=body,
        validate=False,  # names and paths are ours; validation would cost a fifth of an advertisement
    )


def activate(client: str | None, path: str) -> Message:
    return Message(client, path, MONITOR, "Activate", flags=MessageFlag.NO_REPLY_EXPECTED)


def device_path(radio: Adapter, address: str) -> str:
    return f"{radio.path}/dev_{address.replace(':', '_')}"


def _no(_device: Device) -> Variant:
    return Variant("b", False)


_DEVICE_VALUES: dict[str, Callable[[Device], Variant]] = {
    "Address": lambda device: Variant("s", device.address),
    "AddressType": lambda _device: Variant("s", "random"),
    "Alias": lambda device: Variant("s", device.name or device.address.replace(":", "-")),
    "Name": lambda device: Variant("s", device.name or ""),
    "RSSI": lambda device: Variant("n", device.rssi if device.rssi is not None else -127),
    "UUIDs": lambda device: Variant("as", list(device.service_uuids)),
    "ManufacturerData": lambda device: Variant(
        "a{qv}", {key: Variant("ay", value) for key, value in device.manufacturer_data.items()}
    ),
    "ServiceData": lambda device: Variant(
        "a{sv}", {key: Variant("ay", value) for key, value in device.service_data.items()}
    ),
    **dict.fromkeys(
        ("Paired", "Bonded", "Trusted", "Blocked", "LegacyPairing", "Connected", "ServicesResolved"), _no
    ),
}
_OPTIONAL: dict[str, Callable[[Device], bool]] = {
    "Name": lambda device: device.name is not None,
    "RSSI": lambda device: device.rssi is not None,
    "ManufacturerData": lambda device: bool(device.manufacturer_data),
    "ServiceData": lambda device: bool(device.service_data),
}


def device_properties(radio: Adapter, device: Device) -> dict[str, Variant]:
    """The Device1 properties; those that were never heard are absent, as in BlueZ."""
    properties = {
        name: value(device)
        for name, value in _DEVICE_VALUES.items()
        if name not in _OPTIONAL or _OPTIONAL[name](device)
    }
    properties["Adapter"] = Variant("o", radio.path)
    return properties


def power_properties(radio: Adapter) -> dict[str, Variant]:
    return {
        "Powered": Variant("b", radio.powered),
        "PowerState": Variant("s", "on" if radio.powered else "off"),
    }


def adapter_properties(radio: Adapter) -> dict[str, Variant]:
    return {
        **power_properties(radio),
        "Address": Variant("s", radio.address),
        "AddressType": Variant("s", "public"),
        "Name": Variant("s", "footfall"),
        "Alias": Variant("s", "footfall"),
        "Class": Variant("u", 0),
        "Discovering": Variant("b", radio.discoverer is not None),
        "Discoverable": Variant("b", False),
        "DiscoverableTimeout": Variant("u", 180),
        "Pairable": Variant("b", False),
        "PairableTimeout": Variant("u", 0),
        "UUIDs": Variant("as", []),
        "Modalias": Variant("s", "usb:v1D6Bp0246d0542"),
        "Roles": Variant("as", ["central", "peripheral"]),
    }


_FILTER_FIELDS = {
    "RSSI": ("n", "rssi"),
    "Pathloss": ("q", "pathloss"),
    "UUIDs": ("as", "uuids"),
    "Pattern": ("s", "pattern"),
    "DuplicateData": ("b", "duplicates"),
}
_IGNORED_FILTERS = frozenset({"Transport", "Discoverable"})


def read_filter(given: Mapping[str, Variant]) -> DiscoveryFilter | None:
    """SetDiscoveryFilter's argument; None for an empty one, which takes the filter away."""
    if not given:
        return None
    values: dict[str, Any] = {}
    for name, variant in given.items():
        if name in _IGNORED_FILTERS:
            continue
        signature, field_name = _FILTER_FIELDS.get(name, ("", ""))
        if variant.signature != signature:
            raise BluezError("InvalidArguments", "Invalid arguments in method call")
        values[field_name] = frozenset(variant.value) if name == "UUIDs" else variant.value
    return DiscoveryFilter(**values)
