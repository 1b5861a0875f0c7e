"""Delimited text of any size and any program: encoding and delimiter found out, rows within bounds."""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, TextIO

MAX_ROW = 64 * 1024  # characters; a quote that is never closed would else swallow the file
MAX_COLUMNS = 500
_CHUNK = 1 << 20
_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_ROWS = 20
_HINT = re.compile(r'"?sep=([^\w\s]|\t)"?', re.IGNORECASE)
_END = "\0"  # behind the last line; only whoever waits for the end of a quote reads so far
_BREAK = re.compile(r"\s*[\r\n]\s*")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class FileUnreadable(ValueError):
    """The file as a whole cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is written: a codec's name, the delimiter, and the columns by name."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One row by column, without blanks around its cells; `line` is that on which it begins.

    With `error` it could not be read, and the cells are those that could.
    """

    line: int
    cells: dict[str, str]
    error: str | None = None


def detect_encoding(file: BinaryIO) -> str:
    """By its mark, else UTF-8 if the whole file is that, else cp1252, in which everything means something."""
    file.seek(0)
    start = file.read(4)
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def detect_layout(text: TextIO, encoding: str, delimiter: str | None = None) -> Layout:
    """The delimiter that cuts the most of the first rows as it cuts the header. Raises FileUnreadable."""
    lines = _Lines(text)
    sample = []
    for _ in range(_SAMPLE_ROWS):
        try:
            sample.append(next(lines))
            lines.row_begins()
        except StopIteration:
            break
        except _TooLong:
            lines.row_begins()
    hinted = _hinted(sample[0]) if sample else None
    if hinted is not None:
        sample, delimiter = sample[1:], delimiter or hinted
    if not sample or not sample[0].strip():
        raise FileUnreadable("the file begins with an empty line; it must begin with the columns' names")
    try:
        chosen = delimiter or max(_DELIMITERS, key=lambda candidate: _cuts(sample, candidate))
        names = next(csv.reader(chain(sample, lines, (_END,)), delimiter=chosen))
    except (_TooLong, csv.Error) as error:
        raise FileUnreadable(f"the first rows: {error}; is a quote not closed?") from error
    if names[-1].endswith(_END):
        raise FileUnreadable("a quote in the columns' names is not closed, up to the end of the file")
    return Layout(encoding, chosen, _checked(tuple(map(_one_line, names))))


def _one_line(name: str) -> str:
    """A column's name, which Excel lets people break within its quotes."""
    return _BREAK.sub(" ", name.strip())


def _hinted(line: str) -> str | None:
    """The delimiter in the line `sep=;`, which Excel writes for itself before the columns' names."""
    found = _HINT.fullmatch(line.rstrip("\r\n"))
    return found[1] if found else None


def _cuts(sample: list[str], delimiter: str) -> float:
    """How often the header is cut, by how many rows are cut as often: a comma in a text is no delimiter, and
    one row with a cell too many does not make the true one none.
    """
    counts = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
    return (counts[0] - 1) * counts.count(counts[0]) / len(counts)


def _checked(header: tuple[str, ...]) -> tuple[str, ...]:
    while header and not header[-1]:
        header = header[:-1]
    if len(header) > MAX_COLUMNS:
        raise FileUnreadable(f"the file has more than {MAX_COLUMNS} columns")
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise FileUnreadable(f"the column {min(twice)!r} is there twice; give it two names")
    return header


def records(text: TextIO, layout: Layout) -> Iterator[Record]:
    """Every row behind the header, also those that cannot be read. The text is read from its start."""
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=layout.delimiter)
    is_header = True
    while True:
        lines.row_begins()
        line = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except (_TooLong, csv.Error) as error:
            yield Record(line, {}, str(error))
            is_header = False
            continue
        if is_header:
            is_header = line == 1 and _hinted(layout.delimiter.join(row)) is not None
        elif lines.ended_in_row:
            yield Record(line, {}, "opens a quote that is not closed, up to the end of the file")
        elif any(cell.strip() for cell in row):
            yield _record(row, line, layout.header)


def _record(row: list[str], line: int, header: tuple[str, ...]) -> Record:
    extra = [cell for cell in row[len(header) :] if cell.strip()]
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=False) if name}
    if extra or len(row) < len(header):
        error = f"has {len(row)} cells where the header has {len(header)}: is a quote or a delimiter missing?"
        return Record(line, cells, error)
    if any("\0" in cell for cell in row):
        return Record(line, cells, "holds the character NUL")
    return Record(line, cells)


class _TooLong(ValueError):
    """A row is longer than rows are."""


class _Lines:
    """The lines of a text, none of them longer than a row may be, and together no longer within one row.

    `ended_in_row`: the text was over, and the row was not.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._length = 0
        self.number = 0
        self.ended_in_row = False

    def row_begins(self) -> None:
        self._length = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW)
        if not line:
            self.ended_in_row = self._length > 0
            raise StopIteration
        self.number += 1
        self._length += len(line)
        if len(line) == MAX_ROW and not line.endswith(("\n", "\r")):
            self._skip_the_rest()
            raise _TooLong(f"is longer than {MAX_ROW} characters")
        if self._length > MAX_ROW:
            raise _TooLong(f"is longer than {MAX_ROW} characters: is a quote not closed?")
        return line

    def _skip_the_rest(self) -> None:
        while (rest := self._text.readline(MAX_ROW)) and not rest.endswith(("\n", "\r")):
            continue
