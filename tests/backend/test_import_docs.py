"""The pages about imports and the catalogue name the fields, options and figures that there are."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from backend.catalog.model import Product
from backend.cli import main
from backend.import_desk import MOST_VANISHED
from backend.imports import mapping, rows, tables
from backend.storage.catalog import EVENTS_SEARCHED

DOCS = Path(__file__).parents[2] / "docs"
IMPORT = (DOCS / "import.md").read_text("utf-8")
CATALOGUE = (DOCS / "catalogue.md").read_text("utf-8")
COMMANDS = get_command(main).commands["import"].commands


def chapter(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def named(text: str) -> set[str]:
    """What stands in the first column of a chapter's table."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


@pytest.mark.parametrize(("kind", "title"), [("contacts", "Contacts"), ("orders", "Orders")])
def test_every_field_is_documented_and_no_other(kind, title):
    free = {"trait.NAME", "consent.PURPOSE"} if kind == "contacts" else set()
    assert named(chapter(IMPORT, title)) == {*mapping.FIELDS[kind], *free}


def test_the_fields_of_products_are_the_catalogues():
    assert named(chapter(CATALOGUE, "Products")) == set(Product.__struct_fields__)
    assert set(mapping.FIELDS["catalogue"]) == {*Product.__struct_fields__, "google_category", "sale_dates"}


def test_every_option_that_is_named_exists_and_helps_are_whole():
    options = {name for command in COMMANDS.values() for each in command.params for name in each.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", IMPORT)) <= options
    for kind, command in COMMANDS.items():
        assert set(re.findall(r"\w+", command.help)) >= set(mapping.FIELDS[kind]), kind
        assert all(each.help for each in command.params), kind


def test_figures_are_the_codes():
    assert f"Batches of {rows.MAX_ROWS} rows" in IMPORT
    assert f"at most {tables.MAX_ROW // 1024} KB, a table {tables.MAX_COLUMNS} columns" in IMPORT
    assert MOST_VANISHED == 0.5
    assert "more than half of them" in IMPORT
    assert f"newest {EVENTS_SEARCHED:,} events" in CATALOGUE
