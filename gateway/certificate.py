"""TLS by the gateway's own papers, on a machine whose clock may be years behind; when papers are renewed.

A Pi has no real-time clock and may start years behind, where every certificate is "not yet valid". So
TLS towards our own authority checks everything but the dates by OpenSSL, and the dates here, against a time
that is at least the last known good one: the latest moment at which a clock that somebody had set agreed with
the broker's certificate, and never before our own certificate was issued. Where nobody has set the clock, a
certificate from the future is believed, for the authority itself says so by having signed it.
The limit of this: until the clock is set, a broker's certificate that ran out after the last known good time
is still believed. The last known good time never passes a date that a broker's certificate did not cover, so
a clock sent astray cannot lock the gateway out for longer than that certificate lasts.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from gateway.clock import Clock
from sdk_bridge.files import replace_file
from sdk_bridge.mqtt import Tls

KEY_FILE: Final = "key.pem"
CERTIFICATE_FILE: Final = "certificate.pem"
AUTHORITY_FILE: Final = "authority.pem"
TIME_FILE: Final = "last-good-time"
NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl does not name
WRITE_TIME_MS: Final = 3_600_000  # between writes of the time: oftener wears the card for nothing
RENEW_AT: Final = 2 / 3  # of a certificate's life; ten days are left of thirty for a backend that is away
JITTER: Final = 0.05  # of its life, earlier; a chain enrolled in one morning must not renew in one second

log = structlog.get_logger()


class Untimely(ssl.SSLCertVerificationError):
    """A certificate is outside its dates."""


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid, unix ms."""

    not_before: int
    not_after: int


def certificate_of(pem: bytes) -> x509.Certificate:
    """A certificate in PEM. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except x509.InvalidVersion as error:  # it is no ValueError
        raise ValueError(str(error)) from error


def untimely(life: Life, now: int, good: int, synchronised: bool) -> str | None:
    """Why a certificate is outside its dates; None where it is inside. All times are unix ms.

    `good` is the last known good time. An unset clock only knows what time it is *not yet*.
    """
    sure = max(now, good)
    if sure > life.not_after:
        return "has run out"
    if synchronised and sure < life.not_before:
        return "is not valid yet"
    return None


class KnownTime:
    """The wall clock with the last known good time under it, which outlives the plug."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / TIME_FILE
        self._clock = clock
        self._good = _read_time(self._path)
        self._written = self._good

    def now(self) -> int:
        """Unix ms, at least the last known good time."""
        return max(self._clock.unix_ms(), self._good)

    def at_least(self, moment: int) -> None:
        """An issuer that we trust has said that it is no earlier."""
        self._good = max(self._good, moment)

    def refuse(self, life: Life) -> str | None:
        """Why a certificate is outside its dates. Inside them, with the clock set, this is a good time."""
        synchronised, now = self._clock.synchronised(), self._clock.unix_ms()
        reason = untimely(life, now, self._good, synchronised)
        if reason is None and synchronised and now > self._good:
            self._good = now
            if now - self._written >= WRITE_TIME_MS:
                self._write()
        return reason

    def _write(self) -> None:
        try:
            replace_file(self._path, str(self._good).encode(), 0o644)
            self._written = self._good
        except OSError as error:
            log.warning("time not kept", cause=str(error))


def _read_time(path: Path) -> int:
    try:
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0  # the first start
    return int(text) if text.isdigit() and len(text) < 16 else 0


class TimedContext(ssl.SSLContext):
    """A client's context that leaves the dates of certificates to `KnownTime`."""

    time: KnownTime

    @classmethod
    def trusting(cls, authority_pem: str, time: KnownTime) -> "TimedContext":
        """Trusts this authority alone, for host names as usual."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=authority_pem)
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        context.sslsocket_class = _TimedSocket
        context.time = time
        return context


class _TimedSocket(ssl.SSLSocket):
    """Checks the dates when the handshake is done; nothing of ours was sent by then.

    Our authority signs servers directly, so beside theirs only its own certificate has dates, and that one
    lasts twenty years.
    """

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        context, der = self.context, self.getpeercert(binary_form=True)
        if not isinstance(context, TimedContext) or der is None:
            raise Untimely("the peer showed no certificate")
        reason = context.time.refuse(life_of(x509.load_der_x509_certificate(der)))
        if reason is not None:
            raise Untimely(f"the peer's certificate {reason}; is this machine's clock right?")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTls(Tls):
    """Mutual TLS by the papers as they are at each dial, so that a renewed certificate needs no restart."""

    time: KnownTime

    @classmethod
    def of(cls, papers: Path, time: KnownTime) -> "GatewayTls":
        """By the link to the folder that holds the papers."""
        return cls(papers / AUTHORITY_FILE, papers / CERTIFICATE_FILE, papers / KEY_FILE, time=time)

    def context(self) -> ssl.SSLContext:
        folder = self.ca.parent.resolve()  # once: the link may move between two files
        context = TimedContext.trusting((folder / AUTHORITY_FILE).read_text("ascii"), self.time)
        context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
        return context


def life_of(certificate: x509.Certificate) -> Life:
    """Its dates."""
    return Life(_ms(certificate.not_valid_before_utc), _ms(certificate.not_valid_after_utc))


def due_at(life: Life, chance: float) -> int:
    """When to renew, unix ms; `chance` is from 0 to 1."""
    return life.not_before + int((life.not_after - life.not_before) * (RENEW_AT - JITTER * chance))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
