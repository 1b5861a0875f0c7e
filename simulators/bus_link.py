"""A service's connection to a message bus, which never lets its socket fill."""

import contextlib
from collections.abc import Callable
from typing import Any

from dbus_fast import Message
from dbus_fast.aio import MessageBus
from dbus_fast.constants import RequestNameReply

from gateway.bluez_repair import repair

PEER = "org.freedesktop.DBus.Peer"
SENDS_BETWEEN_ROUND_TRIPS = 50  # dbus-fast drops the connection at EAGAIN: some 110 signals fill a socket
repair()
LOST = (OSError, EOFError)  # what dbus-fast raises once its connection is gone


class BusNameTaken(RuntimeError):
    """Another service already owns the name on this bus."""


class Link:
    """One connection that owns a name. One caller at a time may send; each message is written out first.

    `large` says that the next message may fill the socket by itself, so its receipt is awaited.
    """

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._sent = 0
        self.large = False

    @classmethod
    async def open(cls, address: str, service: str, receive: Callable[[Message], bool]) -> "Link":
        """Connects, takes the name and watches clients leave. Raises OSError, BusNameTaken."""
        bus = await MessageBus(bus_address=address).connect()
        link = cls(bus)
        try:
            await link.watch("sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''")
            bus.add_message_handler(receive)
            await link._take(service)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def connected(self) -> bool:
        return self._bus.connected

    async def send(self, message: Message) -> None:
        """Returns when the message is written, and every so often when the daemon has read it."""
        self._must_be_connected()
        await self._bus.send(message)
        self._sent += 1
        if self._sent >= SENDS_BETWEEN_ROUND_TRIPS or self.large:
            await self.round_trip()

    async def round_trip(self) -> None:
        """Returns when the bus daemon has read all that was sent."""
        self._sent, self.large = 0, False
        await self._daemon("GetId")

    async def ping(self, client: str) -> None:
        """Returns when the client has handled all that was sent to it, or has left."""
        self._must_be_connected()
        await self._bus.call(Message(client, "/", PEER, "Ping"))

    async def watch(self, rule: str) -> None:
        """Asks for the signals of a match rule."""
        await self._daemon("AddMatch", "s", [f"type='signal',{rule}"])

    async def close(self) -> None:
        self._bus.disconnect()
        with contextlib.suppress(*LOST):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    async def _take(self, service: str) -> None:
        if await self._bus.request_name(service) is not RequestNameReply.PRIMARY_OWNER:
            raise BusNameTaken(f"{service} already has an owner on this bus")

    async def _daemon(self, member: str, signature: str = "", body: list[Any] | None = None) -> None:
        self._must_be_connected()
        name = "org.freedesktop.DBus"
        call = Message(name, "/org/freedesktop/DBus", name, member, signature=signature, body=body or [])
        await self._bus.call(call)

    def _must_be_connected(self) -> None:
        """dbus-fast would wait for ever for the answer to what it could not send."""
        if not self._bus.connected:
            raise EOFError("the bus connection is gone")
