"""The backend's own certificate authority: gateways' client certificates, brokers' server certificates.

ECDSA P-256 throughout. Gateways' certificates are short-lived; the authority itself lasts twenty years,
because changing it means enrolling every gateway anew. Times and serial numbers come from the caller; where
the keys lie is the business of backend/fleet/keys.py.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY_MS: Final = 86_400_000
SKEW_MS: Final = 5 * 60_000  # a machine whose clock is a little behind must not find its papers too young
AUTHORITY_MS: Final = 20 * 365 * DAY_MS
SERVICE_MS: Final = 2 * 365 * DAY_MS  # of brokers and the backend itself, renewed by a person
REVOCATIONS_MS: Final = 10 * 365 * DAY_MS  # mosquitto turns everybody away once a list has run out
MAX_NAME: Final = 64  # characters of a common name, by X.509; store, slash and gateway must fit
MAX_HOST: Final = 253
PublicKey: TypeAlias = ec.EllipticCurvePublicKey


class RequestRefused(ValueError):
    """A certificate request cannot be granted; the text says why, for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with what is recorded of it. Times are unix ms; `public_key` is DER."""

    pem: str
    serial: str
    public_key: bytes
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names, for what, and for how long (ms); `host` only for servers."""

    name: str
    usage: x509.ObjectIdentifier
    life_ms: int
    host: str | None = None

    @classmethod
    def gateway(cls, name: str, life_ms: int) -> "Subject":
        """A gateway; its name, `store/gateway`, is its user at the broker. Raises RequestRefused."""
        if len(name) > MAX_NAME:
            raise RequestRefused(f"{name} is longer than the {MAX_NAME} characters a certificate can name")
        return cls(name, ExtendedKeyUsageOID.CLIENT_AUTH, life_ms)

    @classmethod
    def service(cls, name: str) -> "Subject":
        """A client of the broker that is no gateway, such as the backend."""
        return cls(name, ExtendedKeyUsageOID.CLIENT_AUTH, SERVICE_MS)

    @classmethod
    def server(cls, host: str) -> "Subject":
        """A broker or an HTTPS server at a host name or address. Raises RequestRefused."""
        if not 0 < len(host) <= MAX_HOST or not host.isascii() or not host.isprintable() or " " in host:
            raise RequestRefused("a host is a name or an address, without blanks")
        return cls(host[:MAX_NAME], ExtendedKeyUsageOID.SERVER_AUTH, SERVICE_MS, host)


class Authority:
    """Signs. From `open_keys`, or new; `serial` and `now` come from the caller."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Raises ValueError where the key is not the certificate's."""
        if key.public_key() != certificate.public_key():
            raise ValueError("the authority's key does not belong to its certificate")
        self.key = key
        self._certificate = certificate

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its certificate's DER."""
        return self._certificate.fingerprint(hashes.SHA256())

    def issue(self, key: PublicKey, subject: Subject, now: int, serial: int) -> Issued:
        """A certificate for a key."""
        not_before, not_after = _moment(now - SKEW_MS), _moment(now + subject.life_ms)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(subject.name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        for extension, critical in self._extensions(key, subject):
            builder = builder.add_extension(extension, critical=critical)
        signed = builder.sign(self.key, hashes.SHA256())
        return Issued(
            pem=signed.public_bytes(serialization.Encoding.PEM).decode(),
            serial=f"{serial:x}",
            public_key=der_of(key),
            not_before=_ms(not_before),
            not_after=_ms(not_after),
        )

    def revocations(self, revoked: Iterable[tuple[str, int]], now: int) -> str:
        """The revocation list, as PEM, from serials and the times of their revocation."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(_moment(now - SKEW_MS))
            .next_update(_moment(now + REVOCATIONS_MS))
            .add_extension(x509.CRLNumber(now), critical=False)
            .add_extension(_issuer_key(self.key.public_key()), critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(entry.revocation_date(_moment(at)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _extensions(self, key: PublicKey, subject: Subject) -> list[tuple[x509.ExtensionType, bool]]:
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signing=False), True),
            (x509.ExtendedKeyUsage([subject.usage]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
            (_issuer_key(self.key.public_key()), False),
        ]
        if subject.host is not None:
            extensions.append((x509.SubjectAlternativeName([_alternative(subject.host)]), False))
        return extensions


def new_authority(now: int, serial: int) -> Authority:
    """A fresh key and its own certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two authorities must never share a name: a broker would try the wrong one's key.
    name = _named(f"Footfall authority {identifier.digest.hex()[:8]}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_moment(now - SKEW_MS))
        .not_valid_after(_moment(now + AUTHORITY_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def read_request(csr: str) -> PublicKey:
    """The public key of a request that its owner signed; its subject is not listened to.

    Raises RequestRefused.
    """
    try:
        request = x509.load_pem_x509_csr(csr.encode("ascii", "replace"))
        key, proved = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise RequestRefused("this is not a certificate request in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestRefused("the request's key must be ECDSA on P-256")
    if not proved:
        raise RequestRefused("the request is not signed by its own key")
    return key


def signed_by(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether the owner of a recorded key (DER) signed the statement with ECDSA and SHA-256."""
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def der_of(key: PublicKey) -> bytes:
    """A public key as it is recorded."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as it lies in a file that only its owner may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def new_key() -> tuple[PublicKey, str]:
    """A key for a server of ours: the public half, and the private one as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.public_key(), private_pem(key)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _issuer_key(key: PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _usage(*, signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signing,
        key_cert_sign=signing,
        crl_sign=signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
