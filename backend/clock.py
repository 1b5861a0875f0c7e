"""The one place that asks the system what time it is."""

import time


def unix_ms() -> int:
    """Unix time in milliseconds, UTC."""
    return time.time_ns() // 1_000_000
