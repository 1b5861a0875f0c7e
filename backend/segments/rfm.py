"""RFM: how lately, how often and for how much people bought, as scores from 1 to 5 and a name. Pure.

Scores are quantiles: the bounds lie at 20, 40, 60 and 80 % of the people, and whoever is equal scores equal,
so a score may stay empty where many are alike. The names are those usual in retail (Putler's "RFM analysis",
among others); as usually printed, first match leaves three names without anybody and 36 of 125 cells without
a name. Here the order is such that every name can occur and every cell has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Name: TypeAlias = Literal[
    "Champions",
    "Loyal",
    "Potential Loyalist",
    "New",
    "Promising",
    "Need Attention",
    "About To Sleep",
    "At Risk",
    "Can't Lose",
    "Lost",
]
NAMES: Final[tuple[Name, ...]] = Name.__args__  # type: ignore[attr-defined]
QUANTILES: Final = (0.2, 0.4, 0.6, 0.8)
SCORES: Final = 5
Scores: TypeAlias = NDArray[np.int8]
Values: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The bounds of a run: whoever is above so many of the four scores one more than that.

    `recency` in unix milliseconds of the last order, `frequency` in orders, `monetary` in hundredths.
    """

    recency: tuple[int, ...]
    frequency: tuple[int, ...]
    monetary: tuple[int, ...]


def bounds_of(values: Values) -> tuple[int, ...]:
    """Four values that are there, at the quantiles (the lower one where they fall between two)."""
    if not len(values):
        return ()
    return tuple(int(bound) for bound in np.quantile(values, QUANTILES, method="lower"))


def scores_of(values: Values, bounds: Sequence[int]) -> Scores:
    """One more than the bounds that a value is above; equal values score equal."""
    return (1 + np.searchsorted(np.asarray(bounds, np.int64), values, side="left")).astype(np.int8)


def name_of(recency: int, frequency: int, monetary: int) -> Name:
    """The name of a cell, scores from 1 to 5.

    `worth` is the mean of frequency and money: who comes often for little is as dear as who comes seldom for
    much. In the order of the rules:

    | recency | worth | name |
    |---|---|---|
    | 4–5 | 4–5 | Champions |
    | 4–5 | the lowest frequency | New |
    | 4–5 | 3–4 | Loyal |
    | 4–5 | below 3 | Potential Loyalist |
    | 3 | the lowest frequency | Promising |
    | 3 | above 3 | Loyal |
    | 1 | 4–5 | Can't Lose |
    | 1 | above 2 | At Risk |
    | 1 | 2 and below | Lost |
    | 2 | above 3 | At Risk |
    | 2–3 | above 2 | Need Attention |
    | 2–3 | 2 and below | About To Sleep |
    """
    worth = (frequency + monetary) / 2
    if recency >= 4:
        return _recent(frequency, worth)
    if recency == 3:
        if frequency == 1:
            return "Promising"
        if worth > 3:
            return "Loyal"
    elif recency == 1:
        return "Can't Lose" if worth >= 4 else "At Risk" if worth > 2 else "Lost"
    elif worth > 3:
        return "At Risk"
    return "Need Attention" if worth > 2 else "About To Sleep"


def _recent(frequency: int, worth: float) -> Name:
    if worth >= 4:
        return "Champions"
    if frequency == 1:
        return "New"
    return "Loyal" if worth >= 3 else "Potential Loyalist"


CELLS: Final[dict[tuple[int, int, int], Name]] = {
    (recency, frequency, monetary): name_of(recency, frequency, monetary)
    for recency in range(1, SCORES + 1)
    for frequency in range(1, SCORES + 1)
    for monetary in range(1, SCORES + 1)
}
"""Every cell's name."""
