"""The page on RFM says what the code does."""

from itertools import takewhile
from pathlib import Path

from backend.segments.rfm import CELLS, NAMES, name_of

PAGE = (Path(__file__).parents[2] / "docs" / "segments.md").read_text("utf-8")


def table_in(text: str) -> list[str]:
    """The rows of its table of names, without blanks around them."""
    lines = [line.strip() for line in text.splitlines()]
    start = lines.index("| recency | worth | name |")
    return list(takewhile(lambda line: line.startswith("|"), lines[start:]))


def test_the_page_has_the_rules_of_the_names():
    rows = table_in(PAGE)
    assert rows == table_in(name_of.__doc__)
    assert {row.split("|")[3].strip() for row in rows[2:]} == set(NAMES)
    assert f"lists all {len(CELLS)}" in PAGE
