"""MQTT 5 for asyncio: one connection, one life. The only importer of paho.

A Connection never reconnects by itself: when it ends, `closed` says why and the caller opens another, so
that whoever holds custody starts again from what was acknowledged. Always clean start, no broker session.
"""

import asyncio
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import structlog
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MessageType, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from sdk_bridge.publish_packet import MalformedPublish, pack_publish, parse_publish, whole_publish

CONNECT_SECONDS = 10.0  # a broker that accepts TCP and then says nothing must not hold us for ever
GOODBYE_SECONDS = 1.0  # to flush a DISCONNECT; without it the broker would publish our last will
MISC_SECONDS = 1.0  # paho's keep-alive wants a look at least this often
MAX_INFLIGHT = 10  # paho does not heed the broker's Receive Maximum, and HiveMQ's is 10: beyond, it hangs up
MAX_WAITING = 4096  # publishes not yet written (QoS 0) or acknowledged (QoS 1): beyond, `publish` says no
MAX_WAITING_BYTES = 16 * 1024 * 1024  # a stalled broker must not fill a Pi's memory
READ_BYTES = 16 * 1024  # of the socket at once; more messages would hold up the loop for long

log = structlog.get_logger(__name__)


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


class Message(Struct, frozen=True, gc=False):
    """One received message; `properties` are its MQTT 5 user properties."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]
    retain: bool
    _mid: int
    _qos: int


@dataclass(slots=True)
class _Waits:
    """Publishes that are not yet written, or acknowledged."""

    messages: int = 0
    bytes: int = 0

    def __add__(self, other: "_Waits") -> "_Waits":
        return _Waits(self.messages + other.messages, self.bytes + other.bytes)

    def __sub__(self, other: "_Waits") -> "_Waits":
        return _Waits(self.messages - other.messages, self.bytes - other.bytes)


class _Client(paho.Client):
    """paho with shorter ways for what comes and goes by the thousand; the tests hold its private names to it.

    By itself paho asks the socket four times for a message, parses its properties for longer than a batch
    takes to check, acknowledges each in a packet of its own, and sends each of its own with a word to the
    system: 28k messages a second become 2k.
    """

    on_received: Callable[[Message], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ahead, self._at = b"", 0
        self._acknowledged = bytearray()
        self._held = bytearray()

    @property
    def reads_ahead(self) -> bool:
        """Whether bytes were taken from the socket that nobody has read yet."""
        return self._at < len(self._ahead)

    @property
    def waits_for_flush(self) -> bool:
        """Whether anything goes out with the next flush."""
        return bool(self._acknowledged or self._held)

    def acknowledge(self, mid: int) -> None:
        """Acknowledges a message of QoS 1 with the next flush."""
        self._acknowledged += struct.pack("!BBH", MessageType.PUBACK, 2, mid)

    def hold(self, packet: bytes) -> None:
        """Sends a PUBLISH of QoS 0 with the next flush."""
        self._held += packet

    def flush(self) -> int:
        """All that waits, in one go; the number under which `on_publish` says that what was held is written,
        0 where nothing was.
        """
        acknowledged, self._acknowledged = self._acknowledged, bytearray()
        held, self._held = self._held, bytearray()
        if not held:
            self._packet_queue(MessageType.PUBACK, acknowledged, 0, 1)
            return 0
        mid = self._mid_generate()
        together = acknowledged + held
        self._packet_queue(MessageType.PUBLISH, together, mid, 0, paho.MQTTMessageInfo(mid))
        return mid

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self.reads_ahead:
            self._ahead, self._at = super()._sock_recv(max(bufsize, READ_BYTES)), 0
            self._last_bytes_received = time.monotonic()  # or a late PINGRESP would look like a dead broker
        piece = self._ahead[self._at : self._at + bufsize]
        self._at += len(piece)
        return piece

    def _packet_read(self) -> MQTTErrorCode:
        """Messages that were read ahead as a whole, all of them, need not be put together byte by byte."""
        found = None if self._in_packet["command"] else whole_publish(self._ahead, self._at)
        if found is None:
            return super()._packet_read()
        read = MQTTErrorCode.MQTT_ERR_SUCCESS
        while found is not None and read == MQTTErrorCode.MQTT_ERR_SUCCESS:
            flags, (begins, self._at) = self._ahead[self._at], found
            try:
                read = self._receive(flags, self._ahead[begins : self._at])
            except MalformedPacket:
                return MQTTErrorCode.MQTT_ERR_PROTOCOL
            found = whole_publish(self._ahead, self._at)
        return read

    def _handle_publish(self) -> MQTTErrorCode:
        return self._receive(self._in_packet["command"], bytes(self._in_packet["packet"]))

    def _receive(self, flags: int, body: bytes) -> MQTTErrorCode:
        qos = flags >> 1 & 3
        try:
            one = parse_publish(qos, body)
        except MalformedPublish as error:
            raise MalformedPacket(str(error)) from error
        if qos > 1:  # nobody subscribes so
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.on_received(Message(one.topic, one.payload, one.properties, bool(flags & 1), one.mid, qos))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


class Connection:
    """A live connection. Use `connect`, not the constructor; call it on its loop's thread only."""

    def __init__(self, client: _Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._connected: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[str] = loop.create_future()
        self._ticker: asyncio.TimerHandle | None = None
        self._waiting: dict[int, _Waits] = {}  # the publishes that are still with us, by packet id
        self._waits = self._held = _Waits()  # all of them, and those of them that go with the next flush
        self.maximum_packet_bytes: int | None = None
        self.refused = 0  # publishes that the broker answered with a refusal, such as an ACL's

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
        try:
            await self._unless_closed(done)
        finally:
            self._subscribed.pop(mid, None)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Wants no more of these; what is on its way may still come."""
        if self.is_open and filters:
            self._client.unsubscribe(list(filters))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Hands a message to the connection; False where it is closed or too much waits already."""
        size = len(payload)
        if not self.is_open or not self._has_room(size):
            return False
        if qos == 0 and not properties:
            self._hold(pack_publish(topic, payload, retain=retain))
            return True
        extra = None
        if properties:
            extra = _properties(PacketTypes.PUBLISH)
            extra.UserProperty = list(properties)
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=extra)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        self._waiting[info.mid] = one = _Waits(1, size)
        self._waits += one
        return True

    def acknowledge(self, message: Message) -> None:
        """Sends the broker the acknowledgement that frees its in-flight slot; a no-op once closed."""
        if self.is_open and message._qos > 0:
            self._flush_soon()
            self._client.acknowledge(message._mid)

    def _hold(self, packet: bytes) -> None:
        self._flush_soon()
        self._client.hold(packet)
        one = _Waits(1, len(packet))
        self._held += one
        self._waits += one

    def _flush_soon(self) -> None:
        if not self._client.waits_for_flush:
            self._loop.call_soon(self._step, self._flush)

    def _flush(self) -> None:
        if self._client.waits_for_flush:
            mid, held, self._held = self._client.flush(), self._held, _Waits()
            if mid:
                self._waiting[mid] = held

    def _has_room(self, size: int) -> bool:
        return self._waits.messages < MAX_WAITING and self._waits.bytes + size <= MAX_WAITING_BYTES

    async def _unless_closed(self, done: asyncio.Future[None]) -> None:
        """Waits for `done`, for the connection's end, or ten seconds; only the first of them is good."""
        waiting: set[asyncio.Future[Any]] = {done, self._closed}
        await asyncio.wait(waiting, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            reason = self._closed.result() if self._closed.done() else "the broker did not answer"
            raise MqttUnavailable(reason)
        done.result()

    # Beginning and end.

    def _dial(self, broker: Broker, properties: Properties) -> None:
        """Connects in a thread of its own: name service and TLS handshake block, and may do so for long.

        A daemon, and not the shared executor: a dead name server must hold up neither the outbox nor an exit.
        """

        def dial() -> None:
            try:
                error = _attempt(self._client, broker, properties)
                self._loop.call_soon_threadsafe(self._dialled, error)
            except RuntimeError:  # the loop is closed, so nobody waits for this socket any more
                self._close_socket()

        threading.Thread(target=dial, name=f"dial {broker.host}", daemon=True).start()

    def _dialled(self, error: MqttUnavailable | None) -> None:
        if self._closed.done():  # given up meanwhile
            self._close_socket()
        elif error is not None:
            self._refuse(error)

    def _refuse(self, error: MqttUnavailable) -> None:
        if not self._connected.done():
            self._connected.set_exception(error)
            self._connected.exception()  # seen, also where whoever waited for it was cancelled meanwhile
            self._end(str(error))

    async def _close(self) -> None:
        try:
            if self.is_open:
                self._flush()
                self._client.disconnect()
                await asyncio.wait({self._closed}, timeout=GOODBYE_SECONDS)
        finally:
            self._end("closed by us")
            self._close_socket()

    def _close_socket(self) -> None:
        sock = self._client.socket()
        if sock is not None and sock.fileno() != -1:
            if not self._loop.is_closed():
                self._detach(sock.fileno())
            sock.close()

    def _end(self, reason: str) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        if not self._closed.done():
            self._closed.set_result(reason)

    def _step(self, step: Callable[[], object]) -> None:
        """One step of paho's. What escapes leaves its parser amid a packet, so the connection is over."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the loop must live; reported below, and `closed` tells
            self._end(f"{type(error).__name__}: {error}")
            self._close_socket()
            self._loop.call_exception_handler({"message": "an MQTT connection failed", "exception": error})

    def _tick(self) -> None:
        self._step(self._client.loop_misc)
        if not self._closed.done():
            self._ticker = self._loop.call_later(MISC_SECONDS, self._tick)

    # What paho calls; always on the loop's thread, save for the socket hooks during connect.

    def _on_connect(self, _c: Any, _u: Any, _f: Any, reason: ReasonCode, props: Properties | None) -> None:
        if self._connected.done() or self._closed.done():
            return
        if reason.is_failure:
            self._refuse(MqttUnavailable(f"the broker refused us: {reason}"))
            return
        self.maximum_packet_bytes = getattr(props, "MaximumPacketSize", None)
        self._connected.set_result(None)
        self._tick()

    def _on_disconnect(self, _c: Any, _u: Any, flags: Any, reason: ReasonCode, _p: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(f"the broker ended it: {reason}")
        elif reason.is_failure:
            self._end("the connection was lost")  # paho knows no more of it than "Unspecified error"
        else:
            self._end("closed by us")

    def _on_subscribe(self, _c: Any, _u: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        done = self._subscribed.pop(mid, None)
        if done is None or done.done():
            return
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            done.set_exception(MqttUnavailable(f"subscription refused: {', '.join(refused)}"))
        else:
            done.set_result(None)

    def _on_publish(self, _c: Any, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        self._waits -= self._waiting.pop(mid, _Waits())
        if reason.is_failure:
            self.refused += 1
            if self.refused == 1:  # a wrong ACL refuses every message; one line a connection is enough
                log.warning("publish_refused", reason=str(reason))

    # Socket hooks: paho's I/O on asyncio's selector, as in paho's own loop_asyncio example.

    def _on_loop(self, call: Callable[[], None]) -> None:
        """Runs now on the loop's own thread; from the dialling thread, as soon as the loop can."""
        if threading.get_ident() == self._loop_thread:
            call()
        else:
            self._loop.call_soon_threadsafe(call)

    def _on_socket_open(self, _c: Any, _u: Any, sock: Any) -> None:
        def read() -> None:
            self._client.loop_read()
            # The selector will not announce again what was read ahead, or what TLS has decrypted already.
            while sock.fileno() != -1 and (self._client.reads_ahead or _has_decrypted(sock)):
                self._client.loop_read()

        def attach() -> None:
            if sock.fileno() != -1 and not self._closed.done():
                self._loop.add_reader(sock.fileno(), self._step, read)

        self._on_loop(attach)

    def _on_socket_close(self, _c: Any, _u: Any, sock: Any) -> None:
        fd = sock.fileno()
        if fd != -1:
            self._on_loop(lambda: self._detach(fd))

    def _on_socket_register_write(self, _c: Any, _u: Any, sock: Any) -> None:
        def register() -> None:
            if sock.fileno() != -1 and not self._closed.done() and self._client.want_write():
                self._loop.add_writer(sock.fileno(), self._step, self._client.loop_write)

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

    Raises MqttUnavailable when the broker cannot be reached in ten seconds, or a TLS file cannot be read.
    Where `on_message` raises, the connection ends. Leaving the context closes it.
    """
    client = _client(broker, will)
    connection = Connection(client, asyncio.get_running_loop())
    _wire(client, connection, on_message)
    try:
        connection._dial(broker, _connect_properties(receive_maximum, maximum_packet_bytes))
        await connection._unless_closed(connection._connected)
        yield connection
    finally:
        await connection._close()


def _has_decrypted(sock: Any) -> bool:
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _client(broker: Broker, will: Will | None) -> _Client:
    client = _Client(
        CallbackAPIVersion.VERSION2,
        client_id=broker.client_id,
        protocol=paho.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.max_inflight_messages_set(MAX_INFLIGHT)
    client.max_queued_messages_set(MAX_WAITING)  # 0 would be unbounded
    client.connect_timeout = CONNECT_SECONDS
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)
    return client


def _connect_properties(receive_maximum: int, maximum_packet_bytes: int) -> Properties:
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0
    properties.ReceiveMaximum = receive_maximum
    properties.MaximumPacketSize = maximum_packet_bytes
    return properties


def _attempt(client: paho.Client, broker: Broker, properties: Properties) -> MqttUnavailable | None:
    """One attempt to reach the broker, TLS handshake included; blocks."""
    try:
        if broker.tls is not None:
            client.tls_set_context(broker.tls.context())
        client.connect(
            broker.host, broker.port, keepalive=broker.keepalive_s, clean_start=True, properties=properties
        )
    except (OSError, ValueError) as error:
        return MqttUnavailable(f"{broker.host}:{broker.port}: {error}")
    return None


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call] # paho's one untyped constructor


def _wire(client: _Client, connection: Connection, on_message: Callable[[Connection, Message], None]) -> None:
    client.on_received = partial(on_message, connection)
    client.on_connect = connection._on_connect
    client.on_disconnect = connection._on_disconnect
    client.on_subscribe = connection._on_subscribe
    client.on_publish = connection._on_publish
    client.on_socket_open = connection._on_socket_open
    client.on_socket_close = connection._on_socket_close
    client.on_socket_register_write = connection._on_socket_register_write
    client.on_socket_unregister_write = connection._on_socket_unregister_write
