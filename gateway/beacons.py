"""Advertised bytes to beacons: iBeacon, AltBeacon, the five Eddystone frames; nothing else, never an error.

Sources: Apple "Proximity Beacon Specification" R1, "AltBeacon Protocol Specification v1.0", Google "Eddystone
Protocol Specification" (UID, URL, TLM, eTLM, EID). Choices where those leave room, or where bytes break them:

* A frame of the wrong length, Eddystone version or frame type (its low four bits included) is no beacon: the
  length is all that tells a truncated identity from a whole one.
* A reserved URL scheme or code refuses the frame, for a URL with a hole in it names another page. The two
  bytes reserved at the end of a UID may be missing or hold anything; they are not part of the identity.
* AltBeacon allows 0 to −127 dBm at 1 m: other values are kept out of `power_at_1m`, the identity counts.
* BlueZ hands out everything a device has sent so far, merged: an entry per company, one for all of Eddystone.
  Manufacturer data wins, then Eddystone: telemetry replaces a UID in the merged entry every few seconds, but
  never an iBeacon, so a device that sends both keeps one name instead of swapping two. So telemetry hides no
  identity; `decode_all` gives every frame to those who want the telemetry beside the name.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from struct import Struct as Layout
from typing import ClassVar, Final, TypeAlias

from msgspec import Struct

APPLE: Final = 0x004C
EDDYSTONE: Final = "0000feaa-0000-1000-8000-00805f9b34fb"
FIRST_METRE_DB: Final = 41  # what Eddystone says a signal loses from 0 m to 1 m
REMEMBERED: Final = 4096  # payloads kept decoded; a stranger inventing identities may fill no more than 2 MB


class IBeacon(Struct, frozen=True, dict=True):
    """Apple's frame. `power_at_1m` is the RSSI in dBm that its maker measured at one metre."""

    kind: ClassVar[str] = "ibeacon"
    uuid_bytes: bytes
    major: int
    minor: int
    power_at_1m: int

    @cached_property
    def uuid(self) -> str:
        """Lower case, with dashes."""
        text = self.uuid_bytes.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    @cached_property
    def key(self) -> str:
        return f"ibeacon:{self.uuid}:{self.major}:{self.minor}"


class AltBeacon(Struct, frozen=True, dict=True):
    """Radius Networks' open frame, under any company's id; `reserved` is the byte left to the maker."""

    kind: ClassVar[str] = "altbeacon"
    id_bytes: bytes
    sent_power: int
    reserved: int

    @property
    def power_at_1m(self) -> int | None:
        return self.sent_power if -127 <= self.sent_power <= 0 else None

    @cached_property
    def id(self) -> str:
        """40 lower-case hexadecimal digits."""
        return self.id_bytes.hex()

    @cached_property
    def key(self) -> str:
        return f"altbeacon:{self.id_bytes.hex()}"


class EddystoneUid(Struct, frozen=True, dict=True):
    """A fixed identity: ten bytes of namespace, six of instance."""

    kind: ClassVar[str] = "eddystone-uid"
    power_at_0m: int
    namespace_bytes: bytes
    instance_bytes: bytes

    @property
    def power_at_1m(self) -> int:
        return self.power_at_0m - FIRST_METRE_DB

    @cached_property
    def namespace(self) -> str:
        """20 lower-case hexadecimal digits."""
        return self.namespace_bytes.hex()

    @cached_property
    def instance(self) -> str:
        """12 lower-case hexadecimal digits."""
        return self.instance_bytes.hex()

    @cached_property
    def key(self) -> str:
        return f"eddystone-uid:{self.namespace}:{self.instance}"


class EddystoneUrl(Struct, frozen=True, dict=True):
    """A web address, expanded."""

    kind: ClassVar[str] = "eddystone-url"
    power_at_0m: int
    url: str

    @property
    def power_at_1m(self) -> int:
        return self.power_at_0m - FIRST_METRE_DB

    @cached_property
    def key(self) -> str:
        return f"eddystone-url:{self.url}"


class EddystoneEid(Struct, frozen=True, dict=True):
    """A rotating identity of eight bytes, which only the holder of the beacon's key can name."""

    kind: ClassVar[str] = "eddystone-eid"
    power_at_0m: int
    eid_bytes: bytes

    @property
    def power_at_1m(self) -> int:
        return self.power_at_0m - FIRST_METRE_DB

    @cached_property
    def eid(self) -> str:
        """16 lower-case hexadecimal digits."""
        return self.eid_bytes.hex()

    @cached_property
    def key(self) -> str:
        return f"eddystone-eid:{self.eid}"


class EddystoneTlm(Struct, frozen=True, gc=False):
    """Telemetry. It names no beacon: gateway/health.py finds whose it is. None is "not measured"."""

    kind: ClassVar[str] = "eddystone-tlm"
    key: ClassVar[str] = "eddystone-tlm"
    power_at_1m: ClassVar[None] = None
    battery_mv: int | None
    temperature_c: float | None
    adverts: int
    uptime_s: float


class EddystoneEtlm(Struct, frozen=True, gc=False):
    """Telemetry encrypted with a beacon's identity key; the backend opens it."""

    kind: ClassVar[str] = "eddystone-etlm"
    key: ClassVar[str] = "eddystone-etlm"
    power_at_1m: ClassVar[None] = None
    ciphertext: bytes
    salt: bytes
    mic: bytes


Identity: TypeAlias = IBeacon | AltBeacon | EddystoneUid | EddystoneUrl | EddystoneEid
Telemetry: TypeAlias = EddystoneTlm | EddystoneEtlm
Beacon: TypeAlias = Identity | Telemetry

_Parse: TypeAlias = Callable[[bytes], Beacon | None]

_IBEACON = Layout(">2x16sHHb")
_ALTBEACON = Layout(">2x20sbB")
_UID = Layout(">xb10s6s")
_EID = Layout(">xb8s")
_TLM = Layout(">2xHhII")
_ETLM = Layout(">2x12s2s2s")

_SCHEMES = {0: "http://www.", 1: "https://www.", 2: "http://", 3: "https://"}
_ENDINGS = (".com", ".org", ".edu", ".net", ".info", ".biz", ".gov")
_URL_CODES: dict[int, str] = (
    {code: ending + "/" for code, ending in enumerate(_ENDINGS)}
    | dict(enumerate(_ENDINGS, start=len(_ENDINGS)))
    | {code: chr(code) for code in range(0x21, 0x7F)}
)


def decode(manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes]) -> Beacon | None:
    """The beacon that an advertisement names, or None; which of several is told at the top of the file."""
    if manufacturer_data:
        beacon = _ibeacon(manufacturer_data.get(APPLE))
        if beacon is not None:
            return beacon
        for payload in manufacturer_data.values():
            beacon = _altbeacon(payload)
            if beacon is not None:
                return beacon
    if service_data:
        return _eddystone(service_data.get(EDDYSTONE))
    return None


def decode_all(manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes]) -> list[Beacon]:
    """Every frame in the advertisement, the one that `decode` gives first."""
    frames: list[Beacon] = []
    if manufacturer_data:
        beacon = _ibeacon(manufacturer_data.get(APPLE))
        if beacon is not None:
            frames.append(beacon)
            if len(manufacturer_data) == 1 and not service_data:  # nearly every advert of a shop
                return frames
        for payload in manufacturer_data.values():
            beacon = _altbeacon(payload)
            if beacon is not None:
                frames.append(beacon)
    if service_data:
        beacon = _eddystone(service_data.get(EDDYSTONE))
        if beacon is not None:
            frames.append(beacon)
    return frames


def _remembering(*lengths: int) -> Callable[[_Parse], Callable[[object], Beacon | None]]:
    """Lets a parser see bytes of these lengths only, and each payload once: beacons repeat all day."""

    def remember(parse: _Parse) -> Callable[[object], Beacon | None]:
        possible = frozenset(lengths)
        seen: dict[bytes, Beacon] = {}

        def frame(payload: object) -> Beacon | None:
            if type(payload) is not bytes or len(payload) not in possible:
                return None
            beacon = seen.get(payload)
            if beacon is None:
                beacon = parse(payload)
                if beacon is not None:
                    if len(seen) >= REMEMBERED:
                        seen.clear()
                    seen[payload] = beacon
            return beacon

        return frame

    return remember


@_remembering(23)
def _ibeacon(payload: bytes) -> Beacon | None:
    return IBeacon(*_IBEACON.unpack(payload)) if payload.startswith(b"\x02\x15") else None


@_remembering(24)
def _altbeacon(payload: bytes) -> Beacon | None:
    return AltBeacon(*_ALTBEACON.unpack(payload)) if payload.startswith(b"\xbe\xac") else None


@_remembering(*range(4, 21))
def _eddystone(payload: bytes) -> Beacon | None:
    parse = _EDDYSTONE_FRAMES.get(payload[0])
    return parse(payload) if parse is not None else None


def _uid(payload: bytes) -> Beacon | None:
    return EddystoneUid(*_UID.unpack_from(payload)) if len(payload) in (18, 20) else None


def _url(payload: bytes) -> Beacon | None:
    scheme = _SCHEMES.get(payload[2])
    if scheme is None:
        return None
    try:
        rest = "".join([_URL_CODES[code] for code in payload[3:]])
    except KeyError:  # a reserved code
        return None
    power = payload[1]
    return EddystoneUrl(power - 256 if power > 127 else power, scheme + rest)


def _telemetry(payload: bytes) -> Beacon | None:
    version = payload[1]
    if version == 0 and len(payload) == 14:
        battery, temperature, adverts, tenths = _TLM.unpack(payload)
        return EddystoneTlm(
            battery or None, None if temperature == -0x8000 else temperature / 256, adverts, tenths / 10
        )
    if version == 1 and len(payload) == 18:
        return EddystoneEtlm(*_ETLM.unpack(payload))
    return None


def _eid(payload: bytes) -> Beacon | None:
    return EddystoneEid(*_EID.unpack(payload)) if len(payload) == 10 else None


_EDDYSTONE_FRAMES: dict[int, _Parse] = {
    0x00: _uid,
    0x10: _url,
    0x20: _telemetry,
    0x30: _eid,
}
