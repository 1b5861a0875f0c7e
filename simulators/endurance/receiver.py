"""A backend that only takes custody: the real ingest and journal. Made to be killed.

`python -m simulators.endurance.receiver JOURNAL PORT GATEWAY…`
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from backend.custody import Custody
from backend.ingest import Ingest
from backend.listening import Gateway, Listening
from backend.storage.database import SqliteFile
from backend.storage.entries import BEGINNING, Entry
from backend.storage.journal import Journal
from sdk_bridge.mqtt import Broker
from simulators.broker import HOST
from simulators.endurance.sender import KEYS, STORE

PAGE = 2_000  # entries read at once


async def receive(path: Path, port: int, gateways: Sequence[str]) -> None:
    """Takes what the gateways send into the journal at `path`, until it is killed."""
    async with SqliteFile(path, "journal") as file:
        journal = Journal(file, _unix_ms)
        custody = Custody(await journal.load())
        broker = Broker(HOST, port, f"receiver-{secrets.token_hex(4)}")
        ingest = Ingest(broker, journal, custody, _unix_ms)
        known = {f"{STORE}/{name}": Gateway(STORE, name, f"zone-{name}") for name in gateways}
        ingest.listening = Listening(known, frozenset(KEYS))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(journal.run())
            tasks.create_task(ingest.run())


async def entries(path: Path) -> list[Entry]:
    """Everything in the journal, in the order of its acceptance."""
    found: list[Entry] = []
    async with SqliteFile(path, "journal") as file:
        journal = Journal(file, _unix_ms)
        cursor = BEGINNING
        while page := await journal.after(cursor, PAGE):
            found += page
            cursor = cursor.past(page[-1])
    return found


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    asyncio.run(receive(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
