"""What a long run asks the kernel about its own process: memory, bytes written, open files."""

import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_BYTES


def written_bytes() -> int:
    """Bytes that this process has handed to write calls since it began, to whatever file."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def open_files() -> int:
    """Descriptors that this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def megabytes(count: float) -> str:
    return f"{count / 1024 / 1024:,.1f} MB"
