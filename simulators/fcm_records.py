"""What the FCM simulator remembers: the log of accepted messages, the registered addresses, their rates."""

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

REPLAY_LINES = 500  # how much of the log one turn of a reader takes, so that others get their turn


class LineLog:
    """An append-only file of JSON lines; a line is written when `append` returns, so it outlives a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)
        self._starts = array("q")
        self._end = self._index()

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, line: bytes) -> int:
        """The number of the line just written, from 1."""
        self._file.write(line + b"\n")
        self._starts.append(self._end)
        self._end += len(line) + 1
        return len(self._starts)

    def after(self, number: int, most: int = REPLAY_LINES) -> list[bytes]:
        """Up to `most` lines that follow line `number`."""
        if number >= len(self):
            return []
        stop = number + most
        end = self._starts[stop] if stop < len(self) else self._end
        self._file.seek(self._starts[number])
        return self._file.read(end - self._starts[number]).splitlines()

    def close(self) -> None:
        self._file.close()

    def _index(self) -> int:
        """Finds the lines of an earlier life, and cuts off one that a kill left half written."""
        end = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._starts.append(end)
                    end += len(line)
        self._file.truncate(end)
        return end


class Address(Struct, forbid_unknown_fields=True, frozen=True):
    """A registered app instance."""

    value: Annotated[str, Meta(min_length=1, max_length=4096)]
    kind: Literal["token", "fid"] = "token"


class AddressBook:
    """Which addresses are registered; survives a restart."""

    def __init__(self, path: Path) -> None:
        self._log = LineLog(path)
        self._known: set[Address] = set()
        for number in range(0, len(self._log), REPLAY_LINES):
            for line in self._log.after(number):
                entry = json.loads(line)
                self._apply(Address(entry["value"], entry["kind"]), entry["registered"])

    def __contains__(self, wanted: Address) -> bool:
        return wanted in self._known

    def set(self, entry: Address, registered: bool) -> None:
        self._apply(entry, registered)
        self._log.append(
            msgspec.json.encode({"kind": entry.kind, "value": entry.value, "registered": registered})
        )

    def close(self) -> None:
        self._log.close()

    def _apply(self, entry: Address, registered: bool) -> None:
        (self._known.add if registered else self._known.discard)(entry)


@dataclass
class DeviceRate:
    """Messages of the current minute to each address."""

    most: int
    minute: int = -1
    sent: Counter[str] = field(default_factory=Counter)

    def allows(self, value: str, now_s: float) -> bool:
        minute = int(now_s // 60)
        if minute != self.minute:
            self.minute, self.sent = minute, Counter()
        self.sent[value] += 1
        return self.sent[value] <= self.most
