"""The golden vectors of `down/config`, checked as any gateway would: message, signature, document."""

import json
from importlib import resources

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import (
    SIGNED_AS,
    decode_document,
    decode_signed,
    encode_document,
    encode_signed,
    to_sign,
)

VECTORS = json.loads(
    (resources.files("sdk_bridge.wire") / "vectors" / "configurations.json").read_text(encoding="utf-8")
)
KEY = Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["public_key"]))


def named(cases):
    return [pytest.param(case, id=case["name"]) for case in cases]


def refusal(payload: bytes) -> str:
    """The first thing that is wrong, in the order in which a gateway looks; empty where nothing is."""
    try:
        signed = decode_signed(payload)
    except WireError:
        return "message"
    try:
        KEY.verify(signed.signature, to_sign(signed.document))
    except InvalidSignature:
        return "signature"
    try:
        decode_document(signed.document)
    except WireError:
        return "document"
    return ""


def test_the_word_before_the_document_is_the_one_that_is_published():
    assert bytes.fromhex(VECTORS["signed_as"]) == SIGNED_AS


@pytest.mark.parametrize("case", named(VECTORS["valid"]))
def test_a_valid_one_is_believed_and_says_what_it_says(case):
    payload = bytes.fromhex(case["hex"])
    assert refusal(payload) == ""
    signed = decode_signed(payload)
    assert encode_signed(signed.document, signed.signature) == payload
    assert signed.document.decode() == case["document"]
    again = json.loads(encode_document(decode_document(signed.document)))
    written = json.loads(case["document"])
    assert again == {name: written[name] for name in again}


@pytest.mark.parametrize("case", named(VECTORS["invalid"]))
def test_an_invalid_one_is_refused_for_its_reason(case):
    assert refusal(bytes.fromhex(case["hex"])) == case["reason"]
