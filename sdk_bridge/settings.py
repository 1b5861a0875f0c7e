"""TOML files into typed, frozen settings; a mistake becomes one line naming file, key and what it may be."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

S = TypeVar("S", bound=msgspec.Struct)
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


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
    if unknown := _UNKNOWN.search(what):
        known = _known_keys(kind, key)
        near = difflib.get_close_matches(unknown["name"], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"it may be one of {', '.join(known)}"
        return f"{_join(key, unknown['name'])}: unknown key; {hint}"
    if missing := _MISSING.search(what):
        return f"{_join(key, missing['name'])}: this key is required"
    if what.startswith("Invalid enum value"):
        what = f"{what}; it may be one of {', '.join(_choices(kind, key))}"
    return f"{key or 'the file'}: {what[:1].lower()}{what[1:]}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _known_keys(kind: type[msgspec.Struct], key: str) -> list[str]:
    """The field names of the table that a key such as `mqtt` or `allow[1]` names."""
    table = _struct_in(_annotation(kind, key))
    return [] if table is None else [field.encode_name for field in msgspec.structs.fields(table)]


def _choices(kind: type[msgspec.Struct], key: str) -> list[str]:
    """The words that a key such as `log.level` may have."""
    annotation = _annotation(kind, key)
    options = (annotation, *getattr(annotation, "__args__", ()))
    return [str(word) for option in options if get_origin(option) is Literal for word in get_args(option)]


def _annotation(kind: type[msgspec.Struct], key: str) -> Any:
    """The type that a key has in the settings; None for what they do not know."""
    annotation: Any = kind
    for part in filter(None, re.sub(r"\[[^\]]*\]", "", key).split(".")):
        table = _struct_in(annotation)
        fields = {} if table is None else {f.encode_name: f.type for f in msgspec.structs.fields(table)}
        annotation = fields.get(part)
    return annotation


def _struct_in(annotation: Any) -> Any:
    """The Struct inside an annotation such as `Mqtt | None`; None where there is none."""
    options = (annotation, *getattr(annotation, "__args__", ()))
    return next(
        (item for item in options if isinstance(item, type) and issubclass(item, msgspec.Struct)), None
    )
