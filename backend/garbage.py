"""The garbage collector of a process that makes many short-lived objects and keeps few."""

import gc

YOUNG = (
    20_000  # objects; with Python's 700 a batch of a hundred events is searched for cycles before it is done
)


def settle() -> None:
    """Call once the process has started: what there is by then stays, and is never looked through again.

    Otherwise a look at every module's objects comes each time a few batches were waited for, and stops
    everybody for some 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
