"""Memory of a process that makes many short-lived objects and keeps few: the collector, and what is freed."""

import ctypes
import gc
from contextlib import suppress
from typing import Final

YOUNG = (
    20_000  # objects; with Python's 700 a batch of a hundred events is searched for cycles before it is done
)
KEPT_FREE: Final = 16 << 20  # bytes; with glibc's 128 KB what one weighing frees the next faults in anew
ALONE_FROM: Final = 4 << 20  # bytes; what is larger has pages of its own, which go back at once
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def settle() -> None:
    """Call once the process has started: what there is by then stays, and is never looked through again.

    Otherwise a look at every module's objects comes each time a few batches were waited for, and stops
    everybody for some 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
    _keep_what_is_freed()


def _keep_what_is_freed() -> None:
    """Where the C library is glibc; others have no such word, and need none."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, KEPT_FREE)
        library.mallopt(_MMAP_THRESHOLD, ALONE_FROM)
