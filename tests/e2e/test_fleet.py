"""A gateway's life over real processes: enrolled by command, mutual TLS, configured from afar, revoked."""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import ssl
import sys
import time
from dataclasses import dataclass

import aiohttp
import pytest
from cryptography import x509

from backend.fleet.authority import DAY_MS, Subject, new_authority, new_key
from backend.fleet.keys import open_keys
from gateway.certificate import GatewayTls, KnownTime
from gateway.clock import SystemClock
from sdk_bridge import mqtt
from sdk_bridge.wire.enrolment import EnrolmentToken
from sdk_bridge.wire.topics import GatewayAddress
from simulators.bluez import FakeBluez
from simulators.broker import GATEWAY_ACL, MutualTls, find_mosquitto, start_broker
from simulators.bus import private_bus

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]
UUID = "11111111-2222-3333-4444-555555555555"
DOOR, TILL = GatewayAddress("vienna-1", "door"), GatewayAddress("vienna-1", "till")


def now_ms():
    return int(time.time() * 1000)


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.05)
    return found


# The broker, by certificates of the real authority ----------------------------------------------------


class Town:
    """An authority, a broker that trusts it, and papers for whoever asks."""

    def __init__(self, folder):
        self.folder = folder
        self.keys = open_keys(folder / "authority", now_ms())
        self.broker = None

    def papers(self, name, *, authority=None, now=None, life_ms=DAY_MS, server=False):
        """A folder with key.pem, certificate.pem and authority.pem; and the serial."""
        folder = self.folder / f"papers-{os.urandom(4).hex()}"
        folder.mkdir()
        public, private = new_key()
        subject = Subject.server(name) if server else Subject.gateway(name, life_ms)
        issuer = authority or self.keys.authority
        issued = issuer.issue(public, subject, now or now_ms(), x509.random_serial_number())
        (folder / "key.pem").write_text(private)
        (folder / "certificate.pem").write_text(issued.pem)
        (folder / "authority.pem").write_text(self.keys.authority.pem)
        return folder, issued.serial

    async def start(self, server=None):
        papers = server or self.papers("127.0.0.1", server=True)[0]
        self.broker = await start_broker(
            self.folder / "broker",
            kind="mosquitto",
            tls=MutualTls(
                papers / "authority.pem",
                papers / "certificate.pem",
                papers / "key.pem",
                self.keys.revoked_file,
            ),
            acl=GATEWAY_ACL,
        )

    def revoke(self, *serials):
        self.keys.write_revocations([(serial, now_ms()) for serial in serials], now_ms())
        os.kill(self.broker.pid, signal.SIGHUP)

    def at(self, papers, clock=None):
        clock = clock or SystemClock.of_this_machine()
        tls = GatewayTls.of(papers, KnownTime(papers, clock))
        return mqtt.Broker("127.0.0.1", self.broker.port, f"client-{os.urandom(4).hex()}", tls=tls)

    @contextlib.asynccontextmanager
    async def connected(self, papers, inbox=None, clock=None):
        """A connection that has proved to work; MqttUnavailable where it is refused."""
        heard = inbox if inbox is not None else []
        async with mqtt.connect(
            self.at(papers, clock), lambda _c, message: heard.append((message.topic, message.payload))
        ) as connection:
            await connection.subscribe([DOOR.topic("down/ack")])
            yield connection


@pytest.fixture
async def town(tmp_path):
    made = Town(tmp_path)
    yield made
    if made.broker is not None:
        await made.broker.stop()


async def test_a_gateway_reaches_its_own_topics_and_no_other(town):
    await town.start()
    backend, _ = town.papers("footfall-backend")
    door, _ = town.papers("vienna-1/door")
    heard, told = [], []
    async with town.connected(backend, heard) as office, town.connected(door, told) as gateway:
        await office.subscribe(["footfall/1/+/+/+/up", "footfall/1/+/+/+/status"])
        with contextlib.suppress(mqtt.MqttUnavailable):  # refused at once, or nothing is delivered
            await gateway.subscribe([TILL.topic("down/config")])
        await gateway.subscribe([DOOR.topic("down/config")])
        for topic in (TILL.topic("up"), DOOR.topic("down/config"), TILL.topic("down/config")):
            gateway.publish(topic, b"forged")
        gateway.publish(DOOR.topic("up"), b"own")
        office.publish(TILL.topic("down/config"), b"for the till", retain=True)
        office.publish(DOOR.topic("down/config"), b"for the door", retain=True)
        await until(lambda: heard and told and gateway.refused == 3)
    assert heard == [(DOOR.topic("up"), b"own")]
    assert told == [(DOOR.topic("down/config"), b"for the door")]


async def test_foreign_expired_and_revoked_certificates_are_refused(town):
    await town.start()
    stranger = new_authority(now_ms(), 7)
    for papers, _ in (
        town.papers("vienna-1/door", authority=stranger),
        town.papers("vienna-1/door", now=now_ms() - 2 * DAY_MS),
        town.papers("127.0.0.1", server=True),
    ):
        with pytest.raises(mqtt.MqttUnavailable):
            async with town.connected(papers):
                pass
    door, serial = town.papers("vienna-1/door")
    till, _ = town.papers("vienna-1/till")
    async with town.connected(door):
        pass
    town.revoke(serial)
    await until_refused(town, door)
    async with town.connected(till):
        pass


async def until_refused(town, papers, seconds=10.0):
    """The broker reads its list on a signal, some moments later."""
    deadline = time.monotonic() + seconds
    with pytest.raises(mqtt.MqttUnavailable):
        while time.monotonic() < deadline:
            async with town.connected(papers):
                await asyncio.sleep(0.05)


@dataclass
class StoppedClock:
    """A Pi's clock before anybody has set it."""

    unix: int
    is_synchronised: bool = False
    boot_id: str = ""

    def boot_ms(self) -> int:
        return 0

    def unix_ms(self) -> int:
        return self.unix

    def synchronised(self) -> bool:
        return self.is_synchronised


@pytest.mark.parametrize(
    ("unix", "synchronised", "server_age_days", "fine"),
    [
        (0, False, 0, True),
        (0, True, 0, False),
        (now_ms() + 800 * DAY_MS, True, 0, False),
        (0, False, 740, True),  # the limit: it ran out, and nobody told us what time it is
        (now_ms(), True, 740, False),
    ],
)
async def test_a_brokers_certificate_is_judged_by_what_is_known_of_the_time(
    town, unix, synchronised, server_age_days, fine
):
    server, _ = town.papers("127.0.0.1", server=True, now=now_ms() - server_age_days * DAY_MS)
    await town.start(server)
    door, _ = town.papers("vienna-1/door")
    expectation = contextlib.nullcontext() if fine else pytest.raises(mqtt.MqttUnavailable, match="clock")
    with expectation:
        async with town.connected(door, clock=StoppedClock(unix, synchronised)):
            pass


async def test_a_broker_of_another_authority_or_name_is_not_spoken_to(town):
    door, _ = town.papers("vienna-1/door")
    for server, _ in (
        town.papers("127.0.0.1", server=True, authority=new_authority(now_ms(), 7)),
        town.papers("broker.example", server=True),
        town.papers("vienna-1/till"),
    ):
        await town.start(server)
        with pytest.raises(mqtt.MqttUnavailable, match="certificate"):
            async with town.connected(door):
                pass
        await town.broker.stop()


# The whole life, over real processes ------------------------------------------------------------------


class World:
    """Backend, broker, air and gateways, as real as a tester has them; processes end with it."""

    def __init__(self, folder, bus, bluez, session):
        self.folder, self.bus, self.bluez, self.session = folder, bus, bluez, session
        self.processes = []
        self.broker = None
        self.url = ""
        self.api_token = ""

    async def open(self):
        config = self.folder / "backend.toml"
        config.write_text(f'data_dir = "{self.folder / "backend"}"\n')
        out = self.folder / "tls"
        authority = ("-m", "backend", "authority")
        await self.command(
            *authority, "broker-certificate", "--host", "127.0.0.1", "--out", out, "-c", config
        )
        _, self.api_token = await asyncio.gather(
            self.command(*authority, "client-certificate", "--out", out, "-c", config),
            self.command(
                "-m", "backend", "token", "create", "--role", "admin", "--name", "tester", "-c", config
            ),
        )
        self.revoked = self.folder / "backend" / "authority" / "revoked.pem"
        tls = MutualTls(out / "ca.pem", out / "server.pem", out / "server.key", self.revoked)
        self.broker = await start_broker(self.folder / "broker", kind="mosquitto", tls=tls, acl=GATEWAY_ACL)
        config.write_text(
            f'data_dir = "{self.folder / "backend"}"\n'
            f'[http]\nport = 0\ncertificate = "{out / "server.pem"}"\nkey = "{out / "server.key"}"\n'
            f'[mqtt]\nport = {self.broker.port}\nca = "{out / "ca.pem"}"\n'
            f'certificate = "{out / "client.pem"}"\nkey = "{out / "client.key"}"\n[log]\njson = true\n'
        )
        self.config = config
        self.trust = ssl.create_default_context(cafile=str(out / "ca.pem"))
        await self.start("backend", "backend", "serve", "-c", config)
        self.url = await until(lambda: re.search(r"https://127[.0-9]+:[0-9]+", self.log("backend")))
        self.url = self.url[0]
        await self.ask("PUT", "stores/vienna-1", {"name": "Vienna"})
        await self.ask("PUT", "stores/vienna-1/zones/a", {"name": "A"})
        for gateway in ("door", "till"):
            await self.ask("PUT", f"stores/vienna-1/gateways/{gateway}", {"zone_id": "a"})

    async def close(self):
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if self.broker is not None:
            await self.broker.stop()

    async def command(self, *arguments, **environment):
        """Runs a program to its end; what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, arguments),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode().strip()

    async def start(self, name, program, *arguments):
        """A process that stays, with its log in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", program, *map(str, arguments)),
                env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    async def ask(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.api_token}"}
        async with self.session.request(
            method, f"{self.url}/api/{path}", json=body, headers=headers, ssl=self.trust
        ) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    def toml(self, gateway):
        return self.folder / gateway / "gateway.toml"

    async def enrol(self, gateway, adapter):
        """By the two commands, as an operator does it."""
        self.toml(gateway).parent.mkdir(exist_ok=True)
        self.toml(gateway).write_text(
            f'store = "vienna-1"\ngateway = "{gateway}"\ndata_dir = "data"\n'
            f'[bluetooth]\nadapters = ["{adapter}"]\n[allow]\nibeacon = ["{UUID}"]\n[log]\nformat = "json"\n'
        )
        token = await self.command(
            *("-m", "backend", "gateway", "enrol-token", "--store", "vienna-1", "--gateway", gateway),
            *("--url", self.url, "-c", self.config),
            FOOTFALL_API_TOKEN=self.api_token,
        )
        enroll = ("-m", "gateway", "enroll", "--backend", self.url, "--config", self.toml(gateway))
        assert "enrolled as" in await self.command(*enroll, FOOTFALL_ENROL_TOKEN=token)
        return token

    async def run_gateway(self, gateway):
        return await self.start(gateway, "gateway", "run", "--config", self.toml(gateway))

    async def report(self, gateway):
        fleet = (await self.ask("GET", "fleet"))["gateways"]
        (one,) = (row for row in fleet if row["gateway_id"] == gateway)
        return one["reported_version"], one["reported_state"]

    async def until_report(self, gateway, wanted, seconds=20.0):
        deadline = time.monotonic() + seconds
        while (told := await self.report(gateway)) != wanted:
            assert time.monotonic() < deadline, f"{gateway} says {told}, not {wanted}"
            await asyncio.sleep(0.1)

    async def heard(self):
        """The gateways whose heartbeats the backend has had, and how old they are."""
        floor = await self.ask("GET", "floor")
        return {row["gateway"]: row["heard_ago_ms"] for row in floor["gateways"]}

    async def advertise(self):
        """A tag near both gateways, for ever."""
        beacon = {0x004C: bytes.fromhex("0215" + UUID.replace("-", "") + "00010007c5")}
        for turn in itertools.count():
            for adapter in ("hci0", "hci1"):
                await self.bluez.advertise(
                    adapter, "C0:00:00:00:00:01", manufacturer_data=beacon, rssi=-50 - turn % 5
                )
            await asyncio.sleep(0.2)


@pytest.fixture
async def world(tmp_path):
    async with (
        private_bus() as bus,
        FakeBluez(bus.address, ("hci0", "hci1")) as bluez,
        aiohttp.ClientSession() as session,
    ):
        made = World(tmp_path, bus, bluez, session)
        air = asyncio.create_task(made.advertise())
        try:
            await made.open()
            yield made
        finally:
            air.cancel()
            await made.close()
            await asyncio.gather(air, return_exceptions=True)


@pytest.mark.timeout(180)
async def test_the_life_of_two_gateways(world):
    token, _ = await asyncio.gather(world.enrol("door", "hci0"), world.enrol("till", "hci1"))
    door, _till = await world.run_gateway("door"), await world.run_gateway("till")
    deadline = time.monotonic() + 30
    while not {"vienna-1/door", "vienna-1/till"} <= (await world.heard()).keys():
        assert time.monotonic() < deadline, world.log("door") + world.log("backend")[-2000:]
        await asyncio.sleep(0.2)

    # Killed on trial: rolled back when it starts again, and not tried once more.
    await world.ask("PUT", "gateways/vienna-1/door/config", {"log": {"level": "debug"}})
    await world.until_report("door", (1, "trial"))
    door.kill()
    await door.wait()
    door = await world.run_gateway("door")
    await world.until_report("door", (1, "rolled-back: restart"))

    # At once: a good one for the door, and for the till a beacon that hangs nowhere.
    began = time.monotonic()
    await world.ask("PUT", "gateways/vienna-1/door/config", {"presence": {"near_dbm": -80}})
    nowhere = {"zone_beacons": {"keys": [f"ibeacon:{UUID}:9:9"], "silence_s": 5}}
    await world.ask("PUT", "gateways/vienna-1/till/config", nowhere)
    await world.until_report("till", (1, "rolled-back: deaf"), 40)
    assert time.monotonic() - began < 33  # thirty seconds, and the way through heartbeat and fold
    await world.until_report("door", (2, "applied"), 40)
    alerts = {row["subject"]: row["detail"] for row in (await world.ask("GET", "floor"))["alerts"]}
    assert alerts["vienna-1/till"] == "version 1: rolled-back: deaf"
    assert alerts["vienna-1/door"] == "version 1: rolled-back: restart"

    # Revoked: the backend stops listening at once, the broker with its next look at the list.
    await world.ask("POST", "gateways/vienna-1/door/revoke", {})
    os.kill(world.broker.pid, signal.SIGHUP)
    door.terminate()
    assert await asyncio.wait_for(door.wait(), 15) == 0
    log_before = len(world.log("door"))
    await world.run_gateway("door")
    await until(lambda: '"event": "no broker"' in world.log("door")[log_before:])
    assert '"event": "connected"' not in world.log("door")[log_before:]
    assert (await world.heard())["vienna-1/till"] < 8_000
    secret = EnrolmentToken.parse(token).secret.hex()
    assert token not in world.log("backend") and secret not in world.log("backend")
