"""What the conditions ask about people; whoever knows the answers satisfies `Facts` and `Crowd`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class EventFact(Protocol):
    """Something that a person did."""

    @property
    def at(self) -> int:
        """When, unix milliseconds."""
        ...

    @property
    def properties(self) -> Any:
        """The event's properties as JSON has them; None: it had none."""
        ...


@dataclass(frozen=True, slots=True)
class VisitFact:
    """A stay in a zone; `left_at` None while it lasts. Unix milliseconds."""

    store_id: str
    zone_id: str
    categories: Collection[str]
    entered_at: int
    left_at: int | None


@dataclass(frozen=True, slots=True)
class RfmFact:
    """A person's scores, 1 to 5, and the name of that cell."""

    recency: int
    frequency: int
    monetary: int
    name: str | None


class Facts(Protocol):
    """One person, asked for no more than the conditions need."""

    def trait(self, name: str) -> Any:
        """The trait as JSON has it; None where there is none."""
        ...

    def identifiers(self, kind: str) -> Collection[str]:
        """The person's identifiers of a kind."""
        ...

    def agrees(self, purpose: str) -> bool:
        """Whether the person agrees to a purpose."""
        ...

    def events(self, kinds: Sequence[str], name: str | None, since: int | None) -> Iterable[EventFact]:
        """What the person did after `since`, newest first; of any name where none is given."""
        ...

    def visits(self, since: int | None) -> Sequence[VisitFact]:
        """Stays that lasted beyond `since`."""
        ...

    def zones(self) -> Collection[tuple[str, str]]:
        """The zones that the person is in now, each as (store, zone)."""
        ...

    def stores(self) -> Collection[str]:
        """The stores that the person is in now."""
        ...

    def fences(self) -> Collection[tuple[str, str | None]]:
        """The geofences that the person is inside of now, each as (fence, store that it is around)."""
        ...

    def rfm(self) -> RfmFact | None:
        """The person's scores, if there are any."""
        ...

    def is_member(self, segment_id: str) -> bool:
        """Whether the person is in a segment."""
        ...


@dataclass(frozen=True, slots=True)
class _NothingKnown:
    """Satisfies Facts."""

    def trait(self, _name: str) -> None:
        return None

    def identifiers(self, _kind: str) -> Collection[str]:
        return ()

    def agrees(self, _purpose: str) -> bool:
        return False

    def events(self, _kinds: Sequence[str], _name: str | None, _since: int | None) -> Iterable[EventFact]:
        return ()

    def visits(self, _since: int | None) -> Sequence[VisitFact]:
        return ()

    def zones(self) -> Collection[tuple[str, str]]:
        return ()

    def stores(self) -> Collection[str]:
        return ()

    def fences(self) -> Collection[tuple[str, str | None]]:
        return ()

    def rfm(self) -> None:
        return None

    def is_member(self, _segment_id: str) -> bool:
        return False


NOTHING_KNOWN: Facts = _NothingKnown()
"""Somebody who did and said nothing yet."""


class Crowd(Protocol):
    """People who are asked together."""

    def of(self, person_id: str) -> Facts:
        """One of them."""
        ...

    def events(self, kinds: Sequence[str], name: str | None) -> Mapping[str, Sequence[EventFact]]:
        """What each of them did, newest first; of any name where none is given. Who did nothing may be left
        out, and so may what is longer ago than any condition asks for.
        """
        ...
