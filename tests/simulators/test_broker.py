"""The broker under test control: real processes on loopback that die when they should."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sdk_bridge import mqtt
from simulators import broker as brokers
from simulators.broker import Access, BrokerFailed, BrokerMissing, MutualTls, choose_kind, start_broker

KINDS = [
    pytest.param(
        "mosquitto",
        marks=pytest.mark.skipif(brokers.find_mosquitto() is None, reason="mosquitto is not installed"),
    ),
    "iotcore",
]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening_addresses(port: int) -> list[str]:
    return [
        fields[1]
        for name in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(name).read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")
    ]


def spawn(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


async def eventually(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


async def reach(broker, **credentials) -> None:
    async with mqtt.connect(
        mqtt.Broker(broker.host, broker.port, "reach", **credentials), lambda *_: None
    ) as connection:
        assert connection.is_open


@pytest.mark.parametrize("kind", KINDS)
async def test_starts_is_killed_and_starts_again_on_its_port(tmp_path, kind):
    async with await start_broker(tmp_path, kind=kind) as broker:
        first = broker.pid
        await reach(broker)
        await broker.kill()
        assert not alive(first)
        assert not broker.is_running
        with pytest.raises(BrokerFailed):
            _ = broker.pid
        await broker.start()
        assert broker.pid != first
        await reach(broker)
        last = broker.pid
    assert not alive(last)


@pytest.mark.parametrize("kind", KINDS)
async def test_stopping_and_killing_twice_is_harmless(tmp_path, kind):
    broker = await start_broker(tmp_path, kind=kind)
    await broker.stop()
    await broker.stop()
    await broker.kill()
    await broker.start()
    await broker.start()
    await broker.stop()


@pytest.mark.parametrize("kind", KINDS)
async def test_listens_on_loopback_only(tmp_path, kind):
    async with await start_broker(tmp_path, kind=kind) as broker:
        assert listening_addresses(broker.port) == [f"0100007F:{broker.port:04X}"]


@pytest.mark.parametrize("kind", KINDS)
async def test_users_need_their_password(tmp_path, kind):
    users = {"shop": 'p"w\\d £', "backend": "other"}
    async with await start_broker(tmp_path, kind=kind, users=users) as broker:
        for name, password in users.items():
            await reach(broker, username=name, password=password)
        for wrong in ({}, {"username": "shop", "password": "other"}, {"username": "nobody", "password": ""}):
            with pytest.raises(mqtt.MqttUnavailable):
                await reach(broker, **wrong)


@pytest.mark.parametrize("kind", KINDS)
async def test_secrets_are_for_the_owner_alone(tmp_path, kind):
    async with await start_broker(tmp_path, kind=kind, users={"shop": "secret-word"}):
        for path in tmp_path.iterdir():
            readable_by_others = path.stat().st_mode & 0o077
            assert not (readable_by_others and b"secret-word" in path.read_bytes())
        if kind == "mosquitto":
            assert b"secret-word" not in (tmp_path / "passwords").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_taken_port_is_a_clear_error(tmp_path, kind):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BrokerFailed, match="ended at once"):
        await start_broker(tmp_path, kind=kind, port=taken.getsockname()[1])


@pytest.mark.parametrize("kind", KINDS)
async def test_dies_with_a_starter_that_is_killed(tmp_path, kind):
    program = textwrap.dedent(
        f"""
        import asyncio, pathlib
        from simulators.broker import start_broker
        async def main():
            broker = await start_broker(pathlib.Path({str(tmp_path)!r}), kind={kind!r})
            print(broker.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    starter = spawn(program)
    try:
        pid = int((await asyncio.to_thread(starter.stdout.readline)).strip())
        assert alive(pid)
        starter.kill()
        await eventually(lambda: not alive(pid))
    finally:
        starter.kill()
        starter.wait()
        starter.stdout.close()
        with contextlib.suppress(ProcessLookupError, UnboundLocalError):
            os.kill(pid, signal.SIGKILL)


def test_auto_prefers_mosquitto_and_falls_back(monkeypatch):
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: "/usr/sbin/mosquitto")
    assert choose_kind("auto") == "mosquitto"
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    assert choose_kind("auto") == "iotcore"


@pytest.mark.parametrize(
    ("kind", "access"),
    [
        ("mosquitto", None),
        ("auto", Access(acl="topic read #")),
        ("auto", Access(tls=MutualTls(Path("ca"), Path("crt"), Path("key")))),
    ],
)
def test_what_is_missing_is_named(monkeypatch, kind, access):
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    with pytest.raises(BrokerMissing, match="apt-get install mosquitto"):
        choose_kind(kind, access)


def test_with_neither_broker_both_are_named(monkeypatch):
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    monkeypatch.setattr(brokers.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BrokerMissing, match=r"mosquitto.*iotcore"):
        choose_kind("auto")


def test_iotcore_refuses_what_it_cannot_do():
    with pytest.raises(BrokerMissing, match="ACL"):
        choose_kind("iotcore", Access(acl="topic read #"))


@pytest.mark.skipif(brokers.find_mosquitto() is None, reason="mosquitto is not installed")
async def test_a_broken_acl_is_told_with_the_brokers_words(tmp_path):
    with pytest.raises(BrokerFailed, match="acl"):
        await start_broker(tmp_path, acl="nonsense here\n")
