"""Hostile bytes at every door of the gateway, and of the backend's wire: a value or the door's own error.

Each payload is a valid one that was damaged, or noise. A run repeats by its seed. What comes out is checked
too: no batch may hold a beacon that the allow-list does not let pass, nor anything the wire would refuse.
"""

import io
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import config
from gateway.allow import AllowList
from gateway.app import Listener
from gateway.beacons import APPLE, EDDYSTONE
from gateway.capture import CaptureError, CaptureHeader, CaptureReader, CaptureWriter
from gateway.config import ConfigError
from gateway.presence import Presence
from gateway.remote import ConfigurationRefused, read_signed
from gateway.scanner import Hearing
from sdk_bridge.wire import codec, configuration
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import (
    Ack,
    Batch,
    BeaconHealth,
    Heartbeat,
    RangeChange,
    Readings,
    Skip,
    SkipCounts,
)
from sdk_bridge.wire.topics import GatewayAddress, parse_topic
from simulators.endurance.clock import SimulatedClock

CHUNK: Final = 100_000  # payloads by one seed, in one go of a process
KEPT_FINDINGS: Final = 20
CLOSE_EVERY: Final = 500
UUID: Final = bytes(range(16))
NAMESPACE: Final = bytes(range(10))
ADDRESS: Final = GatewayAddress("demo-shop", "door")
SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))

Feed = Callable[[bytes], object]


class Broken(AssertionError):
    """Something came out that must not; the text says what."""


@dataclass(frozen=True, slots=True)
class Door:
    """A way in: valid payloads to damage, what takes them, errors it may raise, and its share in 1,000."""

    name: str
    share: int
    seeds: Sequence[bytes]
    feed: Feed
    refusals: tuple[type[Exception], ...] = (WireError,)


@dataclass(slots=True)
class Findings:
    """How many payloads each door took and how many it refused; and every crash, with its payload."""

    fed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        self.fed += other.fed
        self.refused += other.refused
        self.crashes += other.crashes[: KEPT_FINDINGS - len(self.crashes)]


def run_fuzz(payloads: int, seed: int, processes: int, say: Callable[[str], None]) -> Findings:
    """Feeds `payloads` in all, in chunks, each with a seed of its own made from `seed`."""
    findings = Findings()
    sizes = [min(CHUNK, payloads - start) for start in range(0, payloads, CHUNK)]
    with ProcessPoolExecutor(processes) as pool:
        for done, part in enumerate(pool.map(fuzz, sizes, [f"{seed}/{n}" for n in range(len(sizes))]), 1):
            findings.add(part)
            if done % max(1, len(sizes) // 20) == 0:
                say(f"{findings.fed.total():,} payloads, {len(findings.crashes)} crashes")
    return findings


def fuzz(payloads: int, seed: str) -> Findings:
    """One chunk."""
    dice, findings = Random(seed), Findings()
    with tempfile.TemporaryDirectory(prefix="footfall-fuzz-") as folder:
        doors = make_doors(Path(folder), dice)
        for door in dice.choices(doors, weights=[door.share for door in doors], k=payloads):
            knock(door, damaged(door.seeds, dice), findings)
    return findings


def knock(door: Door, payload: bytes, findings: Findings) -> None:
    """Feeds one payload and counts what came of it."""
    findings.fed[door.name] += 1
    try:
        door.feed(payload)
    except door.refusals:
        findings.refused[door.name] += 1
    except Exception as error:  # noqa: BLE001 - to find these is what this is for; each is counted and kept
        if len(findings.crashes) < KEPT_FINDINGS:
            findings.crashes.append(f"{door.name}: {type(error).__name__}: {error}; payload {payload.hex()}")


def damaged(seeds: Sequence[bytes], dice: Random) -> bytes:
    """A seed with one to four faults in it; every eighth time noise."""
    if dice.random() < 0.125:
        return dice.randbytes(dice.randrange(48))
    payload = bytearray(dice.choice(seeds))
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(payload) + 1)
        dice.choice(_FAULTS)(payload, at, dice)
    return bytes(payload)


def _overwrite(payload: bytearray, at: int, dice: Random) -> None:
    payload[at : at + 1] = bytes([dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))])


def _insert(payload: bytearray, at: int, dice: Random) -> None:
    payload[at:at] = dice.randbytes(dice.randrange(1, 5))


def _remove(payload: bytearray, at: int, dice: Random) -> None:
    del payload[at : at + dice.randrange(1, 5)]


def _cut(payload: bytearray, at: int, _dice: Random) -> None:
    del payload[at:]


def _repeat(payload: bytearray, at: int, dice: Random) -> None:
    payload[at:at] = payload[at : at + dice.randrange(1, 40)]


_FAULTS = (_overwrite, _overwrite, _overwrite, _insert, _remove, _cut, _repeat)


def make_doors(folder: Path, dice: Random) -> list[Door]:
    """Every door, those of files with `folder` to themselves."""
    air = Air(dice)
    return [
        Door("adverts", 700, _FRAMES, air.feed, ()),
        Door("acknowledgements", 100, _ACKS, codec.decode_ack),
        Door("batches", 70, _UPS, _batch),
        Door("envelopes", 20, _ENVELOPES, _envelope),
        Door("topics", 20, [ADDRESS.topic("up").encode()], _topic),
        Door(
            "signed configurations", 40, _SIGNED + _DOCUMENTS, partial(_signed, dice), (ConfigurationRefused,)
        ),
        Door("configuration documents", 30, _DOCUMENTS, configuration.decode_document),
        Door("capture files", 15, [_CAPTURE], partial(_capture, dice), (CaptureError,)),
        Door("configuration files", 5, _FILES, partial(_file, folder / "gateway.toml"), (ConfigError,)),
    ]


class Air:
    """The radio's door: adverts through a whole Listener, whose batches must be sound."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._clock = SimulatedClock()
        self._fed = 0
        self._begin()

    def feed(self, payload: bytes) -> None:
        """As manufacturer data, as Eddystone's service data, or both."""
        where = self._dice.randrange(4)
        manufacturer = {APPLE if where < 2 else self._dice.randrange(65536): payload} if where != 2 else {}
        service = {EDDYSTONE: payload} if where >= 2 else {}
        self._clock.now += self._dice.randrange(20)
        address = f"C0:00:00:00:00:{self._dice.randrange(256):02X}"
        try:
            self._listener.heard(address, manufacturer, service, self._dice.randrange(-128, 128))
            self._listener.drain()
            self._fed += 1
            if self._fed % CLOSE_EVERY == 0:
                self._close()
        except Exception:
            self._begin()  # what is broken must not break for every payload that follows
            raise

    def _begin(self) -> None:
        allow = AllowList.of(
            ibeacons=[UUID.hex()], eddystone_namespaces=[NAMESPACE.hex()], urls=["https://example.com/"]
        )
        self._listener = Listener(
            allow, Presence(), Hearing(frozenset(), 30_000, self._clock.now), self._clock
        )

    def _close(self) -> None:
        for batch in self._listener.close(flush=True):
            codec.decode_up(codec.encode(batch))
            strangers = [key for key in batch.keys if not key.startswith(_ALLOWED)]
            if strangers:
                raise Broken(f"{strangers[0]} is not on the allow-list")


_ALLOWED = (
    "ibeacon:00010203-0405-0607-0809-0a0b0c0d0e0f:",
    f"eddystone-uid:{NAMESPACE.hex()}:",
    "eddystone-url:https://example.com/",
    "eddystone-eid:",
)
_FRAMES = [
    b"\x02\x15" + UUID + b"\x00\x01\x00\x02\xc5",
    b"\xbe\xac" + UUID + b"\x00\x01\x00\x02\xc5\x00",
    b"\x00\xee" + NAMESPACE + b"\x00\x00\x00\x00\x00\x07\x00\x00",
    b"\x10\xee\x03example\x00x",
    b"\x20\x00\x0b\xb8\x15\x19\x00\x00\x01\x00\x00\x00\x10\x00",
    b"\x20\x01" + bytes(16),
    b"\x30\xee" + bytes(range(8)),
]
_ACKS = [
    codec.encode(Ack("0123456789abcdef", "live", 12, False, 1_700_000_000_000)),
    b'{"type":"ack","epoch":"0123456789abcdef","lane":"backlog","upto":3,"gap":true,"server_ms":5}',
]
_UPS = [
    codec.encode(message)
    for message in (
        Batch(
            "boot",
            5000,
            ["eddystone-eid:0001020304050607"],
            Readings([0], [0], [3], [60], [55]),
            [RangeChange(0, 5, True)],
            [BeaconHealth(0, 7, 3000, 21.5, 4, 0.1)],
        ),
        Heartbeat("boot", 5, "hearing", 3, 1, 2, 3, 4, 5, True, "1"),
        Skip(9, "outbox-full", SkipCounts(1, 2)),
    )
] + [b'{"type":"skip","to":9,"reason":"outbox-full","counts":{"batches":1,"readings":2}}']
_PROPERTIES = Envelope("live", "0123456789abcdef", 7, 5, "0f0e0d0c", 9, 3).properties()
_ENVELOPES = ["\n".join(f"{name}={value}" for name, value in _PROPERTIES).encode()]
_SETTINGS = b'{"allow":{"ibeacon":["' + UUID.hex().encode() + b'"],"eid":false},"presence":{"near_dbm":-80}}'
_DOCUMENTS = [
    b'{"store":"demo-shop","gateway":"door","version":3,"issued_at":5,"settings":' + _SETTINGS + b"}"
]
_SIGNED = [
    configuration.encode_signed(document, SIGNER.sign(configuration.to_sign(document)))
    for document in _DOCUMENTS
]
_FILES = [
    b'store = "demo-shop"\ngateway = "door"\ndata_dir = "data"\n[mqtt]\nhost = "127.0.0.1"\nport = 1883\n'
    b'[bluetooth]\nadapters = ["hci0"]\nsilence_s = 90\n[allow]\nibeacon = ["' + UUID.hex().encode() + b'"]\n'
    b'eid = true\n[presence]\nnear_dbm = -80\nfar_dbm = -90\n[outbox]\nmax_mb = 256\n[log]\nlevel = "info"\n'
]


def _captured() -> bytes:
    writer = CaptureWriter(CaptureHeader("boot", 1000, 0, "demo-shop", "door", "1", "settings"))
    for number, frame in enumerate(_FRAMES):
        writer.advert(1000 + number, number % 3, {APPLE: frame}, {EDDYSTONE: frame}, -60)
    writer.close(2000, flush=True)
    return writer.take()


_CAPTURE = _captured()
_FRAME = struct.Struct(">II")


def _capture(dice: Random, payload: bytes) -> None:
    """Every second time with the checksums put right, for they would stop most of what is damaged."""
    data = _with_checksums(payload) if dice.random() < 0.5 else payload
    for block in CaptureReader(io.BytesIO(data)).blocks():
        if len(block.after) != len(block.what):
            raise Broken("columns of different length")


def _with_checksums(payload: bytes) -> bytes:
    """The same frames, as far as they can be told, each with its right length and checksum."""
    at = payload.find(b"\n") + 1
    parts = [payload[:at]]
    while at + _FRAME.size < len(payload):
        size, _ = _FRAME.unpack_from(payload, at)
        content = payload[at + _FRAME.size : at + _FRAME.size + size]
        parts += [_FRAME.pack(len(content), zlib.crc32(content)), content]
        at += _FRAME.size + max(1, size)
    return b"".join(parts)


def _batch(payload: bytes) -> None:
    message = codec.decode_up(payload)
    if codec.decode_up(codec.encode(message)) != message:
        raise Broken("what was understood cannot be said again")


def _envelope(payload: bytes) -> None:
    lines = payload.decode("utf-8", "replace").split("\n")
    Envelope.from_properties([(name, value) for name, _, value in (line.partition("=") for line in lines)])


def _topic(payload: bytes) -> None:
    parse_topic(payload.decode("utf-8", "replace"))


def _signed(dice: Random, payload: bytes) -> None:
    """Every second time signed as it is, for else the signature would stop nearly all."""
    if dice.random() < 0.5:
        payload = configuration.encode_signed(payload, SIGNER.sign(configuration.to_sign(payload)))
    read_signed(payload, SIGNER.public_key(), ADDRESS)


def _file(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)
    config.load(path)
