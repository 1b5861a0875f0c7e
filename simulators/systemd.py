"""systemd on a private bus, as far as a gateway asks it: a new bluetoothd, if polkit lets us."""

import asyncio
from types import TracebackType
from typing import Self

from dbus_fast import Message, MessageType

from simulators.bluez import FakeBluez
from simulators.bus_link import LOST, Link

SERVICE = "org.freedesktop.systemd1"
MANAGER = f"{SERVICE}.Manager"
PATH = "/org/freedesktop/systemd1"
UNIT = "bluetooth.service"
MODES = frozenset({"replace", "fail", "isolate", "ignore-dependencies", "ignore-requirements"})
MAX_JOBS = 16  # a client that asks for one restart after another must not pile them up


class FakeSystemd:
    """A manager that knows `bluetooth.service` only. Use `async with`, and `start` again with a new bus.

    `permits` is polkit's word about us. `restarts` counts those that were carried out.
    """

    def __init__(self, bus_address: str, bluez: FakeBluez, *, permits: bool = True) -> None:
        self.permits = permits
        self.restarts = 0
        self._bus_address = bus_address
        self._bluez = bluez
        self._link: Link | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._asked = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._leave()

    async def start(self) -> None:
        """Takes its name on the bus, unless it has it. Raises OSError while there is no bus."""
        if self._link is None or not self._link.connected:
            await self._leave()
            self._link = await Link.open(self._bus_address, SERVICE, self._receive)

    async def _leave(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _receive(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if len(self._jobs) < MAX_JOBS:
            job = asyncio.get_running_loop().create_task(self._serve(message))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
        return True

    async def _serve(self, call: Message) -> None:
        """Answers with a job at once, as systemd does, and then does it."""
        try:
            method = self._method(call)
            self._asked += 1
            await self._send(Message.new_method_return(call, "o", [f"{PATH}/job/{self._asked}"]))
        except _RefusedError as error:
            await self._send(Message.new_error(call, error.name, str(error)))
            return
        try:
            await self._do(method)
        except LOST:
            return  # the bus died amid it; whoever starts it anew starts bluetoothd too

    def _method(self, call: Message) -> str:
        """The method that is asked for. Raises _RefusedError."""
        known = (
            call.path == PATH and call.interface == MANAGER and call.member in ("StartUnit", "RestartUnit")
        )
        if not known or call.signature != "ss":
            raise _RefusedError("org.freedesktop.DBus.Error.UnknownMethod", f"Unknown method {call.member}")
        unit, mode = call.body
        if unit != UNIT:
            raise _RefusedError(f"{SERVICE}.NoSuchUnit", f"Unit {unit} not found.")
        if mode not in MODES:
            raise _RefusedError("org.freedesktop.DBus.Error.InvalidArgs", f"Job mode {mode} invalid")
        if not self.permits:
            raise _RefusedError(
                "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
                "Interactive authentication required.",
            )
        return str(call.member)

    async def _do(self, method: str) -> None:
        if method == "StartUnit":
            await self._bluez.start_daemon()
        else:
            await self._bluez.restart_daemon()
            self.restarts += 1

    async def _send(self, reply: Message) -> None:
        link = self._link
        try:
            if link is not None and link.connected:
                await link.send(reply)
        except LOST:
            return  # nobody is left to be answered


class _RefusedError(Exception):
    """An error reply; `name` is D-Bus's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
