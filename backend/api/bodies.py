"""Request bodies and path parts into typed values, or one clear 400."""

from typing import TypeVar

import msgspec
from aiohttp import web

from backend.api.errors import Problem
from sdk_bridge.wire.topics import is_id

T = TypeVar("T")


async def body_as(request: web.Request, kind: type[T]) -> T:
    """The JSON body as `kind`. Raises Problem 400."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "body", str(error)) from error


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
