"""One run of an import: batches, each acknowledged before the state file says so; resumed after any end."""

import csv
import hashlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from backend.imports.reading import Read
from backend.imports.rows import MAX_ROWS, Imported, RowError
from sdk_bridge.files import replace_file

MAX_BYTES = 800_000  # of a batch; the API takes a megabyte, and a batch has a frame
MAX_ERRORS = 5_000  # of a batch; a file of nothing else must reach the disk now and then too
FINGERPRINT_BYTES = 64 * 1024


class RunUnusable(RuntimeError):
    """The files beside the imported one cannot be written; the text says which."""


class Saved(Struct, forbid_unknown_fields=True):
    """The state file: how many rows (of orders: whole orders) are acknowledged, and what became of them.

    `errors_bytes` is how long the file of errors was then: what a killed run wrote behind it is cut off.
    """

    fingerprint: str
    import_id: str
    done: int = 0
    new: int = 0
    known: int = 0
    errors: int = 0
    errors_bytes: int = 0


@dataclass(slots=True)
class Batch:
    """Rows as they are sent, what could not be read between them, and how far into the file that is."""

    rows: list[msgspec.Raw] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    done: int = 0
    size: int = 0

    def has_room(self, rows: int, size: int) -> bool:
        counts = max(len(self.rows) + rows, len(self.present) + 1)
        return counts <= MAX_ROWS and self.size + size <= MAX_BYTES and len(self.errors) < MAX_ERRORS

    def add(self, read: Read, encoded: list[bytes]) -> None:
        self.rows += [msgspec.Raw(row) for row in encoded]
        self.size += sum(len(row) + 1 for row in encoded)
        self.errors += read.errors
        self.present += [read.present] if read.present else []


def batches(reads: Iterable[Read], after: int = 0) -> Iterator[Batch]:
    """What follows the first `after` reads, in batches that the API takes."""
    batch = Batch()
    for number, read in enumerate(reads, start=1):
        if number <= after:
            continue
        encoded = [msgspec.json.encode(row) for row in read.rows]
        if not batch.has_room(len(encoded), sum(map(len, encoded))):
            yield batch
            batch = Batch()
        batch.add(read, encoded)
        batch.done = number
    if batch.done:
        yield batch


def _ahead(reads: Iterable[Read], after: int) -> Iterator[Batch]:
    """The same; each is read while the one before it is on its way, and none once the run has ended."""
    ended = threading.Event()
    coming = batches(itertools.takewhile(lambda _: not ended.is_set(), reads), after)
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:
        try:
            following = reader.submit(next, coming, None)
            while (batch := following.result()) is not None:
                following = reader.submit(next, coming, None)
                yield batch
        finally:  # or who stops a run that goes on would wait until all that is done already is read
            ended.set()


class Send(Protocol):
    """Sends a batch and waits for the answer. Raises what ends the run."""

    def __call__(self, batch: Batch) -> Imported: ...


class ImportRun:
    """A file on its way in. The files beside it: `.import.json` while it is under way, `.errors.csv`."""

    def __init__(self, file: Path, fingerprint: str, new_id: Callable[[], str]) -> None:
        self._state = file.with_name(f"{file.name}.import.json")
        self._errors = file.with_name(f"{file.name}.errors.csv")
        found = self._load()
        is_same = found is not None and found.fingerprint == fingerprint
        self.is_resumed = is_same
        self.saved = found if found is not None and is_same else Saved(fingerprint, new_id())

    @property
    def errors_file(self) -> Path:
        return self._errors

    def go(self, reads: Iterable[Read], send: Send, progress: Callable[[], None]) -> Saved:
        """Sends what is left; returns what became of all. Raises RunUnusable, and what `send` raises."""
        try:
            self._cut_errors()
            for batch in _ahead(reads, self.saved.done):
                answer = send(batch) if batch.rows or batch.present else Imported(0, 0)
                self._acknowledged(batch, answer)
                progress()
        except OSError as error:
            raise RunUnusable(f"{error.filename or self._state}: {error.strerror or error}") from error
        return self.saved

    def finish(self) -> None:
        """Nothing is left to resume."""
        self._state.unlink(missing_ok=True)
        if not self.saved.errors:
            self._errors.unlink(missing_ok=True)

    def _acknowledged(self, batch: Batch, answer: Imported) -> None:
        """First the errors, then the state that counts them, each on the disk before the next."""
        errors = sorted([*batch.errors, *answer.errors], key=lambda error: error.line)
        saved = self.saved
        saved.done = batch.done
        saved.new += answer.new
        saved.known += answer.known
        saved.errors += len(errors)
        saved.errors_bytes = self._append(errors)
        replace_file(self._state, msgspec.json.encode(saved), 0o600)

    def _append(self, errors: list[RowError]) -> int:
        if not errors:
            return self.saved.errors_bytes
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.saved.errors_bytes:
            writer.writerow(("line", "reason"))
        writer.writerows((error.line, error.reason) for error in errors)
        with self._errors.open("ab") as file:
            file.write(text.getvalue().encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _cut_errors(self) -> None:
        with self._errors.open("ab") as file:
            self.saved.errors_bytes = min(self.saved.errors_bytes, file.tell())
            file.truncate(self.saved.errors_bytes)

    def _load(self) -> Saved | None:
        with suppress(OSError, msgspec.MsgspecError):  # none, or not ours: then the run begins anew
            return msgspec.json.decode(self._state.read_bytes(), type=Saved)
        return None


def fingerprint(file: Path, *about: str) -> str:
    """Whether it is the same file, read in the same way: its start, size and time, and the options."""
    status = file.stat()
    with file.open("rb") as content:
        start = content.read(FINGERPRINT_BYTES)
    text = "\0".join([*about, str(status.st_size), str(status.st_mtime_ns)]).encode()
    return hashlib.sha256(text + start).hexdigest()
