"""Publishes MQTT messages as fast as they are consumed, in a process of its own, for bench_pipeline.py.

A client library would be the slowest part by far, so the packets are made beforehand and written as they are.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized

BURST = 20  # packets on their way to the broker: mosquitto's own default for what it takes
WINDOW = 400  # messages between us and the consumer; less than any broker holds for it
STARTS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message."""

    topic: str
    payload: bytes
    properties: Sequence[tuple[str, str]] = ()


@dataclass(slots=True)
class Flow:
    """What publisher and consumer know of each other: `begin` at 1, and how many messages were consumed."""

    begin: "Synchronized[int]"
    consumed: "Synchronized[int]"


@contextmanager
def publishing(port: int, messages: Sequence[Outgoing]) -> Iterator[Flow]:
    """A process that waits for `begin`, then publishes everything at QoS 1, in order."""
    context = multiprocessing.get_context("fork")  # before any thread of ours holds a lock
    flow = Flow(context.Value("i", 0), context.Value("i", 0))
    process = context.Process(target=_publish, args=(port, messages, flow, os.getpid()), daemon=True)
    process.start()
    try:
        yield flow
    finally:
        process.kill()
        process.join()


def _publish(port: int, messages: Sequence[Outgoing], flow: Flow, parent: int) -> None:
    packets = [packet(number % 65_535 + 1, message) for number, message in enumerate(messages)]
    broker = socket.create_connection(("127.0.0.1", port), STARTS_WITHIN_S)
    broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    broker.sendall(_connect(f"load-{os.getpid()}"))
    _answers(broker, 0x20, 1)
    while not flow.begin.value and os.getppid() == parent:
        time.sleep(0.001)
    for start in range(0, len(packets), BURST):
        while start + BURST - flow.consumed.value > WINDOW and os.getppid() == parent:
            time.sleep(0.0005)
        burst = packets[start : start + BURST]
        broker.sendall(b"".join(burst))
        _answers(broker, 0x40, len(burst))
    while os.getppid() == parent:  # whoever started us ends us
        time.sleep(0.05)


def packet(number: int, message: Outgoing) -> bytes:
    """A PUBLISH at QoS 1 (MQTT 5, section 3.3)."""
    pairs = b"".join(b"\x26" + _text(name) + _text(value) for name, value in message.properties)
    body = _text(message.topic) + number.to_bytes(2, "big") + _size(len(pairs)) + pairs + message.payload
    return b"\x32" + _size(len(body)) + body


def _connect(client_id: str) -> bytes:
    body = _text("MQTT") + b"\x05\x02\x00\x00\x00" + _text(client_id)
    return b"\x10" + _size(len(body)) + body


def _answers(broker: socket.socket, kind: int, count: int) -> None:
    """Reads so many packets of a kind; every answer here is shorter than 128 bytes."""
    held = b""
    while count:
        while len(held) < 2 or len(held) < 2 + held[1]:
            more = broker.recv(65_536)
            if not more:
                raise ConnectionError("the broker hung up")
            held += more
        if held[0] & 0xF0 != kind:
            raise ConnectionError(f"the broker answered {held[:8].hex()}")
        held = held[2 + held[1] :]
        count -= 1


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _size(length: int) -> bytes:
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(digits)
