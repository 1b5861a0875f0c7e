"""Answers as browsers and SDKs want them: JSON, permission to be read by other origins, never a redirect."""

import re
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import Struct
from multidict import CIMultiDict

from sdk_bridge.server.ports import Source
from sdk_bridge.server.refusals import Refusal, RefusalBody
from sdk_bridge.wire.places import Region

SOURCE = web.RequestKey("source", Source)
"""Whose write key the request had, once that is known."""

# Made once: for a call of one event, making the headers of its answer is a good part of the work.
_READABLE = CIMultiDict(
    {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",  # a write key is public and no cookie is read
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "Retry-After",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
)
_JSON = CIMultiDict({hdrs.CONTENT_TYPE: "application/json", **_READABLE})
_HEADER_NAMES = re.compile(r"[A-Za-z0-9\-, ]{1,512}")


class Taken(Struct):
    """The events are on the disk."""

    success: bool = True


_TAKEN = msgspec.json.encode(Taken())


class RefusedPart(Struct):
    """One of a call's parts cannot be understood; `index` is its place among them."""

    index: int
    reason: str


class PartsTaken(Struct):
    """How many parts are on the disk, how many were of beacons that are not ours, and which were refused."""

    accepted: int
    ignored: int
    refused: list[RefusedPart]
    success: bool = True


class Watch(Struct):
    """The location is on the disk; these are the fences and beacon regions to watch there."""

    regions: list[Region]
    success: bool = True


def ok(value: Any) -> web.Response:
    """200, with JSON."""
    return web.Response(body=msgspec.json.encode(value), headers=_JSON)


def taken() -> web.Response:
    """200: the events are on the disk."""
    return web.Response(body=_TAKEN, headers=_JSON)


def refused(refusal: Refusal) -> web.Response:
    """Its status, with why and when to come again."""
    body = msgspec.json.encode(RefusalBody(refusal.code, refusal.message))
    response = web.Response(body=body, status=refusal.status, headers=_JSON)
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def nowhere(request: web.Request) -> web.Response | None:
    """404 or 405 for a call that this API does not have; None for what is no business of it."""
    error = request.match_info.http_exception
    if error is None or not request.path.startswith("/v1/"):
        return None
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        response = refused(Refusal(error.status, "method_not_allowed", f"not by {request.method[:20]}"))
        response.headers["Allow"] = error.headers.get("Allow", "")
        return response
    return refused(Refusal(error.status, "unknown_call", "there is no such call; see /api/openapi.json"))


@web.middleware
async def tell_of_nowhere(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers calls that this API does not have as `nowhere` says, for pages to read, too."""
    answer = nowhere(request)
    return await handler(request) if answer is None else readable(request, answer)


def check_origin(request: web.Request, source: Source) -> None:
    """Raises Refusal for a page that the source does not list. Browsers always say it."""
    if not source.origins:
        return
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and origin.lower() not in source.origins:
        raise Refusal(403, "origin_not_allowed", "this source takes nothing from pages of this origin")


def readable(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The answer, for the page that asked to read.

    A source that lists origins answers those alone. Its refusals are for all to read, or an SDK would take
    them for a broken network and come again for ever; they say nothing of anybody.
    """
    headers = response.headers
    for name, value in _READABLE.items():
        headers.setdefault(name, value)
    source = request.get(SOURCE)
    if source is None or not source.origins:
        return response
    headers[hdrs.VARY] = "Origin"
    if response.status < HTTPStatus.BAD_REQUEST:
        del headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN]
        origin = request.headers.get(hdrs.ORIGIN, "")
        if origin.lower() in source.origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    return response


async def preflight(request: web.Request) -> web.StreamResponse:
    """Answers a browser that asks before it sends an Authorization header.

    It asks without the write key, so nobody can tell the source: every origin may try, and the request
    itself is then judged by the origins of its source.
    """
    asked = request.headers.get("Access-Control-Request-Headers", "")
    allowed = asked if _HEADER_NAMES.fullmatch(asked) else "Authorization, Content-Type, Content-Encoding"
    headers = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": allowed,
        "Access-Control-Max-Age": "86400",
    }
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)
