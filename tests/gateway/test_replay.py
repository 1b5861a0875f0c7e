"""A replay decides as the recorded run did, bit by bit; through simulator, BlueZ and the commands."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from gateway.allow import AllowList
from gateway.app import Listener
from gateway.capture import CaptureReader, CaptureWriter
from gateway.config import load
from gateway.presence import Presence, PresenceSettings
from gateway.record import Decisions, HeldClock, Recorder, header_of
from gateway.replay import Replay
from gateway.scanner import Hearing
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.topics import GatewayAddress
from simulators.bluez import FakeBluez
from simulators.bus import private_bus
from simulators.capture import write_capture
from simulators.shop import Shop

ADDRESS = GatewayAddress("demo", "door")
BOOT = "0f0e0d0c-0000-4000-8000-000000000001"
COMMAND = [str(Path(sys.executable).with_name("footfall-gateway"))]
SIMULATOR = [str(Path(sys.executable).with_name("footfall-sim"))]
UUID = "11111111-2222-3333-4444-555555555555"


def allow_of(shop):
    return AllowList.of(ibeacons=[shop.proximity_uuid], eddystone_namespaces=[shop.namespace.hex()])


def shop_day(shop, seconds, dice):
    """What one gateway hears, in order, with closes at uneven moments as a loaded machine has them."""
    name, clock_ms, next_close = shop.gateways[0], 5_000, 500
    for sent in shop.transmissions(seconds):
        at = int(sent.time_s * 1000)
        while next_close <= at:
            yield clock_ms + next_close, None
            next_close += 500 + dice.randrange(200)
        for gateway, rssi in shop.heard_by(sent):
            if gateway == name:
                yield (
                    clock_ms + at,
                    (sent.address, sent.frame.manufacturer_data, sent.frame.service_data, rssi),
                )
    yield clock_ms + int(seconds * 1000), None


def live(day, allow, presence):
    """A gateway's own listener, without any recorder."""
    clock = HeldClock(BOOT, 5_000)
    listener = Listener(allow, Presence(presence), Hearing(frozenset(), 1, clock.now), clock)
    batches = []
    for at_ms, heard in day:
        clock.now = at_ms
        if heard is None:
            batches += listener.close()
        else:
            listener.heard(*heard)
    return [encode(batch) for batch in batches + listener.close(flush=True)]


def recorded(day, allow, presence):
    clock = HeldClock(BOOT, 5_000)
    writer = CaptureWriter(header_of(ADDRESS, allow, presence, clock))
    recorder = Recorder(writer, allow, presence, clock)
    for at_ms, heard in day:
        clock.now = at_ms
        if heard is None:
            recorder.close()
        else:
            recorder.heard(*heard)
    recorder.close(flush=True)
    return writer.take(), recorder


def replayed(data, allow, presence, tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(data)
    with path.open("rb") as file:
        run = Replay(CaptureReader(file), allow, presence)
        return [encode(batch) for batch in run.batches()], run


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("presence", [PresenceSettings(), PresenceSettings(near_dbm=-70, far_dbm=-75)])
def test_live_recorded_and_replayed_decisions_are_the_same_bytes(seed, presence, tmp_path):
    """Telemetry, strangers and people who come and go included."""
    day = list(shop_day(Shop.demo(seed), 120, Random(seed)))
    allow = allow_of(Shop.demo(seed))
    truth = live(day, allow, presence)
    data, recorder = recorded(day, allow, presence)
    again, run = replayed(data, allow, presence, tmp_path)
    assert again == truth and len(truth) > 100
    assert run.decisions.digest == recorder.decisions.digest
    assert run.same_settings and not run.reader.torn
    assert (run.adverts, run.forgotten) == (recorder.recorded, recorder.forgotten)


def test_other_settings_decide_otherwise_and_that_is_said(tmp_path):
    shop = Shop.demo(1)
    day, allow = list(shop_day(shop, 60, Random(1))), allow_of(shop)
    data, recorder = recorded(day, allow, PresenceSettings())
    _, run = replayed(data, allow, PresenceSettings(near_dbm=-60, far_dbm=-65), tmp_path)
    assert not run.same_settings and run.decisions.digest != recorder.decisions.digest
    assert run.decisions.entered < recorder.decisions.entered


def test_a_torn_capture_replays_as_far_as_it_goes(tmp_path):
    shop = Shop.demo(1)
    allow = allow_of(shop)
    data, _ = recorded(list(shop_day(shop, 60, Random(1))), allow, PresenceSettings())
    whole, _ = replayed(data, allow, PresenceSettings(), tmp_path)
    part, run = replayed(data[: len(data) // 2], allow, PresenceSettings(), tmp_path)
    assert run.reader.torn and 10 < len(part) < len(whole) and part == whole[: len(part)]


def test_many_devices_that_change_their_address_are_still_told_apart(tmp_path):
    """Telemetry belongs to whoever last had the address, also when the numbers of old ones are forgotten."""
    uuid = "0000feaa-0000-1000-8000-00805f9b34fb"
    allow = AllowList.of(eddystone_namespaces=["ab" * 10])
    name = lambda n: {uuid: b"\x00\xee" + b"\xab" * 10 + n.to_bytes(6, "big")}  # noqa: E731
    telemetry = lambda n: {uuid: b"\x20\x00" + (2000 + n % 999).to_bytes(2, "big") + bytes(10)}  # noqa: E731
    day = []
    for n in range(20_000):
        day.append((5_000 + n, (f"{n % 9_500}", {}, name(n % 9_500), -60)))
        day.append((5_000 + n, (f"{(n - n % 7 * 900) % 9_500}", {}, telemetry(n), -60)))
        if n % 500 == 499:
            day.append((5_000 + n, None))
    data, _ = recorded(day, allow, PresenceSettings())
    assert replayed(data, allow, PresenceSettings(), tmp_path)[0] == live(day, allow, PresenceSettings())


def test_the_simulators_capture_is_the_same_for_a_seed_and_replays(tmp_path):
    made = write_capture(7, 60, tmp_path / "one")
    write_capture(7, 60, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert made.recorded > 300 and made.forgotten > 50
    config = load(tmp_path / "one.toml")
    _, run = replayed((tmp_path / "one").read_bytes(), config.allow, config.presence, tmp_path)
    assert run.same_settings and run.decisions.digest == made.decisions.digest
    with pytest.raises(ValueError, match="the shop has no gateway 'nobody'"):
        write_capture(7, 60, tmp_path / "three", "nobody")


def command(*arguments, timeout=60):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_commands(tmp_path):
    out = tmp_path / "capture"
    made = command(*SIMULATOR, "capture", "--seed", "3", "--seconds", "90", "--out", str(out))
    assert made.returncode == 0, made.stderr
    shown = command(*COMMAND, "replay", str(out), "--config", f"{out}.toml")
    assert shown.returncode == 0 and "in range" in shown.stdout
    lines = command(*COMMAND, "replay", str(out), "--config", f"{out}.toml", "--json").stdout.splitlines()
    *batches, summary = [json.loads(line) for line in lines]
    assert {batch["type"] for batch in batches} == {"batch"} and summary["type"] == "summary"
    assert summary["batches"] == len(batches) and summary["digest"] in made.stdout
    again = command(*SIMULATOR, "capture", "--seconds", "9", "--out", str(out))
    assert again.returncode == 1 and "is there already" in again.stderr
    (tmp_path / "noise").write_bytes(b"noise")
    bad = command(*COMMAND, "replay", str(tmp_path / "noise"), "--config", f"{out}.toml")
    assert bad.returncode == 1 and bad.stderr == f"{tmp_path / 'noise'}: this is no capture of format 1\n"


def ibeacon(minor):
    return {0x004C: bytes.fromhex("0215" + UUID.replace("-", "")) + bytes([0, 1, 0, minor, 197])}


async def test_a_real_radio_is_recorded_through_bluez_and_replays(tmp_path):
    """`record` as a process, ended by SIGINT; its digest is the replay's."""
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'store = "demo"\ngateway = "door"\ndata_dir = "data"\n[allow]\nibeacon = ["{UUID}"]\neid = false\n'
    )
    out = tmp_path / "capture"
    async with private_bus() as bus, FakeBluez(bus.address) as bluez:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "record", "--config", str(config), "--out", str(out)),
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            deadline = time.monotonic() + 20
            while not bluez.discovering("hci0"):
                assert time.monotonic() < deadline and process.returncode is None
                await asyncio.sleep(0.02)
            for step in range(120):
                await bluez.advertise(
                    "hci0", "C0:00:00:00:00:01", manufacturer_data=ibeacon(1), rssi=-50 - step % 3
                )
                await bluez.advertise(
                    "hci0", "C0:00:00:00:00:02", manufacturer_data={6: b"stranger"}, rssi=-60 - step % 3
                )
                await asyncio.sleep(0.01)
            await bluez.drain()
            process.send_signal(signal.SIGINT)
            told, errors = await asyncio.wait_for(process.communicate(), 20)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors
    figures = dict(line.split(": ", 1) for line in told.decode().splitlines())
    assert int(figures["recorded"]) == 120 and int(figures["forgotten"]) == 120 and figures["entered"] == "1"
    assert b"stranger" not in out.read_bytes()
    *_, summary = command(*COMMAND, "replay", str(out), "--config", str(config), "--json").stdout.splitlines()
    assert json.loads(summary)["digest"] == figures["digest"]
    assert json.loads(summary)["adverts"] == 120


def test_a_running_gateway_keeps_its_radio(tmp_path):
    from gateway.app import only_one  # noqa: PLC0415

    config = tmp_path / "gateway.toml"
    config.write_text('store = "demo"\ngateway = "door"\ndata_dir = "data"\n')
    with only_one(tmp_path / "data"):
        refused = command(*COMMAND, "record", "--config", str(config), "--out", str(tmp_path / "capture"))
    assert refused.returncode == 1 and "stop it first" in refused.stderr
    assert not (tmp_path / "capture").exists()


def test_decisions_are_told_apart_by_their_digest():
    assert Decisions().digest != "" and Decisions().digest == Decisions().digest
