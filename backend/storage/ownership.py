"""Which partitions of the journal a process folds: all of them, or its share beside other replicas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from backend.storage.entries import Cursor

LEADER: Final = 0  # whoever owns this partition also does what is to be done once for all


@dataclass(frozen=True, slots=True)
class Holding:
    """The partitions that a process owns, each with its owner epoch. None: there is nobody else."""

    epochs: Mapping[int, int] | None = None

    @property
    def whole(self) -> bool:
        """Whether this process folds everything, and no other does."""
        return self.epochs is None

    @property
    def leads(self) -> bool:
        """Whether what is to be done once for all is done here."""
        return self.has(LEADER)

    @property
    def partitions(self) -> frozenset[int] | None:
        """The partitions; None for all."""
        return None if self.epochs is None else frozenset(self.epochs)

    def has(self, partition: int) -> bool:
        """Whether a partition is ours."""
        return self.epochs is None or partition in self.epochs

    def narrow(self, cursor: Cursor) -> Cursor:
        """What a cursor says of our lines."""
        if self.epochs is None:
            return cursor
        return Cursor({line: at for line, at in cursor.positions.items() if line in self.epochs})

    def epoch_of(self, line: int) -> int | None:
        """The epoch since which a line is ours; None where nobody else could own it."""
        return None if self.epochs is None else self.epochs[line]


EVERYTHING: Final = Holding()


class Ownership(Protocol):
    """What is ours now. It changes on the state's writer thread only, between transactions."""

    @property
    def holding(self) -> Holding: ...


@dataclass(frozen=True, slots=True)
class Sole:
    """The only process that there is."""

    holding: Holding = EVERYTHING
