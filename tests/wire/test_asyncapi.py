"""The AsyncAPI document is the code's, is committed up to date, and holds together."""

import json
from typing import get_args

import pytest

from sdk_bridge.wire import asyncapi
from sdk_bridge.wire.codec import OBJECT_FORMS
from sdk_bridge.wire.configuration import SignedConfiguration
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Ack, Batch, Status, UpMessage
from sdk_bridge.wire.topics import GatewayAddress, Leaf

DOCUMENT = asyncapi.document()


def test_the_committed_file_is_up_to_date():
    assert asyncapi.PATH.read_text(encoding="utf-8") == asyncapi.render(), (
        "write it afresh: python -m sdk_bridge.wire.asyncapi"
    )


def test_every_topic_in_use_is_a_channel():
    address = GatewayAddress("berlin", "door")
    addresses = {
        channel["address"].format(partition=address.partition, store="berlin", gateway="door")
        for channel in DOCUMENT["channels"].values()
    }
    assert addresses == {address.topic(leaf) for leaf in asyncapi.SPOKEN}
    assert set(get_args(Leaf)) == set(asyncapi.SPOKEN)


def test_every_message_is_described_by_its_name():
    structs = {*get_args(UpMessage), Ack, Status, SignedConfiguration}
    messages = DOCUMENT["components"]["messages"]
    assert {name: message["name"] for name, message in messages.items()} == {
        struct.__name__: struct.__struct_config__.tag for struct in structs
    }
    assert all(message["summary"] for message in messages.values())


@pytest.mark.parametrize("struct", OBJECT_FORMS, ids=lambda struct: struct.__name__)
def test_schemas_have_the_fields_in_the_order_of_the_wire(struct):
    schema = DOCUMENT["components"]["schemas"][struct.__name__]
    tag = struct.__struct_config__.tag
    fields = list(struct.__struct_fields__)
    assert schema["x-array"] == ([tag, *fields] if tag else fields)
    assert set(schema["properties"]) == {*fields, *(["type"] if tag else [])}


def test_a_configuration_is_described_down_to_its_settings():
    schemas = DOCUMENT["components"]["schemas"]
    signed = schemas["SignedConfiguration"]
    assert signed["x-array"] == ["configuration", "document", "signature"]
    assert signed["properties"]["document"]["contentSchema"] == {"$ref": "#/components/schemas/Configuration"}
    settings = schemas["RemoteSettings"]
    assert set(settings["properties"]) == {"allow", "zone_beacons", "presence", "bluetooth", "log"}
    assert settings["additionalProperties"] is False


def test_limits_come_with_the_schemas():
    batch = DOCUMENT["components"]["schemas"]["Batch"]
    assert batch["properties"]["keys"]["maxItems"] == 4096
    assert batch["properties"]["readings"] == {"$ref": "#/components/schemas/Readings"}
    assert batch["required"] == ["type", "boot_id", "base_ms", "keys", "readings"]
    assert OBJECT_FORMS[Batch].__doc__ == Batch.__doc__


def test_the_envelope_is_described_where_it_travels():
    schema = DOCUMENT["components"]["schemas"]["Envelope"]
    assert list(schema["properties"]) == list(Envelope.__struct_fields__)
    assert schema["required"] == ["lane", "epoch", "seq"]
    with_envelope = {name for name, m in DOCUMENT["components"]["messages"].items() if "headers" in m}
    assert with_envelope == {struct.__name__ for struct in get_args(UpMessage)}


def references(node):
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_every_reference_leads_somewhere():
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        node = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_the_document_is_plain_json():
    assert json.loads(json.dumps(DOCUMENT, allow_nan=False)) == DOCUMENT
