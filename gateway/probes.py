"""The doctor's instruments: each looks at one thing of this machine and says what is there, judging nothing.

Everything here may block; gateway/doctor.py runs each in a thread of its own, with a time limit. Nothing is
changed, save for a file of no bytes that is made in the data folder and vanishes at once.
"""

import asyncio
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from gateway.certificate import KnownTime, Life, certificate_of, life_of
from gateway.clock import Clock
from gateway.config import Config
from gateway.identity import IdentityUnusable, broker_of, load_identity
from gateway.outbox import OutboxUnavailable, examine
from sdk_bridge.mqtt import Broker, MqttUnavailable, Tls, connect

STEP_SECONDS: Final = 4.0  # of name service, TCP, TLS: a network that is slower will not carry adverts either
COMMAND_SECONDS: Final = 5.0
UNIT: Final = "footfall-gateway.service"
_BLUETOOTHD: Final = ("/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd")
_RFKILL_EVENT: Final = 8  # bytes: index, type, operation, soft, hard (linux/rfkill.h)
_RFKILL_BLUETOOTH: Final = 2


# The machine ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PythonFacts:
    """The interpreter: its version, and whether it counts with 64 bits."""

    version: tuple[int, int]
    is_64_bit: bool


def look_at_python() -> PythonFacts:
    return PythonFacts(sys.version_info[:2], sys.maxsize > 2**32)


def bluez_version() -> tuple[int, int] | None:
    """Of the installed BlueZ, by its own programs; None where there are none."""
    for command in (("bluetoothctl", "--version"), *((path, "--version") for path in _BLUETOOTHD)):
        found = re.search(r"(\d+)\.(\d+)", _output(command) or "")
        if found is not None:
            return int(found[1]), int(found[2])
    return None


def kernel_adapters(folder: Path = Path("/sys/class/bluetooth")) -> list[str]:
    """The adapters that the kernel knows; connections, such as hci0:11, are none."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if re.fullmatch(r"hci\d+", entry.name))
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class RfkillSwitch:
    """A switch that may silence a Bluetooth radio: by software, or by hardware."""

    name: str
    soft: bool
    hard: bool


def rfkill_switches(
    folder: Path = Path("/sys/class/rfkill"), device: Path = Path("/dev/rfkill")
) -> list[RfkillSwitch]:
    """The switches of Bluetooth radios, from /sys, or where that is missing from /dev/rfkill."""
    if not folder.is_dir():
        return _rfkill_events(device)
    return [
        RfkillSwitch(_line(entry / "name"), _line(entry / "soft") == "1", _line(entry / "hard") == "1")
        for entry in sorted(folder.iterdir())
        if _line(entry / "type") == "bluetooth"
    ]


def _rfkill_events(device: Path) -> list[RfkillSwitch]:
    """What the device tells whoever opens it: one event for each switch there is."""
    try:
        handle = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    switches = []
    try:
        while len(event := os.read(handle, _RFKILL_EVENT)) == _RFKILL_EVENT:
            if event[4] == _RFKILL_BLUETOOTH:
                index = int.from_bytes(event[:4], sys.byteorder)
                switches.append(RfkillSwitch(f"rfkill{index}", bool(event[6]), bool(event[7])))
    except BlockingIOError:
        pass  # every switch was told
    finally:
        os.close(handle)
    return switches


def _line(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """The gateway's unit; `watchdog_seconds` 0 where nobody watches. None of them where systemd is not."""

    load: str
    active: str
    watchdog_seconds: float


def look_at_service(unit: str = UNIT) -> ServiceFacts | None:
    """None where systemd does not run this machine."""
    told = _output(("systemctl", "show", unit, "--property=LoadState,ActiveState,WatchdogUSec"))
    if told is None:
        return None
    values = dict(line.partition("=")[::2] for line in told.splitlines())
    if not values.get("LoadState"):
        return None
    watchdog = _seconds(values.get("WatchdogUSec", ""))
    return ServiceFacts(values["LoadState"], values.get("ActiveState", ""), watchdog)


def _seconds(text: str) -> float:
    """systemd's span, such as `1min 30s`, in seconds; 0 for infinity."""
    sizes = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    found = re.findall(r"(\d+(?:\.\d+)?)(us|ms|min|s|h|d)\b", text)
    return sum(float(number) * sizes[unit] for number, unit in found)


def _output(command: Sequence[str]) -> str | None:
    """What a program prints, in English; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


# The disk ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """The data folder: whether it is there and takes files; the space left, and what the outbox has."""

    path: Path
    exists: bool
    writable: bool
    free_bytes: int
    outbox_bytes: int


def look_at_disk(folder: Path) -> DiskFacts:
    """Before the first start, the folder that it would be made in."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    space = os.statvfs(there)
    taken = sum(_size(folder / f"outbox.db{suffix}") for suffix in ("", "-wal"))
    free = space.f_bavail * space.f_frsize
    return DiskFacts(folder, there == folder, _takes_a_file(there), free, taken)


def _takes_a_file(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class MountFacts:
    """Where the data folder is mounted, as /proc/self/mountinfo tells."""

    point: str
    kind: str
    options: frozenset[str]


def look_at_mount(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> MountFacts | None:
    """None where the table does not tell."""
    try:
        lines = table.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    return mount_of(str(folder.resolve()), lines)


def mount_of(path: str, lines: Sequence[str]) -> MountFacts | None:
    """The mount that holds a path: the longest that it lies under, and of those the latest."""
    best: MountFacts | None = None
    for line in lines:
        left, separator, right = line.partition(" - ")
        fields, last = left.split(), right.split()
        if not separator or len(fields) < 6 or len(last) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        under = path == point or path.startswith(point.rstrip("/") + "/")
        if under and (best is None or len(point) >= len(best.point)):
            best = MountFacts(point, last[0], frozenset((*fields[5].split(","), *last[2].split(","))))
    return best


@dataclass(frozen=True, slots=True)
class OutboxFacts:
    """The outbox's file: not begun (`records` None), sound, or what is wrong with it."""

    records: int | None
    fault: str = ""


def look_at_outbox(folder: Path) -> OutboxFacts:
    try:
        return OutboxFacts(examine(folder / "outbox.db"))
    except FileNotFoundError:
        return OutboxFacts(None)
    except (OutboxUnavailable, OSError) as error:
        return OutboxFacts(None, str(error))


# Broker and certificate -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How this gateway reaches its broker; `fault` where it cannot even try, `forbidden` for this user."""

    broker: Broker | None
    enrolled: bool
    fault: str = ""
    forbidden: bool = False


def look_for_way(config: Config, clock: Clock) -> Way:
    """The identity's broker, or the file's, with a client id that is nobody else's."""
    address, mqtt = config.address, config.mqtt
    client_id = f"{address.store}-{address.gateway}-doctor-{secrets.token_hex(4)}"
    try:
        identity = load_identity(config.data_dir, address)
        if identity is not None:
            known = KnownTime(config.data_dir, clock)
            return Way(broker_of(identity, config.data_dir, client_id, known), True)
    except (IdentityUnusable, OSError) as error:
        forbidden = isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError)
        return Way(None, True, str(error), forbidden)
    if mqtt.host is None:
        return Way(None, False)
    return Way(Broker(mqtt.host, mqtt.port, client_id, mqtt.username, mqtt.password, mqtt.tls), False)


Step: TypeAlias = Literal[
    "good", "name", "refused", "unreachable", "untrusted", "tls", "files", "credentials", "cut", "silent"
]


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """How far we came: everything (`good`, in so many milliseconds), or the step that failed and why."""

    step: Step
    detail: str = ""
    milliseconds: int = 0


def look_at_broker(broker: Broker) -> BrokerFacts:
    """Name, TCP, TLS and MQTT CONNECT in turn, as the gateway does it; disconnects in order."""
    began = time.monotonic()
    try:
        _walk(broker)
    except _Stopped as error:
        return BrokerFacts(error.step, str(error))
    return BrokerFacts("good", milliseconds=round((time.monotonic() - began) * 1000))


class _Stopped(Exception):
    """The way to the broker ends at this step."""

    def __init__(self, step: Step, detail: object) -> None:
        super().__init__(str(detail))
        self.step: Step = step


def _walk(broker: Broker) -> None:
    try:
        plain = socket.create_connection((broker.host, broker.port), STEP_SECONDS)
    except socket.gaierror as error:
        raise _Stopped("name", error.strerror or error) from error
    except ConnectionRefusedError as error:
        raise _Stopped("refused", error.strerror) from error
    except OSError as error:
        raise _Stopped("unreachable", error.strerror or error) from error
    with plain:
        if broker.tls is not None:
            _shake_hands(plain, broker.tls, broker.host)
    _admitted(broker)


def _shake_hands(plain: socket.socket, tls: Tls, host: str) -> None:
    try:
        context = tls.context()
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors too
        raise _Stopped("files", error) from error
    try:
        with context.wrap_socket(plain, server_hostname=host):
            return
    except ssl.SSLCertVerificationError as error:
        raise _Stopped("untrusted", getattr(error, "verify_message", "") or error) from error
    except (OSError, ValueError) as error:
        raise _Stopped("tls", error) from error


def _admitted(broker: Broker) -> None:
    async def try_once() -> None:
        async with connect(broker, lambda _connection, _message: None):
            return

    try:
        asyncio.run(try_once())
    except MqttUnavailable as error:
        text = str(error)
        step: Step = "credentials" if "refused us" in text else "silent" if "not answer" in text else "cut"
        raise _Stopped(step, text) from error


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """A certificate with its key: whose, from when to when, whether they belong together and stay private."""

    name: str
    life: Life
    key_fits: bool
    key_private: bool


def look_at_certificate(certificate: Path, key: Path) -> CertificateFacts:
    """Raises OSError, ValueError, TypeError: not readable, not a certificate, a key under a password."""
    found = certificate_of(certificate.read_bytes())
    secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateFacts(
        name=str(names[0].value) if names else "",
        life=life_of(found),
        key_fits=found.public_key() == secret.public_key(),
        key_private=key.stat().st_mode & 0o077 == 0,
    )
