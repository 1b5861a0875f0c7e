"""SQLite counts every piece of memory it takes, under a lock, for figures that nobody here asks for."""

import _sqlite3
import ctypes
from contextlib import suppress
from typing import Final

_OK: Final = 0
_MEMORY_USED: Final = 0  # of sqlite3_status
_MEMSTATUS: Final = 9  # of sqlite3_config


def count_no_more() -> None:
    """Call before anything opens a file; where something has, or the library is out of reach, all stays.

    The fold takes a twentieth less time without it. SQLite advises it: "SQLite Configuration Option
    Constants", SQLITE_CONFIG_MEMSTATUS; "Recommended Compile-time Options".
    """
    with suppress(OSError, AttributeError):  # built into the interpreter, with names that nobody sees
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_config.argtypes = [ctypes.c_int]  # what follows is variadic
        if _counts(library) and memory_used(library) == 0 and library.sqlite3_shutdown() == _OK:
            library.sqlite3_config(_MEMSTATUS, 0)
            library.sqlite3_initialize()


def memory_used(library: ctypes.CDLL) -> int:
    """Bytes, as far as they are counted: 0 while no file is open."""
    used, most = ctypes.c_int(), ctypes.c_int()
    library.sqlite3_status(_MEMORY_USED, ctypes.byref(used), ctypes.byref(most), 0)
    return used.value


def _counts(library: ctypes.CDLL) -> bool:
    """A library that counts nothing would show no open file, under which it must not be shut down."""
    library.sqlite3_malloc.restype = ctypes.c_void_p
    piece = ctypes.c_void_p(library.sqlite3_malloc(8))
    counted = memory_used(library) > 0
    library.sqlite3_free(piece)
    return counted
