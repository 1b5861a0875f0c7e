"""Who this gateway is: the papers got at enrolment, as they lie on the disk.

`data_dir/identity` is a link to a folder that holds the key, the certificate, the authority and the facts.
A new set is written beside it and the link is moved in one step, so key and certificate always fit.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.certificate import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    GatewayTls,
    KnownTime,
    Life,
    certificate_of,
    life_of,
)
from gateway.files import give_to_owner_of
from sdk_bridge.files import replace_file, sync_folder
from sdk_bridge.mqtt import Broker
from sdk_bridge.wire.topics import GatewayAddress

IDENTITY: Final = "identity"
FACTS_FILE: Final = "identity.json"


class IdentityUnusable(RuntimeError):
    """The papers are damaged, or are not this gateway's; the text is one line."""


class Facts(msgspec.Struct, frozen=True):
    """What lies beside the certificate: `authority` is its fingerprint, `config_key` Ed25519; both hex."""

    store: str
    gateway: str
    backend: str
    broker_host: str
    broker_port: int
    authority: str
    config_key: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A gateway's papers as they lie on the disk."""

    folder: Path
    facts: Facts
    serial: str
    life: Life

    @property
    def key_file(self) -> Path:
        return self.folder / KEY_FILE

    @property
    def authority_pem(self) -> str:
        return (self.folder / AUTHORITY_FILE).read_text("ascii")


def check_papers(
    certificate_pem: str, authority_pem: str, facts: Facts, key: ec.EllipticCurvePublicKey
) -> None:
    """That what the backend answered is for us, and by the authority we trust. Raises IdentityUnusable."""
    try:
        certificate = certificate_of(certificate_pem.encode())
        authority = certificate_of(authority_pem.encode())
    except ValueError as error:
        raise IdentityUnusable("the backend's answer holds no certificate") from error
    if authority.fingerprint(hashes.SHA256()).hex() != facts.authority:
        raise IdentityUnusable("the backend's authority is not the one whose fingerprint we were given")
    for wrong, found in _FLAWS.items():
        if found(certificate, authority, facts, key):
            raise IdentityUnusable(f"the backend's certificate {wrong}")


def _not_issued(certificate: x509.Certificate, authority: x509.Certificate, *_: object) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return True
    return False


def _other_name(certificate: x509.Certificate, _authority: object, facts: Facts, _key: object) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [name.value for name in names] != [f"{facts.store}/{facts.gateway}"]


def _no_client(certificate: x509.Certificate, *_: object) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH not in usage.value


_FLAWS: Final[dict[str, Callable[[Any, Any, Facts, Any], bool]]] = {
    "is not by the authority it came with": _not_issued,
    "is for another key than ours": lambda certificate, _a, _f, key: certificate.public_key() != key,
    "names another gateway": _other_name,
    "is not for a client": _no_client,
}


def load_identity(data_dir: Path, address: GatewayAddress) -> Identity | None:
    """The papers, or None before enrolment. Raises IdentityUnusable."""
    link = data_dir / IDENTITY
    if not link.exists():
        return None
    folder = link.resolve()
    try:
        facts = msgspec.json.decode((folder / FACTS_FILE).read_bytes(), type=Facts)
        certificate = certificate_of((folder / CERTIFICATE_FILE).read_bytes())
        closed = (folder / KEY_FILE).stat().st_mode & 0o077 == 0
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise IdentityUnusable(f"{link}: {error}; enrol anew") from error
    if (facts.store, facts.gateway) != (address.store, address.gateway):
        raise IdentityUnusable(f"{link} is of {facts.store}/{facts.gateway}; enrol anew")
    if not closed:
        raise IdentityUnusable(f"{link / KEY_FILE} is open to other users; enrol anew")
    return Identity(folder, facts, f"{certificate.serial_number:x}", life_of(certificate))


def write_identity(
    data_dir: Path, key_pem: bytes, certificate_pem: str, authority_pem: str, facts: Facts
) -> None:
    """Puts new papers in place of the old ones, in one step. Raises OSError."""
    folder = Path(tempfile.mkdtemp(dir=data_dir, prefix=f"{IDENTITY}-"))  # 0700
    link, draft = data_dir / IDENTITY, folder / "link"
    try:
        replace_file(folder / KEY_FILE, key_pem, 0o600)
        replace_file(folder / CERTIFICATE_FILE, certificate_pem.encode(), 0o644)
        replace_file(folder / AUTHORITY_FILE, authority_pem.encode(), 0o644)
        replace_file(folder / FACTS_FILE, msgspec.json.encode(facts), 0o644)
        give_to_owner_of(data_dir, folder, *folder.iterdir())
        draft.symlink_to(folder.name)
        draft.replace(link)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(data_dir)
    for old in data_dir.glob(f"{IDENTITY}-*"):
        if old.name != folder.name:
            shutil.rmtree(old, ignore_errors=True)


def broker_of(identity: Identity, data_dir: Path, client_id: str, time: KnownTime) -> Broker:
    """The broker that the identity names, by mutual TLS."""
    time.at_least(identity.life.not_before)
    tls = GatewayTls.of(data_dir / IDENTITY, time)
    return Broker(identity.facts.broker_host, identity.facts.broker_port, client_id, tls=tls)
