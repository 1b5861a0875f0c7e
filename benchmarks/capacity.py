"""What a machine carries, as the table in docs/operations.md, from the figures of bench_pipeline.py.

PYTHONPATH=. .venv/bin/python benchmarks/bench_pipeline.py --only accept fold locate --json figures.json
PYTHONPATH=. .venv/bin/python benchmarks/capacity.py figures.json
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SPARE = 0.5  # of a core is left for catching up after an outage, for pages, exports and the hourly work
HEARD_BY = 4  # gateways that hear a device, each once a second
DEVICES_A_GATEWAY = 25


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one core of a backend carries for good."""

    readings: float
    """A second: taken in, folded into zones, decided on."""
    locations: float
    """A second, of phones, stored; where the core does nothing else."""

    @property
    def devices(self) -> float:
        return self.readings / HEARD_BY

    @property
    def gateways(self) -> float:
        return self.devices / DEVICES_A_GATEWAY

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> "Capacity":
        """From a second of processor time: what is taken in has to be folded by the same core."""
        taken = figures["accepted, batches of 100, a CPU second"]
        folded = figures["folded, a CPU second"]
        return cls(
            SPARE / (1 / taken + 1 / folded),
            SPARE * figures["located and stored, a CPU second"],
        )


def table(capacity: Capacity) -> str:
    """Markdown."""
    rows = (
        ("readings a second", capacity.readings),
        (f"devices present, each heard by {HEARD_BY} gateways", capacity.devices),
        (f"gateways, with {DEVICES_A_GATEWAY} devices each", capacity.gateways),
        ("or phones' locations a second", capacity.locations),
    )
    lines = ["| capacity | a core, with files |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_rounded(figure):,} |" for name, figure in rows)])


def _rounded(figure: float) -> int:
    """Two digits; no benchmark knows more."""
    return int(float(f"{figure:.1e}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", type=Path, help="what bench_pipeline.py --json wrote")
    figures = json.loads(parser.parse_args().figures.read_text("utf-8"))
    print(table(Capacity.of(figures)))


if __name__ == "__main__":
    main()
