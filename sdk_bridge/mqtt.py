"""MQTT 5 for asyncio: one connection, one life. The only importer of paho.

A Connection never reconnects by itself: when it ends, `closed` says why and the caller opens another, so
that whoever holds custody starts again from what was acknowledged. Always clean start, no broker session.
"""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

CONNECT_SECONDS = 10.0  # a broker that accepts TCP and then says nothing must not hold us for ever
MISC_SECONDS = 1.0  # paho's keep-alive wants a look at least this often


class MqttUnavailable(ConnectionError):
    """The broker cannot be reached, or refused the connection."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a mutual TLS connection; without `certificate` only the broker is verified."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Broker:
    """Where and as whom to connect. `client_id` must be unique to the process: two alike evict each other."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    keepalive_s: int = 15


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we vanish; retained, QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One received message; `properties` are its MQTT 5 user properties."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]
    retain: bool
    _mid: int
    _qos: int


class Connection:
    """A live connection. Use `connect`, not the constructor."""

    def __init__(self, client: paho.Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._connected: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[str] = loop.create_future()
        self.maximum_packet_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        return self._connected.done() and not self._closed.done()

    async def closed(self) -> str:
        """Waits for the end of the connection; the reason in words."""
        return await asyncio.shield(self._closed)

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        """Subscribes and waits for the broker's word. Raises MqttUnavailable when refused or cut off."""
        done: asyncio.Future[None] = self._loop.create_future()
        options = SubscribeOptions(qos=qos)
        code, mid = self._client.subscribe([(name, options) for name in filters])
        if code != paho.MQTT_ERR_SUCCESS or mid is None:
            raise MqttUnavailable(f"cannot subscribe: {paho.error_string(code)}")
        self._subscribed[mid] = done
        await self._unless_closed(done)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Hands a message to the connection; False where it is closed or its queue is full."""
        if not self.is_open:
            return False
        extra = None
        if properties:
            extra = _properties(PacketTypes.PUBLISH)
            extra.UserProperty = list(properties)
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=extra)
        return info.rc == paho.MQTT_ERR_SUCCESS

    def acknowledge(self, message: Message) -> None:
        """Sends the broker the acknowledgement that frees its in-flight slot; a no-op once closed."""
        if self.is_open and message._qos > 0:
            self._client.ack(message._mid, message._qos)

    async def _unless_closed(self, done: asyncio.Future[None]) -> None:
        """Waits for `done`, for the connection's end, or ten seconds; only the first of them is good."""
        waiting: set[asyncio.Future[Any]] = {done, self._closed}
        await asyncio.wait(waiting, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            reason = self._closed.result() if self._closed.done() else "the broker did not answer"
            raise MqttUnavailable(reason)
        done.result()

    # What paho calls; always on the loop's thread, save for the socket hooks during connect.

    def _on_connect(self, _c: Any, _u: Any, _f: Any, reason: ReasonCode, props: Properties | None) -> None:
        if self._connected.done():
            return
        if reason.is_failure:
            self._connected.set_exception(MqttUnavailable(f"the broker refused us: {reason}"))
            return
        self.maximum_packet_bytes = getattr(props, "MaximumPacketSize", None)
        self._connected.set_result(None)

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        self._end(str(reason))

    def _on_subscribe(self, _c: Any, _u: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        done = self._subscribed.pop(mid, None)
        if done is None or done.done():
            return
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            done.set_exception(MqttUnavailable(f"subscription refused: {', '.join(refused)}"))
        else:
            done.set_result(None)

    def _end(self, reason: str) -> None:
        if not self._closed.done():
            self._closed.set_result(reason)

    # Socket hooks: paho's I/O on asyncio's selector, as in paho's own loop_asyncio example.

    def _on_loop(self, call: Callable[[], None]) -> None:
        """Runs now on the loop's own thread; from the dialling thread, as soon as the loop can."""
        if threading.get_ident() == self._loop_thread:
            call()
        else:
            self._loop.call_soon_threadsafe(call)

    def _on_socket_open(self, _c: Any, _u: Any, sock: Any) -> None:
        def readable() -> None:
            self._client.loop_read()
            # TLS may hold decrypted bytes that the selector will not announce again.
            while isinstance(sock, ssl.SSLSocket) and sock.fileno() != -1 and sock.pending():
                self._client.loop_read()

        self._on_loop(lambda: self._loop.add_reader(sock.fileno(), readable) if sock.fileno() != -1 else None)

    def _on_socket_close(self, _c: Any, _u: Any, sock: Any) -> None:
        fd = sock.fileno()
        if fd != -1:
            self._on_loop(lambda: self._detach(fd))

    def _on_socket_register_write(self, _c: Any, _u: Any, sock: Any) -> None:
        def register() -> None:
            if sock.fileno() != -1 and self._client.want_write():
                self._loop.add_writer(sock.fileno(), self._client.loop_write)

        self._on_loop(register)

    def _on_socket_unregister_write(self, _c: Any, _u: Any, sock: Any) -> None:
        fd = sock.fileno()
        if fd != -1:
            self._on_loop(lambda: self._stop_writing(fd))

    def _stop_writing(self, fd: int) -> None:
        self._loop.remove_writer(fd)

    def _detach(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    async def _misc(self) -> None:
        while self._client.loop_misc() == paho.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 - paho's clockwork, no event
            await asyncio.sleep(MISC_SECONDS)
        self._end("the connection was lost")


@asynccontextmanager
async def connect(
    broker: Broker,
    on_message: Callable[[Connection, Message], None],
    *,
    will: Will | None = None,
    receive_maximum: int = 256,
    maximum_packet_bytes: int = 256 * 1024,
) -> AsyncIterator[Connection]:
    """Opens one connection; `on_message` is called on the loop for each message, which it must acknowledge.

    Raises MqttUnavailable when the broker cannot be reached in ten seconds. Leaving the context closes it.
    """
    loop = asyncio.get_running_loop()
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=broker.client_id,
        protocol=paho.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    connection = Connection(client, loop)
    _wire(client, connection, on_message)
    client.max_inflight_messages_set(256)
    client.max_queued_messages_set(4096)  # 0 would be unbounded
    client.connect_timeout = CONNECT_SECONDS
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.tls is not None:
        client.tls_set_context(broker.tls.context())
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)

    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0
    properties.ReceiveMaximum = receive_maximum
    properties.MaximumPacketSize = maximum_packet_bytes

    def dial() -> None:
        client.connect(
            broker.host, broker.port, keepalive=broker.keepalive_s, clean_start=True, properties=properties
        )

    try:
        await asyncio.to_thread(dial)
    except (OSError, ValueError) as error:
        raise MqttUnavailable(f"{broker.host}:{broker.port}: {error}") from error
    misc = loop.create_task(connection._misc())
    try:
        await connection._unless_closed(connection._connected)
        yield connection
    finally:
        misc.cancel()
        with suppress(asyncio.CancelledError):
            await misc
        if connection.is_open:
            client.disconnect()
        sock = client.socket()
        if sock is not None:
            connection._detach(sock.fileno())
            sock.close()
        connection._end("closed by us")


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call] # paho's one untyped constructor


def _wire(
    client: paho.Client, connection: Connection, on_message: Callable[[Connection, Message], None]
) -> None:
    def deliver(_client: paho.Client, _userdata: Any, received: paho.MQTTMessage) -> None:
        pairs = getattr(received.properties, "UserProperty", ())
        try:
            topic = received.topic
        except UnicodeDecodeError:
            topic = ""
        on_message(
            connection,
            Message(
                topic, bytes(received.payload), tuple(pairs), received.retain, received.mid, received.qos
            ),
        )

    client.on_message = deliver
    client.on_connect = connection._on_connect
    client.on_disconnect = connection._on_disconnect
    client.on_subscribe = connection._on_subscribe
    client.on_socket_open = connection._on_socket_open
    client.on_socket_close = connection._on_socket_close
    client.on_socket_register_write = connection._on_socket_register_write
    client.on_socket_unregister_write = connection._on_socket_unregister_write
