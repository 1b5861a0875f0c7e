"""Whose turn it is to write to a file that several processes write to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.storage.session import StorageError

TURNSTILE = "-turn"  # behind the database's name, as SQLite's own -wal and -shm


class Turns:
    """One process at a time, in the order in which they ask, as the kernel keeps it.

    SQLite's own lock is asked for again and again, with pauses of up to 0.1 s: whoever commits without a rest
    keeps all others out for seconds. Here one waits in a turnstile that the one who writes has to go
    through before it writes again. The kernel frees both locks of a process that dies.
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
        """Waits for the turn, however long, and has it inside the context. Blocks. Raises StorageError."""
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        except OSError as error:
            raise StorageError(f"{self._database}: {error}") from error
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
