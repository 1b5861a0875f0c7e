"""What a request carries besides its call: its body, bounded in size and time, and its write key."""

import asyncio
import base64
import binascii

from aiohttp import ClientError, StreamReader, web

from sdk_bridge.server.bodies import MAX_BATCH_BYTES, MAX_EVENT_BYTES, Rejected, inflate, too_large
from sdk_bridge.server.refusals import Refusal

BODY_SECONDS = 30  # a sender that trickles its body would hold a connection and its memory for ever
MAX_PIXEL_CHARS = 3 * MAX_EVENT_BYTES // 2


async def body_of(request: web.Request) -> bytes:
    """The body, plain, of at most MAX_BATCH_BYTES. Raises Refusal."""
    content = request.content
    try:
        # Most bodies are here by the time they are asked for; a timer for them would be the larger work.
        body = content.read_nowait() if content.is_eof() else await _arriving(content)
    except TimeoutError as error:
        raise Refusal(408, "too_slow", f"the body took longer than {BODY_SECONDS} s") from error
    except (ClientError, web.RequestPayloadError) as error:
        raise Refusal(400, "invalid_body", "the body ended early or its encoding is damaged") from error
    if len(body) > MAX_BATCH_BYTES:
        raise too_large(MAX_BATCH_BYTES)
    return inflate(body, MAX_BATCH_BYTES)


async def _arriving(content: StreamReader) -> bytes:
    """What comes, until it is too much. Raises TimeoutError."""
    chunks = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for chunk in content.iter_any():
            chunks += chunk
            if len(chunks) > MAX_BATCH_BYTES:
                break
    return bytes(chunks)


def call_of_pixel(data: str) -> bytes:
    """The call that a pixel's address carries, in base64url. Raises Refusal, Rejected."""
    if len(data) > MAX_PIXEL_CHARS:
        raise too_large(MAX_EVENT_BYTES)
    try:
        return base64.urlsafe_b64decode(data.encode() + b"=" * (-len(data) % 4))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Rejected("`data` is not base64url") from error
