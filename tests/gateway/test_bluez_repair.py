"""A message to a message bus that is gone fails, and leaves every other connection alone."""

import asyncio
import contextlib

import pytest
from dbus_fast import Message
from dbus_fast.aio.message_bus import MessageBus

from gateway.bluez_repair import repair
from simulators.bus import private_bus

DAEMON = "org.freedesktop.DBus"


async def ask(bus):
    call = Message(DAEMON, "/org/freedesktop/DBus", DAEMON, "GetId")
    return (await asyncio.wait_for(bus.call(call), 2)).body


@pytest.mark.parametrize("times", [1, 3])
async def test_what_is_said_to_a_dead_bus_deafens_no_other_connection(wait_until, times):
    repair()
    async with private_bus() as daemon:
        dead = await MessageBus(bus_address=daemon.address).connect()
        descriptor = dead._fd
        await daemon.restart()
        await wait_until(lambda: not dead.connected)
        heirs = [await MessageBus(bus_address=daemon.address).connect() for _ in range(3)]
        assert descriptor in [heir._fd for heir in heirs], "the descriptor is somebody else's now"
        for _ in range(times):
            with pytest.raises(EOFError):
                await ask(dead)
        for heir in heirs:
            assert await ask(heir)
            heir.disconnect()
            await heir.wait_for_disconnect()
        with contextlib.suppress(EOFError):
            await dead.wait_for_disconnect()  # takes up the error that would else be logged
