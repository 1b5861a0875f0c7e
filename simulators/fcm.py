"""FCM and Google's OAuth on one local port, with faults to order and a durable log of what it accepted.

As Google would, it refuses bad assertions, expired tokens, malformed messages and unknown addresses. What
testers need lies under /sim/: register, unregister, faults, messages, stats, deliveries (to phones).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, web
from msgspec import Struct

from simulators.fcm_faults import ANSWERS, BAD_GATEWAY, Answer, Fault, FaultBox, FaultKind, Faults
from simulators.fcm_message import BadAddress, BadMessage, Message, SendRequest, TooBig, address, read_request
from simulators.fcm_oauth import Denied, TokenOffice, read_service_account, write_service_account
from simulators.fcm_records import Address, AddressBook, DeviceRate, LineLog

__all__ = ["FcmServer", "FcmServerSettings", "Whereabouts", "serve", "write_service_account"]

ADDRESS_FILE = "fcm.json"
HANG_S = 3600.0  # longer than any client's patience

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FcmServerSettings:
    """`token_life_s`: OAuth tokens; `per_device_per_minute`: Google's own limit for one Android device."""

    project_id: str = "footfall-demo"
    token_life_s: int = 3600
    per_device_per_minute: int = 240
    seed: int = 0


# The server ---------------------------------------------------------------------------------------------
class _Refusal(Exception):
    """A send ends with an error answer."""

    def __init__(self, answer: Answer, retry_after: str | None = None) -> None:
        super().__init__(answer.text)
        self.answer = answer
        self.retry_after = retry_after


class FcmServer:
    """The handlers and what they know; `application` makes the aiohttp app."""

    def __init__(
        self,
        folder: Path,
        office: TokenOffice,
        settings: FcmServerSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._office = office
        self._settings = settings
        self._clock = clock
        self._book = AddressBook(folder / "addresses.jsonl")
        self._accepted = LineLog(folder / "messages.jsonl")
        self._faults = FaultBox(random.Random(settings.seed))
        self._rate = DeviceRate(settings.per_device_per_minute)
        self._collapse_keys: dict[str, set[str]] = {}
        self._listeners: dict[web.WebSocketResponse, asyncio.Event] = {}
        self._answers: Counter[str] = Counter()
        self._token_requests = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/token", self.token),
                web.post("/v1/projects/{project}/messages:send", self.send),
                web.post("/sim/register", self.register),
                web.post("/sim/unregister", self.unregister),
                web.post("/sim/faults", self.order_faults),
                web.get("/sim/messages", self.messages),
                web.get("/sim/stats", self.stats),
                web.get("/sim/deliveries", self.deliveries),
            ]
        )
        app.on_shutdown.append(self._hang_up)
        app.on_cleanup.append(self._close)
        return app

    # OAuth
    async def token(self, request: web.Request) -> web.Response:
        """POST /token."""
        self._token_requests += 1
        fault = self._faults.draw(oauth=True)
        if fault is not None:
            await asyncio.sleep(fault.delay_ms / 1000)
            if fault.kind in _TOKEN_FAULTS:
                return _TOKEN_FAULTS[fault.kind]()
        try:
            token = self._office.issue(await request.post(), int(self._clock()))
        except Denied as error:
            return _json({"error": "invalid_grant", "error_description": str(error)}, 400)
        return _json(
            {"access_token": token, "expires_in": self._settings.token_life_s, "token_type": "Bearer"}
        )

    # FCM
    async def send(self, request: web.Request) -> web.Response:
        """POST /v1/projects/{project}/messages:send."""
        try:
            self._check_caller(request)
            sent = _read(await request.read())
            return await self._receive(request, sent)
        except _Refusal as refusal:
            self._answers[refusal.answer.fcm_code or refusal.answer.status] += 1
            wish = {} if refusal.retry_after is None else {"Retry-After": refusal.retry_after}
            return _json(refusal.answer.body(), refusal.answer.http, wish)

    def _check_caller(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not self._office.accepts(token, self._clock()):
            raise _Refusal(ANSWERS["unauthenticated"])
        if request.match_info["project"] != self._settings.project_id:
            raise _Refusal(ANSWERS["permission_denied"])

    async def _receive(self, request: web.Request, sent: SendRequest) -> web.Response:
        kind, value = address(sent.message)
        fault = self._faults.draw(oauth=False, value=value)
        if fault is not None:
            await asyncio.sleep(fault.delay_ms / 1000)
            if fault.kind in ANSWERS:
                raise _Refusal(ANSWERS[fault.kind], self._retry_after(fault))
        if fault is None or fault.kind not in _NOT_DELIVERED:
            self._check_address(kind, value)
        if sent.validate_only:
            return _json({"name": self._name("fake_message_id")})
        if fault is None or fault.kind == "delay":
            return _json({"name": self._accept(kind, value, sent.message)})
        if fault.kind not in _NOT_DELIVERED:
            self._accept(kind, value, sent.message)
        return await self._mislead(request, fault.kind)

    def _check_address(self, kind: str, value: str) -> None:
        if kind not in ("token", "fid"):
            return  # a topic or a condition: nobody subscribes here, so it reaches nobody
        if Address(value, kind) not in self._book:  # type: ignore[arg-type] # narrowed by the line above
            raise _Refusal(ANSWERS["unregistered"])
        if not self._rate.allows(value, self._clock()):
            raise _Refusal(ANSWERS["quota_exceeded"], "60")

    def _retry_after(self, fault: Fault) -> str | None:
        if fault.retry_after_s is None or fault.retry_after_form == "seconds":
            return None if fault.retry_after_s is None else str(fault.retry_after_s)
        return formatdate(self._clock() + fault.retry_after_s, usegmt=True)

    def _accept(self, kind: str, value: str, message: Message) -> str:
        """Writes the message down, then tells the phones; its name."""
        line = len(self._accepted) + 1
        record = {
            "line": line,
            "kind": kind,
            "value": value,
            "push_id": (message.data or {}).get("push_id"),
            "accepted_at": int(self._clock() * 1000),
            "message": message,
        }
        self._accepted.append(msgspec.json.encode(record))
        self._answers["ACCEPTED"] += 1
        self._count_collapse_key(value, message)
        for news in self._listeners.values():
            news.set()
        return self._name(str(line))

    def _name(self, text: str) -> str:
        return f"projects/{self._settings.project_id}/messages/{text}"

    def _count_collapse_key(self, value: str, message: Message) -> None:
        if message.android and message.android.collapse_key:
            self._collapse_keys.setdefault(value, set()).add(message.android.collapse_key)

    async def _mislead(self, request: web.Request, kind: FaultKind) -> web.Response:
        """What a sender sees that cannot know whether the message was delivered."""
        self._answers[kind] += 1
        if kind in ("dropped", "dropped_delivered") and request.transport is not None:
            request.transport.abort()
        if kind in ("silent", "silent_delivered"):
            await asyncio.sleep(HANG_S)
        if kind == "not_json_delivered":
            return web.Response(text="OK")
        return web.Response(status=502, text=BAD_GATEWAY, content_type="text/html")

    # For testers
    async def register(self, request: web.Request) -> web.Response:
        """POST /sim/register: one {value, kind} or a list of them."""
        return await self._set_addresses(request, True)

    async def unregister(self, request: web.Request) -> web.Response:
        """POST /sim/unregister: the app was removed; the next send answers UNREGISTERED."""
        return await self._set_addresses(request, False)

    async def _set_addresses(self, request: web.Request, registered: bool) -> web.Response:
        entries = await _decode(request, Address | list[Address])
        for entry in entries if isinstance(entries, list) else [entries]:
            self._book.set(entry, registered)
        return _json({"ok": True})

    async def order_faults(self, request: web.Request) -> web.Response:
        """POST /sim/faults: see Faults."""
        self._faults.faults = (await _decode(request, Faults)).faults
        return _json({"faults": msgspec.to_builtins(self._faults.faults)})

    async def messages(self, request: web.Request) -> web.Response:
        """GET /sim/messages?since=N: what was accepted after line N (0), at most 500 a page."""
        lines = self._accepted.after(_since(request, 0))
        return web.Response(body=b"[" + b",".join(lines) + b"]", content_type="application/json")

    async def stats(self, _: web.Request) -> web.Response:
        """GET /sim/stats."""
        return _json(
            {
                "accepted": len(self._accepted),
                "answers": dict(self._answers),
                "token_requests": self._token_requests,
                "listeners": len(self._listeners),
                "over_four_collapse_keys": sum(len(keys) > 4 for keys in self._collapse_keys.values()),
            }
        )

    async def deliveries(self, request: web.Request) -> web.WebSocketResponse:
        """GET /sim/deliveries?since=N: every message accepted after line N (now), one JSON text each.

        Each listener reads the log at its own pace, so a slow one costs no memory and misses nothing.
        """
        line = _since(request, len(self._accepted))
        socket = web.WebSocketResponse(heartbeat=20.0)
        await socket.prepare(request)
        news = self._listeners[socket] = asyncio.Event()
        listening = asyncio.create_task(_until_closed(socket, news))
        try:
            await self._stream(socket, news, line)
        except ConnectionError:
            log.info("fcm.listener_gone", line=line)
        finally:
            del self._listeners[socket]
            listening.cancel()
        return socket

    async def _stream(self, socket: web.WebSocketResponse, news: asyncio.Event, line: int) -> None:
        while not socket.closed:
            news.clear()
            lines = self._accepted.after(line)
            for text in lines:
                await socket.send_str(text.decode())
            line += len(lines)
            if not lines:
                await news.wait()

    async def _hang_up(self, _: web.Application) -> None:
        for socket in list(self._listeners):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def _close(self, _: web.Application) -> None:
        self._accepted.close()
        self._book.close()


_NOT_DELIVERED = frozenset({"bad_gateway", "dropped", "silent"})
_TOKEN_FAULTS: Mapping[str, Callable[[], web.Response]] = {
    "oauth_refused": lambda: _json(
        {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400
    ),
    "oauth_unavailable": lambda: _json({"error": "internal_failure"}, 503),
    "oauth_not_json": lambda: web.Response(text="OK"),
}


def _read(body: bytes) -> SendRequest:
    """The request's message. Raises _Refusal."""
    try:
        return read_request(body)
    except BadMessage as error:
        violations = tuple((violation.field, violation.description) for violation in error.violations)
        raise _Refusal(Answer(400, "INVALID_ARGUMENT", str(error), None, violations)) from error
    except (TooBig, BadAddress) as error:
        raise _Refusal(Answer(400, "INVALID_ARGUMENT", str(error), "INVALID_ARGUMENT")) from error


async def _decode(request: web.Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _since(request: web.Request, default: int) -> int:
    text = request.query.get("since", "")
    if text and not text.isdecimal():
        raise web.HTTPBadRequest(text="since must be a line number")
    return int(text) if text else default


async def _until_closed(socket: web.WebSocketResponse, news: asyncio.Event) -> None:
    """Listeners only listen; this notices when one goes."""
    async for _ in socket:
        continue
    news.set()


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )


class Whereabouts(Struct):
    """Where a running simulator is; written to `fcm.json` in its folder once it listens."""

    url: str
    send_url: str
    service_account: str


async def serve(host: str, port: int, folder: Path, settings: FcmServerSettings) -> None:
    """Serves until cancelled; port 0 takes a free one, which `fcm.json` then tells."""
    (folder / ADDRESS_FILE).unlink(missing_ok=True)  # an earlier life's
    account = write_service_account(folder, f"http://{host}:{port}/token", settings.project_id)
    office = TokenOffice(read_service_account(account), settings.token_life_s)
    runner = web.AppRunner(FcmServer(folder, office, settings).application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        url = f"http://{host}:{runner.addresses[0][1]}"
        write_service_account(folder, f"{url}/token", settings.project_id)
        _announce(folder, url, account, settings.project_id)
        log.info("fcm.listening", url=url, folder=str(folder))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _announce(folder: Path, url: str, account: Path, project_id: str) -> None:
    """Whoever finds the file finds a listening server."""
    where = Whereabouts(url, f"{url}/v1/projects/{project_id}/messages:send", str(account))
    draft = folder / f"{ADDRESS_FILE}.new"
    draft.write_bytes(msgspec.json.encode(where))
    draft.replace(folder / ADDRESS_FILE)
