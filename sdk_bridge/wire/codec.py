"""Bytes to messages and back: MessagePack from our gateways, JSON objects of the same shape from others."""

from typing import Any, TypeVar

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


class WireError(ValueError):
    """The payload is not a message of this wire; the text says where it departs."""


_pack = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[UpMessage] = msgspec.msgpack.Decoder(UpMessage)
_ack = msgspec.msgpack.Decoder(Ack)
_status = msgspec.msgpack.Decoder(Status)

_TAGGED: dict[str, type[msgspec.Struct]] = {
    "batch": Batch,
    "heartbeat": Heartbeat,
    "skip": Skip,
    "ack": Ack,
    "status": Status,
}
_NESTED: dict[tuple[type, str], type[msgspec.Struct]] = {
    (Batch, "readings"): Readings,
    (Batch, "ranges"): RangeChange,
    (Batch, "health"): BeaconHealth,
    (Skip, "counts"): SkipCounts,
}


def encode(message: UpMessage | Ack | Status) -> bytes:
    """The message as MessagePack."""
    return _pack.encode(message)


def decode_up(payload: bytes) -> UpMessage:
    """A gateway's batch, heartbeat or skip. Raises WireError."""
    message = _decode(payload, _up, UpMessage)
    if isinstance(message, Batch):
        _check_batch(message)
    return message


def decode_ack(payload: bytes) -> Ack:
    """The backend's acknowledgement. Raises WireError."""
    return _decode(payload, _ack, Ack)


def decode_status(payload: bytes) -> Status:
    """A gateway's retained status. Raises WireError."""
    return _decode(payload, _status, Status)


def to_json_object(message: UpMessage | Ack | Status) -> dict[str, Any]:
    """The message as the JSON object that `decode_*` accepts from gateways that are not ours."""
    return {"type": message.__struct_config__.tag, **_as_object(message)}


def _decode(payload: bytes, decoder: "msgspec.msgpack.Decoder[M]", kind: Any) -> M:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    try:
        if payload[:1] == b"{":
            return msgspec.convert(_as_array(msgspec.json.decode(payload)), kind)  # type: ignore[no-any-return]
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(str(error)) from error


def _check_batch(batch: Batch) -> None:
    rows = batch.readings
    if not len(rows.beacon) == len(rows.second) == len(rows.count) == len(rows.loss) == len(rows.best):
        raise WireError("the columns of readings differ in length")
    used = max(
        max(rows.beacon, default=-1),
        max((change.beacon for change in batch.ranges), default=-1),
        max((report.beacon for report in batch.health), default=-1),
    )
    if used >= len(batch.keys):
        raise WireError(f"beacon index {used} lies outside the {len(batch.keys)} keys")


def _as_array(obj: Any) -> list[Any]:
    """A JSON object turned into the array that the typed decoder checks; field order is the Struct's."""
    struct = _TAGGED.get(obj.get("type")) if isinstance(obj.get("type"), str) else None
    if struct is None:
        raise WireError(f"`type` must be one of {', '.join(_TAGGED)}")
    return [struct.__struct_config__.tag, *_fields_in_order(struct, obj)]


def _fields_in_order(struct: type[msgspec.Struct], obj: Any) -> list[Any]:
    if not isinstance(obj, dict):
        raise WireError(f"{struct.__name__} must be an object")
    values: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if field.name in obj:
            value = obj[field.name]
            nested = _NESTED.get((struct, field.name))
            if nested is not None:
                value = (
                    [_fields_in_order(nested, item) for item in value]
                    if isinstance(value, list)
                    else _fields_in_order(nested, value)
                )
            values.append(value)
        elif field.default is not msgspec.NODEFAULT:
            values.append(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            values.append(field.default_factory())
        else:
            raise WireError(f"{struct.__name__} lacks `{field.name}`")
    return values


def _as_object(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _as_object(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_as_object(item) for item in value]
    return value
