"""The golden vectors of app events hold in both directions, and there is one of every kind."""

import json
from importlib import resources
from typing import get_args

import msgspec
import pytest

from sdk_bridge.wire.app_events import AppEvent, Kind, decode_events, encode_events
from sdk_bridge.wire.codec import WireError

VECTORS = json.loads(
    (resources.files("sdk_bridge.wire") / "vectors" / "app_events.json").read_text(encoding="utf-8")
)


def named(cases):
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", named(VECTORS["valid"]))
def test_both_forms_are_one_event(case):
    [event] = decode_events(bytes.fromhex(case["hex"]))
    assert msgspec.convert(case["json"], AppEvent) == event
    assert encode_events([event]).hex() == case["hex"]
    assert msgspec.to_builtins(event) == case["json"]


@pytest.mark.parametrize("case", named(VECTORS["valid"]))
def test_a_field_of_a_later_version_is_passed_over(case):
    later = msgspec.msgpack.encode([{**case["json"], "new": {"deep": [1, None]}}])
    assert decode_events(later) == decode_events(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("case", named(VECTORS["invalid"]))
def test_what_is_no_event_is_refused(case):
    with pytest.raises(WireError):
        decode_events(bytes.fromhex(case["hex"]))


def test_there_is_a_vector_of_every_kind_and_each_has_its_own_name():
    names = [case["name"] for part in ("valid", "invalid") for case in VECTORS[part]]
    assert len(names) == len(set(names))
    assert {case["json"]["kind"] for case in VECTORS["valid"]} == set(get_args(Kind))
