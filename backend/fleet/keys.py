"""Where the authority's keys lie: a folder made on first use, whose keys are for its owner alone.

`authority.key` signs certificates and `configuration.key` (Ed25519) gateways' configurations; both are 0600.
`authority.pem` and `revoked.pem` are for brokers to read. Back the folder up: without it every gateway has to
be enrolled anew.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from backend.fleet.authority import Authority, new_authority, private_pem
from sdk_bridge.files import replace_file, sync_folder

KEY_FILE: Final = "authority.key"
CERTIFICATE_FILE: Final = "authority.pem"
SIGNING_FILE: Final = "configuration.key"
REVOKED_FILE: Final = "revoked.pem"


class AuthorityUnusable(RuntimeError):
    """The authority's files are missing, damaged or open to others; the text is one line."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What lies in the authority's folder."""

    folder: Path
    authority: Authority
    signing: ed25519.Ed25519PrivateKey

    @property
    def revoked_file(self) -> Path:
        """Where a broker's `crlfile` points."""
        return self.folder / REVOKED_FILE

    def write_revocations(self, revoked: Iterable[tuple[str, int]], now: int) -> None:
        """Replaces the revocation list whole. Raises OSError."""
        replace_file(self.revoked_file, self.authority.revocations(revoked, now).encode(), 0o644)


def open_keys(folder: Path, now: int, serial: Callable[[], int] = x509.random_serial_number) -> Keys:
    """Reads the authority's folder, and makes it where there is none. Raises AuthorityUnusable.

    Safe beside another process that does the same: the folder appears whole, and once.
    """
    try:
        if not folder.exists():
            _make(folder, new_authority(now, serial()), now)
        return _load(folder)
    except (OSError, ValueError, TypeError, x509.InvalidVersion) as error:
        raise AuthorityUnusable(f"{folder}: {error}") from error


def _make(folder: Path, made: Authority, now: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        replace_file(draft / KEY_FILE, private_pem(made.key).encode(), 0o600)
        replace_file(draft / SIGNING_FILE, _signing_pem(ed25519.Ed25519PrivateKey.generate()), 0o600)
        replace_file(draft / CERTIFICATE_FILE, made.pem.encode(), 0o644)
        replace_file(draft / REVOKED_FILE, made.revocations([], now).encode(), 0o644)
        draft.chmod(0o755)  # the broker, another user, reads the list; the keys are closed by themselves
        draft.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was quicker, and its authority is the one
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(folder.parent)


def _load(folder: Path) -> Keys:
    key = _private(folder / KEY_FILE)
    signing = _private(folder / SIGNING_FILE)
    certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(signing, ed25519.Ed25519PrivateKey):
        raise AuthorityUnusable(f"{folder}: the keys are not of the kinds made here")
    return Keys(folder, Authority(key, certificate), signing)


def _private(path: Path) -> object:
    if path.stat().st_mode & 0o077:
        raise AuthorityUnusable(f"{path} is open to other users; chmod 600 it, and ask who read it")
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def _signing_pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
