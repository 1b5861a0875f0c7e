"""The real process over a card that is full, and over an outbox that is damaged: it goes on listening."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulators.bluez import FakeBluez
from simulators.bus import private_bus
from simulators.frames import ibeacon

UUID = "11111111-2222-4333-8444-555555555555"
FRAME = ibeacon(UUID, 1, 7)
CARD_BYTES = 2 * 1024 * 1024
# Four minutes of batches fit the memory while the card takes none; with two, a test sees the third one drop.
# And it says how it is, and looks for room, more often than every few seconds: nobody has to wait for that.
PROGRAM = """import gateway.standby, gateway.uplink
gateway.uplink.MAX_UNSTORED, gateway.uplink.HEARTBEAT_MS, gateway.standby.LOOK_MS = 2, 500, 1_000
from gateway.cli import main; main()"""
MOUNT = f'mount -t tmpfs -o size={CARD_BYTES} none "$1" && shift && exec "$@"'
MOUNT_FULL = (
    f'mount -t tmpfs -o size={CARD_BYTES} none "$1"; cat /dev/zero 2>/dev/null >"$1/filler"; shift; exec "$@"'
)
TOO_LARGE = 2048  # bytes; an outbox's first page has twice as many
pytestmark = pytest.mark.e2e


def may_mount(folder):
    """Whether this user may mount a small card in a namespace of its own."""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(folder), "true"], capture_output=True, check=False
    )
    return done.returncode == 0


class Gateway:
    """The gateway's process, on a card of its own where that can be had."""

    def __init__(self, folder, port, bus_address, own_card):
        self.data = folder / "data"
        self.data.mkdir()
        self.scribe = None
        self.log_file = folder / "log"
        self.own_card = own_card
        self.environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus_address}
        self.config = folder / "gateway.toml"
        self.config.write_text(
            f'store = "demo-shop"\ngateway = "door"\ndata_dir = "data"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[allow]\nibeacon = ["{UUID}"]\n'
            f'[log]\nlevel = "info"\nformat = "json"\n'
        )

    def start(self, *, full=False):
        """The log goes through a pipe, for no file may grow on a full card."""
        mount = MOUNT_FULL if full else MOUNT
        card = ["unshare", "-rm", "sh", "-c", mount, "sh", str(self.data)] if self.own_card else []
        if full and not self.own_card:
            card = ["prlimit", f"--fsize={TOO_LARGE}:unlimited"]
        command = [*card, sys.executable, "-c", PROGRAM, "run", "--config", str(self.config)]
        with self.log_file.open("ab") as log:
            self.scribe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        with self.scribe.stdin as pipe:
            self.process = subprocess.Popen(command, env=self.environment, stderr=pipe, stdout=pipe)

    def fill(self):
        """Not a byte more fits."""
        if not self.own_card:
            largest = max(path.stat().st_size for path in self.data.iterdir())
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
            return
        with self.filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def free(self):
        if self.own_card:
            self.filler.unlink()
        else:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    @property
    def filler(self):
        return Path(f"/proc/{self.process.pid}/root{self.data}/filler")

    def log(self):
        return self.log_file.read_text()

    async def end(self):
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 20)


@pytest.fixture
async def world(tmp_path, any_broker, receiver_on):
    async with (
        private_bus() as bus,
        FakeBluez(bus.address) as bluez,
        receiver_on(any_broker.port) as receiver,
    ):
        gateways = []

        def make(own_card=False):
            gateways.append(Gateway(tmp_path, any_broker.port, bus.address, own_card))
            return gateways[-1]

        try:
            yield make, bluez, receiver
        finally:
            for gateway in gateways:
                gateway.process.kill()
                gateway.process.wait()
                gateway.scribe.wait(5)


async def advertise(bluez, seconds):
    """Twenty times a second; how many reached the gateway's scanner."""
    until, sent = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        sent += await bluez.advertise(
            "hci0",
            "C0:00:00:00:00:01",
            manufacturer_data=FRAME.manufacturer_data,
            rssi=-50 - sent % 2,
        )
        await asyncio.sleep(0.05)
    return sent


def adverts(receiver):
    return sum(sum(batch.readings.count) for batch in receiver.batches())


@pytest.mark.parametrize("own_card", [True, False], ids=["no space left", "file size limit"])
async def test_a_full_card_costs_counted_drops_and_recovers(world, wait_until, tmp_path, own_card):
    if own_card and not may_mount(tmp_path):
        pytest.skip("mounting a small card is not permitted here")
    make, bluez, receiver = world
    gateway = make(own_card)
    gateway.start()
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    sent = await advertise(bluez, 1.5)
    await wait_until(receiver.batches)
    gateway.fill()
    until = time.monotonic() + 20
    while all(beat.outbox_writable for beat in receiver.heartbeats()):  # the others are said from memory
        assert time.monotonic() < until, gateway.log()
        sent += await advertise(bluez, 0.5)
    assert gateway.process.poll() is None and bluez.discovering("hci0"), "it goes on listening"
    assert '"batches lost"' in gateway.log() and "outbox unavailable" in gateway.log()
    gateway.free()
    sent += await advertise(bluez, 1)
    await wait_until(receiver.skips, 30)
    await wait_until(lambda: receiver.heartbeats()[-1].dropped > 0, 30)
    await wait_until(lambda: receiver.heartbeats()[-1].outbox_writable, 30)
    sent += await advertise(bluez, 2)
    assert await gateway.end() == 0
    skips = [skip for _, skip in receiver.skips()]
    assert {skip.reason for skip in skips} == {"disk-full"}
    dropped = sum(skip.counts.readings for skip in skips)
    assert 1 <= dropped <= 8, "a reading for each second of one beacon"
    assert receiver.heartbeats()[-1].dropped == dropped
    assert sent - 21 * (dropped + 2) <= adverts(receiver) < sent
    assert len(epochs_of(receiver)) == 2 and epochs_of(receiver)[0] == receiver.taken[-1][0].epoch


@pytest.mark.parametrize("own_card", [True, False], ids=["no space left", "file size limit"])
async def test_a_gateway_starts_on_a_full_card_and_says_so_and_settles_when_there_is_room(
    world, wait_until, tmp_path, own_card
):
    if own_card and not may_mount(tmp_path):
        pytest.skip("mounting a small card is not permitted here")
    make, bluez, receiver = world
    gateway = make(own_card)
    gateway.start(full=True)
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    sent = await advertise(bluez, 3)
    await wait_until(lambda: receiver.heartbeats() and adverts(receiver) > 0, 20)
    assert gateway.process.poll() is None and "kept in memory" in gateway.log()
    assert not any(beat.outbox_writable for beat in receiver.heartbeats())
    gateway.free()
    until = time.monotonic() + 30
    while not receiver.heartbeats()[-1].outbox_writable or len(epochs_of(receiver)) < 2:
        assert time.monotonic() < until, gateway.log()
        sent += await advertise(bluez, 0.5)
    await wait_until(lambda: adverts(receiver) == sent)
    assert await gateway.end() == 0
    assert adverts(receiver) == sent, "none lost, none doubled"
    assert receiver.skips() == [] and receiver.heartbeats()[-1].dropped == 0


def epochs_of(receiver):
    return list(dict.fromkeys(envelope.epoch for envelope, _ in receiver.taken))


async def test_a_damaged_outbox_is_moved_aside_and_reported_and_listening_goes_on(world, wait_until):
    make, bluez, receiver = world
    gateway = make()
    gateway.start()
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    await advertise(bluez, 1.5)
    await wait_until(receiver.batches)
    assert await gateway.end() == 0
    (gateway.data / "outbox.db").write_bytes(os.urandom(20_000))
    gateway.start()
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    before = adverts(receiver)
    await advertise(bluez, 1.5)
    await wait_until(lambda: adverts(receiver) > before and receiver.skips(), 30)
    assert await gateway.end() == 0
    [(envelope, skip)] = receiver.skips()
    assert skip.reason == "outbox-corrupt" and envelope.seq == 1
    epochs = list(dict.fromkeys(envelope.epoch for envelope, _ in receiver.taken))
    assert len(epochs) == 2 and receiver.statuses[-1] == (False, epochs[1])
    assert "outbox was corrupt and begins anew" in gateway.log()
    assert len(list(gateway.data.glob("outbox.db.corrupt-*"))) == 1
