"""Answers as browsers and SDKs want them: JSON, permission to be read by other origins, never a redirect."""

import re
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from sdk_bridge.server.ports import Source
from sdk_bridge.server.refusals import Refusal, RefusalBody
from sdk_bridge.wire.places import Region

SOURCE = web.RequestKey("source", Source)
"""Whose write key the request had, once that is known."""

_HEADER_NAMES = re.compile(r"[A-Za-z0-9\-, ]{1,512}")


class Taken(Struct):
    """The events are on the disk."""

    success: bool = True


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
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def refused(refusal: Refusal) -> web.Response:
    """Its status, with why and when to come again."""
    body = msgspec.json.encode(RefusalBody(refusal.code, refusal.message))
    response = web.Response(body=body, status=refusal.status, content_type="application/json")
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def check_origin(request: web.Request, source: Source) -> None:
    """Raises Refusal for a page that the source does not list. Browsers always say it."""
    origin = request.headers.get("Origin")
    if source.origins and origin is not None and origin.lower() not in source.origins:
        raise Refusal(403, "origin_not_allowed", "this source takes nothing from pages of this origin")


def readable(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The answer, for the page that asked to read.

    A source that lists origins answers those alone. Its refusals are for all to read, or an SDK would take
    them for a broken network and come again for ever; they say nothing of anybody.
    """
    source, origin = request.get(SOURCE), request.headers.get("Origin", "")
    listed = source is not None and bool(source.origins)
    response.headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin")
    response.headers.setdefault("Access-Control-Expose-Headers", "Retry-After")
    if listed:
        response.headers["Vary"] = "Origin"
    if not listed or response.status >= HTTPStatus.BAD_REQUEST:
        response.headers["Access-Control-Allow-Origin"] = "*"  # a write key is public and no cookie is read
    elif source is not None and origin.lower() in source.origins:
        response.headers["Access-Control-Allow-Origin"] = origin
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
