"""BlueZ on a private bus: an `org.bluez` service of ours, over D-Bus, that unmodified bleak takes for real.

The rules live in `bluez_adapter` and `bluez_devices`; here is what crosses the bus. One lock joins each
change of state to the message that tells of it, so the order on the bus is the order of events.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from dbus_fast import Message, MessageFlag, MessageType, Variant

from simulators.bluez_adapter import Adapter, BluezError, BluezSettings, Cure
from simulators.bluez_devices import Device
from simulators.bluez_messages import (
    ADAPTER,
    DEVICE,
    MONITOR,
    MONITOR_MANAGER,
    MONITOR_MANAGER_PROPERTIES,
    OBJECT_MANAGER,
    PROPERTIES,
    activate,
    adapter_properties,
    device_path,
    device_properties,
    interfaces_added,
    interfaces_removed,
    power_properties,
    properties_changed,
    read_filter,
    signal_message,
)
from simulators.bus_link import LOST, PEER, Link
from simulators.packets import compose

SERVICE = "org.bluez"
LARGE_REPLY_DEVICES = 50  # a reply of more devices may fill the socket by itself
MAX_WAITING_CALLS = 1000  # clients' calls; more are dropped and counted, as a socket's buffer would be full
CALL_TIMEOUT_S = 5.0  # a client that does not answer a ping by then is stopped, not slow
_ADDRESS = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}")

Body = list[Any]
Reply = tuple[str, Body]
log = structlog.get_logger(__name__)


class DeafClient(TimeoutError):
    """A client that is scanning did not answer a ping: it is stopped, or its loop is blocked."""


class FakeBluez:
    """A bluetoothd with our own radio. Use `async with`; then `advertise` puts packets on the air."""

    def __init__(
        self,
        bus_address: str,
        adapters: Sequence[str] = ("hci0",),
        settings: BluezSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or BluezSettings()
        self.signals_sent = 0
        self.calls_dropped = 0
        self._bus_address = bus_address
        self._clock = clock
        self._adapters = {
            name: Adapter(name, f"B8:27:EB:00:00:{index:02X}", self.settings)
            for index, name in enumerate(adapters)
        }
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: asyncio.Queue[Message] = asyncio.Queue(MAX_WAITING_CALLS)
        self._held: list[Message] = []
        self._hung = False

    async def __aenter__(self) -> Self:
        await self.start_daemon()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_daemon()

    # On the air

    async def advertise(
        self,
        adapter: str,
        address: str,
        *,
        manufacturer_data: Mapping[int, bytes] | None = None,
        service_data: Mapping[str, bytes] | None = None,
        rssi: int,
        name: str | None = None,
    ) -> bool:
        """Lets the adapter hear one packet at `rssi` dBm; the maps are those that bleak delivers.

        True exactly when a signal went out that makes bleak call back once in the client scanning on this
        adapter. What a client cannot hear any more (it is about to stop, or its bus broke on the way) still
        counts until BlueZ knows; a bleak scanner that was abandoned without `stop` calls back as well.
        Raises PacketTooLong for more than a legacy packet and its scan response hold, ValueError for an
        impossible address or strength.
        """
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is no address such as C0:00:00:00:00:01")
        if not -127 < rssi <= 20:
            raise ValueError(f"a packet cannot be heard at {rssi} dBm")
        packet = compose(manufacturer_data or {}, service_data or {}, name)
        radio = self._adapters[adapter]
        async with self._lock:
            if self._link is None or self._hung:
                return False
            signal = radio.hear(address, packet, rssi, self._clock())
            return signal is not None and await self._emit([signal_message(radio, signal)])

    async def drain(self) -> None:
        """Returns when everything sent so far has gone through every scanning client. Raises DeafClient."""
        async with self._lock:
            if self._link is None:
                return
            clients = set().union(*(adapter.listeners for adapter in self._adapters.values()))
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._link.round_trip()
                    for client in clients:
                        await self._link.ping(client)
            except TimeoutError as error:
                raise DeafClient(f"no answer within {CALL_TIMEOUT_S:.0f} s from one of {clients}") from error
            except LOST:
                return

    def listening(self, adapter: str) -> bool:
        """Whether a client is scanning on the adapter, as far as BlueZ knows."""
        return bool(self._adapters[adapter].listeners)

    def discovering(self, adapter: str) -> bool:
        """Whether an active discovery runs on the adapter; true also while it is stuck."""
        return self._adapters[adapter].discoverer is not None

    def devices(self, adapter: str) -> int:
        """How many devices BlueZ holds for the adapter."""
        return len(self._adapters[adapter].devices)

    # Faults

    @property
    def running(self) -> bool:
        """Whether bluetoothd is on the bus."""
        return self._link is not None and self._link.connected

    async def start_daemon(self, busy_s: float = 0.0) -> None:
        """bluetoothd starts, as systemd would do it; discovery answers InProgress for `busy_s` seconds.

        Raises OSError while there is no bus, BusNameTaken if there is a bluetoothd.
        """
        if self.running:
            return
        await self.stop_daemon()
        async with self._lock:
            self._hung = False
            self._held.clear()
            self._calls = asyncio.Queue(MAX_WAITING_CALLS)
            for adapter in self._adapters.values():
                adapter.daemon_restarted(self._clock() + busy_s)
            self._link = await Link.open(self._bus_address, SERVICE, self._receive)
            self._tasks = [asyncio.create_task(self._answer_calls()), asyncio.create_task(self._expire())]
            await self._emit([interfaces_added(a.path, self._interfaces(a)) for a in self._plugged()])

    async def stop_daemon(self) -> None:
        """bluetoothd dies: the name leaves the bus, and nothing says that its objects are gone."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._lock:
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    async def restart_daemon(self, busy_s: float | None = None) -> None:
        """bluetoothd dies and starts again; `busy_s` of InProgress, or the installation's usual time."""
        await self.stop_daemon()
        await self.start_daemon(self.settings.busy_after_restart_s if busy_s is None else busy_s)

    async def unplug(self, adapter: str) -> None:
        """The adapter is pulled out."""
        async with self._lock:
            radio = self._adapters[adapter]
            if not radio.plugged:
                return
            gone = radio.unplug()
            await self._emit(interfaces_removed(device_path(radio, address), DEVICE) for address in gone)
            await self._emit([interfaces_removed(radio.path, ADAPTER, MONITOR_MANAGER)])

    async def replug(self, adapter: str) -> None:
        """The adapter is back, powered, and knows nothing."""
        async with self._lock:
            radio = self._adapters[adapter]
            if radio.plugged:
                return
            radio.replug()
            await self._emit([interfaces_added(radio.path, self._interfaces(radio))])

    async def power(self, adapter: str, on: bool) -> None:
        """Switches the adapter's radio, as a client, rfkill or an operator may."""
        async with self._lock:
            await self._power(self._adapters[adapter], on)

    def hang(self) -> None:
        """bluetoothd stops answering, and signals nothing, while its name stays on the bus."""
        self._hung = True

    async def unhang(self, answer_late: bool = False) -> None:
        """bluetoothd goes on. What was called meanwhile is never answered, or, as after SIGSTOP, late."""
        self._hung = False
        held, self._held = self._held, []
        for message in held:
            if answer_late or message.message_type is MessageType.SIGNAL:  # a client's death is no call
                await self._answer(message)

    def stall(self, adapter: str, cure: Cure = Cure.RESCAN) -> None:
        """Discovery on the adapter gets stuck: it claims to run and hears nothing until the cure."""
        self._adapters[adapter].stall(cure)

    # Sending

    async def _emit(self, messages: Iterable[Message]) -> bool:
        """Sends in order, pacing itself. False when the bus was lost. The caller holds the lock."""
        link = self._link
        if link is None or self._hung:
            return False
        try:
            for message in messages:
                await link.send(message)
                self.signals_sent += message.message_type is MessageType.SIGNAL
        except LOST as error:
            log.info("bluez.bus_lost", error=repr(error))
            return False
        return link.connected

    async def _ended(self, radio: Adapter, lost: Iterable[Device]) -> None:
        """Tells that a discovery ended: signal strengths are invalidated, which reaches bleak as −127 dBm."""
        await self._emit(
            properties_changed(device_path(radio, device.address), DEVICE, {}, ["RSSI"]) for device in lost
        )
        await self._emit([properties_changed(radio.path, ADAPTER, {"Discovering": Variant("b", False)})])

    async def _power(self, radio: Adapter, on: bool) -> None:
        if radio.powered == on or not radio.plugged:
            return
        was_discovering = radio.discoverer is not None
        lost = radio.power(on)
        if was_discovering:
            await self._ended(radio, lost)
        await self._emit([properties_changed(radio.path, ADAPTER, power_properties(radio))])

    async def _expire(self) -> None:
        """Removes devices that were not heard for long."""
        while True:
            await asyncio.sleep(min(1.0, self.settings.temporary_timeout_s / 4))
            async with self._lock:
                if self._hung:
                    continue
                for radio in self._plugged():
                    gone = radio.devices.expire(self._clock())
                    await self._emit(interfaces_removed(device_path(radio, a), DEVICE) for a in gone)

    # Receiving

    def _receive(self, message: Message) -> bool:
        """Takes every call and the signals of interest; dbus-fast must never answer on its own."""
        wanted = message.message_type is MessageType.METHOD_CALL or message.member in _SIGNALS
        if wanted:
            try:
                self._calls.put_nowait(message)
            except asyncio.QueueFull:
                self.calls_dropped += 1
        return message.message_type is MessageType.METHOD_CALL

    async def _answer_calls(self) -> None:
        while True:
            message = await self._calls.get()
            if not self._hung:
                await self._answer(message)
            elif len(self._held) < MAX_WAITING_CALLS:
                self._held.append(message)
            else:
                self.calls_dropped += 1

    async def _answer(self, message: Message) -> None:
        async with self._lock:
            if message.message_type is MessageType.SIGNAL:
                await self._notice(message)
                return
            try:
                signature, body = await self._call(message)
                reply = Message.new_method_return(message, signature, body)
            except BluezError as error:
                reply = Message.new_error(message, f"org.bluez.Error.{error.name}", str(error))
            except _UnknownMethodError as error:
                reply = Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", str(error))
            except LOST:
                return
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                await self._emit([reply])

    async def _notice(self, signal: Message) -> None:
        """A client left the bus, or exported the monitor that it had registered."""
        if signal.member == "NameOwnerChanged":
            name, _, owner = signal.body
            if name.startswith(":") and not owner:
                await self._client_left(name)
        elif MONITOR in signal.body[1]:
            path, interfaces = signal.body
            patterns = interfaces[MONITOR].get("Patterns", Variant("a(yyay)", [])).value
            cleaned = [(start, kind, bytes(content)) for start, kind, content in patterns]
            for adapter in self._adapters.values():
                if adapter.activate_monitor(signal.sender or "", path, cleaned):
                    await self._emit([activate(signal.sender, path)])

    async def _client_left(self, client: str) -> None:
        for radio in self._adapters.values():
            was_discovering = radio.discoverer == client
            lost = radio.forget_client(client)
            if was_discovering:
                await self._ended(radio, lost)

    async def _call(self, message: Message) -> Reply:
        interface, member = message.interface or "", message.member or ""
        common = _COMMON_METHODS.get((interface, member, message.signature))
        if common is not None:
            return await common(self, message)
        radio = self._radio(message.path)
        method = _ADAPTER_METHODS.get((interface, member, message.signature))
        if (
            radio is None
            or method is None
            or (interface == MONITOR_MANAGER and not self.settings.experimental)
        ):
            raise _UnknownMethodError(
                f'Method "{member}" with signature "{message.signature}" on "{interface}" does not exist'
            )
        return await method(self, radio, message)

    def _plugged(self) -> list[Adapter]:
        return [adapter for adapter in self._adapters.values() if adapter.plugged]

    def _radio(self, path: str | None) -> Adapter | None:
        return next((adapter for adapter in self._plugged() if adapter.path == path), None)

    # D-Bus methods

    async def _ping(self, _message: Message) -> Reply:
        return "", []

    async def _managed_objects(self, _message: Message) -> Reply:
        objects: dict[str, dict[str, dict[str, Variant]]] = {}
        for radio in self._plugged():
            objects[radio.path] = self._interfaces(radio)
            for device in radio.devices:
                objects[device_path(radio, device.address)] = {DEVICE: device_properties(radio, device)}
        if self._link is not None:
            self._link.large = len(objects) > LARGE_REPLY_DEVICES
        return "a{oa{sa{sv}}}", [objects]

    async def _get_all(self, message: Message) -> Reply:
        return "a{sv}", [self._properties(message.path, message.body[0])]

    async def _get(self, message: Message) -> Reply:
        interface, name = message.body
        value = self._properties(message.path, interface).get(name)
        if value is None:
            raise BluezError("InvalidArguments", f"No such property {name}")
        return "v", [value]

    async def _set(self, message: Message) -> Reply:
        interface, name, value = message.body
        radio = self._radio(message.path)
        if radio is None or (interface, name) != (ADAPTER, "Powered") or value.signature != "b":
            raise BluezError("InvalidArguments", f"{name} cannot be set")
        await self._power(radio, value.value)
        return "", []

    async def _set_discovery_filter(self, radio: Adapter, message: Message) -> Reply:
        radio.set_filter(message.sender or "", read_filter(message.body[0]))
        return "", []

    async def _start_discovery(self, radio: Adapter, message: Message) -> Reply:
        radio.start_discovery(message.sender or "", self._clock())
        await self._emit([properties_changed(radio.path, ADAPTER, {"Discovering": Variant("b", True)})])
        return "", []

    async def _stop_discovery(self, radio: Adapter, message: Message) -> Reply:
        await self._ended(radio, radio.stop_discovery(message.sender or ""))
        return "", []

    async def _remove_device(self, radio: Adapter, message: Message) -> Reply:
        path: str = message.body[0]
        address = path.removeprefix(f"{radio.path}/dev_").replace("_", ":")
        if not radio.devices.remove(address):
            raise BluezError("DoesNotExist", "Does Not Exist")
        await self._emit([interfaces_removed(path, DEVICE)])
        return "", []

    async def _register_monitor(self, radio: Adapter, message: Message) -> Reply:
        client, path = message.sender or "", message.body[0]
        radio.register_monitor(client, path)
        # The client exports the object only after our answer, and its InterfacesAdded carries the patterns.
        if self._link is not None:
            await self._link.watch(f"sender='{client}',interface='{OBJECT_MANAGER}',member='InterfacesAdded'")
        return "", []

    async def _unregister_monitor(self, radio: Adapter, message: Message) -> Reply:
        radio.unregister_monitor(message.sender or "", message.body[0])
        return "", []

    # Objects

    def _interfaces(self, radio: Adapter) -> dict[str, dict[str, Variant]]:
        interfaces = {ADAPTER: adapter_properties(radio)}
        if self.settings.experimental:
            interfaces[MONITOR_MANAGER] = MONITOR_MANAGER_PROPERTIES
        return interfaces

    def _properties(self, path: str | None, interface: str) -> dict[str, Variant]:
        for radio in self._plugged():
            if path == radio.path and interface in self._interfaces(radio):
                return self._interfaces(radio)[interface]
            for device in radio.devices if interface == DEVICE else ():
                if path == device_path(radio, device.address):
                    return device_properties(radio, device)
        raise _UnknownMethodError(f"no interface {interface} at {path}")


class _UnknownMethodError(Exception):
    """The object, the interface or the method does not exist."""


_SIGNALS = frozenset({"NameOwnerChanged", "InterfacesAdded"})
_COMMON_METHODS = {
    (PEER, "Ping", ""): FakeBluez._ping,
    (OBJECT_MANAGER, "GetManagedObjects", ""): FakeBluez._managed_objects,
    (PROPERTIES, "Get", "ss"): FakeBluez._get,
    (PROPERTIES, "GetAll", "s"): FakeBluez._get_all,
    (PROPERTIES, "Set", "ssv"): FakeBluez._set,
}
_ADAPTER_METHODS = {
    (ADAPTER, "SetDiscoveryFilter", "a{sv}"): FakeBluez._set_discovery_filter,
    (ADAPTER, "StartDiscovery", ""): FakeBluez._start_discovery,
    (ADAPTER, "StopDiscovery", ""): FakeBluez._stop_discovery,
    (ADAPTER, "RemoveDevice", "o"): FakeBluez._remove_device,
    (MONITOR_MANAGER, "RegisterMonitor", "o"): FakeBluez._register_monitor,
    (MONITOR_MANAGER, "UnregisterMonitor", "o"): FakeBluez._unregister_monitor,
}
