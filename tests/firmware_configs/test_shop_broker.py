"""The shop's broker configuration, in a mosquitto that really runs with it."""

import asyncio
import contextlib
import datetime
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import firmware_configs
from backend.fleet.keys import REVOKED_FILE
from sdk_bridge import mqtt
from sdk_bridge.mqtt import Message, MqttUnavailable
from sdk_bridge.wire.messages import MAX_PAYLOAD_BYTES
from sdk_bridge.wire.topics import GatewayAddress, subscription
from simulators.broker import GATEWAY_ACL, find_mosquitto
from simulators.certificates import Authority
from simulators.children import tied_to_us

FOLDER = Path(firmware_configs.__file__).with_name("shop_broker")
CONFIG = (FOLDER / "mosquitto.conf").read_text()
DOOR, TILL = GatewayAddress("berlin-mitte", "door"), GatewayAddress("berlin-mitte", "till")
pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@dataclass
class Shop:
    """A running broker and the authority of its clients."""

    port: int
    authority: Authority
    folder: Path
    process: subprocess.Popen
    clients: int = 0

    def client(self, name: str) -> mqtt.Broker:
        self.clients += 1
        files = self.authority.issue_client(name)
        tls = mqtt.Tls(self.authority.ca, *files)
        return mqtt.Broker("127.0.0.1", self.port, f"client-{self.clients}", tls=tls)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    authority = Authority(folder, datetime.datetime.now(datetime.UTC))
    for made, name in zip(authority.issue_broker(), ("server.pem", "server.key"), strict=True):
        made.rename(folder / name)
    authority.revoke()
    (folder / "acl.conf").write_text((FOLDER / "acl.conf").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = CONFIG.replace("/etc/mosquitto/footfall", str(folder)).replace(
        "listener 8883", f"listener {port} 127.0.0.1"
    )
    (folder / "mosquitto.conf").write_text(text + ("user root\n" if os.getuid() == 0 else ""))
    with run_mosquitto(folder, port) as process:
        yield Shop(port, authority, folder, process)


@contextlib.contextmanager
def run_mosquitto(folder: Path, port: int):
    with (folder / "log").open("wb") as log:
        command = tied_to_us([find_mosquitto(), "-c", str(folder / "mosquitto.conf")])
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 15
        while not accepts(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Inbox:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, connection: mqtt.Connection, message: Message) -> None:
        self.messages.append(message)
        connection.acknowledge(message)

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


async def eventually(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def test_a_gateway_and_the_backend_talk(shop):
    up, down = Inbox(), Inbox()
    async with (
        mqtt.connect(shop.client("footfall-backend"), up) as backend,
        mqtt.connect(shop.client("berlin-mitte/door"), down) as gateway,
    ):
        await backend.subscribe([subscription("up"), subscription("status")])
        await gateway.subscribe([DOOR.topic("down/ack"), DOOR.topic("down/config")])
        gateway.publish(DOOR.topic("status"), b"online", retain=True)
        gateway.publish(DOOR.topic("up"), bytes(MAX_PAYLOAD_BYTES))
        backend.publish(DOOR.topic("down/ack"), b"ack", qos=0)
        backend.publish(DOOR.topic("down/config"), b"config", retain=True)
        await eventually(lambda: len(up.messages) == 2 and len(down.messages) == 2)
        assert gateway.refused == backend.refused == 0
        assert gateway.maximum_packet_bytes >= MAX_PAYLOAD_BYTES + 1024


async def test_a_gateway_reaches_no_other_gateway(shop):
    up, down = Inbox(), Inbox()
    async with (
        mqtt.connect(shop.client("footfall-backend"), up) as backend,
        mqtt.connect(shop.client("berlin-mitte/till"), down) as gateway,
    ):
        await backend.subscribe([subscription("up")])
        with contextlib.suppress(MqttUnavailable):
            await gateway.subscribe(["#"])
        gateway.publish(DOOR.topic("up"), b"forged")
        gateway.publish(TILL.topic("down/ack"), b"forged")
        gateway.publish(TILL.topic("up"), b"own")
        backend.publish(DOOR.topic("down/ack"), b"not for the till", qos=0)
        backend.publish(TILL.topic("down/ack"), b"for the till", qos=0)
        await eventually(lambda: up.messages and b"for the till" in down.payloads() and gateway.refused == 2)
    assert up.payloads() == [b"own"]
    assert b"not for the till" not in down.payloads()


async def test_nobody_enters_without_a_certificate(shop):
    stranger = mqtt.Broker("127.0.0.1", shop.port, "stranger", tls=mqtt.Tls(shop.authority.ca))
    with pytest.raises(MqttUnavailable):
        async with mqtt.connect(stranger, Inbox()):
            pass


# --- Withdrawn certificates: two systemd units, and what they make of a running mosquitto.

PATH_UNIT, SERVICE = FOLDER / "footfall-revoked.path", FOLDER / "footfall-revoked.service"


def settings(unit: Path, name: str) -> list[str]:
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_both_units(tmp_path):
    for unit in (PATH_UNIT, SERVICE):
        shutil.copy(unit, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / PATH_UNIT.name), str(tmp_path / SERVICE.name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if "footfall-revoked" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


def test_the_units_watch_the_backends_list_and_feed_the_brokers():
    [watched] = settings(PATH_UNIT, "PathChanged")
    assert settings(PATH_UNIT, "Unit") == [SERVICE.name] and Path(watched).name == REVOKED_FILE
    install, move, reload = settings(SERVICE, "ExecStart")
    [crlfile] = re.findall(r"^crlfile (.*)$", CONFIG, re.MULTILINE)
    assert watched in install.split() and move.split()[-1] == crlfile
    assert reload.endswith("mosquitto.service") and "reload" in reload
    assert str(Path(crlfile).parent) in settings(SERVICE, "ReadWritePaths")


async def test_after_the_services_steps_a_withdrawn_gateway_is_refused_and_the_others_are_not(shop):
    """The steps as the unit has them, but for the folders, and SIGHUP for what systemctl would do."""
    bad, good = (
        shop.authority.issue_client("berlin-mitte/roof"),
        shop.authority.issue_client("berlin-mitte/till"),
    )
    await enters(shop, bad)
    backends = shop.folder / "backend" / "authority"
    backends.mkdir(parents=True)
    kept = (shop.folder / "revoked.pem").read_bytes()
    shop.authority.revoke(bad[0]).rename(backends / "revoked.pem")
    (shop.folder / "revoked.pem").write_bytes(kept)
    for step in settings(SERVICE, "ExecStart")[:2]:
        words = [word.replace("/var/lib/footfall", str(shop.folder / "backend")) for word in step.split()]
        words = [word.replace("/etc/mosquitto/footfall", str(shop.folder)) for word in words]
        await asyncio.to_thread(subprocess.run, words, check=True)
    await enters(shop, bad)  # mosquitto has not been told yet
    shop.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while True:
        try:
            await enters(shop, bad)
        except MqttUnavailable:
            break
        assert time.monotonic() < deadline, "the withdrawn certificate still opens the door"
    await enters(shop, good)


async def enters(shop: Shop, files: tuple[Path, Path]) -> None:
    """Raises MqttUnavailable."""
    shop.clients += 1
    tls = mqtt.Tls(shop.authority.ca, *files)
    broker = mqtt.Broker("127.0.0.1", shop.port, f"client-{shop.clients}", tls=tls)
    async with mqtt.connect(broker, Inbox()):
        pass


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_testers_broker_has_the_same_rules():
    assert rules((FOLDER / "acl.conf").read_text()) == rules(GATEWAY_ACL)


def test_nothing_but_the_tls_port_is_opened():
    assert re.findall(r"^(?:listener|port) .*$", CONFIG, re.MULTILINE) == ["listener 8883"]
    assert "allow_anonymous false" in rules(CONFIG)
