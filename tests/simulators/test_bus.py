"""The private message bus, with a real dbus-daemon and real connections."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from dbus_fast.aio import MessageBus

from simulators.bus import BusError, PrivateBus, private_bus


async def connects(bus: PrivateBus) -> bool:
    try:
        connection = await MessageBus(bus_address=bus.address).connect()
    except OSError:
        return False
    connection.disconnect()
    await connection.wait_for_disconnect()
    return True


async def test_it_accepts_connections_and_leaves_nothing_behind():
    async with private_bus() as bus:
        assert bus.running
        assert await connects(bus)
        folder = Path(bus.address.removeprefix("unix:path=")).parent
    assert not bus.running
    assert not folder.exists()


async def test_a_kill_breaks_connections_and_a_restart_answers_at_the_same_address():
    async with private_bus() as bus:
        address = bus.address
        connection = await MessageBus(bus_address=bus.address).connect()
        await bus.kill()
        with pytest.raises((OSError, EOFError)):
            await connection.wait_for_disconnect()
        assert not await connects(bus)
        await bus.restart()
        assert bus.address == address
        assert await connects(bus)


async def test_starting_twice_keeps_the_first_daemon():
    async with private_bus() as bus:
        connection = await MessageBus(bus_address=bus.address).connect()
        await bus.start()
        assert connection.connected
        connection.disconnect()


async def test_a_missing_daemon_names_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    with pytest.raises(BusError, match="apt-get install dbus-daemon"):
        async with private_bus():
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
async def test_a_plain_user_reaches_a_bus_of_root():
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from dbus_fast.aio import MessageBus
        async def main():
            os.setuid(65534)
            bus = await MessageBus(bus_address=sys.argv[1]).connect()
            print(bus.unique_name)
        asyncio.run(main())
        """
    )
    async with private_bus() as bus:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, bus.address, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await child.communicate()
    assert out.startswith(b":1.")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_the_daemon_dies_with_a_killed_owner():
    program = textwrap.dedent(
        """
        import asyncio
        from simulators.bus import private_bus
        async def main():
            async with private_bus() as bus:
                print(bus._process.pid, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is too long for a socket
        command, environment = [sys.executable, "-c", program], {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as owner:
            assert owner.stdout is not None
            daemon = int(owner.stdout.readline())
            owner.send_signal(signal.SIGKILL)
        assert _gone(daemon)


def _gone(process: int) -> bool:
    for _ in range(500):
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False
