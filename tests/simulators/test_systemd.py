"""The simulated systemd answers as the real one does, and its restart is a new bluetoothd."""

import asyncio
import time

import pytest
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

from simulators.bluez import FakeBluez
from simulators.bus import private_bus
from simulators.systemd import MANAGER, PATH, SERVICE, FakeSystemd


@pytest.fixture
async def world():
    async with (
        private_bus() as bus,
        FakeBluez(bus.address) as bluez,
        FakeSystemd(bus.address, bluez) as systemd,
    ):
        yield bus, bluez, systemd


async def call(bus, member, *words, signature="ss"):
    client = await MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM).connect()
    try:
        return await client.call(
            Message(SERVICE, PATH, MANAGER, member, signature=signature, body=list(words))
        )
    finally:
        client.disconnect()


async def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_restart_is_a_job_that_makes_a_new_bluetoothd(world):
    bus, bluez, systemd = world
    reply = await call(bus, "RestartUnit", "bluetooth.service", "replace")
    assert reply.message_type is MessageType.METHOD_RETURN and reply.body == [f"{PATH}/job/1"]
    await until(lambda: systemd.restarts == 1 and bluez.running)


async def test_a_start_wakes_a_bluetoothd_that_is_down(world):
    bus, bluez, systemd = world
    await bluez.stop_daemon()
    await call(bus, "StartUnit", "bluetooth.service", "replace")
    await until(lambda: bluez.running)
    assert systemd.restarts == 0


@pytest.mark.parametrize(
    ("member", "words", "error"),
    [
        ("RestartUnit", ("ssh.service", "replace"), "org.freedesktop.systemd1.NoSuchUnit"),
        ("RestartUnit", ("bluetooth.service", "now"), "org.freedesktop.DBus.Error.InvalidArgs"),
        ("StopUnit", ("bluetooth.service", "replace"), "org.freedesktop.DBus.Error.UnknownMethod"),
    ],
)
async def test_what_it_does_not_know_is_an_error(world, member, words, error):
    bus, _, systemd = world
    reply = await call(bus, member, *words)
    assert (reply.message_type, reply.error_name) == (MessageType.ERROR, error)
    assert systemd.restarts == 0


async def test_polkit_may_refuse(world):
    bus, bluez, systemd = world
    systemd.permits = False
    reply = await call(bus, "RestartUnit", "bluetooth.service", "replace")
    assert reply.error_name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    assert bluez.running and systemd.restarts == 0


async def test_after_the_bus_was_new_it_takes_its_name_again(world):
    bus, bluez, systemd = world
    await bus.restart()
    await bluez.start_daemon()
    await systemd.start()
    await call(bus, "RestartUnit", "bluetooth.service", "replace")
    await until(lambda: systemd.restarts == 1)
