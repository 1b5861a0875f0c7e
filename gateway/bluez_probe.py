"""One look at the message bus and at BlueZ, for the doctor: what answers, what refuses, what hangs."""

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio.message_bus import MessageBus
from dbus_fast.errors import DBusFastError, InvalidAddressError

CALL_SECONDS: Final = 3.0  # bluetoothd answers in milliseconds; one that hangs never does
DEFAULT_ADDRESS: Final = "unix:path=/run/dbus/system_bus_socket"
_DAEMON: Final = "org.freedesktop.DBus"
_BLUEZ: Final = "org.bluez"
_ADAPTER: Final = "org.bluez.Adapter1"
_OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"

BusState: TypeAlias = Literal["good", "no-socket", "refused", "reset", "silent"]
BluezState: TypeAlias = Literal["good", "stopped", "forbidden", "silent", "failed", "not-asked"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BusFacts:
    """What was found. `adapters` are BlueZ's, each powered or not; `detail` is an error's own text."""

    bus: BusState
    address: str
    bluez: BluezState = "not-asked"
    adapters: dict[str, bool] = field(default_factory=dict)
    detail: str = ""


class _Refused(Exception):
    """A method call was answered with an error, whose name this is."""


def bus_address() -> str:
    """Where the system's bus is, as bleak finds it too."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", DEFAULT_ADDRESS)


async def look_at_bluez() -> BusFacts:
    """Connects once, asks once, changes nothing."""
    address = bus_address()
    try:
        bus = MessageBus(bus_type=BusType.SYSTEM)
    except InvalidAddressError as error:
        return BusFacts("no-socket", address, detail=str(error))
    try:
        await _soon(bus.connect())
        return await _ask(bus, address)
    except (OSError, EOFError, DBusFastError, TimeoutError) as error:
        return BusFacts(_bus_state(error), address, detail=str(error))
    finally:
        bus.disconnect()


async def _ask(bus: MessageBus, address: str) -> BusFacts:
    try:
        [runs] = await _call(bus, _DAEMON, "/org/freedesktop/DBus", _DAEMON, "NameHasOwner", [_BLUEZ])
        if not runs:  # asking BlueZ itself would have it started
            return BusFacts("good", address, "stopped")
        [objects] = await _call(bus, _BLUEZ, "/", _OBJECTS, "GetManagedObjects", [])
    except TimeoutError:
        return BusFacts("good", address, "silent")
    except _Refused as error:
        name = str(error)
        return BusFacts("good", address, _BLUEZ_STATES.get(name.rpartition(".")[2], "failed"), detail=name)
    return BusFacts("good", address, "good", _adapters(objects))


def _adapters(objects: dict[str, dict[str, dict[str, Any]]]) -> dict[str, bool]:
    return {
        path.rpartition("/")[2]: bool(interfaces[_ADAPTER]["Powered"].value)
        for path, interfaces in objects.items()
        if "Powered" in interfaces.get(_ADAPTER, {})
    }


async def _call(
    bus: MessageBus, name: str, path: str, interface: str, member: str, body: list[str]
) -> list[Any]:
    message = Message(name, path, interface, member, signature="s" * len(body), body=body)
    reply = await _soon(bus.call(message))
    if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
        raise _Refused(reply.error_name if reply else "NoReply")
    return list(reply.body)


async def _soon(call: Awaitable[T]) -> T:
    async with asyncio.timeout(CALL_SECONDS):
        return await call


def _bus_state(error: BaseException) -> BusState:
    return next((state for kind, state in _BUS_STATES if isinstance(error, kind)), "reset")


_BUS_STATES: Final[tuple[tuple[type[BaseException], BusState], ...]] = (
    (FileNotFoundError, "no-socket"),
    (InvalidAddressError, "no-socket"),
    (ConnectionRefusedError, "refused"),
    (TimeoutError, "silent"),
)
_BLUEZ_STATES: Final[dict[str, BluezState]] = {
    "AccessDenied": "forbidden",
    "ServiceUnknown": "stopped",
    "NameHasNoOwner": "stopped",
    "NoReply": "silent",
}
