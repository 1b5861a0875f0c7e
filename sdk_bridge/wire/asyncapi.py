"""The AsyncAPI document of the wire, made from the code; `python -m sdk_bridge.wire.asyncapi` writes it."""

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from sdk_bridge.wire.codec import OBJECT_FORMS, object_forms
from sdk_bridge.wire.configuration import (
    MAX_DOCUMENT_BYTES,
    SIGNATURE_BYTES,
    SIGNED_AS,
    Configuration,
    SignedConfiguration,
)
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Ack, Batch, Heartbeat, Skip, Status
from sdk_bridge.wire.topics import PARTITIONS, ROOT, Leaf

PATH = Path(__file__).with_name("asyncapi.json")
VERSION = "1.0.0"  # of the wire, not of the program: the `1` of the topics

# What each topic carries, and what the backend does with it.
SPOKEN: dict[Leaf, tuple[str, tuple[type[msgspec.Struct], ...]]] = {
    "up": ("receive", (Batch, Heartbeat, Skip)),
    "status": ("receive", (Status,)),
    "down/ack": ("send", (Ack,)),
    "down/config": ("send", (SignedConfiguration,)),
}
_ABOUT: dict[Leaf, str] = {
    "up": "What a gateway observed; QoS 1. Every message carries the envelope in its user properties.",
    "status": "Whether a gateway is connected; retained, QoS 1, and the last will.",
    "down/ack": "What the backend has committed; QoS 0, cumulative for one epoch and lane.",
    "down/config": "The gateway's newest remote configuration; retained, QoS 1. MessagePack only.",
}
_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_DIGITS = {"type": "string", "pattern": "^[0-9]{1,16}$", "description": "A whole number up to 2^53."}
_HEADERS: dict[str, dict[str, Any]] = {
    "lane": {"type": "string", "enum": ["live", "backlog"]},
    "epoch": {"type": "string", "pattern": "^[0-9a-f]{8,32}$"},
    "seq": {**_DIGITS, "description": "From 1, by one, for each epoch and lane."},
    "sent_at": {**_DIGITS, "description": "Unix milliseconds; 0 where the clock was never set."},
    "boot_id": {"type": "string", "pattern": "^[0-9a-f-]{0,36}$"},
    "boot_ms": {**_DIGITS, "description": "CLOCK_BOOTTIME at sending, in milliseconds."},
    "anchor": {**_DIGITS, "description": "Unix milliseconds at which the batch's boot clock read zero."},
}


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, as seen from the backend."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Footfall: gateways and backend",
            "version": VERSION,
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/msgpack",
        "channels": {_channel_name(leaf): _channel(leaf) for leaf in SPOKEN},
        "operations": dict(_operation(leaf) for leaf in SPOKEN),
        "components": {
            "messages": {struct.__name__: _message(struct) for struct in _spoken_structs()},
            "schemas": {**_payload_schemas(), "Envelope": _envelope_schema()},
        },
    }


def render() -> str:
    """The document as the committed file has it."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


_DESCRIPTION = (
    "MQTT 5. A payload is MessagePack: an array that begins with the message's tag, then its fields in the "
    "order of `x-array`; fields are only ever appended. The same fields as a JSON object, named as in the "
    "schemas, are accepted too; such a payload begins with `{`. A signed configuration is the exception: it "
    "is MessagePack only, and the JSON document inside is signed byte by byte. Golden vectors lie in "
    "`sdk_bridge/wire/vectors/`."
)


def _spoken_structs() -> list[type[msgspec.Struct]]:
    return [struct for _action, structs in SPOKEN.values() for struct in structs]


def _channel_name(leaf: Leaf) -> str:
    return leaf.replace("/", "_")


def _channel(leaf: Leaf) -> dict[str, Any]:
    _action, structs = SPOKEN[leaf]
    return {
        "address": f"{ROOT}/{{partition}}/{{store}}/{{gateway}}/{leaf}",
        "description": _ABOUT[leaf],
        "parameters": {
            "partition": {"description": f"crc32 of the store's id (UTF-8) modulo {PARTITIONS}, in decimal"},
            "store": {"description": f"Matches {_ID['pattern']}"},
            "gateway": {"description": f"Matches {_ID['pattern']}; unique within its store"},
        },
        "messages": {struct.__name__: {"$ref": _at("messages", struct)} for struct in structs},
    }


def _operation(leaf: Leaf) -> tuple[str, dict[str, Any]]:
    action, _structs = SPOKEN[leaf]
    name = _channel_name(leaf)
    return f"{action}_{name}", {"action": action, "channel": {"$ref": f"#/channels/{name}"}}


def _message(struct: type[msgspec.Struct]) -> dict[str, Any]:
    message = {
        "name": struct.__struct_config__.tag,
        "title": struct.__name__,
        "summary": inspect.cleandoc(struct.__doc__ or "").splitlines()[0],
        "payload": {"$ref": _at("schemas", struct)},
    }
    if struct in SPOKEN["up"][1]:
        message["headers"] = {"$ref": "#/components/schemas/Envelope"}
    return message


def _at(kind: str, struct: type[msgspec.Struct]) -> str:
    return f"#/components/{kind}/{struct.__name__}"


def _payload_schemas() -> dict[str, Any]:
    forms = OBJECT_FORMS | object_forms((SignedConfiguration,))
    _, schemas = msgspec.json.schema_components(
        [*forms.values(), Configuration], ref_template="#/components/schemas/{name}"
    )
    schemas[SignedConfiguration.__name__]["properties"]["document"] = {
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _at("schemas", Configuration)},
        "description": f"UTF-8, at most {MAX_DOCUMENT_BYTES} bytes, as it was signed.",
    }
    schemas[SignedConfiguration.__name__]["properties"]["signature"] = {
        "minLength": SIGNATURE_BYTES,
        "maxLength": SIGNATURE_BYTES,
        "description": f"Ed25519 over the text `{SIGNED_AS[:-1].decode()}`, a NUL and the document's bytes.",
    }
    for struct in forms:
        schema = schemas[struct.__name__]
        schema["description"] = inspect.cleandoc(struct.__doc__ or "")
        tag = struct.__struct_config__.tag
        schema["x-array"] = [*([tag] if tag is not None else []), *struct.__struct_fields__]
    return schemas


def _envelope_schema() -> dict[str, Any]:
    fields = msgspec.structs.fields(Envelope)
    return {
        "title": "Envelope",
        "type": "object",
        "description": inspect.cleandoc(Envelope.__doc__ or ""),
        "properties": {field.name: _HEADERS[field.name] for field in fields},
        "required": [field.name for field in fields if field.required],
    }


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
