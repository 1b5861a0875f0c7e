"""Which zone's shelf holds a category: spellings, prefixes, mappings; and what events mention."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.catalog.categories import MAX_CHARS, MAX_DEPTH, category_key, key_text, parse_category
from backend.catalog.mentions import MAX_PRODUCTS, Mention, mentions
from backend.catalog.shelves import CategoryMapping, Mappings, Shelves, ZoneRef, shelf_holds

SHOES, RUNNING, TILL = ZoneRef("s1", "shoes"), ZoneRef("s1", "running"), ZoneRef("s2", "till")
ZONES = {SHOES: ["Shoes"], RUNNING: ["Shoes > Running", "Socks"], TILL: []}
NAMES = st.lists(st.sampled_from(["Shoes", "Running", "Home & Garden", "T-Shirts", "Größe 48"]), min_size=1)
KEYS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize(
    "text",
    [
        "Shoes > Running shoes",
        "Shoes/Running Shoes",
        "shoes>running-shoes",
        " SHOES  »  running_shoes ",
        "/shoes/running-shoes/",
        "Shoes | Running\u00a0shoes",
        "Shoes › Running shoes",
        "Ｓhoes::Running shoes",
        "Shoes\\Running shoes",
        "Shoes > > Running shoes >",
    ],
)
def test_spellings_of_one_category(text):
    assert category_key(text) == ("shoes", "running shoes")


@pytest.mark.parametrize("text", ["", " ", " > ", "//", None, "x" * (MAX_CHARS + 1), ">".join("a" * 13)])
def test_what_names_no_category(text):
    assert parse_category(text) is None
    assert not shelf_holds(["Shoes"], text)
    assert Shelves.of(ZONES).zones_for(text) == ()


def test_a_category_is_shown_as_it_was_written():
    category = parse_category("Home & Garden/Kitchen  Dining")
    assert category.path == "Home & Garden > Kitchen Dining"
    assert [above.path for above in category.ancestors()] == ["Home & Garden", category.path]


@given(NAMES)
def test_a_path_and_its_key_survive_being_written(names):
    category = parse_category(" > ".join(names))
    if len(names) > MAX_DEPTH:
        assert category is None
        return
    assert category_key(category.path) == category.key == category_key("/".join(names).upper())
    assert tuple(key_text(category.key).split("/")) == category.key


@pytest.mark.parametrize(
    ("zone", "category", "holds"),
    [
        (["Shoes"], "Shoes", True),
        (["Shoes"], "shoes/running", True),
        (["Shoes > Running"], "Shoes", False),
        (["Shoes > Running"], "shoes > RUNNING > trail", True),
        (["Shoe"], "Shoes", False),
        (["Running"], "Shoes > Running", False),
        (["Hats", "Shoes"], "Shoes > Running", True),
        ([], "Shoes", False),
        ([""], "Shoes", False),
    ],
)
def test_a_zone_holds_its_categories_and_what_lies_below(zone, category, holds):
    assert shelf_holds(zone, category) is holds


MAPPED = [
    CategoryMapping("Footwear", "Shoes"),
    CategoryMapping("Footwear > Socks", "Socks"),
    CategoryMapping("Sale > *", "Shoes"),
    CategoryMapping("* > Jogging", "Shoes > Running"),
    CategoryMapping("Gift cards"),
]


@pytest.mark.parametrize(
    ("web", "zones"),
    [
        ("Footwear", {SHOES}),
        ("footwear/running", {SHOES, RUNNING}),  # the rest of the path stays
        ("Footwear > Socks > Wool", {RUNNING}),  # the longer mapping counts
        ("Sale > Summer > Trail", {SHOES}),
        ("Sale", set()),
        ("Sale > Jogging", {SHOES, RUNNING}),  # of two as long, by name
        ("Sport > Jogging > Trail", {SHOES, RUNNING}),
        ("Gift cards > 50", set()),
        ("Shoes > Running", {SHOES, RUNNING}),
        ("Toys", set()),
    ],
)
def test_mappings_say_what_the_floor_calls_it(web, zones):
    for order in (MAPPED, MAPPED[::-1]):
        mappings = Mappings.of(order)
        assert set(Shelves.of(ZONES, mappings).zones_for(web)) == zones
        for zone, categories in ZONES.items():
            assert shelf_holds(categories, web, mappings) is (zone in zones)


@pytest.mark.parametrize(
    ("web", "known"), [("Gift cards", True), ("Footwear", True), ("Shoes", True), ("Toys", False)]
)
def test_only_what_nobody_spoke_of_is_unknown(web, known):
    assert Shelves.of(ZONES, Mappings.of(MAPPED)).knows(category_key(web)) is known


@given(
    st.dictionaries(
        st.tuples(st.just("s"), st.sampled_from("xyz")).map(lambda z: ZoneRef(*z)), st.lists(KEYS)
    ),
    KEYS,
)
def test_all_zones_at_once_agree_with_one_at_a_time(zones, web):
    named = {zone: ["/".join(key) for key in keys] for zone, keys in zones.items()}
    text = "/".join(web)
    found = Shelves.of(named).zones_for(text)
    assert found == tuple(sorted(zone for zone, own in named.items() if shelf_holds(own, text)))


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({}, []),
        ({"category": "Shoes"}, [Mention(None, None, "Shoes")]),
        ({"product_id": "p1", "sku": "s"}, [Mention("p1", "s", None)]),
        ({"product_id": 4711}, [Mention("4711", None, None)]),
        (
            {"products": [{"product_id": "a"}, {"category": "b"}, {}, "x"]},
            [Mention("a", None, None), Mention(None, None, "b")],
        ),
        ({"category": ["Shoes"], "product_id": True, "products": {"a": 1}}, []),
        ({"category": "x" * 751, "product_id": 10**30, "sku": " "}, []),
    ],
)
def test_what_events_mention(properties, found):
    assert mentions(properties) == found


def test_an_endless_order_is_cut():
    assert len(mentions({"products": [{"product_id": str(n)} for n in range(5_000)]})) == MAX_PRODUCTS
