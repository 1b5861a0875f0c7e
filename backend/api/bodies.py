"""Request bodies into typed values, or one clear 4xx."""

import asyncio
import re
import zlib
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import ClientError, web

from backend.api.errors import Problem

T = TypeVar("T")
_GZIP_MAGIC = b"\x1f\x8b"  # no JSON begins so
_GZIP_WINDOW = 31
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
    """The body, unpacked, in no longer than a body may take. Raises Problem 400, 408, 413 or 415."""
    packing = request.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip"):
        raise Problem(415, "content_encoding", "a body may be packed with gzip, and with nothing else")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return _unpacked(await request.read(), request.client_max_size)
    except TimeoutError as error:
        raise Problem(408, "too_slow", f"the body took longer than {BODY_SECONDS} s") from error
    except (ClientError, web.RequestPayloadError, zlib.error) as error:
        raise Problem(400, "body", "the body ended early, or is damaged") from error


def _unpacked(body: bytes, limit: int) -> bytes:
    """The body without its gzip, told by its first bytes. Raises Problem past `limit` bytes; zlib.error."""
    if body[:2] != _GZIP_MAGIC:
        return body
    stream = zlib.decompressobj(_GZIP_WINDOW)
    plain = stream.decompress(body, limit + 1)
    if len(plain) > limit:
        raise Problem(413, "too_large", f"the body exceeds {limit // 1024} KB once unpacked")
    if not stream.eof:
        raise zlib.error("it ends too early")
    return plain


def _refuse_nul(raw: bytes) -> None:
    """No text of ours holds U+0000, which PostgreSQL cannot store. Raises Problem 400."""
    if b"\\u0000" in raw and _NUL.search(raw):  # the pattern alone takes far longer
        raise Problem(400, "body", "a text holds the character U+0000")
