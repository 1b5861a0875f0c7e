"""Status by socket, and the watchdog: what a running gateway says of itself, and when it must fall silent."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import msgspec
import pytest

from gateway import app as gateway_app
from gateway import watchdog
from gateway.app import Gateway
from gateway.config import load
from gateway.outbox import Outbox, OutboxUnavailable
from gateway.scanner import AdapterView, Condition
from gateway.status import (
    SOCKET,
    AdapterStatus,
    ClockStatus,
    ConfigurationStatus,
    Counters,
    GatewayStatus,
    NoStatus,
    OutboxStatus,
    StatusDesk,
    UplinkStatus,
    as_table,
    ask,
    certificate_until,
    serve,
)
from gateway.watchdog import DISK_PATIENCE_MS, RADIO_PATIENCE_MS, Flow, starves
from simulators.bluez import FakeBluez
from simulators.bus import private_bus
from simulators.certificates import Authority

COMMAND = [str(Path(sys.executable).with_name("footfall-gateway"))]
UUID = "11111111-2222-3333-4444-555555555555"
HEALTHY = GatewayStatus(
    store="shop",
    gateway="door",
    version="0.1.0",
    pid=4711,
    uptime_ms=90_000,
    scan="hearing",
    last_advert_age_ms=40,
    adapters=[AdapterStatus("hci0", "ready", True, 0, 40)],
    outbox=OutboxStatus(3, 4096, 268_435_456, 1200, 0),
    uplink=UplinkStatus(True, "aa" * 8, 1, 300),
    clock=ClockStatus(True, 1_700_000_000_000, 90_000),
    certificate_days=21.5,
    configuration=ConfigurationStatus(4, "applied"),
    counters=Counters(1000, 300, 0, 0, 0, 0, 0),
)


def ibeacon(minor):
    return {0x004C: bytes.fromhex("0215" + UUID.replace("-", "")) + bytes([0, 1, 0, minor, 197])}


@pytest.fixture
async def gateway(tmp_path, any_broker, hand_clock, monkeypatch):
    """A gateway in this process, between a simulated BlueZ and a real broker; ended in order."""
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'store = "demo-shop"\ngateway = "door"\ndata_dir = "data"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {any_broker.port}\n[allow]\nibeacon = ["{UUID}"]\n'
    )
    config, clock = load(path), hand_clock(is_synchronised=True)
    config.data_dir.mkdir()
    outbox = Outbox(
        config.data_dir / "outbox.db", max_bytes=10**7, new_epoch=lambda: "ab" * 8, now_ms=clock.unix_ms
    )
    async with private_bus() as bus, FakeBluez(bus.address) as bluez:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        made = Gateway(config, clock, outbox, Random(1))
        stop = asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        try:
            yield made, bluez, config, clock
        finally:
            stop.set()
            await running


async def test_a_running_gateway_tells_how_it_does(gateway, receiver_on, any_broker, wait_until):
    _, bluez, config, _ = gateway
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    async with receiver_on(any_broker.port):
        for step in range(20):
            await bluez.advertise(
                "hci0", "C0:00:00:00:00:01", manufacturer_data=ibeacon(1), rssi=-50 - step % 3
            )
        answers = []

        async def until_acknowledged():
            while not answers or answers[-1].uplink.acknowledged_age_ms is None:
                answers.append(await asyncio.to_thread(ask, config.data_dir))
                await asyncio.sleep(0.05)

        await asyncio.wait_for(until_acknowledged(), 20)
    told = answers[-1]
    assert (told.store, told.gateway, told.scan, told.pid) == ("demo-shop", "door", "hearing", os.getpid())
    assert [(a.name, a.condition, a.scanning, a.rung) for a in told.adapters] == [("hci0", "ready", True, 0)]
    assert told.adapters[0].last_advert_age_ms == told.last_advert_age_ms < 20_000
    assert told.counters.adverts == 20 and told.uplink.connected and told.uplink.epoch == "ab" * 8
    assert told.certificate_days is None and told.configuration.version == 0 and told.clock.synchronised


async def test_the_age_of_the_oldest_record_is_told_also_over_a_reboot(gateway, any_broker, wait_until):
    made, bluez, _, clock = gateway
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    await any_broker.kill()
    for step in range(20):
        await bluez.advertise("hci0", "C0:00:00:00:00:01", manufacturer_data=ibeacon(1), rssi=-50 - step % 3)
    await wait_until(lambda: made.desk._uplink.stock.records)
    clock.skip(60_000)
    assert 60_000 <= (await made.desk.status()).outbox.oldest_age_ms < 90_000
    clock.boot_id, clock.now, clock.unix_zero = "another", 5_000, clock.unix_zero + clock.now + 60_000
    age = (await made.desk.status()).outbox.oldest_age_ms
    assert 60_000 <= age < 200_000
    clock.is_synchronised = False
    assert (await made.desk.status()).outbox.oldest_age_ms is None


async def test_the_socket_is_private_and_gone_with_the_gateway(gateway, wait_until):
    _, _, config, _ = gateway
    path = config.data_dir / SOCKET
    await wait_until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def desk():
    class Desk:
        """Answers what it is told to."""

        seconds = 0.0

        async def status(self):
            await asyncio.sleep(self.seconds)
            return HEALTHY

    return Desk()


@contextlib.asynccontextmanager
async def serving(desk, folder, wait_until):
    task = asyncio.create_task(serve(desk, folder))
    try:
        await wait_until((folder / SOCKET).exists)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_dead_process_socket_is_replaced_and_ours_removed(tmp_path, desk, wait_until):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with pytest.raises(NoStatus, match="no gateway runs over"):
        ask(tmp_path)
    async with serving(desk, tmp_path, wait_until):
        while True:
            with contextlib.suppress(NoStatus):
                assert await asyncio.to_thread(ask, tmp_path) == HEALTHY
                break
    assert not (tmp_path / SOCKET).exists()


async def test_a_folder_deeper_than_a_socket_name_may_be_long_works_too(tmp_path, desk, wait_until):
    folder = tmp_path.joinpath(*["deep" * 10] * 4)
    folder.mkdir(parents=True)
    async with serving(desk, folder, wait_until):
        assert await asyncio.to_thread(ask, folder) == HEALTHY


async def test_a_loop_that_hangs_is_not_called_well(tmp_path, desk, wait_until):
    desk.seconds = 30
    async with serving(desk, tmp_path, wait_until):
        with pytest.raises(NoStatus, match=r"runs and does not answer within 0\.2 s"):
            await asyncio.to_thread(ask, tmp_path, 0.2)


def test_without_a_gateway_the_command_says_what_to_do(tmp_path):
    (tmp_path / "gateway.toml").write_text('store = "a"\ngateway = "b"\ndata_dir = "data"\n')
    done = subprocess.run(
        [*COMMAND, "status", "--config", str(tmp_path / "gateway.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"no gateway runs over {tmp_path / 'data'}; start it: sudo systemctl start footfall-gateway\n"
    )


@pytest.mark.parametrize("answer", [b"", b"{}", b"\xff", b"[" * 9000, b'"' + b"x" * 200_000 + b'"'])
def test_a_strange_answer_is_no_status(tmp_path, answer):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()

        def reply():
            with contextlib.suppress(OSError), listener.accept()[0] as asking:
                asking.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(NoStatus, match="gave no status"):
            ask(tmp_path)
        thread.join()


def test_the_command_prints_a_table_or_json(tmp_path):
    (tmp_path / "gateway.toml").write_text('store = "a"\ngateway = "b"\ndata_dir = "."\n')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()
        told = []
        for more in ([], ["--json"]):
            asking = subprocess.Popen(
                [*COMMAND, "status", "--config", str(tmp_path / "gateway.toml"), *more],
                stdout=subprocess.PIPE,
            )
            listener.settimeout(20)
            with listener.accept()[0] as connection:
                connection.sendall(msgspec.json.encode(HEALTHY))
            told.append(asking.communicate(timeout=20)[0].decode())
            assert asking.returncode == 0
    assert told[0].rstrip("\n") == as_table(HEALTHY)
    assert msgspec.convert(json.loads(told[1]), GatewayStatus) == HEALTHY


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "hears          hearing; last advert 0.0 s ago"),
        ({}, "radio hci0     ready, scanning; last advert 0.0 s ago"),
        ({}, "outbox         3 records, 4.0 KiB of 256.0 MiB, oldest 1.2 s old"),
        ({}, "uplink         connected; the backend's last word 0.3 s ago; connection 1"),
        ({}, "certificate    21.5 days left"),
        ({}, "configuration  version 4, applied"),
        ({"certificate_days": None}, "certificate    none"),
        ({"certificate_days": -2.0}, "certificate    RAN OUT 2.0 days ago"),
        ({"last_advert_age_ms": None, "scan": "deaf"}, "hears          deaf; last advert never"),
        ({"outbox": OutboxStatus(0, 0, 1, None, 0)}, "outbox         empty"),
        (
            {"outbox": OutboxStatus(9, 2**21, 2**28, None, 4)},
            "outbox         9 records, 2.0 MiB of 256.0 MiB, oldest of unknown age; "
            "4 batches wait for the disk",
        ),
        (
            {"uplink": UplinkStatus(False, "e", 7, 7_200_000)},
            "uplink         NOT CONNECTED; the backend's last word 2 h ago; connection 7",
        ),
        (
            {"adapters": [AdapterStatus("hci1", "off", False, 3, None)]},
            "radio hci1     off, not scanning; last advert never; remedy 3 was tried",
        ),
        ({"configuration": ConfigurationStatus(0, "")}, "configuration  its own file"),
        ({"clock": ClockStatus(False, 0, 1)}, "clock          not set; times are counted from the start"),
    ],
)
def test_the_table(change, line):
    assert line in as_table(msgspec.structs.replace(HEALTHY, **change)).splitlines()


def test_a_certificate_file_says_when_it_runs_out(tmp_path):
    import datetime  # noqa: PLC0415

    now = datetime.datetime.now(datetime.UTC)
    certificate, key = Authority(tmp_path, now).issue_client("a/b")
    left = certificate_until(certificate) - now.timestamp() * 1000
    assert abs(left - 86_400_000) < 2000
    assert certificate_until(key) is None and certificate_until(tmp_path / "none") is None


# --- the watchdog


@pytest.mark.parametrize(
    ("flow", "cause"),
    [
        (Flow(0, 0), None),
        (Flow(DISK_PATIENCE_MS, -90_000), None),
        (Flow(DISK_PATIENCE_MS + 1, 0), "the outbox takes nothing"),
        (Flow(0, RADIO_PATIENCE_MS), None),
        (Flow(0, RADIO_PATIENCE_MS + 1), "a radio's supervisor hangs"),
    ],
)
def test_when_the_watchdog_starves(flow, cause):
    assert starves(flow) == cause


@pytest.fixture
def fed(tmp_path, monkeypatch):
    """What systemd is told, as a list that grows."""
    told = []
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(0.05)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        over = threading.Event()

        def listen():
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    told.append(notify.recv(64).decode())

        thread = threading.Thread(target=listen)
        thread.start()
        yield told
        over.set()
        thread.join()


async def test_the_watchdog_is_fed_while_data_flows_and_not_by_the_loop_alone(
    fed, gateway, wait_until, monkeypatch
):
    made, bluez, _, _ = gateway
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    await wait_until(lambda: fed.count("WATCHDOG=1") > 2)
    assert "READY=1" in fed
    monkeypatch.setattr(watchdog, "DISK_PATIENCE_MS", 1000)

    def full(_turn):
        raise OutboxUnavailable("the disk is full")

    works = made._uplink._outbox.turn
    made._uplink._outbox.turn = full
    for step in range(20):
        await bluez.advertise("hci0", "C0:00:00:00:00:01", manufacturer_data=ibeacon(1), rssi=-50 - step % 3)
    await wait_until(lambda: made._clock.boot_ms() - made._uplink.committed_ms > 1500, 20)
    so_far = fed.count("WATCHDOG=1")
    await wait_until(lambda: made._clock.boot_ms() - made._uplink.committed_ms > 3500, 20)
    assert fed.count("WATCHDOG=1") <= so_far + 1
    made._uplink._outbox.turn = works
    await wait_until(lambda: fed.count("WATCHDOG=1") > so_far + 2)


async def test_a_radio_that_hangs_starves_the_watchdog_and_one_that_is_away_does_not(
    fed, gateway, wait_until, monkeypatch
):
    made, bluez, _, _ = gateway
    await wait_until(lambda: bluez.discovering("hci0"), 20)
    monkeypatch.setattr(watchdog, "RADIO_PATIENCE_MS", 2500)
    await bluez.unplug("hci0")
    await wait_until(lambda: not made._scanner.scanning)
    so_far = fed.count("WATCHDOG=1")
    await wait_until(lambda: fed.count("WATCHDOG=1") > so_far + 7, 20)  # longer than that without an adapter

    async def never(_adapter, _heard):
        await asyncio.sleep(3600)

    for supervisor in made._scanner._supervisors.values():
        supervisor._radio.scan = never
    await wait_until(lambda: made._scanner.overdue_ms() > 3000, 20)
    so_far = fed.count("WATCHDOG=1")
    await wait_until(lambda: made._scanner.overdue_ms() > 5000, 20)
    assert fed.count("WATCHDOG=1") <= so_far + 1


def test_adapters_are_told_as_the_scanner_sees_them():
    from gateway.status import _adapter  # noqa: PLC0415

    view = AdapterView("hci0", Condition.OFF, False, 2, None)
    assert _adapter(view, 5) == AdapterStatus("hci0", "off", False, 2, None)
    assert gateway_app.FLUSH_SECONDS == 0.5 and StatusDesk is not None


async def test_a_disk_that_hangs_hides_nothing_but_the_age_of_the_oldest(gateway, monkeypatch):
    made, _, _, _ = gateway
    monkeypatch.setattr("gateway.status.DISK_SECONDS", 0.1)

    async def never():
        await asyncio.sleep(3600)

    monkeypatch.setattr(made._uplink, "oldest", never)
    told = await asyncio.wait_for(made.desk.status(), 5)
    assert told.outbox.oldest_age_ms is None and told.gateway == "door"
