"""A secret beside the database: 32 random bytes in a file that only its owner may read."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sdk_bridge.files import make_file

SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 256  # a mistaken path must not read a disk image
_TEXT = re.compile(rb"[0-9a-fA-F]{64}\s*")


class SecretUnusable(RuntimeError):
    """The file with the secret is missing, damaged or open to others; the text is one line."""


def read_secret(path: Path) -> bytes:
    """The file's 64 hexadecimal digits as bytes. Raises SecretUnusable."""
    try:
        if path.stat().st_mode & 0o077:
            raise SecretUnusable(f"{path} is open to other users; chmod 600 it, and ask who read it")
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise SecretUnusable(f"{path}: {error.strerror or error}") from error
    if not _TEXT.fullmatch(text):
        raise SecretUnusable(f"{path} must hold 64 hexadecimal digits, such as `openssl rand -hex 32` gives")
    return bytes.fromhex(text.decode())


def kept_secret(path: Path, new: Callable[[], bytes]) -> bytes:
    """The file's secret; a new one where there is none, whichever process makes it first.

    Raises SecretUnusable.
    """
    if not path.exists():
        try:
            make_secret(path, new())
        except SecretUnusable:
            if not path.exists():
                raise
    return read_secret(path)


def make_secret(path: Path, secret: bytes) -> None:
    """Writes the file, 0600. It appears whole, and never takes another's place. Raises SecretUnusable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_file(path, secret.hex().encode() + b"\n", 0o600)
    except OSError as error:
        raise SecretUnusable(f"{path}: {error.strerror or error}") from error
