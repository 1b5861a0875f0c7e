"""Legacy advertising packets: what fits into 31 bytes on the air, and what only a scan response carries."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LEGACY_BYTES = 31  # Bluetooth Core Specification, volume 6, part B, 2.3.1: AdvData and ScanRspData

FLAGS, UUIDS_16, SERVICE_16, SERVICE_32, SERVICE_128, NAME, MANUFACTURER = 0x01, 3, 0x16, 0x20, 0x21, 9, 0xFF
_FLAGS_VALUE = b"\x06"  # LE general discoverable, BR/EDR not supported
_FLAGS_SIZE = 3
_EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"
_SHORT_UUID = re.compile(r"([0-9a-f]{4})([0-9a-f]{4})-0000-1000-8000-00805f9b34fb")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class PacketTooLong(ValueError):
    """The data fits into no legacy advertisement, nor into one with its scan response."""


@dataclass(frozen=True, slots=True)
class Content:
    """What BlueZ reads from one advertisement."""

    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)
    service_data: Mapping[str, bytes] = field(default_factory=dict)
    service_uuids: Sequence[str] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _Item:
    """One AD structure, with what it says."""

    kind: int
    value: bytes
    content: Content

    @property
    def size(self) -> int:
        return 2 + len(self.value)


@dataclass(frozen=True, slots=True)
class Packet:
    """An advertisement and its scan response. `passive` is what a scanner hears that never asks back.

    `structures` are the advertisement's AD structures as (type, value), against which or-patterns match.
    """

    passive: Content
    active: Content
    structures: tuple[tuple[int, bytes], ...]


def compose(
    manufacturer_data: Mapping[int, bytes], service_data: Mapping[str, bytes], name: str | None = None
) -> Packet:
    """The packet of a legacy advertiser: first come, first in; the rest goes into the scan response.

    Flags are left out where the data needs their room, as AirPods do. Raises PacketTooLong;
    ValueError for a company id or a UUID that is none.
    """
    items = [*_service_items(service_data), *_manufacturer_items(manufacturer_data), *_name_items(name)]
    advertised, answered = _split(items)
    structures = tuple((item.kind, item.value) for item in advertised)
    if sum(item.size for item in advertised) <= LEGACY_BYTES - _FLAGS_SIZE:
        structures = ((FLAGS, _FLAGS_VALUE), *structures)
    heard = _content(advertised)
    return Packet(heard, _content([*advertised, *answered]) if answered else heard, structures)


def encode(structures: Iterable[tuple[int, bytes]]) -> bytes:
    """AD structures as the bytes on the air."""
    return b"".join(bytes((1 + len(value), kind)) + value for kind, value in structures)


def matches(packet: Packet, patterns: Iterable[tuple[int, int, bytes]]) -> bool:
    """Whether one of BlueZ's or-patterns (start, AD type, bytes) is in the advertisement itself."""
    return any(
        kind == wanted and value[start : start + len(pattern)] == pattern
        for start, wanted, pattern in patterns
        for kind, value in packet.structures
    )


def _split(items: Sequence[_Item]) -> tuple[list[_Item], list[_Item]]:
    """What goes into the advertisement and what into the scan response. Flags yield to the first item."""
    whole = sum(item.size for item in items)
    flags = 0 if whole <= LEGACY_BYTES or items[0].size > LEGACY_BYTES - _FLAGS_SIZE else _FLAGS_SIZE
    room = {"advertised": LEGACY_BYTES - flags, "answered": LEGACY_BYTES}
    taken: dict[str, list[_Item]] = {"advertised": [], "answered": []}
    for item in items:
        place = next((place for place, left in room.items() if item.size <= left), None)
        if place is None:
            raise PacketTooLong(
                f"{whole} bytes of advertising data do not fit into {LEGACY_BYTES} "
                f"and a scan response of {LEGACY_BYTES}"
            )
        room[place] -= item.size
        taken[place].append(item)
    return taken["advertised"], taken["answered"]


def _content(items: Iterable[_Item]) -> Content:
    manufacturer: dict[int, bytes] = {}
    service: dict[str, bytes] = {}
    uuids: list[str] = []
    name = None
    for item in items:
        manufacturer.update(item.content.manufacturer_data)
        service.update(item.content.service_data)
        uuids.extend(item.content.service_uuids)
        name = item.content.name or name
    return Content(manufacturer, service, tuple(uuids), name)


def _service_items(service_data: Mapping[str, bytes]) -> list[_Item]:
    items = []
    for uuid, value in service_data.items():
        kind, encoded = _uuid_bytes(uuid)
        if uuid == _EDDYSTONE:  # the Eddystone specification asks for the list of services beside the data
            items.append(_Item(UUIDS_16, encoded, Content(service_uuids=(uuid,))))
        items.append(_Item(kind, encoded + value, Content(service_data={uuid: value})))
    return items


def _manufacturer_items(manufacturer_data: Mapping[int, bytes]) -> list[_Item]:
    items = []
    for company, value in manufacturer_data.items():
        if not 0 <= company <= 0xFFFF:
            raise ValueError(f"company id {company} lies outside 0 to 65535")
        content = Content(manufacturer_data={company: value})
        items.append(_Item(MANUFACTURER, company.to_bytes(2, "little") + value, content))
    return items


def _name_items(name: str | None) -> list[_Item]:
    return [] if name is None else [_Item(NAME, name.encode(), Content(name=name))]


def _uuid_bytes(uuid: str) -> tuple[int, bytes]:
    """The AD type and the little-endian bytes of a service UUID, in its shortest form."""
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is no UUID of 32 lower-case digits with dashes")
    short = _SHORT_UUID.fullmatch(uuid)
    if short is None:
        return SERVICE_128, bytes.fromhex(uuid.replace("-", ""))[::-1]
    if short[1] == "0000":
        return SERVICE_16, bytes.fromhex(short[2])[::-1]
    return SERVICE_32, bytes.fromhex(short[1] + short[2])[::-1]
