"""SQLite's count of its memory: off in a process that asked in time, left alone under an open file."""

import subprocess
import sys

import pytest

ASKED = """
import _sqlite3, ctypes, sqlite3
from backend.storage import sqlite_memory
{before}
sqlite_memory.count_no_more()
file = sqlite3.connect(":memory:")
file.execute("create table rows (value)")
file.executemany("insert into rows values (?)", [("x" * 1000,)] * 1000)
rows = file.execute("select count(*) from rows").fetchone()[0]
print(sqlite_memory.memory_used(ctypes.CDLL(_sqlite3.__file__)), rows)
"""


@pytest.mark.parametrize(
    ("before", "counted"),
    [
        ("", False),
        ("kept = sqlite3.connect(':memory:')", True),
        ("sqlite3.connect(':memory:').close()", False),
        ("sqlite_memory.count_no_more()", False),
    ],
    ids=["in time", "a file is open", "none is open any more", "twice"],
)
def test_counting_stops_where_no_file_is_open(before: str, counted: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ASKED.format(before=before)], check=True, capture_output=True, text=True
    )
    used, rows = map(int, ran.stdout.split())
    assert rows == 1000
    assert (used > 0) is counted


ASKED_AGAIN = """
import ctypes, sqlite3
from backend.storage import sqlite_memory

called = []

class Watched(ctypes.CDLL):
    def __getattr__(self, name):
        called.append(name)
        return super().__getattr__(name)

ctypes.CDLL = Watched
sqlite_memory.count_no_more()
kept = sqlite3.connect(":memory:")
sqlite_memory.count_no_more()
print(called.count("sqlite3_shutdown"))
"""


def test_what_counts_nothing_is_not_shut_down_under_an_open_file() -> None:
    ran = subprocess.run([sys.executable, "-c", ASKED_AGAIN], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "1"
