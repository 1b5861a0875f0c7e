"""A certificate authority for testers: it issues broker and gateway certificates into a folder."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=1)  # long enough for a test, too short for a shop
CLOCK_SKEW = datetime.timedelta(hours=1)


class Authority:
    """Makes its key at once; its own certificate lies in `ca`, as PEM."""

    def __init__(self, folder: Path, now: datetime.datetime, name: str = "Footfall test authority") -> None:
        self._folder = folder
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca = self._write("ca.pem", self._signed(builder))

    def issue_broker(self, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """Certificate and key files of a broker at an IP address."""
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        return self._issue("broker", ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_client(self, name: str) -> tuple[Path, Path]:
        """Certificate and key files of a client; its name, such as `store/gateway`, is the broker's user."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def revoke(self, *certificates: Path) -> Path:
        """A revocation list, as PEM, with these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(self._now - CLOCK_SKEW)
            .next_update(self._now + LIFETIME)
        )
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self._now)
            builder = builder.add_revoked_certificate(entry.build())
        listed = builder.sign(self._key, hashes.SHA256())
        return self._write("revoked.pem", listed.public_bytes(serialization.Encoding.PEM))

    def _issue(
        self, name: str, usage: x509.ObjectIdentifier, names: x509.SubjectAlternativeName | None = None
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_common_name(name), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        stem = name.replace("/", "+")
        return self._write(f"{stem}.pem", self._signed(builder)), self._write(f"{stem}.key", _pem(key))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - CLOCK_SKEW)
            .not_valid_after(self._now + LIFETIME)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
