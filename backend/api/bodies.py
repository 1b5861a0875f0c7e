"""Request bodies and path parts into typed values, or one clear 400."""

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import ClientError, web

from backend.api.errors import Problem
from sdk_bridge.wire.topics import is_id

T = TypeVar("T")
BODY_SECONDS = 30  # a sender that trickles its body would hold a connection and its memory for ever
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # the escape itself, not an escaped backslash before `u0000`


async def body_as(request: web.Request, kind: type[T], decode: Callable[[bytes], T] | None = None) -> T:
    """The JSON body as `kind`, made by `decode` if given. Raises Problem 400, 408 or 413."""
    raw = await raw_body(request)
    try:
        _refuse_nul(raw)
        return msgspec.json.decode(raw, type=kind) if decode is None else decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "body", str(error)) from error


async def raw_body(request: web.Request) -> bytes:
    """The body, unpacked, in no longer than a body may take. Raises Problem 400 or 408; aiohttp's own 413."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise Problem(408, "too_slow", f"the body took longer than {BODY_SECONDS} s") from error
    except (ClientError, web.RequestPayloadError) as error:
        raise Problem(400, "body", "the body ended early, or is not packed as its headers say") from error


def _refuse_nul(raw: bytes) -> None:
    """No text of ours holds U+0000, which PostgreSQL cannot store. Raises Problem 400."""
    if _NUL.search(raw):
        raise Problem(400, "body", "a text holds the character U+0000")


def id_in_path(request: web.Request, name: str) -> str:
    """A path part that names a store, zone, gateway or campaign. Raises Problem 400."""
    value = request.match_info[name]
    if not is_id(value):
        raise Problem(400, name, f"{name} must be 1 to 64 of A–Z a–z 0–9 _ and -")
    return value


def limit_of(request: web.Request, default: int, most: int) -> int:
    """The `limit` parameter, 1 to `most`. Raises Problem 400."""
    text = request.query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise Problem(400, "limit", f"limit must be a whole number from 1 to {most}")
    return int(text)
