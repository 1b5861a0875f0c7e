"""Errors to answers, in one place."""

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct

from backend.storage.database import StorageConflict, StorageError
from sdk_bridge.server.ports import JournalBusy

log = structlog.get_logger()
_KEPT = ("Allow",)  # of aiohttp's own errors: a 405 has to say what is allowed


class ErrorDetail(Struct):
    """A word for programs, a sentence for people."""

    code: str
    message: str


class ErrorBody(Struct):
    """Why it was not done."""

    error: ErrorDetail


class Problem(Exception):
    """An answer other than 200: the HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> web.Response:
        headers = {401: {"WWW-Authenticate": 'Bearer realm="footfall"'}, 503: {"Retry-After": "1"}}
        return web.Response(
            body=msgspec.json.encode(ErrorBody(ErrorDetail(self.code, self.message))),
            status=self.status,
            content_type="application/json",
            headers=headers.get(self.status),
        )


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns exceptions into answers; what nobody foresaw is logged and answered 500 without its inside."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _answer_of_aiohttp(error)
    except (JournalBusy, StorageError) as error:
        return _answer_of_storage(request, error)
    except Exception as error:
        if isinstance(error, ConnectionError) and _is_gone(request):  # phones are, all day
            log.debug("client_gone", method=request.method, path=request.path)
            return Problem(400, "gone", "whoever asked has hung up").response()
        log.exception("request_failed", method=request.method, path=request.path)
        return Problem(500, "internal", "something failed here; the log has the details").response()


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _answer_of_aiohttp(error: web.HTTPException) -> web.Response:
    response = Problem(error.status, error.reason.lower().replace(" ", "_"), error.reason).response()
    response.headers.update({name: error.headers[name] for name in _KEPT if name in error.headers})
    return response


def _answer_of_storage(request: web.Request, error: JournalBusy | StorageError) -> web.Response:
    if isinstance(error, StorageConflict):
        return Problem(409, "conflict", str(error)).response()
    if isinstance(error, JournalBusy):
        return Problem(503, "busy", str(error)).response()
    log.error("storage_failed", path=request.path, error=str(error))
    return Problem(503, "storage", "the disk cannot take this just now; try again shortly").response()
