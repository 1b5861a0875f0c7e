"""Child processes that never outlive whoever started them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 5.0  # after this long a polite request becomes SIGKILL
LOG_TAIL_BYTES = 2000

# The kernel's promise: PR_SET_PDEATHSIG survives exec, so even a SIGKILLed starter leaves nothing behind.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the program that wanted this process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ChildFailed(RuntimeError):
    """A child process ended when it should not have; the text carries the end of its log."""


def tied_to_us(command: Sequence[str]) -> list[str]:
    """The command, to be killed by the kernel when the calling thread ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


class Child:
    """One program of ours as a process of its own, which can be killed and started again."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.kills = 0
        self._command = list(command)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of the running process; 0 where there is none."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the program; its output goes to the log file."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_us(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is ours to answer; the children are stopped in order
            )

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.kills += 1
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not obeyed in five seconds."""
        await self._end(signal.SIGTERM)

    def check(self) -> None:
        """Raises ChildFailed where the program has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise ChildFailed(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of what it has written."""
        with suppress(FileNotFoundError):
            return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
