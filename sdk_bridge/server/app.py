"""The HTTP rim: routes, limits and answers of the Segment-compatible API, mounted under an app's root."""

import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar
from uuid import uuid4

import msgspec
import structlog
from aiohttp import hdrs, web

from sdk_bridge.server import answers, calls, normalise, phones
from sdk_bridge.server.batches import read_batch
from sdk_bridge.server.bodies import OpenBatch, Rejected, decode, may_hold_nul, open_batch
from sdk_bridge.server.id_tokens import IdTokens, identities_in
from sdk_bridge.server.keys import key_of_header, usable_key
from sdk_bridge.server.letters import letters_of
from sdk_bridge.server.links import Links, link_call, redeem_call
from sdk_bridge.server.normalise import Arrival, Storable, finished
from sdk_bridge.server.phones import Parts
from sdk_bridge.server.ports import (
    DeadLetter,
    Journal,
    JournalBusy,
    NoPlaces,
    OwnBeacons,
    Places,
    Source,
    Sources,
)
from sdk_bridge.server.rates import Buckets, Rate
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.server.requests import body_of, call_of_pixel
from sdk_bridge.server.snippet import snippet_answer
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.places import MAX_REGIONS

C = TypeVar("C", bound=calls.Call)
Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_SHORT = {"i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias"}
_BATCH_PATHS = ("/v1/batch", "/v1/b", "/v1/import", "/batch", "/import")
# Segment's browser SDK reports on itself to Segment every 30 s, unless its settings say otherwise.
_NO_METRICS = {"sampleRate": 0}

_key_of = lru_cache(maxsize=256)(key_of_header)  # a source says the same with every request

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """What the bridge has done since it started."""

    accepted: int = 0
    duplicates: int = 0
    buried: int = 0
    strangers: int = 0
    """Sightings of beacons that are not ours, never stored."""
    pixels_lost: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Bridge:
    """The API for apps and sites over a journal and a registry of sources.

    `clock` gives unix milliseconds; `beacons` knows which are ours and `places` what phones should watch;
    `id_tokens` checks Firebase's; without it they prove nothing; `links` makes link tokens and takes them;
    `new_id` makes message ids for calls without one; `public_host` is the `host[:port]` by which SDKs reach
    us, where the Host header of their requests does not say it.
    """

    def __init__(  # noqa: PLR0913 - the ports, each of them one thing that the backend joins
        self,
        journal: Journal,
        sources: Sources,
        clock: Callable[[], int],
        *,
        beacons: OwnBeacons | None = None,
        places: Places | None = None,
        id_tokens: IdTokens | None = None,
        links: Links | None = None,
        rate: Rate | None = None,
        new_id: Callable[[], str] = lambda: uuid4().hex,
        public_host: str | None = None,
    ) -> None:
        self.tally = Tally()
        self._journal = journal
        self._sources = sources
        self._beacons = beacons or NoPlaces()
        self._places = places or NoPlaces()
        self._id_tokens = id_tokens
        self._links = links
        self._clock = clock
        self._buckets = Buckets()
        self._rate = rate or Rate()
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
        self._post(app, "/v1/beacons", self._sightings)
        self._post(app, "/v1/geofences", self._transitions)
        self._post(app, "/v1/location", self._location)
        self._post(app, "/v1/link", self._link)
        self._post(app, "/v1/link/redeem", self._redeem)
        self._get(app, "/v1/pixel/{method}", self._pixel)
        self._get(app, "/v1/projects/{write_key}/settings", self._settings)
        self._get(app, "/v1/footfall.js", snippet_answer())

    def _post(self, app: web.Application, path: str, answer: Answer) -> None:
        for spelled in (path, path + "/"):
            app.router.add_post(spelled, self._guarded(answer))
            app.router.add_options(spelled, answers.preflight)

    def _get(self, app: web.Application, path: str, answer: Answer) -> None:
        for spelled in (path, path + "/"):
            app.router.add_get(spelled, self._guarded(answer))
            app.router.add_options(spelled, answers.preflight)

    def _guarded(self, answer: Answer) -> Answer:
        """The handler with refusals and a busy journal turned into their answers, readable by pages."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                response = await answer(request)
            except Refusal as refusal:
                response = self._refused(refusal)
            except Rejected as rejected:
                response = self._refused(Refusal(400, "invalid_request", str(rejected)))
            except JournalBusy as busy:
                response = self._refused(Refusal(503, "busy", "try again shortly", busy.retry_after_s))
            return answers.readable(request, response)

        return handle

    def _refused(self, refusal: Refusal) -> web.Response:
        self.tally.refused[refusal.code] = self.tally.refused.get(refusal.code, 0) + 1
        return answers.refused(refusal)

    # The calls --------------------------------------------------------------------------------------------

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        appended, letters = self._read_in(*await self._open(request))
        await appended
        await self._bury(letters)
        return answers.taken()

    async def _open(self, request: web.Request) -> tuple[OpenBatch, Arrival]:
        at = self._clock()
        source = await self._source_of_header(request, at)
        body = await body_of(request)
        opened = open_batch(body)
        source = source or await self._source_of_key(request, opened.write_key, at)
        self._take(source, len(opened.batch), at)
        return opened, await self._arrival(source, at, body)

    def _read_in(self, opened: OpenBatch, arrival: Arrival) -> tuple[Awaitable[int], list[DeadLetter]]:
        """The batch on its way into the journal, and what has to be buried of it."""
        kept, rejects = read_batch(opened, arrival)
        return self._append(kept), letters_of(rejects, opened, arrival)

    def _segment(self, kind: str) -> Answer:
        def understand(call: calls.SegmentCall, arrival: Arrival) -> AppEvent:
            usual = normalise.usual_reader(arrival, call.sent_at)(call, kind, 0)
            return usual or normalise.segment_event(call, kind, arrival, 0)

        return self._own(calls.segment_call, understand)

    def _own(
        self, decoder: "msgspec.json.Decoder[C]", understand: Callable[[C, Arrival], AppEvent]
    ) -> Answer:
        """A handler for bodies of one call."""

        def read_in(call: C, arrival: Arrival, holds_nul: bool) -> Awaitable[int]:
            self._take(arrival.source, 1, arrival.received_at)
            return self._append(finished([understand(call, arrival)], holds_nul=holds_nul))

        async def handle(request: web.Request) -> web.StreamResponse:
            await read_in(*await self._read(request, decoder))
            return answers.taken()

        return handle

    async def _sightings(self, request: web.Request) -> web.StreamResponse:
        """Beacons that a phone heard. Those that are not ours, and what is unclear, are counted and
        forgotten: a phone must not tell us of strangers' beacons.
        """
        call, arrival, holds_nul = await self._read(request, calls.sightings_call)
        self._take(arrival.source, len(call.sightings), arrival.received_at)
        parts = phones.read_sightings(call, arrival)
        _some_understood(parts)
        ours = await self._beacons.ours({event.sighting.key for event in parts.events if event.sighting})
        kept = [event for event in parts.events if event.sighting and event.sighting.key in ours]
        await self._append(finished(kept, holds_nul=holds_nul))
        strangers = len(parts.events) - len(kept)
        self.tally.strangers += strangers
        return _parts_taken(parts, len(kept), strangers)

    async def _transitions(self, request: web.Request) -> web.StreamResponse:
        call, arrival, holds_nul = await self._read(request, calls.transitions_call)
        self._take(arrival.source, len(call.transitions), arrival.received_at)
        parts = phones.read_transitions(call, arrival)
        _some_understood(parts)
        await self._append(finished(parts.events, holds_nul=holds_nul))
        return _parts_taken(parts, len(parts.events), 0)

    async def _location(self, request: web.Request) -> web.StreamResponse:
        call, arrival, holds_nul = await self._read(request, calls.location_call)
        self._take(arrival.source, 1, arrival.received_at)
        event = phones.location_event(call, arrival)
        await self._append(finished([event], holds_nul=holds_nul))
        regions = await self._places.nearest(call.latitude, call.longitude, MAX_REGIONS)
        return answers.ok(answers.Watch(regions[:MAX_REGIONS]))

    async def _link(self, request: web.Request) -> web.StreamResponse:
        """A short-lived token by which an app becomes this visitor's."""
        call, arrival, _ = await self._read(request, link_call)
        self._take(arrival.source, 1, arrival.received_at)
        return answers.ok(self._own_links().issue(call, arrival))

    async def _redeem(self, request: web.Request) -> web.StreamResponse:
        """Spends a token, once: the journal keeps one redemption of it, whoever comes first."""
        call, arrival, holds_nul = await self._read(request, redeem_call)
        self._take(arrival.source, 1, arrival.received_at)
        links = self._own_links()
        redeemed = finished([links.redemption(call, arrival)], holds_nul=holds_nul)
        if not await self._append(redeemed):
            await links.settle_again(redeemed.events[0])
        return answers.taken()

    def _own_links(self) -> Links:
        if self._links is None:
            raise Refusal(404, "no_links", "this bridge makes no link tokens")
        return self._links

    async def _pixel(self, request: web.Request) -> web.StreamResponse:
        """Always the image: a mail program shows nothing else, and comes only once."""
        method = request.match_info["method"]
        try:
            if request.method == "GET":  # who asks for the head alone shows nothing to anybody
                await self._take_pixel(request, _SHORT.get(method, method))
        except (Refusal, Rejected, JournalBusy) as error:
            self.tally.pixels_lost += 1
            _log.info("pixel lost", reason=str(error))
        return web.Response(body=_GIF, content_type="image/gif", headers={"Cache-Control": "no-store"})

    async def _take_pixel(self, request: web.Request, kind: str) -> None:
        at = self._clock()
        raw = call_of_pixel(request.query.get("data", ""))
        call = decode(raw, calls.segment_call)
        source = await self._source_of_key(request, call.write_key, at)
        self._take(source, 1, at)
        event = normalise.segment_event(call, kind, Arrival(source, at, self._new_id), 0)
        await self._append(finished([event], holds_nul=may_hold_nul(raw)))

    async def _settings(self, request: web.Request) -> web.StreamResponse:
        """What browser and mobile SDKs ask before they send: where to."""
        key = request.match_info["write_key"]
        source = await self._find(key)
        if source is None:
            raise Refusal(404, "unknown_write_key", "no source has this write key")
        request[answers.SOURCE] = source
        answers.check_origin(request, source)
        host = self._public_host or request.host
        if _HOST.fullmatch(host) is None:
            raise Refusal(400, "invalid_host", "the Host header is not a host")
        where = {"Segment.io": {"apiKey": key, "apiHost": f"{host}/v1"}}
        return answers.ok({"integrations": where, "metrics": _NO_METRICS})

    async def _read(
        self, request: web.Request, decoder: "msgspec.json.Decoder[C]"
    ) -> tuple[C, Arrival, bool]:
        """The one call of a body, where and when it came in, and whether a text in it may hold NUL."""
        at = self._clock()
        source = await self._source_of_header(request, at)
        body = await body_of(request)
        call = decode(body, decoder)
        source = source or await self._source_of_key(request, call.write_key, at)
        return call, await self._arrival(source, at, body), may_hold_nul(body)

    async def _arrival(self, source: Source, at: int, body: bytes) -> Arrival:
        """Raises CertificatesUnavailable, a Refusal, where an ID token cannot be checked just now."""
        if self._id_tokens is None:
            return Arrival(source, at, self._new_id)
        return Arrival(source, at, self._new_id, await identities_in(body, self._id_tokens, at))

    # The journal ------------------------------------------------------------------------------------------

    def _append(self, kept: Storable) -> Awaitable[int]:
        """How many were new.

        Nothing here holds the events until they are committed: their bytes are all that has to wait, and
        objects that die young leave their memory in the processor's cache for those of the next request.
        """
        events = len(kept.events)
        return self._counted(
            self._journal.append_events(kept.events, kept.encoded) if events else None, events
        )

    async def _counted(self, appending: Awaitable[int] | None, events: int) -> int:
        new = 0 if appending is None else await appending
        self.tally.accepted += new
        self.tally.duplicates += events - new
        return new

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            await self._journal.bury(letter)
            self.tally.buried += letter.events
            _log.info("events buried", source=letter.source_id, reason=letter.reason, events=letter.events)

    # Who sends --------------------------------------------------------------------------------------------

    def _take(self, source: Source, events: int, at: int) -> None:
        self._buckets.take(source.source_id, source.rate or self._rate, max(1, events), at)

    async def _source_of_header(self, request: web.Request, at: int) -> Source | None:
        """The source named in the Authorization header, before the body is read. Raises Refusal.

        None also for a key of nobody's: browsers add what a page's own server asked of them, and the body
        may name the source.
        """
        source = await self._find(_key_of(request.headers.get(hdrs.AUTHORIZATION)))
        return None if source is None else self._known(request, source, at)

    async def _source_of_key(self, request: web.Request, key: str | None, at: int) -> Source:
        source = await self._find(key)
        if source is None:
            named = key or _key_of(request.headers.get(hdrs.AUTHORIZATION))
            text = "no source has this write key" if named else "a write key is needed"
            raise Refusal(401, "invalid_write_key", text)
        return self._known(request, source, at)

    def _known(self, request: web.Request, source: Source, at: int) -> Source:
        request[answers.SOURCE] = source
        answers.check_origin(request, source)
        wait = self._buckets.wait_s(source.source_id, source.rate or self._rate, at)
        if wait:
            raise Refusal(429, "rate_limited", "too many events from this source", wait)
        return source

    async def _find(self, key: str | None) -> Source | None:
        usable = usable_key(key)
        return None if usable is None else await self._sources.source_for_key(usable)


def _receipt(receipt: Literal["received", "opened"]) -> Callable[[calls.ReceiptCall, Arrival], AppEvent]:
    return lambda call, arrival: normalise.receipt_event(call, receipt, arrival)


def _some_understood(parts: Parts) -> None:
    """Raises Refusal where not one part can be understood."""
    if not parts.events and parts.rejects:
        raise Refusal(400, "invalid_request", parts.rejects[0].reason)


def _parts_taken(parts: Parts, accepted: int, ignored: int) -> web.Response:
    refused = [answers.RefusedPart(reject.index, reject.reason) for reject in parts.rejects]
    return answers.ok(answers.PartsTaken(accepted, ignored, refused))
