"""The OpenAPI 3.1 document, made from the operations that the application serves."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import COOKIE
from backend.api.errors import ErrorBody
from backend.api.operations import JSON, Operation, operation_of
from backend.api.parameters import Parameter
from sdk_bridge.server import described as bridge

Spec: TypeAlias = dict[str, Any]
_PLACE: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_SCHEMAS: Final = "#/components/schemas/"
_ONLY_PYTHON: Final = r"$(?!\n)"  # ECMAScript's `$` is never before a last line break

_ERRORS: Final[dict[int, str]] = {
    400: "Something given is not what it has to be; the text names it.",
    401: "The token is missing, unknown or revoked.",
    403: "The token's role does not reach.",
    404: "There is no such thing.",
    408: "The body took too long.",
    409: "This contradicts what is there already.",
    410: "It was so once, and is no more.",
    413: "The body is too large.",
    415: "The body is of a kind that is not taken here.",
    422: "The request is well formed, and cannot be done.",
    429: "Too much at once; come again after `Retry-After` seconds.",
    500: "Something failed here; the log has the details.",
    501: "This backend was not set up for it.",
    502: "Something that the backend asked failed.",
    503: "Busy, or the disk cannot take this just now; come again after `Retry-After` seconds.",
}
_CHALLENGE: Final[Spec] = {
    "WWW-Authenticate": {"description": "How to sign in.", "schema": {"type": "string"}}
}
_RETRY_AFTER: Final[Spec] = {
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
_TEXT: Final[Spec] = {"schema": {"type": "string"}}
_SECURITY_SCHEMES: Final[dict[str, Spec]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token; `footfall-backend token create` makes one.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "What `POST /api/session` sets. It only reads.",
    },
}
_HEAD: Final = "| call | least role | what it does |\n|---|---|---|"
_CALLS: Final = """\
# Every call of the API

Made from the code by `make docs`; do not edit. What each call takes and answers is in the OpenAPI document
(`GET /api/openapi.json`, see [api.md](api.md)); the calls of apps and sites are in [bridge.md](bridge.md).
`public` calls need no token: they say nothing of the shop, or check by themselves who asks.
"""
_DESCRIPTION: Final = """\
The API of a Footfall backend, and beside it the calls that apps, sites and servers make (`events`).

Times are unix milliseconds, UTC. Errors are `{"error": {"code", "message"}}`; those of `events` are
`{"code", "message"}`. `x-role` says which token may call an operation: `viewer` reads, `marketer` and
`operator` change their own things as well, `admin` may do everything.
"""


class Undescribed(RuntimeError):
    """A route says nothing about itself, or something that does not fit its path."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path that the application serves, with what its handler says of itself."""

    method: str
    path: str
    operation: Operation
    chapter: str
    """The first line of the handler's module."""


def document(app: web.Application) -> Spec:
    """The whole document. Raises Undescribed."""
    routes = list(described_routes(app))
    _check_names(routes)
    schemas, components = _schemas((*_types(routes), ErrorBody, *bridge.TYPES))
    paths: dict[str, Spec] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    paths |= bridge.paths(schemas.__getitem__)
    taken = _reached(
        [operation.get("requestBody") for item in paths.values() for operation in item.values()], components
    )
    as_they_are = taken | _sparse()
    components = {
        name: schema if name in as_they_are else _always_whole(schema) for name, schema in components.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Footfall",
            "version": version("footfall"),
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": _tags(routes),
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {**_SECURITY_SCHEMES, **bridge.SECURITY_SCHEMES},
            "responses": {
                **{f"Error{status}": _error(status, schemas[ErrorBody]) for status in _ERRORS},
                **bridge.responses(schemas.__getitem__),
            },
            "schemas": dict(sorted(components.items())),
        },
    }


def render(document: Spec) -> str:
    """The document as text."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def calls(document: Spec) -> str:
    """Every call but the bridge's as a page in Markdown, for people who look for one."""
    chapters: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, said in item.items():
            row = f"| `{method.upper()} {path}` | {said['x-role']} | {said['summary']} |"
            chapters.setdefault(said["tags"][0], []).append(row)
    parts = [_CALLS]
    for tag in document["tags"]:
        if tag["name"] != bridge.TAG:
            rows = "\n".join(chapters[tag["name"]])
            parts.append(f"## {tag['name']}\n\n{tag['description']}\n\n{_HEAD}\n{rows}\n")
    return "\n".join(parts)


def described_routes(app: web.Application) -> Iterator[Route]:
    """Every route of ours; the bridge describes its own. Raises Undescribed."""
    of_bridge = bridge.paths(lambda _: {})
    for route in app.router.routes():
        path = route.resource.canonical if route.resource else ""
        if route.method in ("HEAD", "OPTIONS") or path.rstrip("/") in of_bridge:
            continue
        operation = operation_of(route.handler)
        if operation is None:
            raise Undescribed(f"{route.method} {path} has a handler without `@operation`")
        chapter = inspect.cleandoc(sys.modules[route.handler.__module__].__doc__ or "").partition("\n")[0]
        yield Route(route.method, path, operation, chapter)


def _check_names(routes: list[Route]) -> None:
    seen: dict[str, Route] = {}
    for route in routes:
        other = seen.setdefault(route.operation.name, route)
        if other is not route:
            raise Undescribed(
                f"{route.method} {route.path} and {other.method} {other.path} are both named "
                f"{route.operation.name}; give one of them `name=`"
            )
        missing = set(_PLACE.findall(route.path)) - {each.name for each in route.operation.takes}
        if missing:
            raise Undescribed(f"{route.method} {route.path} does not take {', '.join(sorted(missing))}")


def _types(routes: list[Route]) -> list[Any]:
    found = (kind for route in routes for kind in (route.operation.body, route.operation.answer))
    return list(dict.fromkeys(kind for kind in found if kind is not None))


@cache
def _schemas(types: tuple[Any, ...]) -> tuple[dict[Any, Spec], dict[str, Spec]]:
    """The schema of every type, and the components that these refer to.

    Made once for a process: that is most of the work on a document, and tests build hundreds of backends.
    """
    references, components = msgspec.json.schema_components(types, ref_template=f"{_SCHEMAS}{{name}}")
    return dict(zip(types, references, strict=True)), _plain(components)


def _reached(start: list[Any], components: dict[str, Spec]) -> set[str]:
    """The components that schemas refer to, and those that these refer to."""
    found: set[str] = set()
    open_ends: list[Any] = list(start)
    while open_ends:
        each = open_ends.pop()
        if isinstance(each, list):
            open_ends += each
        elif isinstance(each, dict):
            name = str(each.get("$ref", "")).removeprefix(_SCHEMAS)
            if name in components and name not in found:
                found.add(name)
                open_ends.append(components[name])
            open_ends += each.values()
    return found


def _always_whole(schema: Spec) -> Spec:
    """What is only ever answered: a field with a default is there as well, so a client can rely on it."""
    fields: dict[str, Spec] = schema.get("properties", {})
    needed = [
        name for name, field in fields.items() if name in schema.get("required", ()) or "default" in field
    ]
    return {**schema, "required": needed} if fields else schema


def _sparse() -> set[str]:
    """The names of the types that leave out what has its default."""
    found: set[str] = set()
    open_ends: list[type[Struct]] = Struct.__subclasses__()
    while open_ends:
        each = open_ends.pop()
        open_ends += each.__subclasses__()
        if each.__struct_config__.omit_defaults:
            found.add(each.__name__)
    return found


def _plain(schema: Any) -> Any:
    """The schema as everybody's JSON Schema: ECMAScript's patterns, texts without our indentation."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items()}
    if isinstance(plain.get("pattern"), str):
        plain["pattern"] = plain["pattern"].replace(_ONLY_PYTHON, "$")
    if isinstance(plain.get("description"), str):
        plain["description"] = inspect.cleandoc(plain["description"])
    return plain


def _operation(route: Route, schemas: dict[Any, Spec]) -> Spec:
    said = route.operation
    described: Spec = {
        "operationId": said.name,
        "tags": [said.tag],
        "summary": said.summary,
        "x-role": said.role,
        "security": _security(route),
        "parameters": [_parameter(each, route.path) for each in said.takes],
        "responses": _responses(route, schemas),
    }
    if said.description:
        described["description"] = said.description
    content = _body(said, schemas)
    if content:
        described["requestBody"] = {"required": said.body_required, "content": content}
    return described


def _security(route: Route) -> list[Spec]:
    if route.operation.role == "public":
        return []
    return [{"token": []}, {"session": []}] if route.method == "GET" else [{"token": []}]


def _parameter(parameter: Parameter[Any], path: str) -> Spec:
    in_path = parameter.name in _PLACE.findall(path)
    schema = dict(parameter.schema)
    if parameter.default is not None and not parameter.is_required:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "required": in_path or parameter.is_required,
        "description": parameter.about,
        "schema": schema,
    }


def _body(said: Operation, schemas: dict[Any, Spec]) -> Spec:
    if said.body is not None:
        return {JSON: {"schema": schemas[said.body]}}
    return dict.fromkeys(said.uploads, _TEXT)


def _responses(route: Route, schemas: dict[Any, Spec]) -> Spec:
    said = route.operation
    good = _good(said, schemas)
    errors: dict[int, Spec] = {
        status: {"$ref": f"#/components/responses/Error{status}"} for status in _error_statuses(said)
    }
    if "text/html" in said.media:  # whose 401 is a page to sign in with
        errors[401] = {
            "description": _ERRORS[401],
            "content": {"text/html": _TEXT, JSON: {"schema": schemas[ErrorBody]}},
        }
    return {str(status): answer for status, answer in sorted({**good, **errors}.items())}


def _good(said: Operation, schemas: dict[Any, Spec]) -> dict[int, Spec]:
    content: Spec = {
        media: {"schema": {"type": "object"}} if media == JSON else _TEXT for media in said.media
    }
    if said.answer is not None:
        content[JSON] = {"schema": schemas[said.answer]}
    about = _first_line(said.answer) or said.summary
    answer: Spec = {"description": about, "content": content} if content else {"description": about}
    return dict.fromkeys(said.statuses, answer)


def _first_line(kind: Any) -> str:
    return inspect.cleandoc(getattr(kind, "__doc__", "") or "").partition("\n")[0]


def _error_statuses(said: Operation) -> set[int]:
    """What is declared, and what everything of its kind may answer."""
    statuses = {400, 500, 503, *said.errors}
    if said.role != "public":
        statuses |= {401, 403}
    if said.role == "viewer":
        statuses -= {403} - set(said.errors)
    if said.body is not None or said.uploads:
        statuses |= {408, 413, 415}
    return statuses


def _error(status: int, schema: Spec) -> Spec:
    answer: Spec = {"description": _ERRORS[status], "content": {JSON: {"schema": schema}}}
    headers = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}.get(status)
    return {**answer, "headers": headers} if headers else answer


def _tags(routes: list[Route]) -> list[Spec]:
    chapters = {route.operation.tag: route.chapter for route in routes}
    chapters[bridge.TAG] = bridge.ABOUT_TAG
    return [{"name": name, "description": about} for name, about in sorted(chapters.items())]
