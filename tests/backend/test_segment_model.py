"""Definitions: what is understood, and an error that names the node."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.segments import model
from backend.segments.model import SegmentInvalid, in_order, parse_condition, parse_definition, ring_of

VIEWED = {"type": "event", "name": "Product Viewed"}
EXAMPLE = {
    "name": "Keen on running shoes",
    "condition": {
        "type": "all",
        "of": [
            {
                **VIEWED,
                "at_least": 3,
                "within_s": 604_800,
                "where": [{"property": "category", "test": {"type": "is", "value": "running shoes"}}],
            },
            {"type": "event", "name": "Order Completed", "at_most": 0, "within_s": 604_800},
        ],
    },
}


def all_of(*conditions) -> dict:
    return {"type": "all", "of": list(conditions)}


def any_of(*conditions) -> dict:
    return {"type": "any", "of": list(conditions)}


def nested(depth: int) -> dict:
    condition = VIEWED
    for _ in range(depth - 1):
        condition = {"type": "not", "of": condition}
    return condition


def trait(name, **test) -> dict:
    return {"type": "trait", "name": name, "test": test}


def where(prop, **test) -> dict:
    return {**VIEWED, "where": [{"property": prop, "test": test}]}


def test_the_example_is_understood():
    definition = parse_definition(json.dumps(EXAMPLE).encode())
    assert parse_definition(msgspec.json.encode(definition)) == definition
    keen, bought = definition.condition.of
    assert (keen.least, keen.at_most, bought.least, bought.at_most) == (3, None, 0, 0)


WRONG = [
    (
        all_of(VIEWED, any_of({**VIEWED, "within_s": "a week"})),
        "all[1].any[0].within_s: expected `int | null`, got `str`",
    ),
    (
        all_of(VIEWED, {"type": "not", "of": {**VIEWED, "within_s": 0}}),
        "all[1].not.within_s: expected `int` >= 1",
    ),
    (all_of({"type": "al", "of": []}), "all[0].type: invalid value 'al'; it may be all, any, consent"),
    ({"type": "nothing"}, "type: invalid value 'nothing'; it may be all"),
    (all_of(), "all: expected `array` of length >= 1"),
    (all_of({**VIEWED, "whithin_s": 3}), "all[0]: object contains unknown field `whithin_s`"),
    (all_of(VIEWED, {"type": "event"}), "all[1].name: a tracked event needs its name"),
    ({**VIEWED, "at_least": 0}, "at_least: 0 or more is true of everybody"),
    ({**VIEWED, "at_least": 3, "at_most": 2}, "at_most: must not be less than at_least, 3"),
    (
        all_of(where("category", type="iz")),
        "all[0].where[0].test.type: invalid value 'iz'; it may be contains, date",
    ),
    (where('a"b', type="exists"), "where[0].property: a key may hold neither quotation marks"),
    (where(["a", "[]", "b", "[]"], type="exists"), "where[0].property: [] may stand once"),
    (where(["[]"], type="exists"), "where[0].property: [] may stand once"),
    (where("day", type="days_ago", at_least=1), "where[0].test: days_ago is for traits"),
    (trait("age", type="number"), "test: say at least one of at_least, at_most, more_than, less_than"),
    (trait("born", type="date", since="yesterday"), "test.since: expected `str` matching regex"),
    (trait("plan", type="is", value=[1]), "test.value: expected `bool | float | str`, got `array`"),
    (trait("plan", type="is", value="a\0b"), "test: a text may not hold U+0000"),
    (trait("plan", type="is", value=1e16), "test.value: expected `float` <= "),
    ({"type": "dwelt", "at_least_s": 60}, "category: name either a category, or a store"),
    ({"type": "dwelt", "at_least_s": 60, "category": "c", "store_id": "s"}, "category: name either"),
    (
        {"type": "dwelt", "at_least_s": 60, "category": "c", "zone_id": "z"},
        "store_id: a zone needs its store",
    ),
    ({"type": "near"}, "fence_id: name either a geofence, or a store"),
    ({"type": "near", "store_id": "s", "fence_id": "f"}, "fence_id: name either a geofence, or a store"),
    ({"type": "segment", "segment_id": "a b"}, "segment_id: expected `str` matching regex"),
    ({"type": "rfm", "recency": {"at_least": 6}}, "recency.at_least: expected `int` <= 5"),
    (all_of({"type": "rfm", "names": ["Champion"]}), "all[0].names[0]: it may be Champions, "),
    ({"type": "rfm", "monetary": {"at_least": 4, "at_most": 2}}, "monetary.at_most: must not be less than"),
    ({"type": "identifier", "kind": "mail"}, "kind: it may be user_id, email, "),
    (trait("age", type="number", at_least=5, at_most=1), "test.at_most: must not be less than at_least, 5"),
    (trait("age", type="number", more_than=5, less_than=5), "test.less_than: must be more than more_than, 5"),
    (trait("age", type="number", at_least=5, less_than=5), "test.less_than: must be more than at_least, 5"),
    (
        all_of(where("age", type="number", more_than=5, at_most=3)),
        "all[0].where[0].test.at_most: must be more",
    ),
    (trait("born", type="date", since="2001-01-01", until="2000-01-01"), "test.until: must not be less"),
    (trait("born", type="date", since="2025-02-31"), "test.since: no calendar has the day 2025-02-31"),
    (all_of(trait("born", type="date", until="2025-04-31")), "all[0].test.until: no calendar has the day"),
    (nested(9), ".not.not.not.not.not.not.not: conditions may nest 8 deep"),
    (all_of(*[VIEWED] * 100), "all[99]: a segment may have 100 conditions and filters in all"),
    (all_of(*[{**VIEWED, "where": [{"property": "a"}] * 10}] * 10), "all[9]: a segment may have 100"),
    ("text", "expected `object`, got `str`"),
]


@pytest.mark.parametrize(("condition", "complaint"), WRONG)
def test_an_error_names_the_node(condition, complaint):
    for parse, body in (
        (parse_condition, condition),
        (parse_definition, {"name": "n", "condition": condition}),
    ):
        with pytest.raises(SegmentInvalid) as caught:
            parse(json.dumps(body).encode())
        assert complaint in str(caught.value)
        assert "$" not in str(caught.value).partition("regex")[0]


def test_what_a_condition_lacks_is_not_taken_for_the_definitions():
    body = b'{"name":"n","condition":{"type":"trait"}}'
    with pytest.raises(SegmentInvalid, match=r"^condition: object missing required field `name`$"):
        parse_definition(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"name":"n"}', b" " * 70_000, b"null"]
)
def test_what_is_no_definition_is_refused(body):
    with pytest.raises(SegmentInvalid):
        parse_definition(body)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(("type", "of", "name", "test", "where")), inner, max_size=4)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
@example(b'{"type":0')
@example(b'{"type":0,"of":"\xff"}')
def test_whatever_comes_is_a_definition_or_one_error(body):
    try:
        parse_condition(body)
    except SegmentInvalid as error:
        assert str(error)


RINGS = [
    ({"a": {"b"}, "b": {"c"}, "c": set()}, None),
    ({"a": {"a"}}, ["a", "a"]),
    ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
    ({"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": {"c"}}, ["a", "d", "c", "a"]),
    ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, None),
]


@pytest.mark.parametrize(("asks", "ring"), RINGS)
def test_a_ring_is_found(asks, ring):
    assert ring_of("a", {key: frozenset(value) for key, value in asks.items()}) == ring


@given(st.dictionaries(st.sampled_from("abcdef"), st.frozensets(st.sampled_from("abcdef"))))
def test_each_comes_after_those_it_asks_for(asks):
    order = in_order(asks)
    assert sorted(order) == sorted(asks)
    if not any(ring_of(key, asks) for key in asks):
        assert all(
            order.index(other) < order.index(key) for key in asks for other in asks[key] if other in asks
        )


def test_counting_bounds():
    assert model.Did("x").least == 1
    assert model.Did("x", at_most=0).least == 0
    assert model.Did("x", at_least=2, at_most=3).least == 2


# The documentation ----------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "segments.md").read_text("utf-8")


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_documentation_are_understood(example):
    body = json.loads(example)
    definition = body if "condition" in body else {"name": "example", "condition": body}
    assert parse_definition(json.dumps(definition).encode()).name


def test_the_documentation_names_every_condition_and_test():
    for union in (model.Condition, model.Test):
        for kind in union.__args__:
            assert f"`{kind.__struct_config__.tag}`" in PAGE


def test_addresses_are_stored_as_people_are_known_by_them():
    """Or the erasure of a person, who is looked for as known, would leave them in somebody's segment."""
    asked = {"type": "identifier", "kind": "phone", "one_of": ["+43 660 123 45 67", "0660"]}
    condition = parse_condition(json.dumps(asked).encode())
    assert json.loads(msgspec.json.encode(condition))["one_of"] == ["+436601234567", "0660"]
