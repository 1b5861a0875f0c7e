"""The rim to BlueZ: scans with bleak; watches and switches adapters over a D-Bus connection of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio.message_bus import MessageBus

from gateway.bluez_repair import repair
from gateway.scanner import Condition, Heard, RadioError, RadioUnanswered, Stop

START_SECONDS: Final = 15.0  # a daemon that never replies would hold bleak's global lock for ever
STOP_SECONDS: Final = 5.0
CALL_SECONDS: Final = 5.0
RECONNECT_SECONDS: Final = 1.0  # a message bus that is gone costs one failed connect a second
BLUEZ: Final = "org.bluez"
ADAPTER: Final = "org.bluez.Adapter1"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"
DAEMON: Final = "org.freedesktop.DBus"

log = structlog.get_logger()
repair()


class BleakRadio:
    """Unmodified bleak for scans, `BluezWatch` for the rest. Satisfies gateway.scanner.Radio."""

    def __init__(self, watch: "BluezWatch") -> None:
        self._watch = watch

    async def scan(self, adapter: str, heard: Heard) -> Stop:
        """Scans actively and asks for every packet: otherwise BlueZ tells RSSI only when it jumps by 8 dB.

        With a plain callback, because bleak starts a task for each call of a coroutine.
        """

        def detected(device: BLEDevice, advert: AdvertisementData) -> None:
            heard(device.address, advert.manufacturer_data, advert.service_data, advert.rssi)

        scanner = BleakScanner(
            detected,
            scanning_mode="active",
            bluez={"adapter": adapter, "filters": {"DuplicateData": True, "RSSI": -127}},
        )
        await _within(START_SECONDS, scanner.start())

        async def stop() -> None:
            try:
                await _within(STOP_SECONDS, scanner.stop())
            except RadioError as error:  # whatever it was, the next scan is with a new scanner
                log.debug("scan did not end in order", adapter=adapter, cause=str(error))

        return stop

    async def power(self, adapter: str, on: bool) -> None:
        await self._watch.call(
            BLUEZ, f"/org/bluez/{adapter}", PROPERTIES, "Set", "ssv", [ADAPTER, "Powered", Variant("b", on)]
        )

    async def restart_bluetoothd(self) -> None:
        """Through systemd, which asks polkit whether we may."""
        name = "org.freedesktop.systemd1"
        where = "/org/freedesktop/systemd1"
        await self._watch.call(
            name, where, f"{name}.Manager", "RestartUnit", "ss", ["bluetooth.service", "replace"]
        )


class BluezWatch:
    """Tells `changed` how each adapter stands, at once when it changes; comes back with the message bus."""

    def __init__(self, adapters: Sequence[str], changed: Callable[[str, Condition], None]) -> None:
        self._adapters = {f"/org/bluez/{name}": name for name in adapters}
        self._changed = changed
        self._bus: MessageBus | None = None
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            try:
                await self._watch()
            except RadioError as error:
                log.warning("no message bus", cause=str(error))
            finally:
                self._bus = None
            self._all(Condition.UNKNOWN)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def call(
        self, name: str, path: str, interface: str, member: str, signature: str = "", body: Any = ()
    ) -> list[Any]:
        """One D-Bus method call; the body of its reply. Raises RadioError, also when nobody answers."""
        if self._bus is None:
            raise RadioError("no message bus")
        return await _call(self._bus, name, path, interface, member, signature, body)

    async def _watch(self) -> None:
        bus = MessageBus(bus_type=BusType.SYSTEM)
        try:
            await _within(CALL_SECONDS, bus.connect())
            bus.add_message_handler(self._on_message)
            for rule in self._rules():
                await _call(bus, DAEMON, "/org/freedesktop/DBus", DAEMON, "AddMatch", "s", [rule])
            self._bus = bus
            self._look.set()
            looking = asyncio.create_task(self._look_when_told(bus))
            try:
                await _ended(bus)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
        finally:
            bus.disconnect()

    def _rules(self) -> list[str]:
        """No rule lets a device's signals through: a second copy of every advert would cost a core."""
        rules = [f"type='signal',sender='{DAEMON}',member='NameOwnerChanged',arg0='{BLUEZ}'"]
        for path in self._adapters:
            rules += [
                f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',path='{path}',arg0='{ADAPTER}'",
                f"type='signal',sender='{BLUEZ}',interface='{OBJECTS}',arg0path='{path}'",
            ]
        return rules

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "NameOwnerChanged" and message.body[:1] == [BLUEZ]:
            self._all(Condition.ABSENT)
            self._look.set()
        elif message.member == "InterfacesRemoved" and ADAPTER in message.body[1]:
            self._one(message.body[0], Condition.ABSENT)
        elif message.member == "InterfacesAdded" and ADAPTER in message.body[1]:
            self._look.set()
        elif message.member == "PropertiesChanged" and message.body[0] == ADAPTER:
            powered = message.body[1].get("Powered")
            if powered is not None:
                self._one(message.path or "", Condition.READY if powered.value else Condition.OFF)

    async def _look_when_told(self, bus: MessageBus) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            for path in self._adapters:
                self._one(path, await _condition(bus, path))

    def _one(self, path: str, condition: Condition) -> None:
        if path in self._adapters:
            self._changed(self._adapters[path], condition)

    def _all(self, condition: Condition) -> None:
        for name in self._adapters.values():
            self._changed(name, condition)


async def _condition(bus: MessageBus, path: str) -> Condition:
    try:
        reply = await _call(bus, BLUEZ, path, PROPERTIES, "Get", "ss", [ADAPTER, "Powered"])
    except RadioError:
        return Condition.ABSENT
    return Condition.READY if reply[0].value else Condition.OFF


async def _call(
    bus: MessageBus, name: str, path: str, interface: str, member: str, signature: str, body: Any
) -> list[Any]:
    message = Message(
        destination=name,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=list(body),
    )
    reply = await _within(CALL_SECONDS, bus.call(message))
    if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
        raise RadioError(f"{member}: {reply.error_name if reply else 'no reply'}")
    return list(reply.body)


async def _ended(bus: MessageBus) -> None:
    try:
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # dbus-fast's one untyped method
    except Exception as error:  # noqa: BLE001 - dbus-fast hands out whatever broke the connection
        log.debug("message bus lost", cause=f"{type(error).__name__}: {error}")


async def _within(seconds: float, call: Awaitable[Any]) -> Any:
    """The call's answer, or RadioError: bleak and dbus-fast raise BleakError, OSError, EOFError,
    AssertionError and errors of their own for one and the same fault, cancel, and sometimes never return.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise RadioUnanswered(f"no answer in {seconds:g} s") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # it is we who are to end
        raise RadioError("cancelled with the message bus") from error
    except Exception as error:
        raise RadioError(f"{type(error).__name__}: {error}") from error
