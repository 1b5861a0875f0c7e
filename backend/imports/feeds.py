"""Google Merchant feeds in XML (RSS 2.0 or Atom, elements in g:), read as a stream; hostile ones end early.

Source: Google Merchant Center Help, "Product data specification" and "Create a product feed".
"""

from collections.abc import Iterable, Iterator
from typing import Any
from xml.parsers import expat

from backend.imports.tables import FileUnreadable, Record

GOOGLE = "http://base.google.com/ns/1.0"
GOOGLE_MISSPELT = "https://base.google.com/ns/1.0"  # what shops' plugins make of it
ATOM = "http://www.w3.org/2005/Atom"
FIELDS = (
    "id",
    "title",
    "link",
    "image_link",
    "price",
    "sale_price",
    "sale_price_effective_date",
    "availability",
    "brand",
    "mpn",
    "item_group_id",
    "product_type",
    "google_product_category",
)
"""What is kept of an item; descriptions and all else pass by unread."""

MAX_FIELD = 5_000  # characters; Google's own longest that we keep is a link of 2,000
MAX_DEPTH = 32  # nested elements; a feed has five, and a bomb millions
MAX_TOKEN = 1 << 20  # bytes of one tag; the parser keeps an unfinished one whole
_ROOTS = frozenset({"rss", "feed", f"{ATOM} feed"})
_ITEMS = frozenset({"item", f"{ATOM} item", "entry", f"{ATOM} entry"})
_SPACES = ("", f"{ATOM} ", f"{GOOGLE} ", f"{GOOGLE_MISSPELT} ")
_NAMES = {f"{space}{field}": field for space in _SPACES for field in FIELDS}


def items(chunks: Iterable[bytes]) -> Iterator[Record]:
    """Every item of a feed, with the fields that we keep. Raises FileUnreadable where the feed breaks off.

    Those before the break were yielded. Document types, and with them entities, are refused unread.
    """
    reading = _Reading()
    for chunk in chunks:
        yield from _items_in(reading, chunk, final=False)
    yield from _items_in(reading, b"", final=True)


def _items_in(reading: "_Reading", chunk: bytes, *, final: bool) -> Iterator[Record]:
    """The items that this chunk ends, also where it breaks off behind them."""
    try:
        reading.feed(chunk, final=final)
    finally:
        yield from reading.taken()


class _Reading:
    """One feed on its way through the parser."""

    def __init__(self) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        self._parser = parser
        self._fed = 0
        self._depth = 0
        self._item_depth = 0
        self._is_feed = False
        self._line = 0
        self._cells: dict[str, str] = {}
        self._error: str | None = None
        self._field: str | None = None
        self._is_googles: set[str] = set()
        self._pieces: list[str] = []
        self._length = 0
        self._done: list[Record] = []

    def feed(self, chunk: bytes, *, final: bool) -> None:
        """Reads on. Raises FileUnreadable."""
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            line, reason = error.lineno, expat.ErrorString(error.code)
            raise FileUnreadable(f"line {line}: the feed is no XML from here on: {reason}") from error
        if self._fed - max(self._parser.CurrentByteIndex, 0) > MAX_TOKEN:
            raise FileUnreadable(
                f"line {self._parser.CurrentLineNumber}: a tag longer than {MAX_TOKEN} bytes"
            )
        if final and not self._is_feed:  # a page that says "not found", fetched in place of the feed
            raise FileUnreadable("the file is neither RSS nor Atom, and has no item")

    def taken(self) -> list[Record]:
        """The items that have ended since this was asked last."""
        done, self._done = self._done, []
        return done

    def _refuse(self, *_: Any) -> None:
        raise FileUnreadable("the feed has a document type (DTD), as bombs have and feeds have not")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FileUnreadable(f"line {self._parser.CurrentLineNumber}: elements nested too deeply")
        self._is_feed = self._is_feed or name in _ITEMS or (self._depth == 1 and name in _ROOTS)
        if name in _ITEMS and not self._item_depth:
            self._item_depth, self._line = self._depth, self._parser.CurrentLineNumber
            self._cells, self._is_googles, self._error = {}, set(), None
        elif self._item_depth and self._depth == self._item_depth + 1 and name in _NAMES:
            self._field, self._pieces, self._length = name, [], 0
            if name == f"{ATOM} link" and attributes.get("rel", "alternate") == "alternate":
                self._text(attributes.get("href", ""))

    def _text(self, text: str) -> None:
        if self._field is None or self._depth != self._item_depth + 1:
            return
        self._length += len(text)
        if self._length > MAX_FIELD:
            self._error = f"{_NAMES[self._field]} is longer than {MAX_FIELD} characters"
        else:
            self._pieces.append(text)

    def _end(self, _name: str) -> None:
        if self._field is not None and self._depth == self._item_depth + 1:
            self._keep(self._field, "".join(self._pieces).strip())
            self._field = None
        if self._item_depth and self._depth == self._item_depth:
            self._done.append(Record(self._line, self._cells, self._error))
            self._item_depth = 0
        self._depth -= 1

    def _keep(self, name: str, text: str) -> None:
        """Of two with one name Google's own counts, then the first: a product has several types, say."""
        field = _NAMES[name]
        is_googles = name.startswith((GOOGLE, GOOGLE_MISSPELT))
        if text and (field not in self._cells or (is_googles and field not in self._is_googles)):
            self._cells[field] = text
            if is_googles:
                self._is_googles.add(field)
