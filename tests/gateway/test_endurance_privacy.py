"""A stranger leaves no trace: every byte of the MQTT socket, the log and the data folder are searched."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from simulators.bluez import FakeBluez
from simulators.bus import private_bus
from simulators.endurance.tap import tap
from simulators.frames import altbeacon, eddystone_eid, eddystone_uid, eddystone_url, ibeacon

COMMAND = [str(Path(sys.executable).with_name("footfall-gateway"))]
LISTED = "11111111-2222-4333-8444-555555555555"
NAMESPACE = bytes.fromhex("a1a2a3a4a5a6a7a8a9aa")
LISTED_FRAMES = {
    "C0:00:00:00:00:01": ibeacon(LISTED, 1, 7),
    "C0:00:00:00:00:02": eddystone_uid(NAMESPACE, b"\x00\x00\x00\x00\x00\x07"),
    "C0:00:00:00:00:03": eddystone_eid(bytes.fromhex("e1e2e3e4e5e6e7e8")),  # the stated exception
}
STRANGE_UUID = uuid.UUID("9f8e7d6c-5b4a-4938-8271-6f5e4d3c2b1a")
STRANGE_ID = bytes.fromhex("b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3")
STRANGE_NAMESPACE, STRANGE_INSTANCE = (
    bytes.fromhex("d0d1d2d3d4d5d6d7d8d9"),
    bytes.fromhex("f0f1f2f3f4f5"),
)
STRANGE_URL = "https://stranger.example/"
STRANGERS = {
    "C5:A4:93:82:71:01": ibeacon(str(STRANGE_UUID), 4242, 2424),
    "C5:A4:93:82:71:02": altbeacon(STRANGE_ID),
    "C5:A4:93:82:71:03": eddystone_uid(STRANGE_NAMESPACE, STRANGE_INSTANCE),
    "C5:A4:93:82:71:04": eddystone_url(STRANGE_URL),
}
pytestmark = pytest.mark.e2e


def forms(identity):
    """Bytes as they may stand somewhere: raw, either way round, and in hexadecimal."""
    text = identity.hex()
    return [identity, identity[::-1], text.encode(), text.upper().encode(), text.encode("utf-16-le")]


def needles():
    """Whatever would give a stranger away."""
    found = [b"stranger.example", str(STRANGE_UUID).encode(), str(STRANGE_UUID).upper().encode()]
    for identity in (STRANGE_UUID.bytes, STRANGE_ID, STRANGE_NAMESPACE, STRANGE_INSTANCE):
        found += forms(identity)
    for address in (*STRANGERS, *LISTED_FRAMES):
        found += [address.encode(), address.lower().encode(), address.replace(":", "_").encode()]
        found += forms(bytes.fromhex(address.replace(":", "")))
    return found


def write_config(folder, port):
    (folder / "gateway.toml").write_text(
        f'store = "demo-shop"\ngateway = "door"\ndata_dir = "data"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
        f'[allow]\nibeacon = ["{LISTED}"]\neddystone = ["{NAMESPACE.hex()}"]\n'
        f'[log]\nlevel = "debug"\nformat = "json"\n'
    )
    return folder / "gateway.toml"


def start(command, environment, log):
    with log.open("wb") as errors:
        return subprocess.Popen(command, env=environment, stderr=errors, stdout=errors)


async def advertise(bluez, seconds):
    """Everybody, ten times a second."""
    until = time.monotonic() + seconds
    rssi = -50
    while time.monotonic() < until:
        rssi = -50 if rssi == -51 else -51
        for address, frame in (LISTED_FRAMES | STRANGERS).items():
            await bluez.advertise(
                "hci0",
                address,
                manufacturer_data=frame.manufacturer_data,
                service_data=frame.service_data,
                rssi=rssi,
            )
        await asyncio.sleep(0.1)


async def test_a_stranger_leaves_neither_by_mqtt_nor_into_log_or_data(
    tmp_path, any_broker, receiver_on, wait_until
):
    async with (
        private_bus() as bus,
        FakeBluez(bus.address) as bluez,
        receiver_on(any_broker.port) as receiver,
        tap(any_broker.port) as line,
    ):
        config, log = write_config(tmp_path, line.port), tmp_path / "log"
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
        process = start([*COMMAND, "run", "--config", str(config)], environment, log)
        try:
            await wait_until(lambda: bluez.discovering("hci0"), 20)
            await advertise(bluez, 2)
            await any_broker.kill()  # an outage and a new bluetoothd change nothing
            await bluez.restart_daemon(busy_s=0.2)
            await wait_until(lambda: bluez.discovering("hci0"), 20)
            await advertise(bluez, 2)
            await any_broker.start()
            await wait_until(lambda: receiver.heartbeats()[-1].forgotten > 100, 30)
            await wait_until(lambda: len(receiver.batches()) >= 4)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 20)
        captured = bytes(line.up + line.down)
        assert line.unrecorded_bytes == 0
    for frame in LISTED_FRAMES.values():
        assert frame.key.encode() in captured, "the capture works: what is listed is in it"
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    logged = log.read_bytes()
    assert b"connected" in logged and len(stored) > 4096
    places = {"MQTT": captured, "the log": logged, "the data folder": stored}
    traces = [(name, needle) for name, text in places.items() for needle in needles() if needle in text]
    assert not traces
