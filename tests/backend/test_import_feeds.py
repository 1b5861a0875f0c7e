"""Google Merchant feeds: RSS, Atom and text; and those that somebody wrote to do harm."""

import tracemalloc
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.imports import reading
from backend.imports.feeds import MAX_FIELD, items
from backend.imports.mapping import guess
from backend.imports.reading import Options
from backend.imports.source import Source, feed_in_xml, layout_of
from backend.imports.tables import FileUnreadable
from backend.imports.values import DateReader

NOW = 1_750_075_200_000  # 16 June 2025
OPTIONS = Options(DateReader(ZoneInfo("UTC")), NOW, NOW, "point")

RSS = """<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel>
<title>Shop</title><link>https://shop.example</link>
<item>
  <g:id>SKU-1</g:id><title>Plain</title><g:title>Trail runner &amp; more</g:title>
  <link>https://shop.example/1</link><g:image_link><![CDATA[https://shop.example/1.jpg?a=1&b=2]]></g:image_link>
  <g:price>120.00 EUR</g:price><g:sale_price>99.90 EUR</g:sale_price>
  <g:sale_price_effective_date>2025-06-01T00:00+02:00/2025-06-30T23:59+02:00</g:sale_price_effective_date>
  <g:availability>in stock</g:availability><g:brand>Öster</g:brand><g:mpn>TR1</g:mpn>
  <g:item_group_id>TR</g:item_group_id>
  <g:product_type>Shoes &gt; Running</g:product_type><g:product_type>Sale</g:product_type>
  <g:google_product_category>187</g:google_product_category>
  <g:shipping><g:country>AT</g:country><g:price>4.90 EUR</g:price></g:shipping>
</item>
<item><g:id>SKU-2</g:id><title>Socks</title><g:price>5 EUR</g:price>
  <g:availability>out_of_stock</g:availability>
  <g:google_product_category>Apparel &gt; Socks</g:google_product_category></item>
</channel></rss>"""

ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">
<title>Shop</title><entry><g:id>A</g:id><title>Hat</title><link rel="alternate" href="https://shop.example/a"/>
<link rel="self" href="https://shop.example/self"/><g:price>9.00 EUR</g:price></entry></feed>"""

TEXT = (
    "id\ttitle\tlink\tprice\tsale price\tavailability\tgoogle_product_category\n"
    "T1\tTea\thttps://shop.example/t\t3.50 EUR\t3.00 EUR\tpreorder\t187\n"
)


def rows_of(folder, content):
    """What the import makes of a file: rows and errors."""
    path = folder / "feed"
    path.write_text(content, "utf-8")
    if content.lstrip().startswith("<"):
        source = feed_in_xml(path)
    else:
        layout = layout_of(path, None, None)
        source = Source(path, guess("catalogue", layout.header), layout)
    reads = list(reading.products(source.records(), source.mapping, OPTIONS))
    return [row for read in reads for row in read.rows], [e for read in reads for e in read.errors], source


def test_rss(tmp_path):
    [runner, socks], errors, source = rows_of(tmp_path, RSS)
    assert (errors, source.broken) == ([], None)
    assert runner.product_id == "SKU-1"
    assert runner.name == "Trail runner & more"  # Google's own title, not the channel's kind
    assert (runner.price, runner.sale_price, runner.currency) == (12_000, 9_990, "EUR")
    assert (runner.category, runner.parent_id, runner.sku, runner.brand) == (
        "Shoes > Running",
        "TR",
        "TR1",
        "Öster",
    )
    assert runner.image_url == "https://shop.example/1.jpg?a=1&b=2"
    assert runner.line == 4
    assert (socks.availability, socks.category, socks.sale_price) == ("out_of_stock", "Apparel > Socks", None)


def test_googles_namespace_as_plugins_misspell_it(tmp_path):
    [runner, _], errors, _ = rows_of(tmp_path, RSS.replace("http://base.google", "https://base.google"))
    assert (runner.product_id, runner.name, errors) == ("SKU-1", "Trail runner & more", [])


def test_atom(tmp_path):
    [hat], errors, _ = rows_of(tmp_path, ATOM)
    assert errors == []
    assert (hat.product_id, hat.name, hat.url, hat.price) == ("A", "Hat", "https://shop.example/a", 900)


def test_text(tmp_path):
    [tea], errors, source = rows_of(tmp_path, TEXT)
    assert errors == []
    assert source.is_googles
    assert (tea.product_id, tea.price, tea.sale_price, tea.availability) == ("T1", 350, 300, "preorder")
    assert tea.category is None  # a number of Google's says nothing to people


@pytest.mark.parametrize(
    ("dates", "sale"),
    [
        ("2025-06-01/2025-06-30", 9_990),
        ("2025-06-20/2025-06-30", None),
        ("2024-06-01/2024-06-30", None),
    ],
)
def test_a_sale_price_holds_in_its_days(tmp_path, dates, sale):
    text = RSS.replace("2025-06-01T00:00+02:00/2025-06-30T23:59+02:00", dates)
    assert rows_of(tmp_path, text)[0][0].sale_price == sale


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("120.00 EUR", "about 120", "price"),
        ("120.00 EUR", "-3.00 EUR", "price"),
        ("in stock", "on the moon", "availability"),
        ("https://shop.example/1<", "javascript:alert(1)<", "url"),
        ("<g:title>Trail runner &amp; more</g:title>", "<g:title>" + "x" * 600 + "</g:title>", "name"),
        ("<g:title>Trail", "<g:title>" + "x" * (MAX_FIELD + 1), f"title is longer than {MAX_FIELD}"),
        ("SKU-1", "", "product_id: is empty"),
        ("120.00 EUR", "-3.00 EUR", "SKU-1: price: is too small"),
        ("2025-06-01T00:00+02:00/2025", "2025", "sale_dates"),
    ],
)
def test_a_bad_item_costs_nothing_else(tmp_path, old, new, reason):
    [socks], [error], source = rows_of(tmp_path, RSS.replace(old, new, 1))
    assert socks.product_id == "SKU-2"
    assert reason in error.reason
    assert error.line == 4
    assert source.broken is None


def test_an_item_that_cannot_be_read_has_not_vanished(tmp_path):
    path = tmp_path / "feed"
    path.write_text(RSS.replace("120.00 EUR", "a lot"), "utf-8")
    source = feed_in_xml(path)
    reads = list(reading.products(source.records(), source.mapping, OPTIONS))
    assert [read.present for read in reads] == ["SKU-1", None]


BOMB = '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><r><item><id>&b;</id></item></r>'
OUTSIDE = '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><r><item><id>&x;</id></item></r>'


@pytest.mark.parametrize(
    ("feed", "reason"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        ('<!DOCTYPE rss SYSTEM "http://evil.example/x.dtd"><rss/>', "document type"),
        ("<a>" * 100, "too deeply"),
        ("<rss><item><id>&unknown;</id></item></rss>", "undefined entity"),
        ("<rss><item><id>1</id></wrong>", "mismatched tag"),
        ("<rss><item><id>1</id>", "no element found"),
        ("<rss " + "a='" + "x" * (3 << 20), "longer than"),
        ("<rss>\x01</rss>", "not well-formed"),
        ("", "no element found"),
        ("<html><body>Not found</body></html>", "neither RSS nor Atom"),
        ('<RDF xmlns="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>', "neither RSS nor Atom"),
    ],
)
def test_hostile_feeds_end_early(feed, reason):
    data = feed.encode()
    with pytest.raises(FileUnreadable, match=reason):
        list(items(data[at : at + 65_536] for at in range(0, len(data), 65_536)))


def test_what_came_before_a_break_is_imported_and_the_break_is_told(tmp_path):
    rows, _, source = rows_of(tmp_path, RSS[: RSS.index("SKU-2")])
    assert [row.product_id for row in rows] == ["SKU-1"]
    assert "no element found" in source.broken


def test_a_feed_of_any_size_takes_the_memory_of_an_item():
    """30,000 items of 2 KB, never more than a few at once."""
    item = b"<item><id>%d</id><title>Socks</title><description>" + b"x" * 2000 + b"</description></item>"

    def chunks():
        yield b"<rss><channel>"
        for number in range(30_000):
            yield item % number
        yield b"</channel></rss>"

    tracemalloc.start()
    try:
        count = sum(1 for _ in items(chunks()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 2_000_000


@pytest.mark.parametrize("feed", [b"<rss><channel/></rss>", b"<feed xmlns='http://www.w3.org/2005/Atom'/>"])
def test_a_feed_may_be_empty(feed):
    assert list(items([feed])) == []


@given(st.integers(1, 200), st.integers(0, 3))
def test_how_a_feed_is_cut_into_chunks_changes_nothing(size, offset):
    data = (" " * offset + ATOM).encode() if offset else RSS.encode()
    whole = list(items([data]))
    assert list(items(data[at : at + size] for at in range(0, len(data), size))) == whole


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_feed_or_refused(noise):
    try:
        list(items([b"<rss><item><id>1</id>", noise]))
    except FileUnreadable:
        return
    raise AssertionError("an unfinished feed passed for a whole one")


def test_a_break_in_the_middle_costs_no_item_before_it(tmp_path):
    broken = RSS.replace("<title>Socks</title>", "<title>Socks</g:title>")
    found, _, source = rows_of(tmp_path, broken)
    assert [item.product_id for item in found] == ["SKU-1"]
    assert "mismatched tag" in source.broken
