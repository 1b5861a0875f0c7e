"""The real process `footfall-gateway run` between a simulated BlueZ and a real broker, SIGKILL included."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sdk_bridge.wire.codec import encode
from simulators.bluez import FakeBluez
from simulators.bus import private_bus

UUID = "11111111-2222-3333-4444-555555555555"
STRANGER = "99999999-9999-9999-9999-999999999999"
LOST_SECONDS = 1.6  # what a kill may cost, and a tenth for the bus
COMMAND = [str(Path(sys.executable).with_name("footfall-gateway"))]
pytestmark = pytest.mark.e2e


def ibeacon(uuid, minor):
    return {
        0x004C: bytes.fromhex("0215" + uuid.replace("-", "")) + bytes([0, 1, minor >> 8, minor & 255, 197])
    }


def key(minor, uuid=UUID):
    return f"ibeacon:{uuid}:1:{minor}"


class Process:
    """The gateway's process, which can be killed and started again over the same folder."""

    def __init__(self, folder, port, bus_address, **settings):
        self.folder = folder
        self.config = folder / "gateway.toml"
        self.errors = folder / "stderr"
        self.environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus_address}
        self.process = None
        fixed = json.dumps(settings.get("fixed", []))
        self.config.write_text(
            f'store = "demo-shop"\ngateway = "door"\ndata_dir = "data"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
            f'[allow]\nibeacon = ["{UUID}"]\n'
            f"[zone_beacons]\nkeys = {fixed}\nsilence_s = 5\n"
            f'[log]\nlevel = "debug"\nformat = "json"\n'
        )

    def start(self):
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "run", "--config", str(self.config)], env=self.environment, stderr=errors
            )

    async def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 20)

    def log(self):
        return self.errors.read_text() if self.errors.exists() else ""


@pytest.fixture
async def world(tmp_path, any_broker, receiver_on):
    """A gateway's process (not started), its air, its broker and its receiver."""
    async with (
        private_bus() as bus,
        FakeBluez(bus.address) as bluez,
        receiver_on(any_broker.port) as receiver,
    ):
        gateways = []

        def make(**settings):
            folder = tmp_path / f"gateway{len(gateways)}"
            folder.mkdir()
            gateways.append(Process(folder, any_broker.port, bus.address, **settings))
            return gateways[-1]

        try:
            yield make, bluez, any_broker, receiver
        finally:
            for gateway in gateways:
                if gateway.process is not None and gateway.process.poll() is None:
                    gateway.process.kill()
                    gateway.process.wait()


async def until_scanning(bluez, wait_until):
    await wait_until(lambda: bluez.discovering("hci0"), 20)


def heard(receiver):
    """Adverts by beacon key, summed over everything the receiver has committed."""
    counts = Counter()
    for batch in receiver.batches():
        rows = batch.readings
        for index, count in zip(rows.beacon, rows.count, strict=True):
            counts[batch.keys[index]] += count
    return counts


async def advertise(bluez, uuid, minor, rssi, address="C0:00:00:00:00:01"):
    return await bluez.advertise("hci0", address, manufacturer_data=ibeacon(uuid, minor), rssi=rssi)


async def test_what_is_on_the_air_arrives_and_strangers_leave_no_trace(world, wait_until):
    make, bluez, _, receiver = world
    gateway = make()
    gateway.start()
    await until_scanning(bluez, wait_until)
    sent = 0
    for step in range(100):
        sent += await advertise(bluez, UUID, 7, -50 - step % 5)
        await advertise(bluez, STRANGER, 8, -60 - step % 5, "C0:00:00:00:00:02")
        await asyncio.sleep(0.01)
    await wait_until(lambda: heard(receiver)[key(7)] == sent)
    near = [change for batch in receiver.batches() for change in batch.ranges]
    assert [change.near for change in near] == [True]
    await wait_until(lambda: receiver.heartbeats() and receiver.heartbeats()[-1].forgotten == 100)
    beat = receiver.heartbeats()[-1]
    assert (beat.scan, beat.adverts, beat.dropped) == ("hearing", 200, 0)
    assert await gateway.end() == 0
    everything = gateway.log() + repr(receiver.taken)
    assert STRANGER not in everything and "C0:00:00" not in everything
    assert receiver.statuses[-1][0] is False


async def test_a_graceful_stop_keeps_the_unfinished_second(world, wait_until):
    make, bluez, broker, receiver = world
    gateway = make()
    gateway.start()
    await until_scanning(bluez, wait_until)
    await wait_until(receiver.heartbeats)
    await broker.kill()
    sent = sum([await advertise(bluez, UUID, 7, -50 - step % 5) for step in range(30)])
    await bluez.drain()
    assert await gateway.end() == 0
    await broker.start()
    gateway.start()
    await wait_until(lambda: heard(receiver)[key(7)] >= sent, 30)
    assert heard(receiver)[key(7)] == sent


async def test_sigkill_of_gateway_and_broker_costs_the_unfinished_second_and_nothing_else(world, wait_until):
    """What reached the outbox arrives once and in order; what was heard 1.5 s before the kill reached it."""
    make, bluez, broker, receiver = world
    gateway = make()
    in_outbox: set[bytes] = set()
    certain: Counter[str] = Counter()
    for life in range(3):
        gateway.start()
        await until_scanning(bluez, wait_until)
        if life == 1:
            await broker.kill()
        sent_at = await advertise_for(bluez, life, seconds=2.3)
        if life == 1:
            await broker.start()
        killed_at = time.monotonic()
        await gateway.end(signal.SIGKILL)
        certain[key(life)] = sum(at < killed_at - LOST_SECONDS for at in sent_at)
        in_outbox |= stored(gateway.folder / "data" / "outbox.db")
        await wait_until(lambda: not bluez.discovering("hci0"))
    gateway.start()
    await until_scanning(bluez, wait_until)
    await wait_until(lambda: in_outbox <= {encode(batch) for batch in receiver.batches()}, 30)
    assert max(Counter(encode(batch) for batch in receiver.batches()).values()) == 1
    assert len({envelope.epoch for envelope, _ in receiver.taken}) == 1
    for lane in ("live", "backlog"):
        sequences = [envelope.seq for envelope, _ in receiver.taken if envelope.lane == lane]
        assert sequences == list(range(1, len(sequences) + 1))
    assert min(certain.values()) > 10
    assert {name: count for name, count in certain.items() if heard(receiver)[name] < count} == {}
    assert await gateway.end() == 0


async def advertise_for(bluez, minor, seconds):
    """Sends about fifty adverts a second; when each one went out."""
    began = time.monotonic()
    sent_at = []
    while time.monotonic() < began + seconds:
        if await advertise(bluez, UUID, minor, -50 - len(sent_at) % 9):
            sent_at.append(time.monotonic())
        await asyncio.sleep(0.02)
    return sent_at


def stored(path):
    """The payloads of the batches in a dead gateway's outbox."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {
            row[0]
            for row in database.execute("SELECT payload FROM record WHERE batches = 1 AND reason IS NULL")
        }


async def test_a_deaf_radio_is_told_from_a_quiet_shop(world, wait_until):
    make, bluez, _, receiver = world
    gateway = make(fixed=[key(1)])
    gateway.start()
    await until_scanning(bluez, wait_until)
    states = lambda: [beat.scan for beat in receiver.heartbeats()]  # noqa: E731
    flip = 0
    while "quiet" not in states():
        flip += 1
        await advertise(bluez, UUID, 1, -60 - flip % 2)
        await asyncio.sleep(0.1)
    await wait_until(lambda: states()[-1] == "deaf", 20)
    while states()[-1] == "deaf":
        flip += 1
        await advertise(bluez, UUID, 1, -60 - flip % 2)
        await asyncio.sleep(0.1)
    assert states()[-1] == "quiet"


async def test_a_second_process_over_the_same_folder_is_refused(world, wait_until):
    make, bluez, _, _ = world
    gateway = make()
    gateway.start()
    await until_scanning(bluez, wait_until)
    second = await asyncio.create_subprocess_exec(
        *COMMAND, "run", "--config", str(gateway.config), env=gateway.environment, stderr=subprocess.PIPE
    )
    _, errors = await second.communicate()
    assert second.returncode == 1 and b"in use by another gateway" in errors
    assert gateway.process.poll() is None


def test_a_bad_configuration_ends_the_start_with_one_line(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text('store = "a"\ngateway = "b"\ndata_dir = "d"\n[mqtt]\nhots = "h"\n')
    done = subprocess.run(
        [*COMMAND, "run", "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"{config}: unknown key `mqtt.hots`; did you mean `mqtt.host`?\n"


def test_the_program_needs_no_server_package():
    """The Pi installs `footfall[gateway]` only."""
    blocked = "aiohttp", "firebase_admin", "backend", "uvloop", "aiosql"
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport gateway.app, gateway.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
