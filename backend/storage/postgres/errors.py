"""What PostgreSQL and asyncpg complain of, in our words: whose fault it is, and whether to try again."""

import os
import ssl

import asyncpg

from backend.storage.session import StorageConflict, StorageError, StorageRetry

_CONFLICT = "23"  # an integrity constraint
_AGAIN = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_SERVERS = frozenset(
    {
        "08",  # the connection
        "0A",  # a statement prepared before the schema changed
        "25",  # a server that may only be read, or a transaction that was idle for too long
        "28",  # who we are
        "3D",  # no such database
        "40",
        "53",  # disk or memory full, too many connections
        "55",  # a lock not to be had in time
        "57",  # shut down, cancelled, idle for too long
        "58",  # input/output
        "XX",  # damage
    }
)
_REFUSED = "42501"  # we may not do that here


_WHAT_TO_DO = "is it running there, and are the address and the files in database.url right?"
_URL = "it may be postgresql://USER@HOST:PORT/DATABASE"


def not_reached(error: Exception, where: str) -> StorageError:
    """Why there is no connection. The URL itself is not shown, for it may hold a password."""
    if isinstance(error, (OSError, TimeoutError)):
        return StorageError(f"{where}: PostgreSQL is not reached: {_reason(error)}; {_WHAT_TO_DO}")
    names_a_parameter = isinstance(error, asyncpg.InterfaceError)  # such as sslmode
    return StorageError(f"{where}: database.url cannot be used: {error if names_a_parameter else _URL}")


def _reason(error: Exception) -> str:
    """Without numbers and addresses, where the system has words for it."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(getattr(error, "strerror", None) or error) or "no answer in time"


def as_ours(error: BaseException, where: str) -> StorageError | None:
    """The error in our words; None for a mistake of the caller's, which stays as it is."""
    if isinstance(error, StorageError):
        return None
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, where)
    if isinstance(error, (OSError, TimeoutError)) or _is_lost(error):
        return StorageError(f"{where}: {str(error) or type(error).__name__}")
    return None


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)) and not isinstance(
        error, ValueError
    )


def _of_server(error: asyncpg.PostgresError, where: str) -> StorageError | None:
    state = error.sqlstate or ""
    if state.startswith(_CONFLICT):
        return StorageConflict(str(error))
    if state in _AGAIN:
        return StorageRetry(f"{where}: {error}")
    if state[:2] in _SERVERS or state == _REFUSED:
        return StorageError(f"{where}: {error}")
    return None
