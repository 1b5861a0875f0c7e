"""One decorator says all about an operation: who may call it, what it takes and answers, and how that reads.

    class ZoneBody(Struct, forbid_unknown_fields=True): ...
    class ZoneView(Struct): ...

    @operation("operator", takes=(STORE, ZONE), body=ZoneBody, answer=ZoneView, errors=(409,))
    async def put_zone(request: web.Request, body: ZoneBody) -> ZoneView:
        '''Saves a zone of a store.

        More about it, in Markdown; this and the first line appear in the OpenAPI document.
        '''
        store = STORE.of(request)
        ...
        return ZoneView(...)          # or web.json_response(...), where headers are needed

- The role: viewer, marketer, operator, admin; or `public` in a list of PUBLIC_ROUTES. Replaces `@needs`.
- `takes`: parameters (backend/api/parameters.py) of the path and the query. They are checked before the
  handler runs, and a query that names anything else is answered 400. Read them with `STORE.of(request)`.
- `body`: the msgspec type of the JSON body; it comes decoded as the handler's second argument. `decode`
  turns the bytes into it where JSON alone does not (raises Problem). `without` is what no body stands for.
  `uploads=("text/csv",)` describes a body that the handler reads by itself.
- `answer`: the msgspec Struct, or TypedDict, that is answered as JSON. The handler returns one, which is sent
  with the first of `status`; `reply(value, 201)` sends another that `status=(200, 201)` names.
  `media=("text/html",)` describes answers that are no JSON; `answer=None` and no `media` an empty one.
- `errors`: statuses beyond those that all may answer; 400, 401, 403, 413, 500 and 503 come by themselves.
- `name`: the operation's id, where another handler has the same name; `tag`: its chapter, else the module.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, overload

import msgspec
from aiohttp import web

from backend.api.auth import needs
from backend.api.bodies import body_as, raw_body
from backend.api.errors import Problem
from backend.api.parameters import Parameter

A = TypeVar("A")
B = TypeVar("B")
Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler says of itself."""

    role: str
    name: str
    tag: str
    summary: str
    description: str
    takes: tuple[Parameter[Any], ...]
    body: Any
    body_required: bool
    uploads: tuple[str, ...]
    answer: Any
    media: tuple[str, ...]
    statuses: tuple[int, ...]
    errors: tuple[int, ...]


OPERATIONS: dict[Callable[..., object], Operation] = {}
"""By the handler that a route holds."""


@overload
def operation(
    role: str,
    *,
    takes: tuple[Parameter[Any], ...] = ...,
    answer: type[A] | None = ...,
    media: tuple[str, ...] = ...,
    uploads: tuple[str, ...] = ...,
    status: int | tuple[int, ...] = ...,
    errors: tuple[int, ...] = ...,
    name: str | None = ...,
    tag: str | None = ...,
) -> Callable[[Callable[[web.Request], Awaitable[A | web.StreamResponse]]], Endpoint]: ...
@overload
def operation(
    role: str,
    *,
    body: type[B],
    decode: Callable[[bytes], B] | None = ...,
    without: B | None = ...,
    takes: tuple[Parameter[Any], ...] = ...,
    answer: type[A] | None = ...,
    media: tuple[str, ...] = ...,
    status: int | tuple[int, ...] = ...,
    errors: tuple[int, ...] = ...,
    name: str | None = ...,
    tag: str | None = ...,
) -> Callable[[Callable[[web.Request, B], Awaitable[A | web.StreamResponse]]], Endpoint]: ...
def operation(  # noqa: PLR0913 - every argument is one line of the document
    role: str,
    *,
    body: Any = None,
    decode: Callable[[bytes], Any] | None = None,
    without: Any = None,
    takes: tuple[Parameter[Any], ...] = (),
    answer: Any = None,
    media: tuple[str, ...] = (),
    uploads: tuple[str, ...] = (),
    status: int | tuple[int, ...] = 200,
    errors: tuple[int, ...] = (),
    name: str | None = None,
    tag: str | None = None,
) -> Callable[[Callable[..., Awaitable[Any]]], Endpoint]:
    """Describes a handler and guards its door. Raises TypeError for a handler without a docstring."""

    def mark(handler: Callable[..., Awaitable[Any]]) -> Endpoint:
        summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n")
        if not summary:
            raise TypeError(f"{handler.__module__}.{handler.__name__} has no docstring to describe it")
        described = Operation(
            role=role,
            name=name or handler.__name__,
            tag=tag or handler.__module__.rpartition(".")[2],
            summary=summary,
            description=description.strip(),
            takes=takes,
            body=body,
            body_required=without is None,
            uploads=uploads,
            answer=answer,
            media=media,
            statuses=status if isinstance(status, tuple) else (status,),
            errors=errors,
        )

        @wraps(handler)
        async def door(request: web.Request) -> web.StreamResponse:
            _check_parameters(request, described)
            if body is None:
                return _answer(await handler(request), described)
            read = without if await _absent(request, without) else await body_as(request, body, decode)
            return _answer(await handler(request, read), described)

        OPERATIONS[door] = described
        return door if role == "public" else needs(role)(door)

    return mark


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON with a status other than the operation's first, or with headers."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)


async def _absent(request: web.Request, without: object) -> bool:
    return without is not None and not await raw_body(request)


def _check_parameters(request: web.Request, operation: Operation) -> None:
    """Every declared parameter can be read, and nothing else is asked. Raises Problem 400."""
    known = {parameter.name for parameter in operation.takes} - request.match_info.keys()
    for given in request.query:
        if given not in known:
            names = ", ".join(sorted(known)) or "none"
            raise Problem(400, "query", f"there is no parameter {given[:80]!r} here; there is {names}")
        if len(request.query.getall(given)) > 1:
            raise Problem(400, given, f"{given} may be given once")
    for parameter in operation.takes:
        parameter.of(request)


def _answer(value: object, operation: Operation) -> web.StreamResponse:
    if isinstance(value, web.StreamResponse):
        return value
    return reply(value, operation.statuses[0])


def operation_of(handler: Callable[..., object]) -> Operation | None:
    """What a route's handler says of itself, if it does."""
    return OPERATIONS.get(handler)
