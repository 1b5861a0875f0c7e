"""Which beacons a gateway relays: its allow-list. Everything else is forgotten on the spot."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from gateway.beacons import AltBeacon, Beacon, EddystoneEid, EddystoneUid, EddystoneUrl, IBeacon

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_NAMESPACE = re.compile(r"[0-9a-f]{20}")
_ALTBEACON = re.compile(r"([0-9a-f]{2}){1,20}")
_URL = re.compile(r"https?://[!-~]+")


@dataclass(frozen=True)
class AllowList:
    """Namespaces, never people. EIDs pass unlisted unless told otherwise: only the backend can name them.

    Telemetry is not allowed by itself: it follows the beacon whose address sent it (gateway/health.py).
    """

    ibeacon_uuids: frozenset[bytes] = frozenset()
    eddystone_namespaces: frozenset[bytes] = frozenset()
    altbeacon_prefixes: tuple[bytes, ...] = ()
    url_prefixes: tuple[str, ...] = ()
    eid: bool = True

    @classmethod
    def of(
        cls,
        *,
        ibeacons: Iterable[str] = (),
        eddystone_namespaces: Iterable[str] = (),
        altbeacon_prefixes: Iterable[str] = (),
        urls: Iterable[str] = (),
        eid: bool = True,
    ) -> Self:
        """From the lists of a configuration. Raises ValueError naming the bad entry.

        Case matters in URLs only; end a URL's host with a slash, or it lets longer hosts pass too.
        """
        return cls(
            frozenset(_hex(entry, _UUID, "an iBeacon UUID") for entry in ibeacons),
            frozenset(
                _hex(entry, _NAMESPACE, "an Eddystone namespace, 20 hexadecimal digits")
                for entry in eddystone_namespaces
            ),
            tuple(
                _hex(entry, _ALTBEACON, "the start of an AltBeacon id, 1 to 20 bytes in hexadecimal")
                for entry in altbeacon_prefixes
            ),
            tuple(
                _checked(entry, _URL, "the start of a URL, http:// or https:// and a host") for entry in urls
            ),
            eid,
        )

    def allows(self, beacon: Beacon) -> bool:
        """Whether this gateway relays what the beacon says."""
        match beacon:
            case IBeacon():
                return beacon.uuid_bytes in self.ibeacon_uuids
            case EddystoneUid():
                return beacon.namespace_bytes in self.eddystone_namespaces
            case EddystoneEid():
                return self.eid
            case AltBeacon():
                return beacon.id_bytes.startswith(self.altbeacon_prefixes)
            case EddystoneUrl():
                return beacon.url.startswith(self.url_prefixes)
        return False


def _hex(entry: object, shape: re.Pattern[str], meaning: str) -> bytes:
    text = entry.strip().lower() if isinstance(entry, str) else entry
    return bytes.fromhex(_checked(text, shape, meaning).replace("-", ""))


def _checked(entry: object, shape: re.Pattern[str], meaning: str) -> str:
    if not isinstance(entry, str) or not shape.fullmatch(entry):
        raise ValueError(f"allow-list entry {str(entry)[:80]!r} is not {meaning}")
    return entry
