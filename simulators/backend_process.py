"""A real backend as a process of its own, which may be killed and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backend.clock import unix_ms
from backend.config import STATE_FILE
from backend.storage import registry
from backend.storage.database import open_for_writing, transaction
from simulators.children import tied_to_us

START_S = 60.0  # a loaded machine; the process itself is up after two
STOP_S = 15.0
CAUGHT_UP_S = 60.0


class BackendGone(RuntimeError):
    """The process ended, or did not come up; the text carries the end of its log."""


class BackendProcess:
    """`footfall-backend serve` on a free port, in a folder; use as `with`. It has no broker and no FCM.

    `only_bridge`: a bridge alone, beside the backend of the same folder.
    """

    def __init__(self, folder: Path, *, only_bridge: bool = False) -> None:
        self.folder = folder
        name = "bridge" if only_bridge else "backend"
        self._config = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        self._only = ["--only", "bridge"] if only_bridge else []
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._config.write_text(
            f'data_dir = "{folder / "data"}"\n[http]\nport = {self.port}\n[mqtt]\nport = 1\n', "utf-8"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it answers. Raises BackendGone."""
        command = [sys.executable, "-m", "backend", "serve", "--config", str(self._config), *self._only]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(tied_to_us(command), stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > until:
                raise BackendGone(self._log.read_text("utf-8", "replace")[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL; what was acknowledged is on the disk."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as systemd does."""
        self._end(signal.SIGTERM)

    def token(self, role: str) -> str:
        """A new API token."""
        connection = open_for_writing(self.folder / "data" / STATE_FILE, "state")
        try:
            name = f"{role}-{os.urandom(4).hex()}"
            return transaction(connection, "state", lambda s: registry.create_token(s, name, role, unix_ms()))
        finally:
            connection.close()

    def get(self, path: str, token: str = "") -> Any:
        """The JSON that a path answers. Raises urllib's errors."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=STOP_S) as answer:  # noqa: S310
            return json.loads(answer.read())

    def caught_up(self) -> None:
        """Waits until everything journalled is folded. Raises BackendGone after a minute."""
        until = time.monotonic() + CAUGHT_UP_S
        while self.get("/health")["fold_behind"]:
            if time.monotonic() > until:
                raise BackendGone(
                    f"the fold stands still:\n{self._log.read_text('utf-8', 'replace')[-2000:]}"
                )
            time.sleep(0.02)

    def _is_up(self) -> bool:
        try:
            return bool(self.get("/health"))
        except (OSError, urllib.error.URLError):
            return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
