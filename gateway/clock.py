"""The gateway's clocks, read in one place: boot time, wall time, and whether the wall clock may be believed.

A Pi has no real-time clock. CLOCK_BOOTTIME is always right and never jumps, so every observation carries it;
the wall clock only serves to anchor a boot once something has set it.
"""

import ctypes
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNC_FLAG = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5  # adjtimex(2): "the system clock is not synchronized to a reliable server"
_STA_UNSYNC = 0x40


class Clock(Protocol):
    """What the gateway asks of time; milliseconds throughout."""

    @property
    def boot_id(self) -> str:
        """Names the boot that `boot_ms` counts from."""

    def boot_ms(self) -> int:
        """Since this boot, time asleep included."""

    def unix_ms(self) -> int:
        """The wall clock, right or wrong."""

    def synchronised(self) -> bool:
        """Whether somebody who knows the time has set the wall clock, and lately enough."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clocks. Without a boot id each process counts as a boot, and starts from zero."""

    boot_id: str
    zero_ms: int = 0
    libc: ctypes.CDLL = field(default_factory=lambda: ctypes.CDLL(None, use_errno=True), repr=False)

    @classmethod
    def of_this_machine(cls, boot_id_file: Path = BOOT_ID) -> "SystemClock":
        """Reads the boot id once; a process outlives no boot."""
        try:
            return cls(boot_id_file.read_text(encoding="ascii").strip()[:36])
        except (OSError, UnicodeDecodeError):
            return cls(str(uuid.uuid4()), zero_ms=_boottime_ms())

    def boot_ms(self) -> int:
        return _boottime_ms() - self.zero_ms

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def synchronised(self) -> bool:
        """The kernel's word, which chrony, ntpd and systemd-timesyncd all keep; else timesyncd's flag."""
        timex = _Timex()  # `modes` zero asks and changes nothing, so no privilege is needed
        state = self.libc.adjtimex(ctypes.byref(timex))
        if state < 0:
            return TIMESYNC_FLAG.exists()
        return bool(state != _TIME_ERROR and not timex.status & _STA_UNSYNC)


class _Timex(ctypes.Structure):
    """The head of struct timex; the tail only has to be long enough for the kernel to write into."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
