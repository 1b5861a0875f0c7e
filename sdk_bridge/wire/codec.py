"""Bytes to messages and back: MessagePack from our gateways, JSON objects of the same shape from others."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from sdk_bridge.wire.messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    Batch,
    BeaconHealth,
    Heartbeat,
    RangeChange,
    Readings,
    Skip,
    SkipCounts,
    Status,
    UpMessage,
)

M = TypeVar("M")
MAX_REASON = 200  # characters of an error, which may quote the stranger's payload


class WireError(ValueError):
    """The payload is not a message of this wire; the text says where it departs."""


def encode(message: UpMessage | Ack | Status) -> bytes:
    """The message as MessagePack."""
    return _pack.encode(message)


def decode_up(payload: bytes) -> UpMessage:
    """A gateway's batch, heartbeat or skip. Raises WireError."""
    message: UpMessage = _decode(payload, _up, _up_object)
    if isinstance(message, Batch):
        _check_batch(message)
    return message


def decode_ack(payload: bytes) -> Ack:
    """The backend's acknowledgement. Raises WireError."""
    return _decode(payload, _ack, _ack_object)


def decode_status(payload: bytes) -> Status:
    """A gateway's retained status. Raises WireError."""
    return _decode(payload, _status, _status_object)


def to_json_object(message: UpMessage | Ack | Status) -> dict[str, Any]:
    """The message as the JSON object that `decode_*` accepts from gateways that are not ours."""
    return {"type": message.__struct_config__.tag, **_as_object(message)}


def _decode(
    payload: bytes, decoder: "msgspec.msgpack.Decoder[M]", object_decoder: "msgspec.json.Decoder[Any]"
) -> M:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    try:
        if payload[:1] == b"{":
            return _as_message(object_decoder.decode(payload))  # type: ignore[no-any-return]
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(str(error)[:MAX_REASON]) from error


def _check_batch(batch: Batch) -> None:
    rows = batch.readings
    if not len(rows.beacon) == len(rows.second) == len(rows.count) == len(rows.loss) == len(rows.best):
        raise WireError("the columns of readings differ in length")
    used = max(rows.beacon, default=-1)
    if batch.ranges:
        used = max(used, *(change.beacon for change in batch.ranges))
    if batch.health:
        used = max(used, *(report.beacon for report in batch.health))
    if used >= len(batch.keys):
        raise WireError(f"beacon index {used} lies outside the {len(batch.keys)} keys")
    names = "".join(batch.keys)
    if not (names.isascii() and names.isprintable()):  # a NUL would be refused by PostgreSQL, days later
        raise WireError("a beacon's key must be printable ASCII")


def _as_object(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _as_object(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_as_object(item) for item in value]
    return value


def _as_message(value: Any) -> Any:
    """A checked object form turned into the Struct that it mirrors."""
    if isinstance(value, list):
        return [_as_message(item) for item in value] if value and type(value[0]) in _mirrored else value
    struct = _mirrored.get(type(value))
    if struct is None:
        return value
    return struct(*(_as_message(getattr(value, name)) for name in struct.__struct_fields__))


def object_forms(structs: Iterable[type[msgspec.Struct]]) -> dict[type[msgspec.Struct], Any]:
    """Each Struct's twin with the same fields by name, so that JSON is checked by the same rules."""
    forms: dict[Any, Any] = {}
    for struct in structs:
        forms[struct] = msgspec.defstruct(
            struct.__name__,
            [_named(field, forms) for field in msgspec.structs.fields(struct)],
            namespace={"__doc__": struct.__doc__},
            module=struct.__module__,
            frozen=True,
            tag=struct.__struct_config__.tag,
            tag_field="type" if struct.__struct_config__.tag is not None else None,
        )
    return forms


def _named(field: msgspec.structs.FieldInfo, forms: dict[Any, Any]) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind = _with_objects(field.type, forms)
    if field.required:
        return field.name, kind
    if field.default_factory is not msgspec.NODEFAULT:
        return field.name, kind, msgspec.field(default_factory=field.default_factory)
    return field.name, kind, field.default


def _with_objects(kind: Any, forms: dict[Any, Any]) -> Any:
    """The type with every Struct in it replaced by its object form."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(_with_objects(inner[0], forms), *inner[1:])]
    if origin is list:
        return list[_with_objects(inner[0], forms)]  # type: ignore[misc] # a type made at run time
    return forms.get(kind, kind)


# Those within others come first.
OBJECT_FORMS = object_forms(
    (Readings, RangeChange, BeaconHealth, SkipCounts, Batch, Heartbeat, Skip, Ack, Status)
)
"""The Structs that accept and describe the JSON form, by the Struct that travels as MessagePack."""
_mirrored = {form: struct for struct, form in OBJECT_FORMS.items()}

_pack = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[UpMessage] = msgspec.msgpack.Decoder(UpMessage)
_ack = msgspec.msgpack.Decoder(Ack)
_status = msgspec.msgpack.Decoder(Status)
_up_object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Union[tuple(OBJECT_FORMS[struct] for struct in get_args(UpMessage))]  # noqa: UP007 - made at run time
)
_ack_object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(OBJECT_FORMS[Ack])
_status_object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(OBJECT_FORMS[Status])
