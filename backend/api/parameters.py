"""What may stand in a path or behind its `?`: one declaration reads the text and describes it in OpenAPI.

A parameter is a module's constant, is listed in `takes=` of an operation, and is read in its handler:

    LIMIT = whole("limit", "How many at most.", least=1, most=1000, default=100)
    STORE = identifier("store", "The store.")

    @operation("viewer", takes=(STORE, LIMIT), answer=Sightings)
    async def get_sightings(request: web.Request) -> Sightings:
        '''The newest sightings of a store.'''
        store, limit = STORE.of(request), LIMIT.of(request)

What the route's pattern names (`/api/stores/{store}/sightings`) comes from the path, all else from the
query. Without a `default` it must be given; `default=None` makes it optional.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from aiohttp import web
from msgspec import Meta

from backend.api.errors import Problem
from backend.profiles.spelling import as_kept

T = TypeVar("T")
L = TypeVar("L", bound=str)

ID_PATTERN = "[A-Za-z0-9_-]{1,64}"
Identifier: TypeAlias = Annotated[str, Meta(pattern=rf"^{ID_PATTERN}$(?!\n)")]
"""In bodies: what names a store, zone, gateway, campaign; Python's `$` alone would let a line break pass."""
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""In bodies: what people call something."""
LONGEST_TEXT = 512  # what one person or thing may be called; longer is nothing that we ever gave out
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,15})", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # no name has them, and databases stumble on some


class _Required:
    """Stands where there is no default."""


_REQUIRED = _Required()


class Parameter(Generic[T]):
    """One named text of a request, as a value. `must` ends the sentence "<name> must be …"."""

    def __init__(
        self,
        name: str,
        about: str,
        *,
        must: str,
        schema: dict[str, Any],
        read: Callable[[str], Any],
        default: object = _REQUIRED,
    ) -> None:
        self.name = name
        self.about = about
        self.must = must
        self.schema = schema
        self.default = default
        self._read = read

    @property
    def is_required(self) -> bool:
        return self.default is _REQUIRED

    def of(self, request: web.Request) -> T:
        """The value in this request. Raises Problem 400."""
        text = request.match_info.get(self.name)
        if text is None:
            text = request.query.get(self.name)
        if text is None:
            if self.is_required:
                raise Problem(400, self.name, f"{self.name} is missing; it must be {self.must}")
            return cast(T, self.default)
        return self.parse(text)

    def parse(self, text: str) -> T:
        """The value that the text stands for. Raises Problem 400."""
        try:
            return cast(T, self._read(_printable(text)))
        except ValueError as error:
            raise Problem(400, self.name, f"{self.name} must be {self.must}") from error


def _printable(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError("control characters")
    return text


def someone(name: str, about: str, *, bare: str = "") -> Parameter[str]:
    """Whom a call is about: `type:id`, as it is stored; an id without a type is of the type `bare`."""
    named_type = r"[^:\x00-\x1f\x7f]{1,64}:"
    pattern = (f"({named_type})?" if bare else named_type) + r"[^\x00-\x1f\x7f]{1,512}"
    named = text(name, about, pattern=pattern, must="type:id, such as user_id:4711")

    def read(given: str) -> str:
        who = named.parse(given)
        return as_stored(who if ":" in who else f"{bare}:{who}")

    return Parameter(name, about, must=named.must, schema=named.schema, read=read)


def as_stored(who: str) -> str:
    """The identifier in the spelling that identities have: `email:Anna@Shop.example` is nobody else."""
    id_type, _, identifier = who.partition(":")
    return f"{id_type}:{as_kept(id_type, identifier)}"


@overload
def whole(name: str, about: str, *, least: int, most: int) -> Parameter[int]: ...
@overload
def whole(name: str, about: str, *, least: int, most: int, default: int) -> Parameter[int]: ...
@overload
def whole(name: str, about: str, *, least: int, most: int, default: None) -> Parameter[int | None]: ...
def whole(
    name: str, about: str, *, least: int, most: int, default: object = _REQUIRED
) -> "Parameter[int] | Parameter[int | None]":
    """A whole number from `least` to `most`, in decimal digits."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return Parameter(
        name,
        about,
        must=f"a whole number from {least} to {most}",
        schema={"type": "integer", "minimum": least, "maximum": most},
        read=read,
        default=default,
    )


@overload
def number(name: str, about: str, *, least: float, most: float) -> Parameter[float]: ...
@overload
def number(name: str, about: str, *, least: float, most: float, default: float) -> Parameter[float]: ...
@overload
def number(name: str, about: str, *, least: float, most: float, default: None) -> Parameter[float | None]: ...
def number(
    name: str, about: str, *, least: float, most: float, default: object = _REQUIRED
) -> "Parameter[float] | Parameter[float | None]":
    """A number from `least` to `most`, with or without a decimal point; never NaN."""

    def read(text: str) -> float:
        if not _NUMBER.fullmatch(text) or not least <= float(text) <= most or math.isnan(float(text)):
            raise ValueError(text)
        return float(text)

    return Parameter(
        name,
        about,
        must=f"a number from {least} to {most}",
        schema={"type": "number", "minimum": least, "maximum": most},
        read=read,
        default=default,
    )


@overload
def text(name: str, about: str, *, pattern: str = ..., must: str = ...) -> Parameter[str]: ...
@overload
def text(name: str, about: str, *, pattern: str = ..., must: str = ..., default: str) -> Parameter[str]: ...
@overload
def text(
    name: str, about: str, *, pattern: str = ..., must: str = ..., default: None
) -> Parameter[str | None]: ...
def text(
    name: str,
    about: str,
    *,
    pattern: str = rf"[^\x00-\x1f\x7f]{{1,{LONGEST_TEXT}}}",
    must: str = f"1 to {LONGEST_TEXT} characters, none of them a control character",
    default: object = _REQUIRED,
) -> "Parameter[str] | Parameter[str | None]":
    """A text that matches `pattern` as a whole; no anchors, and only what ECMAScript understands, too."""
    whole_pattern = f"(?:{pattern})?" if default == "" else pattern
    compiled = re.compile(whole_pattern)

    def read(given: str) -> str:
        if not compiled.fullmatch(given):
            raise ValueError(given)
        return given

    return Parameter(
        name,
        about,
        must=must,
        schema={"type": "string", "pattern": f"^(?:{whole_pattern})$"},
        read=read,
        default=default,
    )


@overload
def identifier(name: str, about: str) -> Parameter[str]: ...
@overload
def identifier(name: str, about: str, *, default: None) -> Parameter[str | None]: ...
def identifier(
    name: str, about: str, *, default: object = _REQUIRED
) -> "Parameter[str] | Parameter[str | None]":
    """What names a store, zone, gateway, campaign, segment …"""
    must = "1 to 64 of A–Z a–z 0–9 _ and -"
    if default is _REQUIRED:
        return text(name, about, pattern=ID_PATTERN, must=must)
    return text(name, about, pattern=ID_PATTERN, must=must, default=None)


@overload
def choice(name: str, about: str, options: tuple[L, ...]) -> Parameter[L]: ...
@overload
def choice(name: str, about: str, options: tuple[L, ...], *, default: L) -> Parameter[L]: ...
@overload
def choice(name: str, about: str, options: tuple[L, ...], *, default: None) -> Parameter[L | None]: ...
def choice(
    name: str, about: str, options: tuple[L, ...], *, default: object = _REQUIRED
) -> "Parameter[L] | Parameter[L | None]":
    """One of a few words."""

    def read(given: str) -> str:
        if given not in options:
            raise ValueError(given)
        return given

    return Parameter(
        name,
        about,
        must=f"one of {', '.join(options)}",
        schema={"type": "string", "enum": list(options)},
        read=read,
        default=default,
    )


def flag(name: str, about: str, *, default: Literal[False] = False) -> Parameter[bool]:
    """`true` or `false`."""
    words = {"true": True, "false": False}

    def read(given: str) -> bool:
        if given not in words:
            raise ValueError(given)
        return words[given]

    return Parameter(
        name, about, must="true or false", schema={"type": "boolean"}, read=read, default=default
    )


STORE = identifier("store", "The store's id.")
ZONE = identifier("zone", "The zone's id, unique within its store.")
GATEWAY = identifier("gateway", "The gateway's id, unique within its store.")
LIMIT = whole("limit", "How many at most.", least=1, most=1000, default=100)
