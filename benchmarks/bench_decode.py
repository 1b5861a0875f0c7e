"""Decoding speed: ours against beacontools and bleparser in one run, and an advert's whole way through ours.

    .venv/bin/python benchmarks/bench_decode.py

Six kinds of frame, ten of each, in turn. Each library gets what it was made for: ours the mappings that bleak
hands out, the others the packet; "ours, from the packet" also splits the packet, in plain Python, which on a
gateway BlueZ does. "Every payload new" gives no payload twice, so nothing is remembered. The best of five
rounds counts; on a busy machine trust the ratios.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.aggregate import Aggregator
from gateway.allow import AllowList
from gateway.app import Listener
from gateway.beacons import APPLE, EDDYSTONE, decode
from gateway.presence import Presence
from gateway.scanner import Hearing

HOW_TO_GET_THEM = """\
is missing. The comparison has an environment of its own:
    python3 -m venv bench-venv && bench-venv/bin/pip install -r requirements/bench.in msgspec
    bench-venv/bin/python benchmarks/bench_decode.py"""
ROUNDS = 5
KINDS = ("ibeacon", "altbeacon", "uid", "url", "tlm", "eid")
Advertisement = tuple[dict[int, bytes], dict[str, bytes]]


def advertisement(kind: str, number: int, random: bytes) -> Advertisement:
    """As bleak hands it out; `random` is 16 bytes."""
    tail = number.to_bytes(4, "big")
    if kind == "ibeacon":
        return {APPLE: b"\x02\x15" + random + tail + b"\xc5"}, {}
    if kind == "altbeacon":
        return {0x0118: b"\xbe\xac" + random + tail + b"\xc5\x00"}, {}
    frames = {
        "uid": b"\x00\xee" + random[:12] + tail + b"\x00\x00",
        "url": b"\x10\xee\x03" + random.hex()[:8].encode() + b"\x07",
        "tlm": b"\x20\x00\x0b\xb8\x15\x19" + random[:4] + tail,
        "eid": b"\x30\xee" + random[:4] + tail,
    }
    return {}, {EDDYSTONE: frames[kind]}


def packet(advert: Advertisement) -> bytes:
    """The advertising data on air."""
    manufacturer, service = advert
    parts = [b"\x02\x01\x06"]
    for company, data in manufacturer.items():
        parts.append(bytes([len(data) + 3, 0xFF]) + company.to_bytes(2, "little") + data)
    for data in service.values():
        parts += [b"\x03\x03\xaa\xfe", bytes([len(data) + 3, 0x16]), b"\xaa\xfe", data]
    return b"".join(parts)


def hci_event(data: bytes) -> bytes:
    """The packet as a controller reports it, which bleparser wants."""
    body = b"\x02\x01\x00\x00" + bytes(range(6)) + bytes([len(data)]) + data + b"\xc5"
    return b"\x04\x3e" + bytes([len(body)]) + body


def split(data: bytes) -> Advertisement:
    """A packet into bleak's mappings."""
    manufacturer: dict[int, bytes] = {}
    service: dict[str, bytes] = {}
    at = 0
    while at + 1 < len(data):
        end = at + 1 + data[at]
        kind = data[at + 1]
        if kind == 0xFF:
            manufacturer[data[at + 2] | data[at + 3] << 8] = data[at + 4 : end]
        elif kind == 0x16:
            service[f"0000{data[at + 3]:02x}{data[at + 2]:02x}-0000-1000-8000-00805f9b34fb"] = data[
                at + 4 : end
            ]
        at = end
    return manufacturer, service


def rate(call: Callable[[Any], object], inputs: Sequence[Any], repeat: int = 1) -> float:
    """Calls a second over all inputs."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        gc.collect()
        begin = time.perf_counter()
        for _ in range(repeat):
            for item in inputs:
                call(item)
        fastest = min(fastest, time.perf_counter() - begin)
    return len(inputs) * repeat / fastest


def rate_of_new(call: Callable[[Any], object], kinds: Sequence[str] = KINDS) -> float:
    """Calls a second when every payload is met for the first time."""
    return max(_new_round(call, kinds, 3000) for _ in range(ROUNDS))


def _new_round(call: Callable[[Any], object], kinds: Sequence[str], count: int) -> float:
    inputs = [advertisement(kinds[n % len(kinds)], n, os.urandom(16)) for n in range(count)]
    gc.collect()
    begin = time.perf_counter()
    for item in inputs:
        call(item)
    return count / (time.perf_counter() - begin)


def others() -> list[tuple[str, Callable[[Any], object], Callable[[bytes], bytes]]]:
    """The libraries that are installed: name, decoder and what it takes; says how to get the missing."""
    found: list[tuple[str, Callable[[Any], object], Callable[[bytes], bytes]]] = []
    for name in ("beacontools", "bleparser"):
        try:
            module = import_module(name)
        except ImportError:
            print(name, HOW_TO_GET_THEM)
            continue
        if name == "beacontools":
            found.append((name, module.parse_packet, lambda data: data))
        else:
            found.append((name, module.BleParser().parse_raw_data, hci_event))
    return found


def answer(call: Callable[[Any], object], item: Any) -> str:
    """What the decoder makes of the packet."""
    try:
        told = call(item)
    except Exception as error:  # noqa: BLE001 - whatever a foreign decoder throws is its answer
        return type(error).__name__
    parts = told if isinstance(told, tuple) else (told,)
    return "decoded" if any(part is not None for part in parts) else "nothing"


def decode_pair(advert: Advertisement) -> object:
    return decode(advert[0], advert[1])


def compare(adverts: Sequence[Advertisement]) -> None:
    ours = rate(decode_pair, adverts, repeat=500)
    from_packet = rate(
        lambda data: decode_pair(split(data)), [packet(advert) for advert in adverts], repeat=100
    )
    new = rate_of_new(decode_pair)
    print(f"ours                     {ours:12,.0f}/s")
    print(f"ours, every payload new  {new:12,.0f}/s")
    print(f"ours, from the packet    {from_packet:12,.0f}/s")
    for name, call, wrap in others():
        against(
            name, call, [(kind, wrap(packet(advert))) for kind, advert in zip(KINDS, adverts, strict=False)]
        )


def against(name: str, call: Callable[[Any], object], inputs: list[tuple[str, Any]]) -> None:
    """Compares on all kinds it does not fail on, and on those alone that it decodes."""
    answers = {kind: answer(call, item) for kind, item in inputs}
    repeat = 200 if name == "bleparser" else 20
    for title, wanted in (("all kinds", ("decoded", "nothing")), ("kinds it decodes", ("decoded",))):
        kinds = [kind for kind in KINDS if answers[kind] in wanted]
        theirs = rate(call, [item for kind, item in inputs if kind in kinds], repeat)
        adverts = [advertisement(kind, 1, bytes(range(16))) for kind in kinds]
        ours = rate(decode_pair, adverts, repeat=5000) / theirs
        new = rate_of_new(decode_pair, kinds) / theirs
        print(f"{name}, {title}: {theirs:,.0f}/s; ours is {ours:,.0f}×, every payload new {new:,.1f}×")
    print("   ", ", ".join(f"{kind}: {told}" for kind, told in answers.items()))


def whole_path(adverts: Sequence[Advertisement]) -> float:
    """Adverts a second through decode, allow-list, aggregation and presence, the clock running on."""
    allow = AllowList.of(
        ibeacons=[next(iter(a[0].values()))[2:18].hex() for a in adverts if APPLE in a[0]],
        eddystone_namespaces=[f[2:12].hex() for _, a in adverts for f in a.values() if f[0] == 0],
        altbeacon_prefixes=[f[2:4].hex() for a, _ in adverts for f in a.values() if len(f) == 24],
        urls=["https://" + f[3:4].decode() for _, a in adverts for f in a.values() if f[0] == 0x10],
    )
    presence, aggregator = Presence(), Aggregator()
    now = 0

    def heard(advert: Advertisement) -> None:
        nonlocal now
        now += 1
        beacon = decode(advert[0], advert[1])
        if beacon is not None and allow.allows(beacon):
            key = beacon.key
            aggregator.add(key, now, -60 - (now & 15))
            if presence.heard(key, now, -60 - (now & 15)):
                aggregator.note_range(key, now, True)
            if now % 1000 == 0:
                presence.expire(now)
                aggregator.close(now, "")

    return rate(heard, adverts, repeat=1000)


class BenchClock:
    """A clock that the benchmark turns."""

    boot_id = ""

    def __init__(self) -> None:
        self.now = 0

    def boot_ms(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return self.now

    def synchronised(self) -> bool:
        return False


def listener_path(beacons: int = 1000) -> float:
    """Adverts a second from the radio's callback to closed batches, through the gateway's own Listener.

    Every beacon ten times a second, batches closed twice a second, as on a gateway.
    """
    adverts = [
        (f"C0:00:00:00:{n >> 8:02X}:{n & 255:02X}", *advertisement("ibeacon", n, bytes(range(16))))
        for n in range(beacons)
    ]
    allow = AllowList.of(ibeacons=[bytes(range(16)).hex()])
    clock = BenchClock()
    listener = Listener(allow, Presence(), Hearing(frozenset(), 30_000, 0), clock)

    def half_second(_round: int) -> None:
        for tenth in range(5):
            clock.now += 100
            for address, manufacturer, service in adverts:
                listener.heard(address, manufacturer, service, -60 - tenth)
        listener.close()

    return rate(half_second, range(20)) * 5 * beacons


def main() -> None:
    adverts = [advertisement(kind, number, bytes(range(16))) for number in range(10) for kind in KINDS]
    compare(adverts)
    named = [advert for advert in adverts if advert[1].get(EDDYSTONE, b"\x00")[0] != 0x20]
    print(f"decode, allow, aggregate, presence {whole_path(named):,.0f} adverts/s (goal 300,000)")
    print(f"callback to closed batches, 1,000 beacons {listener_path():,.0f} adverts/s (goal 300,000)")


if __name__ == "__main__":
    main()
