"""The FCM simulator as a child process that can be killed and started again."""

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import msgspec
import uvloop

from simulators.fcm import ADDRESS_FILE, FcmServerSettings, Whereabouts, serve

START_SECONDS = 20.0  # a loaded two-core machine needs seconds to import aiohttp and make an RSA key


@dataclass
class FcmProcess:
    """The simulator as a child process; in a sender's own loop, OAuth's blocking calls would deadlock.

    Use as `with FcmProcess(folder) as fcm:`; `kill` and `start` again keep port, key and log.
    """

    folder: Path
    settings: FcmServerSettings = field(default_factory=FcmServerSettings)
    port: int = 0
    _child: "subprocess.Popen[bytes] | None" = None
    _where: Whereabouts | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def where(self) -> Whereabouts:
        """Raises RuntimeError before `start`."""
        if self._where is None:
            raise RuntimeError("the FCM simulator was not started")
        return self._where

    def start(self) -> None:
        """Raises RuntimeError if it does not listen in time."""
        (self.folder / ADDRESS_FILE).unlink(missing_ok=True)
        command = [sys.executable, "-m", "simulators.fcm_process", "--folder", str(self.folder)]
        command += ["--port", str(self.port), "--project", self.settings.project_id]
        command += ["--token-life", str(self.settings.token_life_s), "--seed", str(self.settings.seed)]
        command += ["--per-device", str(self.settings.per_device_per_minute)]
        self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            self._where = self._await_listening(self._child)
        except BaseException:
            self.kill()
            raise
        self.port = int(self._where.url.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL: what it answered is on disk all the same."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def call(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body, of one of the /sim/ paths; blocks."""
        data = None if body is None else msgspec.json.encode(body)
        with urlopen(Request(f"{self.where.url}{path}", data), timeout=10) as answer:  # noqa: S310 - our own http://
            return json.loads(answer.read())

    def _await_listening(self, child: "subprocess.Popen[bytes]") -> Whereabouts:
        deadline = time.monotonic() + START_SECONDS
        path = self.folder / ADDRESS_FILE
        while time.monotonic() < deadline and child.poll() is None:
            if path.exists():
                return msgspec.json.decode(path.read_bytes(), type=Whereabouts)
            time.sleep(0.02)
        raise RuntimeError(f"the FCM simulator did not listen (exit {child.poll()})")


def main() -> None:
    """`python -m simulators.fcm_process`: what FcmProcess runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--project", default="footfall-demo")
    parser.add_argument("--token-life", type=int, default=3600)
    parser.add_argument("--per-device", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = FcmServerSettings(given.project, given.token_life, given.per_device, given.seed)
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(given.host, given.port, given.folder, settings))


if __name__ == "__main__":
    main()
