"""Whose turn it is to write to a file that several processes write to."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.storage.session import StorageError

TURNSTILE = "-turn"  # behind the database's name, as SQLite's own -wal and -shm
PATIENCE_S = (
    5.0  # a process that is stopped in its turn must not silence the others: their senders come again
)
ASK_S = 0.0005


class Turns:
    """One process at a time, and whoever waits comes before whoever has just written.

    Whoever commits without a rest keeps all who wait for SQLite's own lock out for seconds: they ask again
    after up to 0.1 s, and hardly ever between two commits. Here one waits in a turnstile that the one who
    writes has to go through before it writes again. The kernel frees both locks of a process that dies.
    """

    def __init__(self, database: Path, descriptor: int) -> None:
        """`descriptor`: of the database; it stays the caller's. Raises OSError."""
        self._database = database
        self._turnstile = os.open(f"{database}{TURNSTILE}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._turn = descriptor

    def close(self) -> None:
        """For when nobody waits any more."""
        os.close(self._turnstile)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for the turn, for five seconds at most, and has it inside the context. Blocks.

        Raises StorageError.
        """
        until = time.monotonic() + PATIENCE_S
        try:
            _wait(self._turnstile, until)
            try:
                _wait(self._turn, until)
            finally:
                fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        except BlockingIOError as error:
            stopped = (
                f"{self._database}: another process has had its turn for {PATIENCE_S:.0f} s; is it stopped?"
            )
            raise StorageError(stopped) from error
        except OSError as error:
            raise StorageError(f"{self._database}: {error}") from error
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)


def _wait(descriptor: int, until: float) -> None:
    """Raises BlockingIOError when it is too late."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(ASK_S)
        else:
            return
