"""One MQTT connection against real brokers: mosquitto and iotcore, asyncio's loop and uvloop."""

import asyncio
import contextlib
import datetime
import gc
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from sdk_bridge import mqtt
from sdk_bridge.mqtt import Connection, Message, MqttUnavailable, Will
from simulators.broker import GATEWAY_ACL, MutualTls, find_mosquitto, start_broker
from simulators.certificates import Authority

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "iotcore"]
LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=KINDS)
def broker(request, tmp_path_factory):
    """One broker a kind for the tests that do it no harm; it belongs to no event loop."""
    running = asyncio.run(start_broker(tmp_path_factory.mktemp("broker"), kind=request.param))
    yield running
    asyncio.run(running.stop())


class Inbox:
    """Keeps what arrives and acknowledges it, as long as it is told to."""

    def __init__(self, acknowledging: bool = True) -> None:
        self.messages: list[Message] = []
        self.acknowledging = acknowledging

    def __call__(self, connection: Connection, message: Message) -> None:
        self.messages.append(message)
        if self.acknowledging:
            connection.acknowledge(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


def at(broker, client_id: str = "", **more) -> mqtt.Broker:
    return mqtt.Broker(broker.host, broker.port, client_id or f"client-{next(_numbers)}", **more)


def new_topic() -> str:
    return f"test/{os.getpid()}/{next(_numbers)}"


async def eventually(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def send(sender: Connection, topic: str, payload: bytes) -> None:
    await eventually(lambda: sender.publish(topic, payload))


@asynccontextmanager
async def listening(broker, topic: str, inbox: Inbox, **more):
    async with mqtt.connect(at(broker), inbox, **more) as connection:
        await connection.subscribe([topic])
        yield connection


# --- messages


@pytest.mark.parametrize("new_loop", LOOPS)
def test_thousands_arrive_once_and_in_order(broker, new_loop):
    total, topic, inbox = 6000, new_topic(), Inbox()

    async def exchange():
        async with listening(broker, topic, inbox), mqtt.connect(at(broker), Inbox()) as sender:
            for number in range(total):
                await send(sender, topic, number.to_bytes(4, "big"))
            await eventually(lambda: len(inbox.messages) >= total)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(exchange())
    assert inbox.payloads == [number.to_bytes(4, "big") for number in range(total)]


async def test_user_properties_cross_in_order_and_repeated(broker):
    topic, inbox = new_topic(), Inbox()
    properties = [("lane", "live"), ("seq", "7"), ("note", "Grüße"), ("seq", "8"), ("empty", "")]
    async with listening(broker, topic, inbox) as connection:
        assert connection.publish(topic, b"x", properties=properties)
        assert connection.publish(topic, b"y", qos=0)
        await eventually(lambda: len(inbox.messages) == 2)
    by_payload = {message.payload: message for message in inbox.messages}
    assert list(by_payload[b"x"].properties) == properties
    assert by_payload[b"x"].topic == topic
    assert by_payload[b"y"].properties == ()


async def test_unacknowledged_messages_hold_their_slots(broker):
    """The broker stops at the receive maximum: a slow consumer is not overrun."""
    if broker.kind == "iotcore":
        pytest.skip("rumqttd pays no regard to a Receive Maximum")
    topic, inbox = new_topic(), Inbox(acknowledging=False)
    async with (
        listening(broker, topic, inbox, receive_maximum=10) as receiver,
        mqtt.connect(at(broker), Inbox()) as sender,
    ):
        for number in range(30):
            sender.publish(topic, bytes([number]))
        await eventually(lambda: not sender._waiting)  # the broker has them all
        await eventually(lambda: len(inbox.messages) >= 10)
        assert len(inbox.messages) == 10
        inbox.acknowledging = True
        for message in list(inbox.messages):
            receiver.acknowledge(message)
        await eventually(lambda: len(inbox.messages) == 30)
    assert inbox.payloads == [bytes([number]) for number in range(30)]


async def test_retained_message_waits_for_a_late_subscriber(broker):
    topic, inbox = new_topic(), Inbox()
    async with mqtt.connect(at(broker), Inbox()) as sender:
        assert sender.publish(topic, b"state", retain=True)
        await eventually(lambda: not sender._waiting)
    async with listening(broker, topic, inbox):
        await eventually(lambda: inbox.messages)
    assert (inbox.messages[0].payload, inbox.messages[0].retain) == (b"state", True)


@pytest.mark.parametrize("size", [0, 20_480, 20_481, 128 * 1024, 200 * 1024])
async def test_packets_of_any_size_up_to_the_maximum(broker, size):
    topic, inbox = new_topic(), Inbox()
    async with listening(broker, topic, inbox) as connection:
        assert connection.publish(topic, os.urandom(size))
        await eventually(lambda: inbox.messages)
        assert connection.is_open
    assert len(inbox.payloads[0]) == size


async def test_one_subscription_takes_many_filters(broker):
    topics, inbox = [new_topic() for _ in range(5)], Inbox()
    async with mqtt.connect(at(broker), inbox) as connection:
        await connection.subscribe(topics)
        for topic in topics:
            connection.publish(topic, b"")
        await eventually(lambda: len(inbox.messages) == 5)
    assert sorted(message.topic for message in inbox.messages) == sorted(topics)


async def test_what_was_published_just_before_leaving_arrives(broker):
    topic, inbox = new_topic(), Inbox()
    async with listening(broker, topic, inbox):
        async with mqtt.connect(at(broker), Inbox()) as sender:
            sender.publish(topic, b"last words", qos=0)
        await eventually(lambda: inbox.payloads == [b"last words"])


async def test_a_handler_that_raises_ends_the_connection_and_is_reported(broker):
    topic, reported = new_topic(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def broken(_connection, _message):
        raise KeyError("a mistake of ours")

    async with mqtt.connect(at(broker), broken) as connection:
        await connection.subscribe([topic])
        connection.publish(topic, b"1")
        assert "a mistake of ours" in await asyncio.wait_for(connection.closed(), 5)
        assert connection.publish(topic, b"2") is False
    assert isinstance(reported[0]["exception"], KeyError)


# --- pressure


async def test_publish_says_no_when_too_much_waits(broker, monkeypatch):
    monkeypatch.setattr(mqtt, "MAX_WAITING", 50)
    topic = new_topic()
    async with mqtt.connect(at(broker), Inbox()) as sender:
        answers = [sender.publish(topic, b"x", qos=number % 2) for number in range(100)]
        assert answers == [True] * 50 + [False] * 50
        await eventually(lambda: sender.publish(topic, b"x"))
        assert sender.is_open


async def test_publish_says_no_beyond_the_bytes_it_may_hold(broker, monkeypatch):
    monkeypatch.setattr(mqtt, "MAX_WAITING_BYTES", 1000)
    topic = new_topic()
    async with mqtt.connect(at(broker), Inbox()) as sender:
        assert [sender.publish(topic, bytes(400)) for _ in range(3)] == [True, True, False]
        await eventually(lambda: sender.publish(topic, bytes(400)))


async def test_a_stopped_broker_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt, "MAX_WAITING_BYTES", 8 * 1024 * 1024)
    monkeypatch.setattr(mqtt, "GOODBYE_SECONDS", 0.1)
    async with await start_broker(tmp_path) as own, mqtt.connect(at(own), Inbox()) as sender:
        os.kill(own.pid, signal.SIGSTOP)
        try:
            accepted = 0
            while sender.publish("t", bytes(64 * 1024), qos=0):
                accepted += 1
                await asyncio.sleep(0)
            assert 128 <= accepted <= 400  # 8 MiB, and what the kernel's buffers took
        finally:
            os.kill(own.pid, signal.SIGCONT)


# --- connecting and losing


async def test_refused_where_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(MqttUnavailable, match=rf"127\.0\.0\.1:{port}.*refused"):
        async with mqtt.connect(mqtt.Broker("127.0.0.1", port, "x"), Inbox()):
            pass


async def test_a_name_that_does_not_resolve_is_unavailable():
    with pytest.raises(MqttUnavailable):
        async with mqtt.connect(mqtt.Broker("no-such-host.invalid", 1883, "x"), Inbox()):
            pass


@asynccontextmanager
async def fake_broker(answer: bytes | None, *, hang_up: bool = False):
    """Accepts TCP, reads, and answers CONNECT with these bytes, or with silence."""
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        await reader.read(1024)
        if answer:
            writer.write(answer)
        if hang_up:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield mqtt.Broker("127.0.0.1", server.sockets[0].getsockname()[1], f"client-{next(_numbers)}")
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()


CONNACK = bytes([0x20, 3, 0, 0, 0])


async def test_a_broker_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 0.3)
    async with fake_broker(None) as silent:
        started = time.monotonic()
        with pytest.raises(MqttUnavailable, match="did not answer"):
            async with mqtt.connect(silent, Inbox()):
                pass
        assert time.monotonic() - started < 2


async def test_a_listener_that_never_accepts_is_given_up(monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = [socket.socket() for _ in range(4)]
        for client in queued:  # fill the backlog, so that the next SYN goes unanswered
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        with pytest.raises(MqttUnavailable):
            async with mqtt.connect(mqtt.Broker("127.0.0.1", full.getsockname()[1], "x"), Inbox()):
                pass
        for client in queued:
            client.close()


async def test_silence_after_the_welcome_is_noticed(monkeypatch):
    monkeypatch.setattr(mqtt, "MISC_SECONDS", 0.05)
    monkeypatch.setattr(mqtt, "GOODBYE_SECONDS", 0.1)
    async with fake_broker(CONNACK) as mute:
        impatient = mqtt.Broker(mute.host, mute.port, mute.client_id, keepalive_s=1)
        async with mqtt.connect(impatient, Inbox()) as connection:
            assert await asyncio.wait_for(connection.closed(), 10)
            assert not connection.is_open


async def test_a_subscription_without_answer_fails(monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 0.5)
    async with fake_broker(CONNACK) as mute, mqtt.connect(mute, Inbox()) as connection:
        with pytest.raises(MqttUnavailable):
            await connection.subscribe(["t"])
        assert connection._subscribed == {}


@pytest.mark.parametrize(
    "answer",
    [
        bytes([0x20, 3, 0, 0x87, 0]),  # not authorised
        bytes([0x20, 3, 0, 0x9C, 0]),  # use another server
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes([0x20, 0]),
        bytes([0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        b"\x00" * 64,
    ],
)
async def test_a_strange_welcome_is_unavailable(answer):
    async with fake_broker(answer, hang_up=True) as strange:
        with pytest.raises(MqttUnavailable):
            async with mqtt.connect(strange, Inbox()):
                pass


@pytest.mark.parametrize(
    "packet",
    [
        bytes([0x30, 0]),  # a publish without a topic
        bytes([0x30, 2, 0, 9]),  # a topic longer than the packet
        b"\x30\x09\x00\x01t\x05\x26\xff\xff\x00\x00",  # a user property beyond the end
        b"\x30\x0b\x00\x01t\x07\x26\x00\x01\xff\x00\x01a",  # a user property that is not UTF-8
        b"\x30\x04\x00\x01\xff\x00",  # a topic that is not UTF-8
        b"\x40\x02\x12\x34",  # an acknowledgement for what was never sent
        b"\x90\x04\x00\x63\x00\x80",  # a subscription's answer that nobody awaits
        b"\xf0\x00",
    ],
)
async def test_malformed_packets_raise_nothing_on_the_loop(packet):
    reported, inbox = [], Inbox()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    async with fake_broker(CONNACK + packet, hang_up=True) as hostile:
        with contextlib.suppress(MqttUnavailable):
            async with mqtt.connect(hostile, inbox) as connection:
                await asyncio.wait_for(connection.closed(), 5)
    assert reported == []
    assert all(message.topic == "" for message in inbox.messages)


async def test_cancelling_while_dialling_leaves_nothing_behind(broker):
    before = open_files()
    gc.disable()  # it would close, at some time, what we forgot
    try:
        for _ in range(10):
            task = asyncio.create_task(hold(broker))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: not dialling() and open_files() <= before)
    finally:
        gc.enable()


def dialling() -> bool:
    return any(thread.name.startswith("dial ") for thread in threading.enumerate())


async def hold(broker) -> None:
    async with mqtt.connect(at(broker), Inbox()) as connection:
        await connection.closed()


async def test_the_brokers_death_is_seen(tmp_path, broker):
    async with await start_broker(tmp_path, kind=broker.kind) as own:
        async with mqtt.connect(at(own), Inbox()) as connection:
            await own.kill()
            assert "lost" in await asyncio.wait_for(connection.closed(), 5)
            assert connection.publish("t", b"") is False
            with pytest.raises(MqttUnavailable):
                await connection.subscribe(["t"])
        await own.start()
        async with mqtt.connect(at(own), Inbox()) as connection:
            assert connection.is_open


async def test_two_clients_of_one_id_evict_each_other_once(broker):
    async with (
        mqtt.connect(at(broker, "twin"), Inbox()) as first,
        mqtt.connect(at(broker, "twin"), Inbox()) as second,
    ):
        await asyncio.wait_for(first.closed(), 5)
        assert second.is_open
        assert not first.is_open


async def test_clean_start_brings_nothing_of_the_past(broker):
    topic, first, second = new_topic(), Inbox(acknowledging=False), Inbox()
    async with mqtt.connect(at(broker, "same"), first) as connection:
        await connection.subscribe([topic])
        connection.publish(topic, b"unacknowledged")
        await eventually(lambda: first.messages)
    async with mqtt.connect(at(broker, "same"), second) as connection:
        await connection.subscribe([topic])
        connection.publish(topic, b"new")
        await eventually(lambda: b"new" in second.payloads)
    assert second.payloads == [b"new"]


async def test_acknowledging_a_message_of_a_closed_connection_is_harmless(broker):
    topic, inbox = new_topic(), Inbox(acknowledging=False)
    async with listening(broker, topic, inbox) as connection:
        connection.publish(topic, b"x")
        await eventually(lambda: inbox.messages)
    connection.acknowledge(inbox.messages[0])
    assert await connection.closed() == "closed by us"


# --- the last will


def spawn(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(("ending", "published"), [("kill", [b"gone"]), ("leave", [])])
async def test_the_will_speaks_for_the_killed_and_not_for_the_leaver(broker, ending, published):
    topic, inbox = new_topic(), Inbox()
    program = textwrap.dedent(
        f"""
        import asyncio
        from sdk_bridge import mqtt
        async def main():
            broker = mqtt.Broker({broker.host!r}, {broker.port}, "willing-{next(_numbers)}")
            async with mqtt.connect(broker, lambda *_: None, will=mqtt.Will({topic!r}, b"gone")):
                print("connected", flush=True)
                await asyncio.to_thread(input)
        asyncio.run(main())
        """
    )
    async with listening(broker, topic, inbox) as watcher:
        process = spawn(program)
        try:
            assert await asyncio.to_thread(process.stdout.readline) == b"connected\n"
            if ending == "kill":
                process.kill()
            else:
                process.stdin.write(b"\n")
                process.stdin.flush()
            await asyncio.to_thread(process.wait, 10)
            if published:
                await eventually(lambda: inbox.messages)
            watcher.publish(topic, b"mark")  # whatever the broker had to say of the other comes before it
            await eventually(lambda: b"mark" in inbox.payloads)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    assert inbox.payloads == [*published, b"mark"]


async def test_the_will_is_retained(broker):
    topic, watching, inbox = new_topic(), Inbox(), Inbox()
    async with listening(broker, topic, watching):
        async with mqtt.connect(at(broker), Inbox(), will=Will(topic, b"gone")) as connection:
            connection._client.socket().shutdown(socket.SHUT_RDWR)
            await asyncio.wait_for(connection.closed(), 5)
        await eventually(lambda: watching.messages)
    # Who subscribes in the moment of the will itself may see it twice (rumqttd): live and as retained.
    async with listening(broker, topic, inbox):
        await eventually(lambda: inbox.messages)
    assert inbox.payloads == [b"gone"]


# --- leaks


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_fifty_connections_leave_nothing_behind(broker, new_loop):
    async def once():
        topic, inbox = new_topic(), Inbox()
        async with listening(broker, topic, inbox) as connection:
            connection.publish(topic, b"x")
            await eventually(lambda: inbox.messages)

    async def many():
        await once()
        files, tasks = open_files(), len(asyncio.all_tasks())
        for _ in range(50):
            await once()
        assert len(asyncio.all_tasks()) == tasks
        assert open_files() <= files

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(many())


async def test_refused_connections_leave_nothing_behind():
    async with fake_broker(bytes([0x20, 3, 0, 0x87, 0]), hang_up=True) as refusing:
        await refused_by(refusing)
        files = open_files()
        for _ in range(20):
            await refused_by(refusing)
        await eventually(lambda: open_files() <= files)


async def refused_by(broker: mqtt.Broker) -> None:
    with pytest.raises(MqttUnavailable):
        async with mqtt.connect(broker, Inbox()):
            pass


# --- TLS with client certificates, and the ACL


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A mosquitto that knows its clients by their certificates, and the authority that made those."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    authority = Authority(tmp_path_factory.mktemp("authority"), datetime.datetime.now(datetime.UTC))
    certificate, key = authority.issue_broker()
    stolen, _key = authority.issue_client("berlin/stolen")
    running = asyncio.run(
        start_broker(
            tmp_path_factory.mktemp("secured"),
            tls=MutualTls(authority.ca, certificate, key, revoked=authority.revoke(stolen)),
            acl=GATEWAY_ACL,
        )
    )
    yield running, authority
    asyncio.run(running.stop())


def certified(secured, name: str) -> mqtt.Broker:
    running, authority = secured
    certificate, key = authority.issue_client(name)
    return at(running, name.replace("/", "-"), tls=mqtt.Tls(authority.ca, certificate, key))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_tls_carries_many_and_large_messages(secured, new_loop):
    """Decrypted bytes that TLS has buffered must not wait for the next packet from the network."""
    topic, inbox, total = "footfall/1/5/berlin/door/up", Inbox(), 500

    async def exchange():
        async with (
            mqtt.connect(certified(secured, "footfall-backend"), inbox) as backend,
            mqtt.connect(certified(secured, "berlin/door"), Inbox()) as gateway,
        ):
            await backend.subscribe(["footfall/1/+/+/+/up"])
            for number in range(total):
                size = 60_000 if number % 50 == 0 else 20
                await send(gateway, topic, number.to_bytes(2, "big") + bytes(size))
            await eventually(lambda: len(inbox.messages) >= total)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(exchange())
    assert [int.from_bytes(payload[:2], "big") for payload in inbox.payloads] == list(range(total))


async def test_a_gateway_writes_to_its_own_topics_only(secured):
    inbox = Inbox()
    async with (
        mqtt.connect(certified(secured, "footfall-backend"), inbox) as backend,
        mqtt.connect(certified(secured, "berlin/door"), Inbox()) as gateway,
    ):
        await backend.subscribe(["footfall/1/+/+/+/up", "footfall/1/+/+/+/status"])
        for forbidden in ("5/berlin/till/up", "5/paris/door/up", "5/berlin/door/down/ack", "5/berlin/door"):
            gateway.publish(f"footfall/1/{forbidden}", b"forged")
        gateway.publish("footfall/1/5/berlin/door/up", b"own")
        gateway.publish("footfall/1/5/berlin/door/status", b"own")
        await eventually(lambda: len(inbox.messages) >= 2)
        await eventually(lambda: gateway.refused == 4)
    assert inbox.payloads == [b"own", b"own"]


async def test_a_gateway_hears_its_own_topics_only(secured):
    inbox = Inbox()
    async with (
        mqtt.connect(certified(secured, "footfall-backend"), Inbox()) as backend,
        mqtt.connect(certified(secured, "berlin/door"), inbox) as gateway,
    ):
        with contextlib.suppress(MqttUnavailable):  # it may refuse at once, or deliver nothing
            await gateway.subscribe(["footfall/1/#"])
        await gateway.subscribe(["footfall/1/5/berlin/door/down/ack"])
        for other in ("berlin/till", "paris/door", "berlin/door2"):
            backend.publish(f"footfall/1/5/{other}/down/ack", b"secret")
        backend.publish("footfall/1/5/berlin/door/down/ack", b"mine")
        await eventually(lambda: b"mine" in inbox.payloads)
    assert set(inbox.payloads) == {b"mine"}


async def test_a_will_on_anothers_topic_is_not_published(secured):
    inbox = Inbox()
    async with mqtt.connect(certified(secured, "footfall-backend"), inbox) as backend:
        await backend.subscribe(["footfall/1/+/+/+/status"])
        forged = Will("footfall/1/5/paris/door/status", b"forged")
        with contextlib.suppress(MqttUnavailable):
            async with mqtt.connect(certified(secured, "berlin/door"), Inbox(), will=forged) as gateway:
                gateway._client.socket().shutdown(socket.SHUT_RDWR)
                await asyncio.wait_for(gateway.closed(), 5)
        async with mqtt.connect(certified(secured, "berlin/door"), Inbox()) as gateway:
            gateway.publish("footfall/1/5/berlin/door/status", b"mark")
            await eventually(lambda: b"mark" in inbox.payloads)
    assert inbox.payloads == [b"mark"]


def stolen_files(authority: Authority) -> tuple[Path, Path]:
    return authority.ca.with_name("berlin+stolen.pem"), authority.ca.with_name("berlin+stolen.key")


def strangers(secured, folder: Path) -> dict[str, mqtt.Tls]:
    _running, authority = secured
    other = Authority(folder, datetime.datetime.now(datetime.UTC))
    certificate, key = authority.issue_client("berlin/shelf")
    return {
        "no certificate": mqtt.Tls(authority.ca),
        "a certificate of another authority": mqtt.Tls(authority.ca, *other.issue_client("berlin/door")),
        "another authority expected": mqtt.Tls(other.ca, certificate, key),
        "a revoked certificate": mqtt.Tls(authority.ca, *stolen_files(authority)),
        "a missing file": mqtt.Tls(authority.ca, folder / "absent.pem", key),
    }


@pytest.mark.parametrize(
    "who",
    [
        "no certificate",
        "a certificate of another authority",
        "another authority expected",
        "a revoked certificate",
        "a missing file",
    ],
)
async def test_tls_refuses_strangers(secured, tmp_path, who):
    broker = at(secured[0], tls=strangers(secured, tmp_path)[who])
    with pytest.raises(MqttUnavailable):
        async with mqtt.connect(broker, Inbox()) as connection:
            await connection.subscribe(["t"])


async def test_packets_of_one_tls_record_are_all_read(tmp_path):
    """The selector tells of the first only: the rest lies decrypted within the TLS layer."""
    authority, inbox = Authority(tmp_path, datetime.datetime.now(datetime.UTC)), Inbox()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue_broker())

    async def serve(reader, writer):
        await reader.read(1024)
        writer.write(CONNACK + b"".join(b"\x30\x05\x00\x01t\x00" + bytes([number]) for number in range(20)))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        broker = mqtt.Broker("127.0.0.1", port, "x", tls=mqtt.Tls(authority.ca))
        async with mqtt.connect(broker, inbox):
            await eventually(lambda: len(inbox.messages) == 20, seconds=5)
    assert inbox.payloads == [bytes([number]) for number in range(20)]


async def test_plain_mqtt_to_a_tls_listener_is_unavailable(secured, monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 2.0)
    with pytest.raises(MqttUnavailable):
        async with mqtt.connect(at(secured[0]), Inbox()):
            pass


async def test_a_tls_handshake_that_stalls_is_given_up_and_holds_nobody_up(secured, monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_SECONDS", 0.5)
    beats = 0

    async def beat():
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    async with fake_broker(None) as silent:
        stalled = mqtt.Broker(silent.host, silent.port, "x", tls=mqtt.Tls(secured[1].ca))
        started, beating = time.monotonic(), asyncio.create_task(beat())
        with pytest.raises(MqttUnavailable):
            async with mqtt.connect(stalled, Inbox()):
                pass
        assert time.monotonic() - started < 3
        assert beats >= 10  # of fifty; a blocked loop would have one
        beating.cancel()
