"""What the running gateway knows of itself, asked over a unix socket in its data folder.

A socket and not a file: the answer is as old as the question, a gateway whose loop hangs does not answer
instead of looking well, and nothing wears the card. Whoever may read the data folder may ask (mode 0600).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.outbox import OutboxUnavailable
from gateway.scanner import AdapterView
from gateway.uplink import Uplink
from sdk_bridge.wire.messages import ScanState
from sdk_bridge.wire.topics import GatewayAddress

SOCKET: Final = "status.sock"
MAX_ANSWER_BYTES: Final = 64 * 1024  # sixteen adapters take 4 kB; a stranger's socket may say no more
MAX_ASKING: Final = 8  # at a time; more are turned away, so nobody can hold the gateway's memory
DISK_SECONDS: Final = 2.0  # a disk that hangs must not hide the rest
ASK_SECONDS: Final = 5.0  # longer, and the gateway's loop hangs
DAY_MS: Final = 86_400_000

log = structlog.get_logger()


class NoStatus(RuntimeError):
    """The gateway gave no answer; the text says why and what to do, in one line."""


class AdapterStatus(Struct, frozen=True):
    """One radio: what D-Bus says of it, whether it scans, how far up its ladder of remedies it is."""

    name: str
    condition: str
    scanning: bool
    rung: int
    last_advert_age_ms: int | None


class OutboxStatus(Struct, frozen=True):
    """What waits for the backend. `unstored` batches wait in memory because the disk does not take them.

    Where it is not `writable`, all of it is in memory, and what lies on the disk is not counted.
    """

    records: int
    bytes: int
    max_bytes: int
    oldest_age_ms: int | None
    unstored: int
    writable: bool = True


class UplinkStatus(Struct, frozen=True):
    """The way to the backend. `acknowledged_age_ms` is how long ago the backend last said a word."""

    connected: bool
    epoch: str
    connections: int
    acknowledged_age_ms: int | None


class ClockStatus(Struct, frozen=True):
    """The clocks, in milliseconds."""

    synchronised: bool
    unix_ms: int
    boot_ms: int


class ConfigurationStatus(Struct, frozen=True):
    """The remote configuration in force; version 0 and an empty state: the file alone."""

    version: int
    state: str


class Counters(Struct, frozen=True):
    """Since the process started."""

    adverts: int
    forgotten: int
    dropped: int
    lost_batches: int
    lost_readings: int
    bad_acks: int
    foreign_messages: int


class GatewayStatus(Struct, frozen=True):
    """The whole answer. Ages are milliseconds, None for never; `certificate_days` None without one."""

    store: str
    gateway: str
    version: str
    pid: int
    uptime_ms: int
    scan: ScanState
    last_advert_age_ms: int | None
    adapters: list[AdapterStatus]
    outbox: OutboxStatus
    uplink: UplinkStatus
    clock: ClockStatus
    certificate_days: float | None
    configuration: ConfigurationStatus
    counters: Counters


class Reading(Struct, frozen=True):
    """What the gateway's parts say at once, without asking the disk."""

    scan: ScanState
    last_advert_ms: int | None
    adapters: list[AdapterView]
    adverts: int
    forgotten: int
    dropped: int
    certificate_until_ms: int | None
    configuration: ConfigurationStatus


class StatusDesk:
    """Puts the answer together; `read` is asked for what the gateway's parts say at that moment."""

    def __init__(
        self,
        address: GatewayAddress,
        version: str,
        clock: Clock,
        uplink: Uplink,
        read: Callable[[], Reading],
        max_bytes: int,
    ) -> None:
        self._address = address
        self._version = version
        self._clock = clock
        self._uplink = uplink
        self._read = read
        self._max_bytes = max_bytes
        self._started_ms = clock.boot_ms()

    async def status(self) -> GatewayStatus:
        """As things stand now."""
        oldest = await self._oldest_age_ms()
        reading, now, unix = self._read(), self._clock.boot_ms(), self._clock.unix_ms()
        until = reading.certificate_until_ms
        return GatewayStatus(
            store=self._address.store,
            gateway=self._address.gateway,
            version=self._version,
            pid=os.getpid(),
            uptime_ms=now - self._started_ms,
            scan=reading.scan,
            last_advert_age_ms=_age(reading.last_advert_ms, now),
            adapters=[_adapter(view, now) for view in reading.adapters],
            outbox=self._outbox(oldest),
            uplink=self._connection(now),
            clock=ClockStatus(self._clock.synchronised(), unix, now),
            certificate_days=None if until is None else round((until - unix) / DAY_MS, 2),
            configuration=reading.configuration,
            counters=self._counters(reading),
        )

    async def _oldest_age_ms(self) -> int | None:
        """How long the oldest record waits; None where nothing does, or it is of a boot without a clock."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                oldest = await self._uplink.oldest()
        except (OutboxUnavailable, TimeoutError):
            return None
        if oldest is None:
            return None
        boot_id, at_ms = oldest
        if boot_id == self._clock.boot_id:
            return max(0, self._clock.boot_ms() - at_ms)
        anchor = self._uplink.anchor(boot_id)
        if anchor is None or not self._clock.synchronised():
            return None
        return max(0, self._clock.unix_ms() - anchor - at_ms)

    def _outbox(self, oldest_age_ms: int | None) -> OutboxStatus:
        stock = self._uplink.stock
        uplink = self._uplink
        return OutboxStatus(
            stock.records, stock.bytes, self._max_bytes, oldest_age_ms, uplink.unstored, uplink.writable
        )

    def _connection(self, now: int) -> UplinkStatus:
        uplink = self._uplink
        age = _age(uplink.acknowledged_ms, now)
        return UplinkStatus(uplink.connected, uplink.stock.epoch, uplink.counts.connections, age)

    def _counters(self, reading: Reading) -> Counters:
        counts = self._uplink.counts
        return Counters(
            adverts=reading.adverts,
            forgotten=reading.forgotten,
            dropped=reading.dropped,
            lost_batches=counts.lost.batches,
            lost_readings=counts.lost.readings,
            bad_acks=counts.bad_acks,
            foreign_messages=counts.foreign_messages,
        )


def _adapter(view: AdapterView, now: int) -> AdapterStatus:
    age = _age(view.last_heard_ms, now)
    return AdapterStatus(view.name, view.condition.name.lower(), view.scanning, view.rung, age)


def _age(at_ms: int | None, now: int) -> int | None:
    return None if at_ms is None else max(0, now - at_ms)


def certificate_until(path: Path) -> int | None:
    """When a certificate's file runs out, unix ms; None where it holds none. It may be replaced meanwhile."""
    # A gateway without TLS needs no cryptography.
    from gateway.certificate import certificate_of, life_of  # noqa: PLC0415

    try:
        return life_of(certificate_of(path.read_bytes())).not_after
    except (OSError, ValueError):
        return None


# The socket -------------------------------------------------------------------------------------------


async def serve(desk: StatusDesk, data_dir: Path) -> None:
    """Answers until cancelled; a folder that takes no socket is logged, and no reason to stop hearing.

    The caller holds the data folder's lock, so a socket that lies there is a dead process's.
    """
    asking = 0

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asking
        asking += 1
        try:
            if asking <= MAX_ASKING:
                writer.write(msgspec.json.encode(await desk.status()))
                async with asyncio.timeout(ASK_SECONDS):
                    await writer.drain()
        except (OSError, TimeoutError) as error:
            log.debug("status not told", cause=str(error))
        finally:
            asking -= 1
            writer.close()

    try:
        listener = _listen(data_dir)
    except OSError as error:
        log.warning("status cannot be asked for", cause=str(error))
        await asyncio.Event().wait()  # a worker that returned would end the gateway
        return
    server = await asyncio.start_unix_server(answer, sock=listener, backlog=MAX_ASKING)
    try:
        await server.serve_forever()
    finally:
        server.close()
        (data_dir / SOCKET).unlink(missing_ok=True)


def _listen(data_dir: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind, which gives the socket's file this mode
        (data_dir / SOCKET).unlink(missing_ok=True)
        with _short_path(data_dir) as name:
            listener.bind(name)
    except OSError:
        listener.close()
        raise
    return listener


def ask(data_dir: Path, seconds: float = ASK_SECONDS) -> GatewayStatus:
    """The running gateway's status. Raises NoStatus."""
    try:
        return msgspec.json.decode(_answer(data_dir, seconds), type=GatewayStatus)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        text = f"no gateway runs over {data_dir}; start it: sudo systemctl start footfall-gateway"
        raise NoStatus(text) from error
    except PermissionError as error:
        text = f"{data_dir} is another user's; try: sudo -u footfall footfall-gateway status"
        raise NoStatus(text) from error
    except TimeoutError as error:
        text = f"the gateway runs and does not answer within {seconds:g} s; its watchdog will end it"
        raise NoStatus(text) from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoStatus(f"{data_dir / SOCKET} gave no status: {error}") from error


def _answer(data_dir: Path, seconds: float) -> bytes:
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as asking, _short_path(data_dir) as name:
        asking.settimeout(seconds)
        asking.connect(name)
        while (part := asking.recv(8192)) and sum(map(len, parts)) <= MAX_ANSWER_BYTES:
            parts.append(part)
    return b"".join(parts)


@contextmanager
def _short_path(data_dir: Path) -> Iterator[str]:
    """A path to the socket within the 107 bytes that the kernel allows, however deep the folder lies."""
    folder = os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


# For people -------------------------------------------------------------------------------------------


def as_table(status: GatewayStatus) -> str:
    """The answer as lines for a terminal."""
    outbox, uplink, counters = status.outbox, status.uplink, status.counters
    rows = [
        ("gateway", f"{status.store}/{status.gateway}, version {status.version}, pid {status.pid}"),
        ("up for", _span(status.uptime_ms)),
        ("hears", f"{status.scan}; last advert {_ago(status.last_advert_age_ms)}"),
        *((f"radio {adapter.name}", _radio(adapter)) for adapter in status.adapters),
        ("outbox", _outbox_line(outbox)),
        ("uplink", _uplink_line(uplink)),
        ("epoch", uplink.epoch),
        ("clock", "set" if status.clock.synchronised else "not set; times are counted from the start"),
        ("certificate", _certificate_line(status.certificate_days)),
        ("configuration", _configuration_line(status.configuration)),
        ("adverts", f"{counters.adverts} heard, {counters.forgotten} forgotten, {counters.dropped} dropped"),
        ("lost", f"{counters.lost_batches} batches, {counters.lost_readings} readings"),
        (
            "refused",
            f"{counters.bad_acks} bad acknowledgements, {counters.foreign_messages} foreign messages",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _radio(adapter: AdapterStatus) -> str:
    state = "scanning" if adapter.scanning else "not scanning"
    remedy = f"; remedy {adapter.rung} was tried" if adapter.rung else ""
    return f"{adapter.condition}, {state}; last advert {_ago(adapter.last_advert_age_ms)}{remedy}"


def _outbox_line(outbox: OutboxStatus) -> str:
    if not outbox.writable:
        return f"IN MEMORY, FOR THE CARD TAKES NOTHING: {outbox.records} records, {_size(outbox.bytes)}"
    if not outbox.records:
        return "empty"
    oldest = "of unknown age" if outbox.oldest_age_ms is None else f"{_span(outbox.oldest_age_ms)} old"
    waiting = f"; {outbox.unstored} batches wait for the disk" if outbox.unstored else ""
    taken = f"{_size(outbox.bytes)} of {_size(outbox.max_bytes)}"
    return f"{outbox.records} records, {taken}, oldest {oldest}{waiting}"


def _uplink_line(uplink: UplinkStatus) -> str:
    state = "connected" if uplink.connected else "NOT CONNECTED"
    word = _ago(uplink.acknowledged_age_ms)
    return f"{state}; the backend's last word {word}; connection {uplink.connections}"


def _certificate_line(days: float | None) -> str:
    return (
        "none" if days is None else f"{days:.1f} days left" if days > 0 else f"RAN OUT {-days:.1f} days ago"
    )


def _configuration_line(configuration: ConfigurationStatus) -> str:
    if not configuration.version and not configuration.state:
        return "its own file"
    return f"version {configuration.version}, {configuration.state}"


def _ago(age_ms: int | None) -> str:
    return "never" if age_ms is None else f"{_span(age_ms)} ago"


def _span(milliseconds: int) -> str:
    for unit, size in (("d", DAY_MS), ("h", 3_600_000), ("min", 60_000)):
        if milliseconds >= 2 * size:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds / 1000:.1f} s"


def _size(size: int) -> str:
    return f"{size / 1_048_576:.1f} MiB" if size >= 1_048_576 else f"{size / 1024:.1f} KiB"
