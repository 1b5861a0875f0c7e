"""CDNOW, a shop's real purchases of 1997 and 1998, as files that the import takes.

23,570 customers, 69,659 purchases; `lifetimes` (of the dev extra) ships them. Source: Fader and Hardie,
"Forecasting Repeat Sales at CDNOW", Interfaces 31 (2001).
"""

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

CUSTOMERS = 23_570
PURCHASES = 69_659
ORDER_OPTIONS = (
    "--map", "user_id=customer", "--map", "ordered_at=date", "--map", "amount=amount",
    "--map", "quantity=pieces", "--order-id-from-line", "--decimal", "point", "--currency", "USD",
)  # fmt: skip
"""What `footfall-backend import orders` has to be told of the prepared file."""


class CdnowMissing(RuntimeError):
    """The package `lifetimes` is not installed; the dev extra brings it."""


def cdnow_rows() -> Iterator[tuple[str, str, str, str]]:
    """Customer, date as yyyymmdd, pieces, dollars; in the order of the file."""
    found = find_spec("lifetimes")
    if found is None or not found.submodule_search_locations:
        raise CdnowMissing(CdnowMissing.__doc__)
    path = Path(found.submodule_search_locations[0]) / "datasets" / "CDNOW_master.txt"
    with path.open(encoding="ascii") as file:
        next(file)  # the columns' names
        for line in file:
            customer, date, pieces, dollars = line.split()
            yield customer, date, pieces, dollars


def prepare_cdnow(folder: Path, purchases: int = PURCHASES) -> Path:
    """Writes the first purchases as `cdnow.csv`, to be imported with ORDER_OPTIONS."""
    path = folder / "cdnow.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("customer", "date", "pieces", "amount"))
        for number, row in enumerate(cdnow_rows()):
            if number >= purchases:
                break
            writer.writerow(row)
    return path
