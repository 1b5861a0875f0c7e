"""A TCP proxy before a broker that records every byte, and can be as slow as a shop's uplink."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
CHUNK_BYTES = 16 * 1024
SMALL_CHUNK_BYTES = 1024  # of a slow line, so that 0.5 Mbit/s flows in steps of 16 ms
MAX_RECORDED_BYTES = 64 * 1024 * 1024  # a run that is left alone must not fill the memory


@dataclass
class Tap:
    """A listening proxy. `up` and `down` are what clients and broker have said since the start."""

    port: int = 0
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    unrecorded_bytes: int = 0


@asynccontextmanager
async def tap(port: int, up_bytes_a_second: int | None = None) -> AsyncIterator[Tap]:
    """Stands before the broker on `port`; `up_bytes_a_second` narrows the way to it, None does not."""
    record = Tap()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        # Either end may vanish at any time, the other one is then told by a close; and a cancelled handler
        # would be reported by asyncio as a failure.
        with suppress(OSError, asyncio.CancelledError):
            await _join(reader, writer, port, record, up_bytes_a_second)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    record.port = server.sockets[0].getsockname()[1]
    try:
        yield record
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    record: Tap,
    up_bytes_a_second: int | None,
) -> None:
    broker_reader, broker_writer = await asyncio.open_connection(HOST, port)
    ways = [
        asyncio.create_task(_pass(reader, broker_writer, record, record.up, up_bytes_a_second)),
        asyncio.create_task(_pass(broker_reader, writer, record, record.down, None)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        broker_writer.close()


async def _pass(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    record: Tap,
    recorded: bytearray,
    bytes_a_second: int | None,
) -> None:
    size = CHUNK_BYTES if bytes_a_second is None else SMALL_CHUNK_BYTES
    while chunk := await source.read(size):
        if len(recorded) + len(chunk) <= MAX_RECORDED_BYTES:
            recorded += chunk
        else:
            record.unrecorded_bytes += len(chunk)
        if bytes_a_second is not None:
            await asyncio.sleep(len(chunk) / bytes_a_second)
        sink.write(chunk)
        await sink.drain()
