"""The bridge with a journal on disk and no fold: what bench_ingest.py loads, alone on its core."""

import sys
from pathlib import Path

import uvloop
from aiohttp import web

from backend import garbage
from backend.clock import unix_ms
from backend.storage import sqlite_memory
from backend.storage.database import SqliteFile
from backend.storage.journal import Journal
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.ports import NoPlaces, Source
from sdk_bridge.server.rates import Rate


class OneSource:
    """A server's write key."""

    async def source_for_key(self, write_key: str) -> Source | None:
        return Source("server", "server", "off", "") if write_key == "key" else None


async def main(folder: Path, port: int) -> None:
    async with SqliteFile(folder / "journal.db", "journal") as file:
        journal = Journal(file, unix_ms)
        await journal.load()
        app = web.Application()
        places = NoPlaces()
        rate = Rate(1e9, 1e9)
        Bridge(journal, OneSource(), unix_ms, rate=rate, beacons=places, places=places).add_to(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        garbage.settle()
        await journal.run()


if __name__ == "__main__":
    sqlite_memory.count_no_more()  # as the backend does
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
