"""Errors to answers, in one place."""

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from sdk_bridge.server.ports import JournalBusy

log = structlog.get_logger()


class Problem(Exception):
    """An answer other than 200: the HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> web.Response:
        headers = {401: {"WWW-Authenticate": 'Bearer realm="footfall"'}, 503: {"Retry-After": "1"}}
        body = {"error": {"code": self.code, "message": self.message}}
        return web.json_response(body, status=self.status, headers=headers.get(self.status))


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns exceptions into answers; what nobody foresaw is logged and answered 500 without its inside."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except JournalBusy as busy:
        return Problem(503, "busy", str(busy)).response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return Problem(error.status, error.reason.lower().replace(" ", "_"), error.reason).response()
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return Problem(500, "internal", "something failed here; the log has the details").response()
