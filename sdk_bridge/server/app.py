"""The HTTP rim: routes, limits and answers of the Segment-compatible API, mounted under an app's root."""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, TypeAlias, TypeVar
from uuid import uuid4

import msgspec
import structlog
from aiohttp import ClientError, web

from sdk_bridge.server import calls, normalise
from sdk_bridge.server.bodies import (
    MAX_BATCH_BYTES,
    MAX_EVENT_BYTES,
    Rejected,
    decode,
    inflate,
    open_batch,
    too_large,
)
from sdk_bridge.server.keys import key_of_header, usable_key
from sdk_bridge.server.normalise import Arrival, Reject, storable
from sdk_bridge.server.ports import Journal, JournalBusy, Source, Sources
from sdk_bridge.server.rates import Buckets, Rate
from sdk_bridge.server.refusals import Refusal, RefusalBody
from sdk_bridge.server.snippet import snippet_answer
from sdk_bridge.wire.app_events import AppEvent

C = TypeVar("C", bound=calls.Call)
Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_SECONDS = 30  # a sender that trickles its body would hold a connection and its memory for ever
MAX_PIXEL_CHARS = 3 * MAX_EVENT_BYTES // 2
_OK = b'{"success": true}'
_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9\-, ]{1,512}")
_SHORT = {"i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias"}
_BATCH_PATHS = ("/v1/batch", "/v1/b", "/v1/import", "/batch", "/import")
# Segment's browser SDK reports on itself to Segment every 30 s, unless its settings say otherwise.
_NO_METRICS = {"sampleRate": 0}
_CORS = {
    "Access-Control-Allow-Origin": "*",  # a write key is public and no cookie is read here
    "Access-Control-Expose-Headers": "Retry-After",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """What the bridge has done since it started."""

    accepted: int = 0
    duplicates: int = 0
    buried: int = 0
    pixels_lost: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Bridge:
    """The API for apps and sites over a journal and a registry of sources.

    `clock` gives unix milliseconds; `new_id` makes message ids for calls without one; `public_host` is the
    `host[:port]` by which SDKs reach us, where the Host header of their requests does not say it.
    """

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        clock: Callable[[], int],
        *,
        rate: Rate | None = None,
        new_id: Callable[[], str] = lambda: uuid4().hex,
        public_host: str | None = None,
    ) -> None:
        self.tally = Tally()
        self._journal = journal
        self._sources = sources
        self._clock = clock
        self._buckets = Buckets(rate or Rate())
        self._new_id = new_id
        self._public_host = public_host

    def add_to(self, app: web.Application) -> None:
        """Adds every route, each with and without a trailing slash: a redirect would lose the event."""
        for path in _BATCH_PATHS:
            self._post(app, path, self._batch)
        for letter, kind in _SHORT.items():
            answer = self._segment(kind)
            self._post(app, f"/v1/{kind}", answer)
            self._post(app, f"/v1/{letter}", answer)
        self._post(app, "/v1/devices", self._own(calls.device_call, normalise.device_event))
        self._post(app, "/v1/devices/logout", self._own(calls.logout_call, normalise.logout_event))
        self._post(app, "/v1/consent", self._own(calls.consent_call, normalise.consent_event))
        self._post(app, "/v1/push/received", self._own(calls.receipt_call, _receipt("received")))
        self._post(app, "/v1/push/opened", self._own(calls.receipt_call, _receipt("opened")))
        self._get(app, "/v1/pixel/{method}", self._pixel)
        self._get(app, "/v1/projects/{write_key}/settings", self._settings)
        self._get(app, "/v1/footfall.js", snippet_answer())

    def _post(self, app: web.Application, path: str, answer: Answer) -> None:
        for spelled in (path, path + "/"):
            app.router.add_post(spelled, self._guarded(answer))
            app.router.add_options(spelled, _preflight)

    def _get(self, app: web.Application, path: str, answer: Answer) -> None:
        for spelled in (path, path + "/"):
            app.router.add_get(spelled, self._guarded(answer))
            app.router.add_options(spelled, _preflight)

    def _guarded(self, answer: Answer) -> Answer:
        """The handler with refusals and a busy journal turned into their answers."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await answer(request)
            except Refusal as refusal:
                return self._refused(refusal)
            except Rejected as rejected:
                return self._refused(Refusal(400, "invalid_request", str(rejected)))
            except JournalBusy as busy:
                return self._refused(Refusal(503, "busy", "try again shortly", busy.retry_after_s))

        return handle

    def _refused(self, refusal: Refusal) -> web.Response:
        self.tally.refused[refusal.code] = self.tally.refused.get(refusal.code, 0) + 1
        response = _json(RefusalBody(refusal.code, refusal.message), refusal.status)
        if refusal.retry_after_s is not None:
            response.headers["Retry-After"] = str(refusal.retry_after_s)
        return response

    # The calls --------------------------------------------------------------------------------------------

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        at = self._clock()
        source = await self._source_of_header(request, at)
        opened = open_batch(await _body(request))
        source = source or await self._source_of_key(opened.write_key, at)
        self._buckets.take(source.source_id, max(1, len(opened.batch)), at)
        events, rejects = normalise.read_batch(opened, Arrival(source, at, self._new_id))
        await self._append(events)
        await self._bury(source, rejects)
        return _success()

    def _segment(self, kind: str) -> Answer:
        def understand(call: calls.SegmentCall, arrival: Arrival) -> AppEvent:
            return normalise.segment_event(call, kind, arrival, 0)

        return self._own(calls.segment_call, understand)

    def _own(
        self, decoder: "msgspec.json.Decoder[C]", understand: Callable[[C, Arrival], AppEvent]
    ) -> Answer:
        """A handler for bodies of one call."""

        async def handle(request: web.Request) -> web.StreamResponse:
            at = self._clock()
            source = await self._source_of_header(request, at)
            call = decode(await _body(request), decoder)
            source = source or await self._source_of_key(call.write_key, at)
            self._buckets.take(source.source_id, 1, at)
            await self._append(storable([understand(call, Arrival(source, at, self._new_id))]))
            return _success()

        return handle

    async def _pixel(self, request: web.Request) -> web.StreamResponse:
        """Always the image: a mail program shows nothing else, and comes only once."""
        method = request.match_info["method"]
        try:
            at = self._clock()
            raw = _pixel_data(request.query.get("data", ""))
            call = decode(raw, calls.segment_call)
            source = await self._source_of_key(call.write_key, at)
            self._buckets.take(source.source_id, 1, at)
            kind = _SHORT.get(method, method)
            event = normalise.segment_event(call, kind, Arrival(source, at, self._new_id), 0)
            await self._append(storable([event]))
        except (Refusal, Rejected, JournalBusy) as error:
            self.tally.pixels_lost += 1
            _log.info("pixel lost", reason=str(error))
        return web.Response(
            body=_GIF, content_type="image/gif", headers={**_CORS, "Cache-Control": "no-store"}
        )

    async def _settings(self, request: web.Request) -> web.StreamResponse:
        """What browser and mobile SDKs ask before they send: where to."""
        key = request.match_info["write_key"]
        if await self._find(key) is None:
            raise Refusal(404, "unknown_write_key", "no source has this write key")
        host = self._public_host or request.host
        if _HOST.fullmatch(host) is None:
            raise Refusal(400, "invalid_host", "the Host header is not a host")
        where = {"Segment.io": {"apiKey": key, "apiHost": f"{host}/v1"}}
        return _json({"integrations": where, "metrics": _NO_METRICS}, 200)

    # The journal ------------------------------------------------------------------------------------------

    async def _append(self, events: list[AppEvent]) -> None:
        if not events:
            return
        new = await self._journal.append_events(events)
        self.tally.accepted += new
        self.tally.duplicates += len(events) - new

    async def _bury(self, source: Source, rejects: list[Reject]) -> None:
        """One dead letter per reason, its events on a line each: 2,500 bad events make no 2,500 commits."""
        by_reason: dict[str, list[bytes]] = {}
        for reject in rejects:
            by_reason.setdefault(reject.reason, []).append(reject.raw.replace(b"\n", b" "))
        for reason, raws in by_reason.items():
            await self._journal.bury(f"app:{source.source_id}", reason, b"\n".join(raws))
            self.tally.buried += len(raws)
            _log.info("events buried", source=source.source_id, reason=reason, events=len(raws))

    # Who sends --------------------------------------------------------------------------------------------

    async def _source_of_header(self, request: web.Request, at: int) -> Source | None:
        """The source named in the Authorization header, before the body is read. Raises Refusal."""
        key = key_of_header(request.headers.get("Authorization"))
        return None if key is None else await self._source_of_key(key, at)

    async def _source_of_key(self, key: str | None, at: int) -> Source:
        source = await self._find(key)
        if source is None:
            text = "no source has this write key" if key else "a write key is needed"
            raise Refusal(401, "invalid_write_key", text)
        wait = self._buckets.wait_s(source.source_id, at)
        if wait:
            raise Refusal(429, "rate_limited", "too many events from this source", wait)
        return source

    async def _find(self, key: str | None) -> Source | None:
        usable = usable_key(key)
        return None if usable is None else await self._sources.source_for_key(usable)


def _receipt(receipt: Literal["received", "opened"]) -> Callable[[calls.ReceiptCall, Arrival], AppEvent]:
    return lambda call, arrival: normalise.receipt_event(call, receipt, arrival)


async def _body(request: web.Request) -> bytes:
    """The body, plain, of at most MAX_BATCH_BYTES. Raises Refusal."""
    chunks = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                chunks += chunk
                if len(chunks) > MAX_BATCH_BYTES:
                    break
    except TimeoutError as error:
        raise Refusal(408, "too_slow", f"the body took longer than {BODY_SECONDS} s") from error
    except (ClientError, web.RequestPayloadError) as error:
        raise Refusal(400, "invalid_body", "the body ended early or its encoding is damaged") from error
    if len(chunks) > MAX_BATCH_BYTES:
        raise too_large(MAX_BATCH_BYTES)
    return inflate(bytes(chunks), MAX_BATCH_BYTES)


def _pixel_data(data: str) -> bytes:
    if len(data) > MAX_PIXEL_CHARS:
        raise too_large(MAX_EVENT_BYTES)
    try:
        return base64.urlsafe_b64decode(data.encode() + b"=" * (-len(data) % 4))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Rejected("`data` is not base64url") from error


async def _preflight(request: web.Request) -> web.StreamResponse:
    """Answers a browser that asks before it sends an Authorization header."""
    asked = request.headers.get("Access-Control-Request-Headers", "")
    allowed = asked if _HEADER_NAMES.fullmatch(asked) else "Authorization, Content-Type, Content-Encoding"
    headers = {
        **_CORS,
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": allowed,
        "Access-Control-Max-Age": "86400",
    }
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)


def _success() -> web.Response:
    return web.Response(body=_OK, content_type="application/json", headers=_CORS)


def _json(value: object, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=_CORS
    )
