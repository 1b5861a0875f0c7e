"""Whether a campaign worked: how often the treated and the held out reached its goal, and how sure that is.

The interval of a share is Wilson's (1927), of a difference Newcombe's hybrid of two of those (Statistics in
Medicine 17, 1998, method 10); small groups and rates near nothing stay honest with it.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Group:
    """How many people were in a group, and how many of them reached the goal."""

    people: int
    reached: int

    @property
    def rate(self) -> float | None:
        """None for nobody."""
        return self.reached / self.people if self.people else None


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds between which it lies with `CONFIDENCE`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Uplift:
    """By how much the treated reached the goal more often: in shares of people, and relative to the held out.

    `relative` is None where nobody held out reached it.
    """

    absolute: Interval
    relative: float | None

    @property
    def is_sure(self) -> bool:
        """Whether chance alone would hardly do this."""
        return self.absolute.low > 0 or self.absolute.high < 0


def rate_of(group: Group) -> Interval | None:
    """The group's rate with its interval; None for nobody."""
    if not group.people:
        return None
    rate, spread = group.reached / group.people, _Z**2 / group.people
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + (spread / 2) ** 2) / (1 + spread)
    low = middle - half if group.reached else 0.0
    high = middle + half if group.reached < group.people else 1.0
    return Interval(rate, low, high)


def uplift(treated: Group, held_out: Group) -> Uplift | None:
    """None where either group has nobody in it."""
    ours, theirs = rate_of(treated), rate_of(held_out)
    if ours is None or theirs is None:
        return None
    difference = ours.value - theirs.value
    low = difference - math.hypot(ours.value - ours.low, theirs.high - theirs.value)
    high = difference + math.hypot(ours.high - ours.value, theirs.value - theirs.low)
    relative = difference / theirs.value if theirs.value else None
    return Uplift(Interval(difference, low, high), relative)
