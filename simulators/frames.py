"""Beacon frames as bleak delivers them: iBeacon, AltBeacon and Eddystone, encoded from their specifications.

Written apart from the gateway's decoder on purpose, so that a test of one against the other means something.
"""

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

APPLE = 0x004C
RADIUS_NETWORKS = 0x0118
EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"
ROTATING = "eddystone-eid:"  # how the keys of rotating ids begin

_SCHEMES = ("http://www.", "https://www.", "http://", "https://")
_DOMAINS = (".com", ".org", ".edu", ".net", ".info", ".biz", ".gov")
_EXPANSIONS = [(domain + "/", code) for code, domain in enumerate(_DOMAINS)] + [
    (domain, code + 7) for code, domain in enumerate(_DOMAINS)
]
_UNSUPPORTED_TEMPERATURE = -0x8000  # Eddystone-TLM: 0x8000 says that the beacon has no thermometer


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame in bleak's two mappings. `key` is the canonical text of the beacon it names."""

    key: str
    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)
    service_data: Mapping[str, bytes] = field(default_factory=dict)


def ibeacon(proximity_uuid: str, major: int, minor: int, power_at_1m: int = -59) -> Frame:
    """Apple's iBeacon; `power_at_1m` in dBm. Raises ValueError, struct.error for what does not fit."""
    named = uuid.UUID(proximity_uuid)
    payload = b"\x02\x15" + named.bytes + struct.pack(">HHb", major, minor, power_at_1m)
    return Frame(f"ibeacon:{named}:{major}:{minor}", {APPLE: payload})


def altbeacon(
    beacon_id: bytes, rssi_at_1m: int = -59, reserved: int = 0, company: int = RADIUS_NETWORKS
) -> Frame:
    """AltBeacon under any company; `beacon_id` has 20 bytes, `rssi_at_1m` is 0 to −127 dBm."""
    _check_size("an AltBeacon id", beacon_id, 20)
    payload = b"\xbe\xac" + beacon_id + struct.pack(">bB", rssi_at_1m, reserved)
    return Frame(f"altbeacon:{beacon_id.hex()}", {company: payload})


def eddystone_uid(namespace: bytes, instance: bytes, power_at_0m: int = -18, reserved: bool = True) -> Frame:
    """Eddystone-UID: 10 and 6 bytes, power in dBm at 0 m; without `reserved` the short form of 18 bytes."""
    _check_size("a namespace", namespace, 10)
    _check_size("an instance", instance, 6)
    payload = struct.pack(">Bb", 0x00, power_at_0m) + namespace + instance + bytes(2 if reserved else 0)
    return _eddystone(f"eddystone-uid:{namespace.hex()}:{instance.hex()}", payload)


def eddystone_url(url: str, power_at_0m: int = -18) -> Frame:
    """Eddystone-URL with the specification's abbreviations. Raises ValueError where it has no encoding."""
    code, scheme = next(((c, s) for c, s in enumerate(_SCHEMES) if url.startswith(s)), (None, ""))
    if code is None:
        raise ValueError(f"{url!r} begins with none of {', '.join(_SCHEMES)}")
    encoded = _compress(url.removeprefix(scheme))
    if not 1 <= len(encoded) <= 17:
        raise ValueError(f"{url!r} takes {len(encoded)} bytes; an Eddystone-URL holds 1 to 17")
    return _eddystone(f"eddystone-url:{url}", struct.pack(">BbB", 0x10, power_at_0m, code) + encoded)


def eddystone_tlm(battery_mv: int, temperature_c: float | None, adverts: int, uptime_s: float) -> Frame:
    """Plain telemetry, which names nobody. 0 mV: mains; None °C: no thermometer; uptime in 0.1 s steps."""
    temperature = _UNSUPPORTED_TEMPERATURE if temperature_c is None else round(temperature_c * 256)
    payload = struct.pack(">BBHhII", 0x20, 0x00, battery_mv, temperature, adverts, round(uptime_s * 10))
    return _eddystone("eddystone-tlm", payload)


def eddystone_eid(ephemeral: bytes, power_at_0m: int = -18) -> Frame:
    """Eddystone-EID with an identifier of 8 bytes, such as `ephemeral_id` gives."""
    _check_size("an ephemeral identifier", ephemeral, 8)
    return _eddystone(f"{ROTATING}{ephemeral.hex()}", struct.pack(">Bb", 0x30, power_at_0m) + ephemeral)


def ephemeral_id(identity_key: bytes, beacon_time_s: int, exponent: int) -> bytes:
    """The EID that a beacon shows at a time of its own clock; it changes every 2**exponent seconds.

    From Google's eddystone-eid/eid-computation.md; exponent K is 0 to 15.
    """
    _check_size("an identity key", identity_key, 16)
    if not 0 <= exponent <= 15:
        raise ValueError(f"the rotation exponent {exponent} lies outside 0 to 15")
    block = bytes(11) + b"\xff" + bytes(2) + struct.pack(">H", (beacon_time_s >> 16) & 0xFFFF)
    temporary_key = _aes(identity_key, block)
    quantised = (beacon_time_s >> exponent) << exponent
    return _aes(temporary_key, bytes(11) + struct.pack(">BI", exponent, quantised))[:8]


def _eddystone(key: str, payload: bytes) -> Frame:
    return Frame(key, service_data={EDDYSTONE: payload})


def _aes(key: bytes, block: bytes) -> bytes:
    cipher = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - one block, as the EID computation defines it
    return cipher.update(block) + cipher.finalize()


def _compress(rest: str) -> bytes:
    encoded = bytearray()
    while rest:
        text, code = next(((t, c) for t, c in _EXPANSIONS if rest.startswith(t)), (rest[0], ord(rest[0])))
        if len(text) == 1 and not 0x21 <= code <= 0x7E:
            raise ValueError(f"{text!r} has no encoding in an Eddystone-URL")
        encoded.append(code)
        rest = rest[len(text) :]
    return bytes(encoded)


def _check_size(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"{what} has {size} bytes, not {len(value)}")
