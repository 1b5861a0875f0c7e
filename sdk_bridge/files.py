"""Files that are there whole or not at all, also when the plug is pulled."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Writes a file so that a reader, or a plug that is pulled, sees the old or the new one, whole.

    Raises OSError, and leaves nothing of its own behind then.
    """
    _put(path, content, mode, lambda draft: draft.replace(path))


def make_file(path: Path, content: bytes, mode: int) -> None:
    """The same for a file that must not take another's place. Raises FileExistsError, or another OSError."""
    _put(path, content, mode, lambda draft: os.link(draft, path))


def sync_folder(folder: Path) -> None:
    """Makes names durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(path: Path, content: bytes, mode: int, place: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        place(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
