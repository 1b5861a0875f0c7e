"""Delimited text as programs write it and as strangers break it; mappings told, guessed and refused."""

import csv
import io
import itertools
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.imports import mapping as mappings
from backend.imports.mapping import MappingInvalid, check, from_toml, guess, told
from backend.imports.source import Source, feed_in_xml, is_xml, layout_of
from backend.imports.tables import MAX_ROW, FileUnreadable, Layout, records

HEADER = "KdNr;E-Mail;Ort"


def written(folder, content):
    path = folder / "file.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **more):
    layout = layout_of(path, more.get("encoding"), more.get("delimiter"))
    source = Source(path, mappings.ColumnMapping("contacts", {}), layout)
    return layout, list(source.records()), source


@pytest.mark.parametrize(
    ("content", "encoding", "delimiter"),
    [
        ("a;b\nMüller;1\n".encode(), "utf-8", ";"),
        ("a;b\nMüller;1\n".encode("utf-8-sig"), "utf-8-sig", ";"),
        ("a;b\nMüller;1\n".encode("cp1252"), "cp1252", ";"),
        ("a\tb\nMüller\t1\n".encode("utf-16"), "utf-16", "\t"),
        (b"a,b\n" + b"x,1\n" * 70_000 + "Müller,1\n".encode("cp1252"), "cp1252", ","),  # only the end tells
        ('a,b\n"Müller, Graz; Wien; Linz",1\n"x; y",2\n'.encode(), "utf-8", ","),
        ("a|b\r\nMüller|1\r\n".encode(), "utf-8", "|"),
    ],
)
def test_encoding_and_delimiter_are_found_out(tmp_path, content, encoding, delimiter):
    layout, found, _ = read(written(tmp_path, content))
    assert layout == Layout(encoding, delimiter, ("a", "b"))
    assert any("Müller" in record.cells["a"] for record in found)
    assert all(record.error is None for record in found)


def test_rows_know_their_lines(tmp_path):
    text = 'id,text\n1,"two\nlines"\n\n2,short\n3,"a ""quote"""\n , \n4,end'
    _, found, _ = read(written(tmp_path, text))
    assert [(record.line, record.cells["text"]) for record in found] == [
        (2, "two\nlines"), (5, "short"), (6, 'a "quote"'), (8, "end"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1", "1 cells where the header has 2"),
        ("1,2,3", "3 cells where the header has 2"),
        ("1,a\0b", "NUL"),
        ("1," + "x" * 2 * MAX_ROW, "longer than"),
        ('1,"' + "x\n" * MAX_ROW, "is a quote not closed"),
    ],
)
def test_a_broken_row_costs_nothing_else(tmp_path, row, reason):
    _, found, source = read(written(tmp_path, f"id,name\n0,first\n{row}\n" + "9,last\n" * 2), delimiter=",")
    assert found[0].cells == {"id": "0", "name": "first"}
    errors = [record for record in found if record.error]
    assert errors[0].line == 3
    assert reason in errors[0].error
    assert found[-1].cells == {"id": "9", "name": "last"}
    assert source.broken is None


@pytest.mark.parametrize("tail", ["", "\n", "\n9,swallowed", "\n9,swallowed\n"])
def test_a_quote_that_nothing_closes_does_not_swallow_the_rest_unseen(tmp_path, tail):
    _, found, _ = read(written(tmp_path, f'id,name\n0,first\n1,"open{tail}'))
    assert found[0].error is None
    assert [(record.line, record.cells) for record in found[1:]] == [(3, {})]
    assert "not closed" in found[1].error


@pytest.mark.parametrize("hint", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_the_line_in_which_excel_names_its_delimiter_is_no_header(tmp_path, hint):
    layout, found, _ = read(written(tmp_path, f"{hint}\nid;name\n1;sep=;\n"))
    assert layout == Layout("utf-8", ";", ("id", "name"))
    assert [(record.line, record.cells) for record in found] == [(3, {"id": "1", "name": "sep="})]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_names_of_columns_may_have_line_breaks(tmp_path, end):
    text = end.join(['id;"E-Mail', "", ' Adresse ";city', '1;"a', 'b";Graz', ""])
    layout, found, _ = read(written(tmp_path, text))
    assert layout.header == ("id", "E-Mail Adresse", "city")
    assert [(record.line, record.error, record.cells["city"]) for record in found] == [(4, None, "Graz")]


@pytest.mark.parametrize("delimiter", [None, ";"])
@pytest.mark.parametrize("rows", ["1;a\n2;b\n", 19 * (60_000 * "x" + "\n")])
def test_a_quote_that_is_open_in_the_names_of_columns_is_said(tmp_path, delimiter, rows):
    """It takes the rows behind it along, and an import of none of them would look well."""
    with pytest.raises(FileUnreadable, match="quote"):
        read(written(tmp_path, 'id;"name\n' + rows), delimiter=delimiter)


def test_every_column_of_a_wide_table_may_have_a_line_break_in_its_name(tmp_path):
    names = [f"name {number}" for number in range(50)]
    broken = ";".join('"' + name.replace(" ", "\n") + '"' for name in names)
    layout, found, _ = read(written(tmp_path, f"{broken}\n{';'.join(names)}\n"))
    assert layout.header == tuple(names)
    [record] = found
    assert (record.line, record.error, list(record.cells.values())) == (52, None, names)


@pytest.mark.parametrize("row", ["1,2,", "1,2,,,  "])
def test_a_delimiter_too_many_at_the_end_is_nothing(tmp_path, row):
    _, [record], _ = read(written(tmp_path, f"id,name\n{row}\n"))
    assert (record.cells, record.error) == ({"id": "1", "name": "2"}, None)


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        ("", {}, "empty line"),
        ("\na,b\n", {}, "empty line"),
        ("a,a\n", {}, "twice"),
        (",".join(f"c{n}" for n in range(501)), {}, "more than 500"),
        ("a,b\n", {"encoding": "klingon"}, "--encoding"),
        ("a,b\n", {"delimiter": "::"}, "--delimiter"),
        ("a,b\n", {"delimiter": ""}, "--delimiter"),
        ("a,b\n", {"delimiter": '"'}, "--delimiter"),
        (b"\xff\xff,b\n", {"encoding": "ascii"}, "no text in ascii"),
    ],
)
def test_what_is_no_table(tmp_path, content, more, reason):
    with pytest.raises(FileUnreadable, match=reason):
        read(written(tmp_path, content), **more)


def test_a_wrong_encoding_ends_the_reading_and_says_so(tmp_path):
    content = b"a,b\n" + b"x,1\n" * 50_000 + "Müller,1\n".encode("cp1252")
    _, found, source = read(written(tmp_path, content), encoding="utf-8")
    assert len(found) > 1_000
    assert "utf-8" in source.broken


def test_a_file_without_an_end_is_read_in_pieces():
    """Memory stays that of a row, whatever comes; here a line of 200 MB, of which there is only the idea."""

    class Endless(io.TextIOBase):
        left = 3_000

        def readline(self, size=-1):
            self.left -= 1
            return "x" * size if self.left > 0 else ""

    text = Endless()
    [broken] = records(text, Layout("utf-8", ",", ("a",)))
    assert "longer" in broken.error
    assert text.left <= 0


CELLS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=10), st.sampled_from(",;\t|"))
def test_whatever_was_written_is_read(rows, delimiter):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["a", "b", "c"], *rows])
    found = list(
        records(io.StringIO(file.getvalue(), newline=""), Layout("utf-8", delimiter, ("a", "b", "c")))
    )
    wanted = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    assert [list(record.cells.values()) for record in found] == wanted
    assert not any(record.error for record in found)


# Mappings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "header", "columns"),
    [
        (
            "contacts",
            ["KdNr", "Vorname", "E-Mail-Adresse", "Kunde seit", "Newsletter", "PLZ", "Bemerkung"],
            {
                "user_id": "KdNr",
                "email": "E-Mail-Adresse",
                "created_at": "Kunde seit",
                "trait.firstName": "Vorname",
                "trait.postalCode": "PLZ",
                "consent.email": "Newsletter",
            },
        ),
        (
            "orders",
            ["Order ID", "customer_id", "Order Date", "Line Total", "Qty", "SKU"],
            {
                "order_id": "Order ID",
                "user_id": "customer_id",
                "ordered_at": "Order Date",
                "amount": "Line Total",
                "sku": "SKU",
                "quantity": "Qty",
            },
        ),
        (
            "catalogue",
            ["id", "title", "link", "image_link", "price", "sale_price", "product_type", "item_group_id"],
            {
                "product_id": "id",
                "name": "title",
                "price": "price",
                "sale_price": "sale_price",
                "category": "product_type",
                "url": "link",
                "image_url": "image_link",
                "parent_id": "item_group_id",
            },
        ),
        ("orders", ["foo", "", "Größe"], {}),
    ],
)
def test_names_of_columns_suggest_fields(kind, header, columns):
    guessed = guess(kind, header)
    assert guessed.columns == columns
    assert from_toml(kind, guessed.as_toml(header)) == guessed


@given(st.lists(st.text(max_size=10), unique=True, max_size=8))
def test_a_proposal_is_always_a_mapping_again(header):
    chosen = mappings.ColumnMapping(
        "contacts", {f"trait.t{n}": name for n, name in enumerate(header) if name}
    )
    text = chosen.as_toml(header)
    assert tomllib.loads(text)["columns"] == chosen.columns


@pytest.mark.parametrize(
    ("kind", "pairs", "reason"),
    [
        ("contacts", ["email"], "field=Column"),
        ("contacts", ["=E-Mail"], "field=Column"),
        ("contacts", ["emial=E-Mail"], "did you mean email"),
        ("contacts", ["email=E-Mail", "email=KdNr"], "twice"),
        ("contacts", ["consent.push now=KdNr"], "no field of contacts"),
        ("orders", ["trait.city=Ort"], "no field of orders"),
        ("contacts", ["email=E-Mial"], "did you mean 'E-Mail'"),
        ("contacts", ["trait.city=Ort"], "user_id or loyalty_id"),
        ("orders", ["user_id=KdNr", "ordered_at=Ort"], "total or amount"),
        ("orders", ["user_id=KdNr", "ordered_at=Ort", "total=Ort"], "--order-id-from-line"),
        ("catalogue", ["product_id=KdNr"], "name"),
    ],
)
def test_a_mapping_that_does_not_fit_says_what_would(kind, pairs, reason):
    with pytest.raises(MappingInvalid, match=reason):
        check(told(kind, pairs), HEADER.split(";"))


@pytest.mark.parametrize(
    "text", ["", "email = 'E-Mail'", "[columns]\nemail = 1", "[columns", "[columns]\nnope = 'x'"]
)
def test_a_file_that_is_no_mapping(text):
    with pytest.raises(MappingInvalid):
        from_toml("contacts", text)


# Feeds are told from tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "xml"),
    [
        (b"<rss/>", True),
        (b"\xef\xbb\xbf \n<?xml version='1.0'?><feed/>", True),
        ("<rss/>".encode("utf-16"), True),
        (b"id\ttitle\n", False),
        (b"", False),
    ],
)
def test_a_feed_is_known_by_how_it_begins(tmp_path, content, xml):
    assert is_xml(written(tmp_path, content)) is xml


def test_a_feed_needs_no_mapping(tmp_path):
    source = feed_in_xml(written(tmp_path, "<rss/>"))
    assert source.is_googles
    assert {"product_id", "name", "price", "google_category", "sale_dates"} <= source.mapping.columns.keys()


def test_fields_and_their_names_do_not_overlap():
    for kind, fields in mappings.FIELDS.items():
        names = [name for _, synonyms in fields.values() for name in synonyms.split()]
        twice = {name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1}
        assert twice == set(), kind


@pytest.mark.parametrize("row", ["3;Eve;x", "3", '3;"Eve\nand Ann"'])
def test_one_odd_row_does_not_hide_the_delimiter(tmp_path, row):
    rows = "".join(f"{number};Anna, Berta, and Co.\n" for number in range(4))
    layout, _, _ = read(written(tmp_path, f"id;name\n{rows}{row}\n{rows}"))
    assert (layout.delimiter, layout.header) == (";", ("id", "name"))
