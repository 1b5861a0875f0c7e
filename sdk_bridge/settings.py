"""TOML files into typed, frozen settings; a mistake becomes one line naming file, key and what it may be."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import inspect

S = TypeVar("S", bound=msgspec.Struct)
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_WRONG = re.compile(r"(?:Expected `[^`]*`|Invalid enum value)(?:.*, got `(?P<got>\w+)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_GIVEN: Final = {
    "str": "a text in quotes",
    "int": "a whole number",
    "float": "a number with a point",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}

_WORDS: Final[dict[type[inspect.Type], str]] = {
    inspect.BoolType: "true or false",
    inspect.FloatType: "a number",
    inspect.ListType: "a list",
    inspect.StructType: "a table with keys of its own",
    inspect.DictType: "a table",
}


class SettingsError(ValueError):
    """The settings file cannot be used; the text is one line for the person who wrote it."""


def load_settings(path: Path, kind: type[S]) -> S:
    """Reads a TOML file as `kind`, a Struct that forbids unknown fields. Raises SettingsError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{path}: cannot be read: {reason}") from error
    return parse_settings(text, kind, str(path))


def parse_settings(text: str, kind: type[S], origin: str) -> S:
    """Reads TOML text as `kind`; `origin` is the file's name for the error line. Raises SettingsError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{origin}: not TOML: {error}") from error
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}: {_explain(str(error), kind)}") from error


def _explain(problem: str, kind: type[msgspec.Struct]) -> str:
    match = _AT.match(problem)
    what, key = (match["what"], match["key"] or "") if match else (problem, "")
    wanted = _type_at(inspect.type_info(kind), key)
    if unknown := _UNKNOWN.search(what):
        known = [field.encode_name for field in _fields(wanted)]
        near = difflib.get_close_matches(unknown["name"], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"it may be one of {', '.join(known)}"
        return f"{_join(key, unknown['name'])}: unknown key; {hint}"
    if missing := _MISSING.search(what):
        return f"{_join(key, missing['name'])}: this key is required"
    if wrong := _WRONG.match(what):
        given = _GIVEN.get(wrong["got"])
        return f"{key}: it may be {_in_words(wanted)}{f'; this is {given}' if given else ''}"
    return f"{key or 'the file'}: {what[:1].lower()}{what[1:]}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _type_at(kind: inspect.Type, key: str) -> inspect.Type:
    """The type of what a key such as `mqtt.port` or `allow[1].uuid` names."""
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", key):
        kind = _bare(kind)
        if isinstance(kind, inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
        else:
            kind = next(field.type for field in _fields(kind) if field.encode_name == part)
    return kind


def _bare(kind: inspect.Type) -> inspect.Type:
    """`T` of `T | None` and of `Annotated[T, …]`."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _bare(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
    return kind


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    """The keys of a table; nothing else has any."""
    table = _bare(kind)
    return table.fields if isinstance(table, inspect.StructType) else ()


def _in_words(kind: inspect.Type) -> str:
    """What a value may be."""
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(said)}):
            return said
        case inspect.Metadata() | inspect.UnionType():
            types = kind.types if isinstance(kind, inspect.UnionType) else (kind.type,)
            return " or ".join(_in_words(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.IntType(ge=least, le=most):
            return "a whole number" if None in (least, most) else f"a whole number from {least} to {most}"
        case inspect.StrType(min_length=least):
            return "a text in quotes" + (", not empty" if least else "")
        case _:
            return _WORDS.get(type(kind), "something else")
