"""Every named query is asked by somebody: its name stands in the code, whole or put together."""

import ast
import re
from pathlib import Path

import pytest

from backend.folding import people
from backend.storage import floor, profile_rows
from backend.storage.queries import named_queries, numbered, read_queries
from backend.storage.session import Rows, StorageError

BACKEND = Path(__file__).parents[2] / "backend"


@pytest.fixture(scope="module")
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text("utf-8")) for path in BACKEND.rglob("*.py")]


def _text(part: ast.expr) -> str:
    return re.escape(part.value) if isinstance(part, ast.Constant) else r"(\w+)"


def literals(trees: list[ast.Module]) -> tuple[set[str], list[re.Pattern[str]]]:
    """Every text, and every text with gaps, such as f"export_{table}", unless it is hardly more than gaps."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    gaps = {"".join(map(_text, node.values)) for node in nodes if isinstance(node, ast.JoinedStr)}
    return texts, [re.compile(gap) for gap in gaps if re.search(r"[a-z]{4}", gap.replace(r"(\w+)", ""))]


def unused(names: list[str], trees: list[ast.Module]) -> list[str]:
    """The names that are no text of the code's, and no text with gaps whose gaps are texts."""
    texts, gaps = literals(trees)

    def made(name: str) -> bool:
        return any((match := gap.fullmatch(name)) and set(match.groups()) <= texts for gap in gaps)

    return [name for name in names if name not in texts and not made(name)]


@pytest.mark.parametrize("area", ["journal", "state"])
def test_every_named_query_is_asked_by_somebody(area, trees):
    assert unused(sorted(named_queries(area)), trees) == []


def test_a_query_that_nobody_asks_is_seen():
    code = ast.parse("ask('one'); ask(f'export_{table}'); tables = ['orders']; ask(f'{area}_{what}')")
    assert unused(["one", "two", "export_orders", "export_visits", "orders_one"], [code]) == [
        "two",
        "export_visits",
        "orders_one",
    ]


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("add_profile", profile_rows.BEGUN),
        ("put_profile", profile_rows.PUT),
        ("add_identity_claim", profile_rows.CLAIM),
        ("put_identity_claim", profile_rows.PUT_CLAIM),
        ("add_trait", profile_rows.TRAIT),
        ("put_trait", profile_rows.TRAIT),
        ("add_event", people.EVENT),
        ("add_sighting", floor.SIGHTING),
        ("save_presence", floor.PRESENCE),
    ],
)
def test_what_every_event_writes_is_bound_as_it_is(query: str, columns: tuple[str, ...]) -> None:
    rows = Rows(columns, [tuple(range(len(columns)))])
    assert numbered(named_queries("state")[query]).bound(rows) is rows.values


def test_a_part_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "people.sql").write_text("-- name: people\nwith recursive {bush} select * from bush;\n")
    with pytest.raises(StorageError, match=r"people\.sql names parts that are not there: bush"):
        read_queries(tmp_path, "state")
