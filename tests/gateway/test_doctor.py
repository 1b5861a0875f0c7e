"""The doctor: every rule as a table, every probe against what it looks at, the command as it is run."""

import asyncio
import contextlib
import datetime
import json
import os
import re
import socket
import sqlite3
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gateway
from gateway import doctor, probes
from gateway.bluez_probe import BusFacts, look_at_bluez
from gateway.certificate import Life
from gateway.clock import SystemClock
from gateway.config import load
from gateway.doctor import FINDINGS, as_lines, as_object, examine, healthy
from gateway.outbox import Outbox, Parcel, Turn
from gateway.probes import (
    BrokerFacts,
    CertificateFacts,
    DiskFacts,
    MountFacts,
    OutboxFacts,
    PythonFacts,
    RfkillSwitch,
    ServiceFacts,
    look_at_broker,
    look_at_certificate,
    look_at_disk,
    look_at_mount,
    look_at_outbox,
    mount_of,
)
from sdk_bridge.mqtt import Broker, Tls
from simulators import bus as bus_module
from simulators.bluez import FakeBluez
from simulators.broker import MutualTls, find_mosquitto, start_broker
from simulators.bus import private_bus
from simulators.certificates import Authority

DOCUMENT = Path(gateway.__file__).parent.parent / "docs" / "gateway.md"
COMMAND = [str(Path(sys.executable).with_name("footfall-gateway"))]
FOLDER = Path("/var/lib/footfall")
MB = 1024 * 1024
DAY = 86_400_000
NOW = 1_700_000_000_000
GOOD_BUS = BusFacts("good", "unix:path=/bus", "good", {"hci0": True})


PLACES = {
    *("path", "detail", "gateway", "store", "version", "address", "user", "found", "missing", "name", "off"),
    *("where", "host", "milliseconds", "key", "expected", "days", "folder", "free", "room", "kind", "point"),
    *("option", "records", "seconds", "active"),
}


def bus(**changes):
    return BusFacts(**({"bus": "good", "address": "unix:path=/bus", "bluez": "good"} | changes))


def certificate(**changes):
    good = {"name": "a/b", "life": Life(NOW - DAY, NOW + 60 * DAY), "key_fits": True, "key_private": True}
    return CertificateFacts(**(good | changes))


def judged(facts, **more):
    told = {"now": NOW, "enrolled": False, "expected": "a/b", "key": Path("k")}
    return doctor.judge_certificate(facts, **(told | more))


def mounted(kind="ext4", *options):
    return MountFacts("/", kind, frozenset(options))


PLAIN = Broker("broker", 1883, "c")
LOCAL = Broker("127.0.0.1", 1883, "c")
TLS = Tls(Path("ca"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (doctor.judge_python(PythonFacts((3, 11), True)), "python-good"),
        (doctor.judge_python(PythonFacts((3, 13), False)), "python-32-bit"),
        (doctor.judge_python(PythonFacts((3, 9), True)), "python-old"),
        (doctor.judge_bus(GOOD_BUS), "bus-good"),
        (doctor.judge_bus(bus(bus="no-socket")), "bus-no-socket"),
        (doctor.judge_bus(bus(bus="refused")), "bus-refused"),
        (doctor.judge_bus(bus(bus="reset")), "bus-reset"),
        (doctor.judge_bus(bus(bus="silent")), "bus-silent"),
        (doctor.judge_bluez(GOOD_BUS, (5, 66)), "bluez-good"),
        (doctor.judge_bluez(GOOD_BUS, (5, 55)), "bluez-good"),
        (doctor.judge_bluez(GOOD_BUS, (5, 54)), "bluez-old"),
        (doctor.judge_bluez(GOOD_BUS, None), "bluez-unknown"),
        (doctor.judge_bluez(bus(bluez="stopped"), (5, 66)), "bluez-stopped"),
        (doctor.judge_bluez(bus(bluez="stopped"), None), "bluez-missing"),
        (doctor.judge_bluez(bus(bluez="forbidden"), (5, 66)), "bluez-forbidden"),
        (doctor.judge_bluez(bus(bluez="silent"), (5, 66)), "bluez-silent"),
        (doctor.judge_bluez(bus(bluez="failed"), (5, 66)), "bluez-failed"),
        (doctor.judge_bluez(bus(bus="reset", bluez="not-asked"), (5, 66)), "bluez-not-asked"),
        (doctor.judge_adapter(GOOD_BUS, [], ["hci0"]), "adapter-good"),
        (doctor.judge_adapter(GOOD_BUS, ["hci0"], []), "adapter-good"),
        (doctor.judge_adapter(bus(), [], []), "adapter-none"),
        (doctor.judge_adapter(bus(), [], ["hci0"]), "adapter-none"),
        (doctor.judge_adapter(bus(bus="no-socket", bluez="not-asked"), [], []), "adapter-none"),
        (doctor.judge_adapter(GOOD_BUS, ["hci0"], ["hci0", "hci1"]), "adapter-missing"),
        (doctor.judge_adapter(bus(), ["hci0"], ["hci0"]), "adapter-unmanaged"),
        (doctor.judge_adapter(bus(bluez="stopped"), ["hci0"], ["hci0"]), "adapter-good"),
        (doctor.judge_power(GOOD_BUS, ["hci0"]), "power-good"),
        (doctor.judge_power(bus(adapters={"hci0": True, "hci1": False}), ["hci0"]), "power-good"),
        (doctor.judge_power(bus(adapters={"hci0": True, "hci1": False}), []), "power-off"),
        (doctor.judge_power(bus(), ["hci0"]), "power-unknown"),
        (doctor.judge_rfkill([]), "rfkill-good"),
        (doctor.judge_rfkill([RfkillSwitch("hci0", False, False)]), "rfkill-good"),
        (doctor.judge_rfkill([RfkillSwitch("hci0", True, False)]), "rfkill-soft"),
        (doctor.judge_rfkill([RfkillSwitch("a", True, False), RfkillSwitch("b", True, True)]), "rfkill-hard"),
        (doctor.judge_clock(True), "clock-good"),
        (doctor.judge_clock(False), "clock-unset"),
        *(
            (doctor.judge_broker(BrokerFacts(step), PLAIN), f"broker-{step}")
            for step in ("good", "name", "cut")
        ),
        (doctor.judge_no_certificate(PLAIN), "certificate-plain"),
        (doctor.judge_no_certificate(LOCAL), "certificate-none"),
        (doctor.judge_no_certificate(Broker("b", 1, "c", "u", "p", TLS)), "certificate-password"),
        (doctor.judge_no_certificate(Broker("b", 1, "c", tls=TLS)), "certificate-anonymous"),
        (judged(certificate()), "certificate-good"),
        (judged(certificate(key_fits=False)), "certificate-key"),
        (judged(certificate(key_private=False)), "certificate-open"),
        (judged(certificate(name="a/c")), "certificate-name"),
        (judged(certificate(life=Life(0, NOW))), "certificate-over"),
        (judged(certificate(life=Life(NOW + 1, NOW + 60 * DAY))), "certificate-early"),
        (judged(certificate(life=Life(0, NOW + 30 * DAY - 1))), "certificate-soon"),
        (judged(certificate(life=Life(0, NOW + 30 * DAY - 1)), enrolled=True), "certificate-good"),
        (judged(certificate(life=Life(0, NOW + 7 * DAY - 1)), enrolled=True), "certificate-soon"),
        (doctor.judge_disk(DiskFacts(FOLDER, True, True, 1000 * MB, 0), 256 * MB), "disk-good"),
        (doctor.judge_disk(DiskFacts(FOLDER, True, True, 200 * MB, 0), 256 * MB), "disk-tight"),
        (doctor.judge_disk(DiskFacts(FOLDER, True, True, 200 * MB, 200 * MB), 256 * MB), "disk-good"),
        (doctor.judge_disk(DiskFacts(FOLDER, True, True, 10 * MB, 256 * MB), 256 * MB), "disk-full"),
        (doctor.judge_disk(DiskFacts(FOLDER, True, False, 1000 * MB, 0), 256 * MB), "disk-unwritable"),
        (doctor.judge_mount(mounted("ext4", "rw", "noatime"), FOLDER), "mount-good"),
        (doctor.judge_mount(mounted("f2fs", "rw", "relatime"), FOLDER), "mount-good"),
        (doctor.judge_mount(None, FOLDER), "mount-unknown"),
        (doctor.judge_mount(mounted("tmpfs", "rw"), FOLDER), "mount-volatile"),
        (doctor.judge_mount(mounted("overlay", "rw"), FOLDER), "mount-volatile"),
        (doctor.judge_mount(mounted("nfs4", "rw"), FOLDER), "mount-network"),
        (doctor.judge_mount(mounted("vfat", "rw"), FOLDER), "mount-unfit"),
        (doctor.judge_mount(mounted("ext4", "ro"), FOLDER), "mount-read-only"),
        (doctor.judge_mount(mounted("ext4", "rw", "nobarrier"), FOLDER), "mount-no-barrier"),
        (doctor.judge_mount(mounted("ext4", "rw", "sync"), FOLDER), "mount-wearing"),
        (doctor.judge_mount(mounted("ext4", "rw", "data=journal"), FOLDER), "mount-wearing"),
        (doctor.judge_outbox(OutboxFacts(7)), "outbox-good"),
        (doctor.judge_outbox(OutboxFacts(None)), "outbox-new"),
        (doctor.judge_outbox(OutboxFacts(None, "malformed")), "outbox-damaged"),
        (doctor.judge_service(ServiceFacts("loaded", "active", 60)), "service-good"),
        (doctor.judge_service(ServiceFacts("loaded", "active", 0)), "service-unwatched"),
        (doctor.judge_service(ServiceFacts("loaded", "failed", 60)), "service-stopped"),
        (doctor.judge_service(ServiceFacts("not-found", "inactive", 0)), "service-absent"),
        (doctor.judge_service(None), "service-no-systemd"),
    ],
)
def test_every_rule(code, expected):
    assert code.name == expected
    verdict = code.verdict("check", {"path": "/etc/footfall/gateway.toml", "user": "pi"})
    assert "{" not in verdict.finding + verdict.remedy and "\n" not in verdict.finding
    assert (verdict.level == "ok") == (not verdict.remedy)


def test_every_finding_has_a_remedy_unless_all_is_well_and_can_be_written():
    for name, finding in FINDINGS.items():
        assert (finding.level == "ok") == (not finding.remedy), name
        assert finding.check == "any" or name.startswith(f"{finding.check}-"), name
        places = {
            field for _, field, _, _ in string.Formatter().parse(finding.says + finding.remedy) if field
        }
        assert places <= PLACES, name


def test_every_step_to_the_broker_has_a_finding():
    for step in probes.Step.__args__:
        assert f"broker-{step}" in FINDINGS


def test_every_verdict_is_documented_and_no_other():
    section = DOCUMENT.read_text("utf-8").partition("\n## What the doctor says")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([\w-]+)` \| (ok|warn|fail) \|", section, re.MULTILINE)
    assert dict(documented) == {name: finding.level for name, finding in FINDINGS.items()}
    assert len(documented) == len(FINDINGS)


# --- the message bus and BlueZ


async def seen(address, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    return await look_at_bluez()


async def test_a_sound_bluez_and_one_without_power_or_adapter(monkeypatch):
    async with private_bus() as bus, FakeBluez(bus.address, ("hci0", "hci1")) as bluez:
        facts = await seen(bus.address, monkeypatch)
        assert (facts.bus, facts.bluez, facts.adapters) == ("good", "good", {"hci0": True, "hci1": True})
        await bluez.power("hci1", False)
        assert (await look_at_bluez()).adapters == {"hci0": True, "hci1": False}
        await bluez.unplug("hci0")
        await bluez.unplug("hci1")
        assert (await look_at_bluez()).adapters == {}
        assert not bluez.discovering("hci0")


async def test_a_bluez_that_is_gone_and_one_that_hangs(monkeypatch):
    monkeypatch.setattr("gateway.bluez_probe.CALL_SECONDS", 0.5)
    async with private_bus() as bus:
        assert (await seen(bus.address, monkeypatch)).bluez == "stopped"
        async with FakeBluez(bus.address) as bluez:
            bluez.hang()
            facts = await look_at_bluez()
            assert (facts.bus, facts.bluez) == ("good", "silent")


async def test_a_user_who_may_not_talk_to_bluez(monkeypatch):
    forbidden = '<deny send_destination="org.bluez" send_type="method_call"/></policy>'
    monkeypatch.setattr(bus_module, "_CONFIG", bus_module._CONFIG.replace("</policy>", forbidden))
    async with private_bus() as bus, FakeBluez(bus.address):
        facts = await seen(bus.address, monkeypatch)
        assert (facts.bus, facts.bluez) == ("good", "forbidden")


@contextlib.contextmanager
def listener(path, serve=None):
    """A socket where a bus should be; `serve` gets each connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        sock.settimeout(0.05)
        over = threading.Event()

        def run():
            while not over.is_set():
                with contextlib.suppress(OSError), sock.accept()[0] as connection:
                    if serve is not None:
                        serve(connection)

        thread = threading.Thread(target=run)
        if serve is not None:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if serve is not None:
                thread.join()


async def test_no_bus_at_all(tmp_path, monkeypatch):
    assert (await seen(f"unix:path={tmp_path}/none", monkeypatch)).bus == "no-socket"
    assert (await seen("nonsense", monkeypatch)).bus == "no-socket"


async def test_a_bus_where_nobody_listens(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "bus"))
    assert (await seen(f"unix:path={tmp_path}/bus", monkeypatch)).bus == "refused"


async def test_a_bus_that_turns_us_away(tmp_path, monkeypatch):
    """As dbus-daemon does with a user whom no policy admits."""
    with listener(tmp_path / "bus", lambda connection: connection.recv(64)):
        assert (await seen(f"unix:path={tmp_path}/bus", monkeypatch)).bus == "reset"


async def test_a_bus_that_never_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.bluez_probe.CALL_SECONDS", 0.3)
    with listener(tmp_path / "bus"):
        assert (await seen(f"unix:path={tmp_path}/bus", monkeypatch)).bus == "silent"


# --- the machine


def test_rfkill_from_sys_and_from_the_device(tmp_path):
    folder = tmp_path / "rfkill"
    for name, kind, soft, hard in (("0", "wlan", "1", "1"), ("1", "bluetooth", "1", "0")):
        (folder / f"rfkill{name}").mkdir(parents=True)
        for leaf, value in (("name", f"hci{name}"), ("type", kind), ("soft", soft), ("hard", hard)):
            (folder / f"rfkill{name}" / leaf).write_text(value + "\n")
    expected = [RfkillSwitch("hci1", True, False)]
    assert probes.rfkill_switches(folder, tmp_path / "none") == expected
    device = tmp_path / "device"
    index = (3).to_bytes(4, sys.byteorder)
    device.write_bytes(bytes(4) + b"\1\0\1\1" + index + b"\2\0\0\1" + b"torn")
    assert probes.rfkill_switches(tmp_path / "none", device) == [RfkillSwitch("rfkill3", False, True)]
    assert probes.rfkill_switches(tmp_path / "none", tmp_path / "none") == []


def test_the_kernels_adapters_are_no_connections(tmp_path):
    for name in ("hci1", "hci0", "hci0:11"):
        (tmp_path / name).mkdir()
    assert probes.kernel_adapters(tmp_path) == ["hci0", "hci1"]
    assert probes.kernel_adapters(tmp_path / "none") == []


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of ours first on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(name, script):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("script", "version"),
    [("echo bluetoothctl: 5.66", (5, 66)), ("echo 5.9", (5, 9)), ("exit 1", None), ("echo nonsense", None)],
)
def test_the_version_of_bluez(program, script, version):
    program("bluetoothctl", script)
    assert probes.bluez_version() == version


def test_a_program_that_hangs_holds_nobody_up(program, monkeypatch):
    monkeypatch.setattr(probes, "COMMAND_SECONDS", 0.2)
    program("bluetoothctl", "exec sleep 30")
    began = time.monotonic()
    assert probes.bluez_version() is None and time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("script", "facts"),
    [
        (
            "printf 'LoadState=loaded\\nActiveState=active\\nWatchdogUSec=1min 30s\\n'",
            ("loaded", "active", 90.0),
        ),
        (
            "printf 'LoadState=loaded\\nActiveState=failed\\nWatchdogUSec=infinity\\n'",
            ("loaded", "failed", 0),
        ),
        ("printf 'LoadState=not-found\\nActiveState=inactive\\n'", ("not-found", "inactive", 0)),
        ("echo 'System has not been booted with systemd' >&2; exit 1", None),
        ("exit 0", None),
    ],
)
def test_the_service(program, script, facts):
    program("systemctl", script)
    assert probes.look_at_service() == (None if facts is None else ServiceFacts(*facts))


# --- the disk


def test_the_disk_before_and_after_the_first_start(tmp_path):
    facts = look_at_disk(tmp_path / "not" / "yet")
    assert not facts.exists and facts.writable and facts.free_bytes > 0 and facts.outbox_bytes == 0
    (tmp_path / "outbox.db").write_bytes(bytes(1000))
    facts = look_at_disk(tmp_path)
    assert (
        facts.exists and facts.outbox_bytes == 1000 and [p.name for p in tmp_path.iterdir()] == ["outbox.db"]
    )
    assert not look_at_disk(Path("/proc/nowhere")).writable


MOUNTS = """\
22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,commit=120
30 22 0:25 / /var/lib rw,nosuid - tmpfs tmpfs rw,size=1000k
31 30 8:1 / /var/lib/with\\040space rw - ext4 /dev/sda1 rw,sync
40 22 8:2 / /var/library rw - vfat /dev/sdb1 rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/home/pi", "/", "ext4"),
        ("/var/lib", "/var/lib", "tmpfs"),
        ("/var/lib/footfall", "/var/lib", "tmpfs"),
        ("/var/libfootfall", "/", "ext4"),
        ("/var/lib/with space/footfall", "/var/lib/with space", "ext4"),
    ],
)
def test_the_mount_is_the_longest_above(path, point, kind):
    facts = mount_of(path, MOUNTS.splitlines())
    assert (facts.point, facts.kind) == (point, kind)
    assert "sync" in mount_of("/var/lib/with space", MOUNTS.splitlines()).options


def test_this_machines_own_mount(tmp_path):
    assert look_at_mount(tmp_path) is not None
    assert look_at_mount(tmp_path, tmp_path / "none") is None


def test_the_outbox_is_looked_at_beside_a_running_gateway_and_left_as_it_is(tmp_path):
    assert look_at_outbox(tmp_path) == OutboxFacts(None) and list(tmp_path.iterdir()) == []
    outbox = Outbox(tmp_path / "outbox.db", max_bytes=10**7, new_epoch=lambda: "ab" * 8, now_ms=lambda: 0)
    outbox.turn(Turn("ab" * 8, "boot", 0, parcels=[Parcel(b"x", "boot", 0, 1)] * 3))
    assert look_at_outbox(tmp_path) == OutboxFacts(3)
    outbox.turn(Turn("ab" * 8, "boot", 0, parcels=[Parcel(b"x", "boot", 0, 1)]))
    assert look_at_outbox(tmp_path) == OutboxFacts(4)
    outbox.close()
    path = tmp_path / "outbox.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(path.read_bytes())
    damaged[4096:6000] = bytes(1904)
    path.write_bytes(damaged)
    assert look_at_outbox(tmp_path).fault
    path.write_bytes(b"no database at all, but some text" * 300)
    assert "not a database" in look_at_outbox(tmp_path).fault
    assert path.read_bytes().startswith(b"no database")


# --- broker and certificate


async def reached(broker):
    return await asyncio.to_thread(look_at_broker, broker)


async def test_every_step_to_a_broker(any_broker, tmp_path):
    good = await reached(Broker("127.0.0.1", any_broker.port, "doctor"))
    assert good.step == "good" and good.milliseconds < 5000
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert (await reached(Broker("127.0.0.1", closed.getsockname()[1], "doctor"))).step == "refused"
    assert (await reached(Broker("no-such-host.invalid", 1883, "doctor"))).step == "name"
    authority = Authority(tmp_path, datetime.datetime.now(datetime.UTC))
    wrong_port = Broker("127.0.0.1", any_broker.port, "doctor", tls=Tls(authority.ca))
    assert (await reached(wrong_port)).step == "tls"
    no_files = Broker("127.0.0.1", any_broker.port, "doctor", tls=Tls(tmp_path / "none"))
    assert (await reached(no_files)).step == "files"


async def test_a_port_that_speaks_something_else(monkeypatch):
    monkeypatch.setattr("sdk_bridge.mqtt.CONNECT_SECONDS", 0.5)
    server = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(5), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await reached(Broker("127.0.0.1", port, "doctor"))).step == "silent"


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
async def test_credentials_and_certificates_at_a_real_broker(tmp_path):
    running = await start_broker(tmp_path / "a", kind="mosquitto", users={"door": "right"})
    async with running:
        for word, step in (("right", "good"), ("wrong", "credentials")):
            facts = await reached(Broker("127.0.0.1", running.port, "doctor", "door", word))
            assert facts.step == step and "right" not in facts.detail
    authority = Authority(tmp_path, datetime.datetime.now(datetime.UTC))
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", datetime.datetime.now(datetime.UTC), "Another authority")
    tls = MutualTls(authority.ca, *authority.issue_broker())
    running = await start_broker(tmp_path / "b", kind="mosquitto", tls=tls)
    async with running:
        for ca, papers, step in (
            (authority.ca, authority.issue_client("a/b"), "good"),
            (stranger.ca, authority.issue_client("a/c"), "untrusted"),
            (authority.ca, stranger.issue_client("a/d"), "cut"),
            (authority.ca, (None, None), "cut"),
        ):
            broker = Broker("127.0.0.1", running.port, "doctor", tls=Tls(ca, *papers))
            assert (await reached(broker)).step == step


def test_a_certificate_and_its_key(tmp_path):
    authority = Authority(tmp_path, datetime.datetime.now(datetime.UTC))
    (mine, key), (_, other) = authority.issue_client("a/b"), authority.issue_client("a/c")
    facts = look_at_certificate(mine, key)
    assert (facts.name, facts.key_fits, facts.key_private) == ("a/b", True, True)
    assert not look_at_certificate(mine, other).key_fits
    key.chmod(0o644)
    assert not look_at_certificate(mine, key).key_private
    for wrong in (key, tmp_path / "none", tmp_path):
        with pytest.raises((OSError, ValueError)):
            look_at_certificate(wrong, key)


# --- the whole


def write_config(folder, port, more=""):
    path = folder / "gateway.toml"
    path.write_text(
        f'store = "a"\ngateway = "b"\ndata_dir = "data"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{more}'
    )
    (folder / "data").mkdir()
    return path


def levels(verdicts):
    return {verdict.check: verdict.level for verdict in verdicts}


async def test_a_sound_gateway_is_healthy(tmp_path, any_broker, program, monkeypatch, hand_clock):
    program("bluetoothctl", "echo bluetoothctl: 5.66")
    program("systemctl", "printf 'LoadState=loaded\\nActiveState=active\\nWatchdogUSec=1min\\n'")
    monkeypatch.setattr(probes, "look_at_mount", lambda _folder: mounted("ext4", "rw"))
    path = write_config(tmp_path, any_broker.port)
    async with private_bus() as bus, FakeBluez(bus.address):
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        verdicts = await asyncio.to_thread(examine, path, hand_clock(is_synchronised=True))
    assert healthy(verdicts), "\n".join(as_lines(verdicts))
    checks = "configuration python bus bluez adapter rfkill power clock service broker certificate disk mount"
    assert list(levels(verdicts)) == [*checks.split(), "outbox"]
    assert as_object(verdicts)["ok"] is True


def command(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_machine_without_bluetooth_is_told_exactly_that(tmp_path):
    if Path("/sys/class/bluetooth").exists():
        pytest.skip("this machine has Bluetooth")
    path = write_config(tmp_path, 1)
    where = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    done = command("--config", str(path), **where)
    assert done.returncode == 1 and "No Bluetooth adapter was found" in done.stdout and done.stderr == ""
    told = json.loads(command("--config", str(path), "--json", **where).stdout)
    codes = {check["check"]: check["code"] for check in told["checks"]}
    assert told["ok"] is False
    assert (codes["bus"], codes["adapter"], codes["broker"]) == (
        "bus-no-socket",
        "adapter-none",
        "broker-refused",
    )
    assert all(check["fix"] for check in told["checks"] if check["verdict"] != "ok")


def test_without_a_configuration_the_machine_alone_is_looked_at(tmp_path):
    told = json.loads(command("--config", str(tmp_path / "none.toml"), "--json").stdout)
    assert told["checks"][0]["code"] == "configuration-none"
    assert "broker" not in {check["check"] for check in told["checks"]}


def test_a_bad_configuration_is_named_and_the_machine_is_looked_at_all_the_same(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text("stroe = 1\n")
    verdicts = examine(path, SystemClock.of_this_machine())
    assert verdicts[0].code == "configuration-bad" and "did you mean `store`?" in verdicts[0].finding
    assert "python" in levels(verdicts)


def test_a_check_that_hangs_is_a_verdict_and_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "look_at_disk", lambda _folder: time.sleep(30))

    def broken(_folder):
        raise MemoryError("no memory\nat all")

    monkeypatch.setattr(probes, "look_at_mount", broken)
    path = write_config(tmp_path, 1)
    began = time.monotonic()
    verdicts = {v.check: v for v in examine(path, SystemClock.of_this_machine(), seconds=1.0)}
    assert time.monotonic() - began < 10
    assert (verdicts["disk"].code, verdicts["disk"].finding) == ("late", "no answer within 1 s")
    assert verdicts["mount"].code == "broken" and "MemoryError: no memory at all" in verdicts["mount"].finding


def test_a_gateway_that_is_not_enrolled_and_names_no_broker(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text('store = "a"\ngateway = "b"\ndata_dir = "data"\n')
    codes = {verdict.check: verdict.code for verdict in examine(path, SystemClock.of_this_machine())}
    assert codes["broker"] == codes["certificate"] == "broker-none"


def test_the_doctors_name_at_the_broker_is_nobody_elses(tmp_path):
    config = load(write_config(tmp_path, 1))
    clock = SystemClock.of_this_machine()
    names = {probes.look_for_way(config, clock).broker.client_id for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("a-b-doctor-") for name in names)


def test_an_identity_that_this_user_may_not_read_is_told_from_a_damaged_one(tmp_path, monkeypatch):
    config = load(write_config(tmp_path, 1))
    clock = SystemClock.of_this_machine()

    def forbidden(_folder, _address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(probes, "load_identity", forbidden)
    assert doctor._broker(config, clock).name == "broker-forbidden"
    (tmp_path / "data" / "identity").mkdir()
    monkeypatch.undo()
    assert doctor._broker(config, clock).name == "broker-papers"
    assert doctor._certificate(config, clock).name == "certificate-unreadable"
