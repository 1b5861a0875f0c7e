"""Serves `footfall.js`, the bridge's own snippet for web pages, to everybody."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

CACHE_S = 3600  # a shop that updates wants its pages to follow within the hour


def snippet_answer() -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for the file as the package has it, read once."""
    script = (files("sdk_bridge") / "web" / "footfall.js").read_bytes()
    tag = hashlib.sha256(script).hexdigest()[:16]
    headers = {
        "Access-Control-Allow-Origin": "*",  # so that a page may pin it by its hash
        "Cache-Control": f"public, max-age={CACHE_S}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'"{tag}"',
    }

    async def answer(request: web.Request) -> web.StreamResponse:
        if any(known.value == tag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        response = web.Response(body=script, content_type="text/javascript", charset="utf-8", headers=headers)
        response.enable_compression()
        return response

    return answer
