"""Looking through a database's bytes while it is in use: nobody else may take it for one that nobody uses."""

import asyncio
import subprocess
import sys
from contextlib import closing
from sqlite3 import connect

from backend.profiles.erasure import Traces
from backend.storage.database import SqliteFile
from backend.storage.wipe import SqliteWiper

LOOK_IN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("select * from stores").fetchall()
connection.close()
"""
"""What `sqlite3 FILE .backup` and our own commands do beside a backend: come and go."""


def save_store(session, store_id: str) -> None:
    session.run("save_store", store_id=store_id, name="Shop", timezone="UTC")


async def test_who_looks_in_behind_a_wipe_does_not_take_the_log_away(tmp_path):
    path = tmp_path / "state.db"
    async with SqliteFile(path, "state") as file:
        await file.write(lambda s: save_store(s, "before"))
        assert await SqliteWiper(file, may_rebuild=True).wipe(Traces({"nobody-at-all"})) == 0
        await file.write(lambda s: save_store(s, "between"))
        log = (tmp_path / "state.db-wal").stat().st_ino
        come_and_go = [sys.executable, "-c", LOOK_IN, str(path)]
        await asyncio.to_thread(subprocess.run, come_and_go, check=True, timeout=60)
        assert (tmp_path / "state.db-wal").stat().st_ino == log
        await file.write(lambda s: save_store(s, "after"))
        assert len(await file.read(lambda s: s.rows("stores"))) == 3
    with closing(connect(path)) as reopened:
        assert [row[0] for row in reopened.execute("select store_id from stores order by 1")] == [
            "after",
            "before",
            "between",
        ]
