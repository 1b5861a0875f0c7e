"""Serves `footfall.js`, the bridge's own snippet for web pages, to everybody."""

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

CACHE_S = 3600  # a shop that updates wants its pages to follow within the hour


def snippet_answer() -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for the file as the package has it, read and packed once."""
    plain = (files("sdk_bridge") / "web" / "footfall.js").read_bytes()
    packed = gzip.compress(plain, mtime=0)
    tag = hashlib.sha256(plain).hexdigest()[:16]
    headers = {
        "Access-Control-Allow-Origin": "*",  # so that a page may pin it by its hash
        "Cache-Control": f"public, max-age={CACHE_S}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'W/"{tag}"',  # weak: packed and plain are one to us, and two to a strong tag
        "Vary": "Accept-Encoding",
    }

    async def answer(request: web.Request) -> web.StreamResponse:
        if any(known.value == tag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        may_pack = "gzip" in request.headers.get("Accept-Encoding", "").lower()
        return web.Response(
            body=packed if may_pack else plain,
            content_type="text/javascript",
            charset="utf-8",
            headers={**headers, "Content-Encoding": "gzip"} if may_pack else headers,
        )

    return answer
