"""The way to FCM: firebase-admin's credentials, addresses and error types; the POST itself by aiohttp.

firebase-admin's own transports retry behind our back and stall the loop, so we use its parts: private names
of version 7.7, each guarded by a test.
"""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import aiohttp
import firebase_admin
import httpx
import msgspec
import structlog
import yarl
from firebase_admin import credentials, messaging
from firebase_admin.exceptions import FirebaseError, UnknownError
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from msgspec import Struct

from backend.push import message
from backend.push.model import Accepted, Claimed, Failure, Outcome, Refused, Rejected, outcome, retry_after_s

REFRESH_BEFORE_S = 225.0  # 3 min 45 s, as Google's own library: a token must not expire on the way
REFRESH_PAUSE_S = 5.0  # a token endpoint that fails is not asked with every message
OAUTH_TIMEOUT_S = 10.0  # for one request of the refreshing thread; firebase-admin's httpTimeout misses it
OAUTH_PATIENCE_S = 20.0  # a message without a token waits so long, then goes back to the queue
KEEP_FRESH_S = 10.0  # well within the minutes before an expiry in which a token is renewed
ANSWER_BYTES = 64 * 1024  # FCM answers in hundreds of bytes; a stranger's page must not fill the memory
KEEP_ALIVE_S = 30.0  # shorter than any front end's own: reusing what it is closing would be ambiguous

log = structlog.get_logger(__name__)


class PushSetupError(RuntimeError):
    """The service account's file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class FcmSettings:
    """`send_url` replaces Google's address (a simulator); with `validate_only` FCM delivers nothing."""

    service_account: Path
    send_url: str | None = None
    validate_only: bool = False
    connections: int = 256  # at least the sender's slots, or messages in `sending` would queue for a socket
    timeout_s: float = 10.0  # from connecting to the answer's end; after it the outcome is unknown


class OAuthFailed(ConnectionError):
    """Google gave no access token; the text says why."""


@dataclass
class AccessTokens:
    """OAuth tokens of one service account, refreshed in a thread, one at a time, before they expire."""

    credential: Any  # google.auth.credentials.Credentials, which carries no types
    clock: Callable[[], float] = time.time
    patience_s: float = OAUTH_PATIENCE_S
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "oauth"))
    _refreshing: "asyncio.Future[None] | None" = None
    _token: str | None = None
    _expires_at_s: float = 0.0
    _renew_at_s: float = 0.0

    async def current(self) -> str:
        """A valid token; waits only when there is none. Raises OAuthFailed."""
        now_s = self.clock()
        if now_s >= self._renew_at_s:
            self._start()
        if self._token is not None and now_s < self._expires_at_s:
            return self._token
        return await self._wait()

    async def keep_fresh(self) -> None:
        """While it runs, a token is there before anybody asks: the day's first push waits for none."""
        while True:
            if self.clock() >= self._renew_at_s:
                self._start()
            await asyncio.sleep(KEEP_FRESH_S)

    def discard(self, token: str) -> None:
        """Forgets a token that the service refused."""
        if token == self._token:
            self._token, self._renew_at_s = None, 0.0

    def close(self) -> None:
        """Waits for nothing: a refresh under way ends with its own time limit."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().run_in_executor(self._thread, self._refresh)
            self._refreshing.add_done_callback(self._refreshed)

    def _refresh(self) -> None:
        """In the thread: signs, posts, waits; google-auth retries inside. Raises OAuthFailed."""
        try:
            self.credential.refresh(functools.partial(Request(), timeout=OAUTH_TIMEOUT_S))
        except GoogleAuthError as error:
            raise OAuthFailed(str(error)) from error
        except (TypeError, ValueError, AttributeError) as error:  # google-auth trusts a 200 to be a token
            raise OAuthFailed(f"the token endpoint's answer is not a token: {error}") from error

    def _refreshed(self, refresh: "asyncio.Future[None]") -> None:
        self._refreshing = None
        now_s = self.clock()
        self._renew_at_s = now_s + REFRESH_PAUSE_S
        if refresh.cancelled():
            return
        if refresh.exception() is not None:
            log.warning("push.oauth_failed", error=str(refresh.exception()))
            return
        life_s = _life_s(self.credential, now_s)
        self._token = str(self.credential.token)
        self._expires_at_s = now_s + life_s
        self._renew_at_s = self._expires_at_s - min(REFRESH_BEFORE_S, life_s / 2)

    async def _wait(self) -> str:
        refreshing = self._refreshing
        if refreshing is None:
            raise OAuthFailed("the last refresh failed; the next is due within seconds")
        try:
            async with asyncio.timeout(self.patience_s):
                await asyncio.shield(refreshing)
        except TimeoutError as error:
            raise OAuthFailed(f"no answer from the token endpoint within {self.patience_s} s") from error
        if self._token is None:
            raise OAuthFailed("the token was refused as soon as it came")
        return self._token


def _life_s(credential: Any, now_s: float) -> float:
    """Seconds until the token expires; google-auth keeps the expiry as a naive UTC datetime."""
    if credential.expiry is None:
        return REFRESH_BEFORE_S
    return max(0.0, float(credential.expiry.replace(tzinfo=UTC).timestamp()) - now_s)


@dataclass(frozen=True)
class FcmClient:
    """Sends single messages and says what became of each; satisfies the sender's FcmGateway."""

    service: Any  # firebase-admin's messaging service: address, headers, error handling
    tokens: AccessTokens
    session: aiohttp.ClientSession
    settings: FcmSettings
    clock: Callable[[], float] = time.time

    async def send(self, push: Claimed) -> Outcome:
        """One POST, no retry. Never raises for what the network, the service or the content do."""
        return await self._attempt(push, validate_only=self.settings.validate_only)

    async def validate(self, push: Claimed) -> Outcome:
        """What would become of it: FCM checks message and address, and delivers nothing."""
        return await self._attempt(push, validate_only=True)

    async def _attempt(self, push: Claimed, *, validate_only: bool) -> Outcome:
        try:
            body = self._body(push, validate_only=validate_only)
        except message.MessageError as error:
            return Rejected(f"message: {error}")
        try:
            token = await self.tokens.current()
        except OAuthFailed as error:
            return Refused(f"oauth: {error}")
        try:
            return Accepted(await self._post(body, token))
        except FirebaseError as error:
            return self._judge(error, token)

    def _body(self, push: Claimed, *, validate_only: bool) -> bytes:
        now_ms = int(self.clock() * 1000)
        request: dict[str, Any] = {"message": message.encode(message.build(push, now_ms))}
        if validate_only:
            request["validate_only"] = True
        return msgspec.json.encode(request)

    async def _post(self, body: bytes, token: str) -> str:
        """The accepted message's name. Raises a FirebaseError for every other end."""
        url = self.settings.send_url or cast(str, self.service._fcm_url)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with self.session.post(
                url, data=body, headers=headers | self.service._fcm_headers, allow_redirects=False
            ) as answer:
                content = await _bounded(answer.content)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._firebase_error(_as_httpx(error)) from error
        if answer.status != 200:
            raise self._refusal(url, answer, content)
        return _name(content)

    def _refusal(self, url: str, answer: aiohttp.ClientResponse, content: bytes) -> FirebaseError:
        request = httpx.Request("POST", url)
        wish = answer.headers.get("Retry-After", "")
        response = httpx.Response(
            answer.status, headers={"Retry-After": wish}, content=_tame(content), request=request
        )
        text = f"HTTP {answer.status}"
        return self._firebase_error(httpx.HTTPStatusError(text, request=request, response=response))

    def _firebase_error(self, error: httpx.HTTPError) -> FirebaseError:
        return cast(FirebaseError, self.service._handle_fcm_httpx_error(error))

    def _judge(self, error: FirebaseError, token: str) -> Outcome:
        failure = as_failure(error, int(self.clock() * 1000))
        if failure.error == "UnauthenticatedError":
            self.tokens.discard(token)  # revoked before its time: the next send fetches another
        return outcome(failure)


@asynccontextmanager
async def open_fcm(settings: FcmSettings) -> AsyncIterator[FcmClient]:
    """A client for the service account's project. Raises PushSetupError."""
    if settings.send_url is not None and yarl.URL(settings.send_url).scheme not in ("http", "https"):
        raise PushSetupError(f"push.send_url must be an HTTP address, not {settings.send_url}")
    app = await asyncio.to_thread(_initialise, settings.service_account)
    try:
        service = await asyncio.to_thread(messaging._get_messaging_service, app)
        tokens = AccessTokens(app.credential.get_credential())
        async with _session(settings) as session:
            keeper = asyncio.create_task(tokens.keep_fresh())
            try:
                yield FcmClient(service, tokens, session, settings)
            finally:
                keeper.cancel()
                tokens.close()
    finally:
        # in a thread, because firebase-admin closes its transport with an asyncio.run of its own
        await asyncio.to_thread(firebase_admin.delete_app, app)


class _Violation(Struct, omit_defaults=True):
    field: str = ""
    description: str = ""


class _Detail(Struct, omit_defaults=True):
    kind: str = msgspec.field(name="@type", default="")
    errorCode: str | None = None
    fieldViolations: list[_Violation] = []


class _Error(Struct, omit_defaults=True):
    message: str = ""
    status: str = ""
    details: list[_Detail] = []


class _ErrorAnswer(Struct):
    error: _Error


_error_decoder = msgspec.json.Decoder(_ErrorAnswer)


def as_failure(error: FirebaseError, now_ms: int) -> Failure:
    """firebase-admin's exception in the words of our table."""
    response = error.http_response
    if response is None:
        return Failure(type(error).__name__, str(error))
    details = _error_decoder.decode(response.content).error.details if response.content else []
    return Failure(
        error=type(error).__name__,
        text=str(error),
        fcm_code=next((part.errorCode for part in details if part.errorCode), None),
        violated=tuple(violation.field for part in details for violation in part.fieldViolations),
        retry_after_s=retry_after_s(response.headers.get("Retry-After"), now_ms),
    )


def _tame(content: bytes) -> bytes:
    """The error's body with only what we know in it: firebase-admin's parser falls over anything else.

    Empty for a body that is no such error, which is then judged by its status alone.
    """
    try:
        return msgspec.json.encode(_error_decoder.decode(content))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return b""


def _initialise(service_account: Path) -> firebase_admin.App:
    try:
        certificate = credentials.Certificate(str(service_account))
        return firebase_admin.initialize_app(certificate, name=f"footfall-{uuid4().hex}")
    except (OSError, ValueError) as error:
        raise PushSetupError(
            f"push.service_account: {service_account}: {error}; it may be the JSON file that Firebase gives"
        ) from error


def _session(settings: FcmSettings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.connections, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.timeout_s / 2),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,  # the thread that fetches tokens honours the proxy's variables too
    )


async def _bounded(stream: aiohttp.StreamReader) -> bytes:
    """The whole answer, or as much of it as any true answer would have."""
    parts = bytearray()
    async for chunk in stream.iter_any():
        parts += chunk
        if len(parts) > ANSWER_BYTES:
            break
    return bytes(parts)


def _as_httpx(error: Exception) -> httpx.HTTPError:
    """aiohttp's failure as the httpx one that firebase-admin understands.

    Only where no byte was written may it become a ConnectError, which is safe to retry.
    """
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return httpx.ConnectError(str(error))
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(str(error) or "no answer in time")
    return httpx.ReadError(f"{type(error).__name__}: {error}")


def _name(content: bytes) -> str:
    """The name in a 200's body. Raises UnknownError: something answered, and it may have been FCM."""
    try:
        return str(json.loads(content)["name"])
    except (ValueError, TypeError, KeyError) as error:
        raise UnknownError(f"a 200 that names no message: {content[:80]!r}", cause=error) from error
