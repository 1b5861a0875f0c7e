"""One timeline out of many sources, pure: positions, the window that a page shows, and how sources merge."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

TimelineKind: TypeAlias = Literal[
    "event", "order", "zone_visit", "store_visit", "fence_visit", "push", "segment", "consent", "merge"
]
TimelineChannel: TypeAlias = Literal["web", "app", "server", "floor", "push", "system", "unknown"]
Key: TypeAlias = int | str
KINDS: Final[tuple[TimelineKind, ...]] = (
    "event", "order", "zone_visit", "store_visit", "fence_visit", "push", "segment", "consent", "merge",
)  # fmt: skip
CHANNELS: Final[tuple[TimelineChannel, ...]] = (
    "web", "app", "server", "floor", "push", "system", "unknown",
)  # fmt: skip
_NUMBERED: Final = frozenset(KINDS) - {"push", "merge"}
_FIRST: Final[Key] = -(2**63)
_LAST: Final[Key] = 2**63 - 1
_FIRST_TEXT: Final[Key] = ""
_LAST_TEXT: Final[Key] = "zzzz"  # behind every id of ours, in every collation
_MAX_AT: Final = 2**53


class Position(NamedTuple):
    """Where something stands on the timeline: unix milliseconds, then kind and key to settle ties."""

    at: int
    kind: TimelineKind
    key: Key

    def __str__(self) -> str:
        return f"{self.at}.{self.kind}.{self.key}"


def position(text: str) -> Position:
    """A position from its text. Raises ValueError."""
    at, kind, key = text.split(".", 2)
    named = next((known for known in KINDS if known == kind), None)
    number = int(at)
    if named is None or not 0 <= number <= _MAX_AT:
        raise ValueError(text)
    if named not in _NUMBERED:
        return Position(number, named, key[:64])
    numbered = int(key)
    if not -(2**63) <= numbered < 2**63:
        raise ValueError(text)
    return Position(number, named, numbered)


@dataclass(frozen=True, slots=True)
class Item:
    """Something on the timeline; `until` where it lasted, in unix milliseconds."""

    position: Position
    channel: TimelineChannel
    title: str
    until: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """What one page asks for: `limit` items next to `edge`, older than it, or `newer`.

    Without an edge the newest, or with `newer` the oldest. `kinds` and `channel` leave out the others.
    """

    limit: int
    edge: Position | None = None
    newer: bool = False
    kinds: frozenset[TimelineKind] = frozenset(KINDS)
    channel: TimelineChannel | None = None

    def bound(self, kind: TimelineKind) -> tuple[int, Key]:
        """Time and key beyond which the items of one kind are on this page."""
        numbered = kind in _NUMBERED
        first, last = (_FIRST, _LAST) if numbered else (_FIRST_TEXT, _LAST_TEXT)
        if self.edge is None:
            return (-1, first) if self.newer else (_MAX_AT, last)
        if kind == self.edge.kind:
            return self.edge.at, self.edge.key
        return self.edge.at, last if kind < self.edge.kind else first

    def cut(self, items: Iterable[Item]) -> list[Item]:
        """Of items of one kind in memory those that are on this page, next to the edge first."""
        wanted = [item for item in items if self._shows(item)]
        return sorted(wanted, key=lambda item: item.position, reverse=not self.newer)[: self.limit]

    def _shows(self, item: Item) -> bool:
        if self.channel is not None and item.channel != self.channel:
            return False
        here, bound = (item.position.at, item.position.key), self.bound(item.position.kind)
        return here > bound if self.newer else here < bound


Source: TypeAlias = Callable[[Window], list[Item]]
"""Items of one kind that the window shows, next to its edge first, `limit` at most."""


def page(sources: Sequence[Source], window: Window) -> list[Item]:
    """The window's items out of all sources, always the newest first."""
    lists = [source(window) for source in sources]
    merged = heapq.merge(*lists, key=lambda item: item.position[:2], reverse=not window.newer)
    found = [item for item, _ in zip(merged, range(window.limit), strict=False)]
    return found[::-1] if window.newer else found
