"""Sends batches to the running backend, and is patient while it starts again."""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any, TypeVar

import msgspec

TIMEOUT_S = 60.0  # a batch waits for the fold; a backend that hangs must not hold the terminal for ever
PATIENCE_S = 120.0  # that a backend takes to be started again, its databases checked
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # 500 errors of a batch are far below
_COME_AGAIN = frozenset({408, 425, 429, 502, 503, 504})
T = TypeVar("T")


class SendingStopped(RuntimeError):
    """The backend refused, or was not there for two minutes; the text says what it said."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without its rows, and carries the token to whoever it leads to."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Backend:
    """The API at `url`, asked with `token`."""

    url: str
    token: str
    trust: ssl.SSLContext
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    def check(self) -> None:
        """That a backend is there at all, before anybody waits for it. Raises SendingStopped."""
        try:
            self._once("/health", None)
        except _ComeAgain as error:
            raise SendingStopped(str(error)) from error

    def post(self, path: str, body: Any, kind: type[T]) -> T:
        """The answer as `kind`. Raises SendingStopped."""
        content = msgspec.json.encode(body)
        until, pause = self.monotonic() + PATIENCE_S, FIRST_PAUSE_S
        while True:
            try:
                return msgspec.json.decode(self._once(path, content), type=kind, strict=True)
            except _ComeAgain as error:
                if self.monotonic() + pause > until:
                    raise SendingStopped(str(error)) from error
            except msgspec.MsgspecError as error:
                raise SendingStopped(f"{self.url}: this is no Footfall backend: {error}") from error
            self.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _once(self, path: str, content: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url.rstrip("/") + path, content, headers)  # noqa: S310 - checked
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=self.trust), _NoRedirects(), urllib.request.ProxyHandler({})
        )
        try:
            with opener.open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read(MAX_ANSWER_BYTES)
                if response.length:  # what its Content-Length promised and never came: it died while it spoke
                    raise _ComeAgain(f"{self.url}: the answer broke off")
        except urllib.error.HTTPError as error:
            told = _told(error.read(MAX_ANSWER_BYTES)) or f"the backend answered {error.code}"
            if error.code in _COME_AGAIN:
                raise _ComeAgain(told) from error
            raise SendingStopped(told) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _ComeAgain(f"{self.url}: {reason}; is the backend running?") from error
        return answer


class _ComeAgain(RuntimeError):
    """Not now; perhaps in a moment."""


def _told(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
