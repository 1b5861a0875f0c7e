"""What a campaign brought: its funnel and its uplift, from what became of each person. Pure.

A person counts once, by their first decision of the campaign that was sent or held out; so both groups are
those who passed every rule, and the comparison is by intention to treat: whoever was to get the offer counts
as treated, whether or not a phone took it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from backend.campaigns.uplift import Group, Uplift, uplift

Verdict: TypeAlias = Literal["sent", "held_out", "suppressed"]
Fate: TypeAlias = Literal["accepted", "on_the_way", "unknown", "rejected", "stopped"]
"""What became of an offer that was to be sent; the best of its pushes counts, in this order."""
Place: TypeAlias = tuple[str, str, str]
"""Store, zone, fence; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decision and what followed it within the campaign's window.

    `fate`: of its pushes; `opened`: any of them; `stopped`: why the last checks let none go; `visited`: the
    person came to a store afterwards; `orders` and `revenue` (hundredths, by currency): what they bought
    afterwards, refunds taken off.
    """

    person_id: str
    verdict: Verdict
    reason: str
    decided_at: int
    variant: str = "offer"
    store_id: str = ""
    zone_id: str = ""
    fence_id: str | None = None
    fate: Fate = "stopped"
    opened: bool = False
    stopped: str | None = None
    reached: bool = False
    visited: bool = False
    orders: int = 0
    revenue: Mapping[str, int] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return self.store_id, self.zone_id, self.fence_id or ""


@dataclass(slots=True)
class Funnel:
    """From candidates to money. `people` are those whom the offer was meant for, without the held out.

    What was to be sent was `accepted`, is `on_the_way`, ended as `unknown` or `rejected`, or was `stopped` by
    the last checks, by their reason. `bought`: people who bought anything, and `orders` how often.
    """

    candidates: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)
    held_out: int = 0
    sent: int = 0
    accepted: int = 0
    opened: int = 0
    on_the_way: int = 0
    unknown: int = 0
    rejected: int = 0
    stopped: Counter[str] = field(default_factory=Counter)
    people: int = 0
    reached: int = 0
    visited: int = 0
    bought: int = 0
    orders: int = 0
    revenue: Counter[str] = field(default_factory=Counter)

    def count(self, outcome: Outcome) -> None:
        """One more decision."""
        self.candidates += 1
        if outcome.verdict == "suppressed":
            self.suppressed[outcome.reason] += 1
        elif outcome.verdict == "held_out":
            self.held_out += 1
        else:
            self.sent += 1
            self.accepted += outcome.fate == "accepted"
            self.opened += outcome.opened
            self.on_the_way += outcome.fate == "on_the_way"
            self.unknown += outcome.fate == "unknown"
            self.rejected += outcome.fate == "rejected"
            if outcome.fate == "stopped":
                self.stopped[outcome.stopped or "no push is left"] += 1

    def count_person(self, outcome: Outcome) -> None:
        """What a person did since their first offer."""
        self.people += 1
        self.reached += outcome.reached
        self.visited += outcome.visited
        self.bought += outcome.orders > 0
        self.orders += outcome.orders
        self.revenue.update(outcome.revenue)


@dataclass(slots=True)
class _Arms:
    treated: Counter[str] = field(default_factory=Counter)
    held_out: Counter[str] = field(default_factory=Counter)

    def count(self, outcome: Outcome) -> None:
        arm = self.held_out if outcome.verdict == "held_out" else self.treated
        arm["people"] += 1
        arm["reached"] += outcome.reached

    def groups(self) -> tuple[Group, Group]:
        return (
            Group(self.treated["people"], self.treated["reached"]),
            Group(self.held_out["people"], self.held_out["reached"]),
        )


@dataclass(slots=True)
class Comparison:
    """The treated against the held out."""

    treated: Group
    held_out: Group
    uplift: Uplift | None


@dataclass(slots=True)
class Results:
    """Of the whole campaign, of each variant, and of each place."""

    whole: Funnel
    variants: dict[str, Funnel]
    places: dict[Place, Funnel]
    comparison: Comparison
    by_variant: dict[str, Comparison]
    by_place: dict[Place, Comparison]


def results_of(outcomes: Iterable[Outcome]) -> Results:
    """The figures; `outcomes` in any order."""
    whole = Funnel()
    variants: dict[str, Funnel] = {}
    places: dict[Place, Funnel] = {}
    arms, by_variant, by_place = _Arms(), defaultdict[str, _Arms](_Arms), defaultdict[Place, _Arms](_Arms)
    first: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda one: (one.decided_at, one.person_id)):
        parts = (
            whole,
            variants.setdefault(outcome.variant, Funnel()),
            places.setdefault(outcome.place, Funnel()),
        )
        for part in parts:
            part.count(outcome)
        if outcome.verdict == "suppressed" or outcome.person_id in first:
            continue
        first[outcome.person_id] = outcome
        for some in (arms, by_variant[outcome.variant], by_place[outcome.place]):
            some.count(outcome)
        if outcome.verdict == "sent":
            for part in parts:
                part.count_person(outcome)
    return Results(
        whole,
        variants,
        places,
        _compare(arms),
        {variant: _compare(some) for variant, some in sorted(by_variant.items())},
        {place: _compare(by_place[place]) for place in sorted(places)},
    )


def _compare(arms: _Arms) -> Comparison:
    treated, held_out = arms.groups()
    return Comparison(treated, held_out, uplift(treated, held_out))
