"""What a machine shared with others does to a measurement, and what of a measurement is left without it."""

import os
from collections.abc import Sequence
from pathlib import Path


def undisturbed(rounds: Sequence[Sequence[float]]) -> float:
    """Seconds that the same parts of work take where none is held up.

    Each round gives the seconds of each part. What others do on the machine only ever adds to them, so the
    least of each part is nearest to what it takes (Python's documentation of timeit says so of repetitions).
    A bound all the same: what falls into now this part and now that, such as copying the log, is left out.
    """
    return sum(min(part) for part in zip(*rounds, strict=True))


def stolen_s() -> float:
    """Core seconds since the start that the host gave to others (proc(5), `steal` of /proc/stat)."""
    cores = Path("/proc/stat").read_text().partition("\n")[0].split()
    return int(cores[8]) / os.sysconf("SC_CLK_TCK")
