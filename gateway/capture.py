"""Captures: what a radio gave, in a file that can be replayed. The format, its writer and its reader.

Format 1. The file begins with `MAGIC`. Then frames follow, each a length and a CRC-32 of its payload (both
big-endian, four bytes) and the payload: MessagePack, first a `CaptureHeader`, afterwards `Block`s. A block
stands by itself, so a reader needs one at a time, and a file that was cut short is whole up to its last one.

There is no radio address in a capture, only numbers that tell devices apart within it, and no identity that
the gateway would not relay. It still holds the identities of customers' tags: treat it as personal data.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Annotated, BinaryIO, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from sdk_bridge.wire.messages import BootId, Count, Millis, Word

MAGIC: Final = b"footfall capture 1\n"
MAX_BLOCK_BYTES: Final = 2 * 1024 * 1024  # a full block of ours has half of it; a stranger's may fill no more
MAX_FRAMES: Final = 4096  # different things heard in one block
MAX_ROWS: Final = 32768
BLOCK_MS: Final = 5_000  # what a killed recording costs at most
MAX_DEVICE: Final = 2**53
_PREFIX = struct.Struct(">II")
_CLOSE = 0

Payload: TypeAlias = Annotated[bytes, Meta(max_length=255)]
Company: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Service: TypeAlias = Annotated[str, Meta(max_length=36, pattern=r"^[0-9a-f-]*$(?!\n)")]
Name: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_-]*$(?!\n)")]
T = TypeVar("T")


class CaptureError(ValueError):
    """The file is no capture, or is damaged before its end; the text says where."""


class CaptureHeader(Struct, frozen=True, array_like=True, tag="capture"):
    """Whose radio it was. Times are milliseconds, `started_ms` of the boot clock.

    `unix_ms` is the wall clock at that moment, or 0 where nobody had set it. `settings` is the fingerprint
    of what decides: the allow-lists and the presence levels (`gateway.record.fingerprint`).
    """

    boot_id: BootId
    started_ms: Millis
    unix_ms: Millis
    store: Name
    gateway: Name
    version: Word
    settings: Word


class Heard(Struct, frozen=True, array_like=True):
    """One advertisement's content: the device's number in this capture, manufacturer and service data."""

    device: Annotated[int, Meta(ge=0, le=MAX_DEVICE)]
    manufacturer: Annotated[dict[Company, Payload], Meta(max_length=32)]
    service: Annotated[dict[Service, Payload], Meta(max_length=32)]


class Block(Struct, frozen=True, array_like=True, tag="block"):
    """Some seconds, in three columns of equal length; a row is an advert heard, or a close.

    `after` is milliseconds since the row before, the first one's since `base_ms` (boot clock). `what` is n
    for an advert with the content `heard[n - 1]`, and 0 for a close: the moment at which the gateway took
    out the seconds that were over. `value` is an advert's RSSI in dBm (−127: not told); of a close 1 where
    it took the unfinished second too, else 0. `forgotten` adverts no list let through; for `dropped` ones
    there was no room.
    """

    base_ms: Millis
    heard: Annotated[list[Heard], Meta(max_length=MAX_FRAMES)]
    after: Annotated[list[Annotated[int, Meta(ge=0, le=2**32)]], Meta(max_length=MAX_ROWS)]
    what: Annotated[list[Annotated[int, Meta(ge=0, le=MAX_FRAMES)]], Meta(max_length=MAX_ROWS)]
    value: Annotated[list[Annotated[int, Meta(ge=-128, le=127)]], Meta(max_length=MAX_ROWS)]
    forgotten: Count = 0
    dropped: Count = 0


_pack = msgspec.msgpack.Encoder()
_header = msgspec.msgpack.Decoder(CaptureHeader)
_block = msgspec.msgpack.Decoder(Block)


class CaptureWriter:
    """Turns what happens, in order of time, into the file's bytes; `take` hands out what is complete."""

    def __init__(self, header: CaptureHeader) -> None:
        self._ready = [MAGIC, _framed(_pack.encode(header))]
        self._last_ms = header.started_ms
        self._begin(header.started_ms)

    def advert(
        self,
        at_ms: int,
        device: int,
        manufacturer: Mapping[int, bytes],
        service: Mapping[str, bytes],
        rssi: int,
    ) -> None:
        """An advert that the gateway relays."""
        known = (device, tuple(manufacturer.items()), tuple(service.items()))
        index = self._known.get(known)
        if index is None:
            if len(self._heard) >= MAX_FRAMES:
                self._cut()
            self._heard.append(Heard(device, dict(manufacturer), dict(service)))
            index = self._known[known] = len(self._heard)
        self._row(at_ms, index, max(-127, min(rssi, 127)))

    def close(self, at_ms: int, *, flush: bool = False) -> None:
        """The gateway took out what was over."""
        self._row(at_ms, _CLOSE, int(flush))
        if flush or at_ms - self._base_ms >= BLOCK_MS:
            self._cut()

    def count(self, *, forgotten: int = 0, dropped: int = 0) -> None:
        """Adverts that leave no other trace."""
        self._forgotten += forgotten
        self._dropped += dropped

    def take(self) -> bytes:
        """The bytes that are complete and were not taken yet."""
        ready, self._ready = b"".join(self._ready), []
        return ready

    def _row(self, at_ms: int, what: int, value: int) -> None:
        if len(self._what) >= MAX_ROWS:
            self._cut()
        at_ms = max(at_ms, self._last_ms)
        self._after.append(at_ms - self._last_ms)
        self._what.append(what)
        self._value.append(value)
        self._last_ms = at_ms

    def _cut(self) -> None:
        columns = (self._heard, self._after, self._what, self._value)
        block = Block(self._base_ms, *columns, forgotten=self._forgotten, dropped=self._dropped)
        self._ready.append(_framed(_pack.encode(block)))
        self._begin(self._last_ms)

    def _begin(self, base_ms: int) -> None:
        self._base_ms = self._last_ms = base_ms
        self._known: dict[tuple[object, ...], int] = {}
        self._heard: list[Heard] = []
        self._after: list[int] = []
        self._what: list[int] = []
        self._value: list[int] = []
        self._forgotten = self._dropped = 0


class CaptureReader:
    """Reads a capture block by block. Raises CaptureError; OSError where the file cannot be read.

    `torn` turns true where the file ends amid a frame, as after a kill: what came before is whole.
    `position` is how many bytes were read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        self.torn = False
        if self._read(len(MAGIC)) != MAGIC:
            raise CaptureError("this is no capture of format 1")
        payload = self._frame()
        if payload is None:
            raise CaptureError("the capture ends within its header")
        self.header = _decoded(_header, payload, len(MAGIC))

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, each one checked."""
        now_ms = 0
        while True:
            began = self.position
            payload = self._frame()
            if payload is None:
                return
            block = _decoded(_block, payload, began)
            _check(block, now_ms, began)
            now_ms = block.base_ms + sum(block.after)
            yield block

    def _frame(self) -> bytes | None:
        """The next frame's payload; None at the end, where `torn` tells whether it was a clean one."""
        began = self.position
        prefix = self._read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            self.torn = bool(prefix)
            return None
        size, checksum = _PREFIX.unpack(prefix)
        if size == 0 and checksum == 0 and self._rest_is_zero():  # a plug that was pulled may leave this
            self.torn = True
            return None
        if not 0 < size <= MAX_BLOCK_BYTES:
            raise CaptureError(f"damaged at byte {began}: a frame of {size} bytes")
        payload = self._read(size)
        if len(payload) < size or (zlib.crc32(payload) != checksum and not self._more()):
            self.torn = True
            return None
        if zlib.crc32(payload) != checksum:
            raise CaptureError(f"damaged at byte {began}: the checksum does not match")
        return payload

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        return data

    def _more(self) -> bool:
        return bool(self._read(1))

    def _rest_is_zero(self) -> bool:
        while data := self._read(64 * 1024):
            if data.strip(b"\0"):
                return False
        return True


def _framed(payload: bytes) -> bytes:
    return _PREFIX.pack(len(payload), zlib.crc32(payload)) + payload


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", payload: bytes, began: int) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CaptureError(f"damaged at byte {began}: {str(error)[:200]}") from error


def _check(block: Block, now_ms: int, began: int) -> None:
    """What the types cannot say. Raises CaptureError."""
    if not len(block.after) == len(block.what) == len(block.value):
        raise CaptureError(f"damaged at byte {began}: the columns differ in length")
    if max(block.what, default=0) > len(block.heard):
        raise CaptureError(f"damaged at byte {began}: a row names content that is not there")
    if block.base_ms < now_ms or block.base_ms + sum(block.after) > MAX_DEVICE:
        raise CaptureError(f"damaged at byte {began}: time runs backwards, or beyond its end")
