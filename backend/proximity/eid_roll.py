"""Who the registered rotating beacons are: numbers, which tables answer with, and the keys people know."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "eid:"
_NAME_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SealedBeacon:
    """A registered beacon as it is stored. `clock_ahead_s` is its counter of seconds minus unix time."""

    number: int
    beacon_key: str
    wrapped_key: bytes
    clock_ahead_s: int


def stable_key(random_bytes: bytes) -> str:
    """A new beacon's key, `eid:<uuid>`, from 16 random bytes: it says nothing, and nobody can guess it."""
    return f"{PREFIX}{uuid.UUID(bytes=random_bytes, version=4)}"


@dataclass(frozen=True, slots=True)
class Roll:
    """The beacons by number, 16 bytes each: a million are 16 MB, as texts they would be 100."""

    _names: bytearray = field(default_factory=bytearray)
    counts: Mapping[int, int] = field(default_factory=dict)
    """How many beacons each rotation exponent has."""

    @classmethod
    def of(cls, beacons: Iterable[tuple[int, str]], counts: Mapping[int, int]) -> "Roll":
        """From numbers in rising order and their keys."""
        names = bytearray()
        for number, key in beacons:
            names.extend(bytes(_NAME_BYTES * (number + 1) - len(names)))
            names[-_NAME_BYTES:] = uuid.UUID(key.removeprefix(PREFIX)).bytes
        return cls(names, counts)

    @property
    def size(self) -> int:
        """One more than the highest number."""
        return len(self._names) // _NAME_BYTES

    def name(self, number: int) -> str | None:
        """The key of the beacon with a number; None for one that is registered no more."""
        name = bytes(self._names[_NAME_BYTES * number : _NAME_BYTES * (number + 1)])
        return f"{PREFIX}{uuid.UUID(bytes=name)}" if any(name) else None

    def strike(self, key: str) -> None:
        """The beacon of this key is nobody from now on, before any table is made anew."""
        name, at = uuid.UUID(key.removeprefix(PREFIX)).bytes, 0
        while (at := self._names.find(name, at)) >= 0:
            if at % _NAME_BYTES == 0:
                self._names[at : at + _NAME_BYTES] = bytes(_NAME_BYTES)
            at += 1
