"""A file to import: a table or a feed, what is known of it, and its records from the first on."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from backend.imports import feeds, tables
from backend.imports.mapping import ColumnMapping, Kind, guess, is_googles
from backend.imports.tables import FileUnreadable, Layout, Record

CHUNK_BYTES = 64 * 1024
_BLANK = b" \t\r\n\xef\xbb\xbf"


@dataclass(slots=True)
class Source:
    """A file, and how to read it; `layout` is None for a feed in XML.

    `broken` tells, once the records are through, why they ended before the file did.
    """

    path: Path
    mapping: ColumnMapping
    layout: Layout | None = None
    watch: Callable[[int], None] = field(default=lambda _position: None)
    broken: str | None = None

    @property
    def is_googles(self) -> bool:
        """Whether it is a Merchant feed, in XML or as text: then prices have a decimal point."""
        return self.layout is None or is_googles(self.layout.header)

    @property
    def described(self) -> str:
        """What was found out about the file, for people."""
        if self.layout is None:
            return "a Merchant feed in XML"
        delimiter = "tab" if self.layout.delimiter == "\t" else self.layout.delimiter
        return f"{self.layout.encoding}, delimiter {delimiter}, {len(self.layout.header)} columns"

    def records(self) -> Iterator[Record]:
        """Every record; `watch` hears how many bytes are read."""
        with self.path.open("rb") as file:
            try:
                yield from self._of_feed(file) if self.layout is None else self._of_table(file, self.layout)
            except FileUnreadable as error:
                self.broken = str(error)
            except UnicodeDecodeError:
                self.broken = _no_text(self.layout.encoding if self.layout else "XML")

    def _of_feed(self, file: BinaryIO) -> Iterator[Record]:
        def chunks() -> Iterator[bytes]:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

        for record in feeds.items(chunks()):
            yield record
            self.watch(file.tell())

    def _of_table(self, file: BinaryIO, layout: Layout) -> Iterator[Record]:
        with io.TextIOWrapper(file, encoding=layout.encoding, newline="") as text:
            for number, record in enumerate(tables.records(text, layout)):
                yield record
                if number % 256 == 0:
                    self.watch(file.tell())


def is_xml(path: Path) -> bool:
    """Whether the file begins as XML does, in UTF-8 or UTF-16."""
    with path.open("rb") as file:
        start = file.read(CHUNK_BYTES).replace(b"\0", b"").lstrip(_BLANK + b"\xff\xfe")
    return start.startswith(b"<")


def feed_in_xml(path: Path) -> Source:
    """A Merchant feed, whose fields have Google's names."""
    return Source(path, guess("catalogue", feeds.FIELDS))


def layout_of(path: Path, encoding: str | None, delimiter: str | None) -> Layout:
    """How a table is written, as told or found out. Raises FileUnreadable."""
    cut = "\t" if delimiter == "tab" else delimiter
    if cut is not None and (len(cut) != 1 or cut in '"\r\n'):
        raise FileUnreadable(f"--delimiter: {delimiter!r} is not one character, nor tab")
    known = encoding
    try:
        with path.open("rb") as file:
            known = known or tables.detect_encoding(file)
            file.seek(0)
            with io.TextIOWrapper(file, encoding=known, newline="") as text:
                return tables.detect_layout(text, known, cut)
    except LookupError as error:
        raise FileUnreadable(f"--encoding: {error}") from error
    except UnicodeDecodeError as error:
        raise FileUnreadable(_no_text(known)) from error


def _no_text(encoding: str | None) -> str:
    return f"the file is no text in {encoding}: say --encoding, or is it a spreadsheet or an archive?"


def proposal(kind: Kind, layout: Layout) -> str:
    """The guessed mapping as a file, with what is left out."""
    return guess(kind, layout.header).as_toml(layout.header)
