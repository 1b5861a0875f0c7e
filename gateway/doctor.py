"""The doctor: what may keep this gateway from hearing or telling, each thing with a verdict and its remedy.

Looking (gateway/probes.py, gateway/bluez_probe.py) and judging are apart: every rule here turns facts into
one of `FINDINGS`, the table that the documentation is compared with. Every check has a time limit.
"""

import asyncio
import getpass
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

from gateway import probes
from gateway.bluez_probe import BluezState, BusFacts, BusState, look_at_bluez
from gateway.certificate import KnownTime
from gateway.clock import Clock
from gateway.config import Config, ConfigError, load
from gateway.enrol import is_loopback
from sdk_bridge.mqtt import Broker

CHECK_SECONDS: Final = 15.0  # of one check; the broker's has three steps of four seconds and a slow goodbye
LEAST_BLUEZ: Final = (5, 55)  # bleak speaks to no older one
LEAST_PYTHON: Final = (3, 11)
FULL_BYTES: Final = 32 * 1024 * 1024  # below this the outbox's log alone may not fit
SOON_ENROLLED_DAYS: Final = 7  # an enrolled one is renewed with ten days left: fewer, and renewing fails
SOON_OWN_DAYS: Final = 30  # time to get another one by hand
DAY_MS: Final = 86_400_000

Level: TypeAlias = Literal["ok", "warn", "fail"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check may come to: in words, and what to do, both with places for facts."""

    check: str
    level: Level
    says: str
    remedy: str = ""


def _f(check: str, level: Level, says: str, remedy: str = "") -> Finding:
    return Finding(check, level, says, remedy)


_DOCTOR = "sudo -u footfall footfall-gateway doctor --config {path}"
FINDINGS: Final[dict[str, Finding]] = {
    "configuration-good": _f("configuration", "ok", "{path} is sound: gateway {gateway} of store {store}"),
    "configuration-none": _f(
        "configuration",
        "warn",
        "{path} is not there, so broker, certificate and disk were not looked at",
        "footfall-gateway doctor --config FILE",
    ),
    "configuration-bad": _f(
        "configuration", "fail", "{detail}", "correct {path}; `footfall-gateway keys` lists every key"
    ),
    "python-good": _f("python", "ok", "Python {version}, 64-bit"),
    "python-32-bit": _f(
        "python",
        "fail",
        "Python {version} is 32-bit; the libraries have no builds for it",
        "install the 64-bit Raspberry Pi OS; `getconf LONG_BIT` must answer 64",
    ),
    "python-old": _f(
        "python",
        "fail",
        "Python {version} is too old; 3.11 is needed",
        "install Raspberry Pi OS Bookworm or later",
    ),
    "bus-good": _f("bus", "ok", "the message bus answers"),
    "bus-no-socket": _f(
        "bus",
        "fail",
        "there is no message bus at {address}",
        "sudo apt-get install -y dbus && sudo systemctl start dbus",
    ),
    "bus-refused": _f("bus", "fail", "nobody listens at {address}", "sudo systemctl restart dbus"),
    "bus-reset": _f(
        "bus",
        "fail",
        "the message bus closed the connection; it does not admit {user} ({detail})",
        "allow the user in /etc/dbus-1/system.d, then: sudo systemctl reload dbus",
    ),
    "bus-silent": _f("bus", "fail", "the message bus does not answer", "sudo systemctl restart dbus"),
    "bluez-good": _f("bluez", "ok", "BlueZ {version} runs"),
    "bluez-unknown": _f(
        "bluez", "warn", "BlueZ runs, and its version could not be found out", "sudo apt-get install -y bluez"
    ),
    "bluez-old": _f(
        "bluez",
        "fail",
        "BlueZ {version} is too old; 5.55 is needed",
        "sudo apt-get update && sudo apt-get install -y bluez",
    ),
    "bluez-missing": _f("bluez", "fail", "BlueZ is not installed", "sudo apt-get install -y bluez"),
    "bluez-stopped": _f(
        "bluez",
        "fail",
        "BlueZ {version} is installed and does not run",
        "sudo systemctl enable --now bluetooth",
    ),
    "bluez-forbidden": _f(
        "bluez",
        "fail",
        "{user} may not talk to org.bluez",
        "sudo usermod -aG bluetooth {user}, then log in again or restart the gateway",
    ),
    "bluez-silent": _f(
        "bluez", "fail", "bluetoothd holds its name and does not answer", "sudo systemctl restart bluetooth"
    ),
    "bluez-failed": _f(
        "bluez", "fail", "bluetoothd answers with {detail}", "sudo systemctl restart bluetooth"
    ),
    "bluez-not-asked": _f(
        "bluez", "fail", "BlueZ could not be asked without a message bus", "mend the message bus first"
    ),
    "adapter-good": _f("adapter", "ok", "found {found}"),
    "adapter-none": _f(
        "adapter",
        "fail",
        "No Bluetooth adapter was found",
        "plug in a Bluetooth USB adapter; on a Raspberry Pi take `dtoverlay=disable-bt` out of "
        "/boot/firmware/config.txt and reboot",
    ),
    "adapter-missing": _f(
        "adapter",
        "fail",
        "{missing} is configured and was not found; there is {found}",
        "set `bluetooth.adapters` to what there is, or plug the adapter in",
    ),
    "adapter-unmanaged": _f(
        "adapter",
        "fail",
        "the kernel knows {missing}, and BlueZ does not",
        "sudo systemctl restart bluetooth",
    ),
    "rfkill-good": _f("rfkill", "ok", "no switch silences Bluetooth"),
    "rfkill-soft": _f("rfkill", "fail", "{name} is blocked by software", "sudo rfkill unblock bluetooth"),
    "rfkill-hard": _f(
        "rfkill", "fail", "{name} is blocked by hardware", "turn on the machine's own switch for radios"
    ),
    "power-good": _f("power", "ok", "{found} powered"),
    "power-off": _f("power", "fail", "{off} is switched off", "bluetoothctl power on"),
    "power-unknown": _f(
        "power", "fail", "no adapter could be asked", "mend message bus, BlueZ and adapter first"
    ),
    "clock-good": _f("clock", "ok", "the clock is set by the network"),
    "clock-unset": _f(
        "clock",
        "warn",
        "nobody has set the clock; times are counted from the start until somebody does",
        "sudo timedatectl set-ntp true",
    ),
    "broker-good": _f("broker", "ok", "{where} admitted us in {milliseconds} ms"),
    "broker-none": _f(
        "broker",
        "fail",
        "neither the file nor an enrolment names a broker",
        "footfall-gateway enroll --config {path} --backend https://… --token -",
    ),
    "broker-papers": _f(
        "broker",
        "fail",
        "the identity cannot be used: {detail}",
        "footfall-gateway enroll --config {path} --backend https://… --token -",
    ),
    "broker-forbidden": _f("broker", "fail", "{user} may not read the identity: {detail}", _DOCTOR),
    "broker-name": _f(
        "broker", "fail", "the name {host} is not known: {detail}", "getent hosts {host}; then `mqtt.host`"
    ),
    "broker-refused": _f(
        "broker", "fail", "nobody listens at {where}", "start the broker there, or correct `mqtt.port`"
    ),
    "broker-unreachable": _f(
        "broker", "fail", "{where} is not reached: {detail}", "ping {host}; then the firewalls on the way"
    ),
    "broker-untrusted": _f(
        "broker",
        "fail",
        "the broker's certificate is not believed: {detail}",
        "`mqtt.ca` must be the authority that signed it, and name {host}; is this machine's clock right?",
    ),
    "broker-tls": _f(
        "broker", "fail", "no TLS with {where}: {detail}", "`mqtt.port` must be the broker's TLS port"
    ),
    "broker-files": _f(
        "broker",
        "fail",
        "the TLS files cannot be used: {detail}",
        "correct `mqtt.ca`, `mqtt.certificate`, `mqtt.key`",
    ),
    "broker-credentials": _f(
        "broker", "fail", "{detail}", "correct `mqtt.username` and its password, or enrol anew"
    ),
    "broker-cut": _f(
        "broker",
        "fail",
        "the broker ended the connection: {detail}",
        "it does not know our certificate (enrol anew), or speaks TLS here (set `mqtt.ca`)",
    ),
    "broker-silent": _f(
        "broker", "fail", "{where} took the connection and does not speak MQTT 5", "correct `mqtt.port`"
    ),
    "certificate-good": _f("certificate", "ok", "of {name}, valid for {days} days; its key fits"),
    "certificate-none": _f("certificate", "ok", "none is needed: the broker is on this machine"),
    "certificate-password": _f(
        "certificate", "ok", "none is used: the broker is verified, we give a password"
    ),
    "certificate-anonymous": _f(
        "certificate",
        "warn",
        "the broker is verified, and we show neither certificate nor password",
        "footfall-gateway enroll --config {path} --backend https://… --token -",
    ),
    "certificate-plain": _f(
        "certificate",
        "warn",
        "the way to the broker is open to everybody on it",
        "footfall-gateway enroll --config {path} --backend https://… --token -, or set `mqtt.ca`",
    ),
    "certificate-soon": _f(
        "certificate",
        "warn",
        "it runs out in {days} days",
        "journalctl -u footfall-gateway | grep renewed; one from elsewhere must be replaced by hand",
    ),
    "certificate-over": _f(
        "certificate",
        "fail",
        "it ran out {days} days ago",
        "footfall-gateway enroll --config {path} --backend https://… --token -",
    ),
    "certificate-early": _f(
        "certificate", "fail", "it is not valid yet, for {days} days", "timedatectl; the clock must be right"
    ),
    "certificate-key": _f(
        "certificate",
        "fail",
        "certificate and key do not belong together",
        "set `mqtt.key` to the certificate's own",
    ),
    "certificate-open": _f("certificate", "fail", "{key} is open to other users", "sudo chmod 600 {key}"),
    "certificate-name": _f(
        "certificate",
        "fail",
        "it is of {name}, and this is {expected}",
        "footfall-gateway enroll --config {path} --backend https://… --token -",
    ),
    "certificate-unreadable": _f("certificate", "fail", "it cannot be read: {detail}", _DOCTOR),
    "disk-good": _f("disk", "ok", "{folder} takes files; {free} free"),
    "disk-tight": _f(
        "disk",
        "warn",
        "{free} free, and the outbox may grow by {room} more",
        "free space, or lower `outbox.max_mb`",
    ),
    "disk-full": _f(
        "disk", "fail", "{folder} has {free} left", "sudo journalctl --vacuum-size=50M; sudo apt-get clean"
    ),
    "disk-unwritable": _f(
        "disk",
        "fail",
        "{user} cannot write to {folder}",
        "sudo install -d -o footfall -g footfall -m 700 {folder}; look as the gateway's user: " + _DOCTOR,
    ),
    "mount-good": _f("mount", "ok", "{folder} is on {kind}, mounted at {point}"),
    "mount-unknown": _f(
        "mount", "warn", "how {folder} is mounted could not be found out", "findmnt --target {folder}"
    ),
    "mount-volatile": _f(
        "mount",
        "fail",
        "{folder} is on {kind}, which a reboot empties",
        "set `data_dir` to a folder on the card; with an overlay file system, to a partition of its own",
    ),
    "mount-network": _f(
        "mount",
        "fail",
        "{folder} is on {kind}; an outbox needs a disk of this machine",
        "set `data_dir` to one",
    ),
    "mount-unfit": _f(
        "mount",
        "fail",
        "{folder} is on {kind}, which knows no owners and loses files when the plug is pulled",
        "set `data_dir` to a folder on ext4",
    ),
    "mount-read-only": _f(
        "mount",
        "fail",
        "{point} is mounted read-only; a failing card ends so",
        "dmesg | grep -i mmc; replace the card",
    ),
    "mount-no-barrier": _f(
        "mount",
        "fail",
        "{point} is mounted without write barriers: a pulled plug may lose what was acknowledged",
        "take nobarrier out of /etc/fstab; sudo mount -o remount,barrier=1 {point}",
    ),
    "mount-wearing": _f(
        "mount",
        "warn",
        "{point} is mounted with {option}, which wears the card",
        "take {option} out of /etc/fstab; sudo mount -o remount,noatime {point}",
    ),
    "outbox-good": _f("outbox", "ok", "sound; {records} records wait"),
    "outbox-new": _f("outbox", "ok", "not begun yet"),
    "outbox-damaged": _f(
        "outbox",
        "fail",
        "{detail}",
        "restart the gateway: it keeps the damaged file aside and begins anew; then look at the card: dmesg",
    ),
    "service-good": _f("service", "ok", "runs, watched every {seconds} s"),
    "service-no-systemd": _f(
        "service",
        "warn",
        "systemd does not run this machine, so nobody restarts a gateway that hangs",
        "run the gateway under systemd, with the unit of the documentation",
    ),
    "service-absent": _f(
        "service",
        "warn",
        "footfall-gateway.service is not installed",
        "sudo cp footfall-gateway.service /etc/systemd/system/ && sudo systemctl daemon-reload",
    ),
    "service-stopped": _f(
        "service",
        "fail",
        "footfall-gateway.service is {active}",
        "sudo systemctl enable --now footfall-gateway; journalctl -u footfall-gateway -n 50",
    ),
    "service-unwatched": _f(
        "service",
        "fail",
        "nobody restarts the gateway when it hangs: the unit has no WatchdogSec",
        "sudo systemctl edit footfall-gateway: [Service] WatchdogSec=60; then restart it",
    ),
    "late": _f("any", "fail", "no answer within {seconds} s", "the machine or its disk hangs: dmesg; uptime"),
    "broken": _f("any", "fail", "could not be looked at: {detail}", "look as the gateway's user: " + _DOCTOR),
}  # fmt: skip - a finding reads as a line


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's outcome."""

    check: str
    level: Level
    code: str
    finding: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Code:
    """A finding by its name, with the facts that fill its places."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)

    def verdict(self, check: str, common: dict[str, Any]) -> Verdict:
        finding = FINDINGS[self.name]
        facts = common | {name: _plain(value) for name, value in self.facts.items()}
        return Verdict(
            check, finding.level, self.name, finding.says.format_map(facts), finding.remedy.format_map(facts)
        )


def _code(name: str, /, **facts: Any) -> Code:
    return Code(name, facts)


def _plain(value: object) -> str:
    """One line, whatever an error or a certificate says."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))[:300]


# The rules: facts to findings -------------------------------------------------------------------------


def judge_python(facts: probes.PythonFacts) -> Code:
    version = ".".join(map(str, facts.version))
    if facts.version < LEAST_PYTHON:
        return _code("python-old", version=version)
    return _code("python-good" if facts.is_64_bit else "python-32-bit", version=version)


def judge_bus(facts: BusFacts) -> Code:
    return _code(_BUS[facts.bus], address=facts.address, detail=facts.detail)


_BUS: Final[dict[BusState, str]] = {
    "good": "bus-good",
    "no-socket": "bus-no-socket",
    "refused": "bus-refused",
    "reset": "bus-reset",
    "silent": "bus-silent",
}


def judge_bluez(facts: BusFacts, installed: tuple[int, int] | None) -> Code:
    """`installed` is the version found on the disk."""
    version = ".".join(map(str, installed or ()))
    if facts.bluez == "good":
        if installed is None:
            return _code("bluez-unknown")
        return _code("bluez-old" if installed < LEAST_BLUEZ else "bluez-good", version=version)
    if facts.bluez == "stopped" and installed is None:
        return _code("bluez-missing")
    return _code(_BLUEZ[facts.bluez], version=version, detail=facts.detail)


_BLUEZ: Final[dict[BluezState, str]] = {
    "stopped": "bluez-stopped",
    "forbidden": "bluez-forbidden",
    "silent": "bluez-silent",
    "failed": "bluez-failed",
    "not-asked": "bluez-not-asked",
}


def judge_adapter(facts: BusFacts, kernel: Sequence[str], wanted: Sequence[str]) -> Code:
    """`kernel` are the adapters of the kernel; `wanted` those configured, none where there is no file."""
    found = sorted({*facts.adapters, *kernel})
    if not found:
        return _code("adapter-none")
    missing = [name for name in wanted if name not in found]
    if missing:
        return _code("adapter-missing", missing=", ".join(missing), found=", ".join(found))
    unmanaged = [name for name in wanted or kernel if name not in facts.adapters]
    if facts.bluez == "good" and unmanaged:
        return _code("adapter-unmanaged", missing=", ".join(unmanaged))
    return _code("adapter-good", found=", ".join(found))


def judge_power(facts: BusFacts, wanted: Sequence[str]) -> Code:
    asked = {name: on for name, on in facts.adapters.items() if not wanted or name in wanted}
    if not asked:
        return _code("power-unknown")
    off = [name for name, on in asked.items() if not on]
    if off:
        return _code("power-off", off=", ".join(off))
    return _code("power-good", found=", ".join(asked))


def judge_rfkill(switches: Sequence[probes.RfkillSwitch]) -> Code:
    for switch in switches:
        if switch.hard:
            return _code("rfkill-hard", name=switch.name)
    for switch in switches:
        if switch.soft:
            return _code("rfkill-soft", name=switch.name)
    return _code("rfkill-good")


def judge_clock(synchronised: bool) -> Code:
    return _code("clock-good" if synchronised else "clock-unset")


def judge_broker(facts: probes.BrokerFacts, broker: Broker) -> Code:
    where = f"{broker.host}:{broker.port}"
    return _code(
        f"broker-{facts.step}",
        where=where,
        host=broker.host,
        detail=facts.detail,
        milliseconds=facts.milliseconds,
    )


def judge_no_certificate(broker: Broker) -> Code:
    """Where no certificate of ours is configured."""
    if broker.tls is not None:
        return _code("certificate-password" if broker.username else "certificate-anonymous")
    return _code("certificate-none" if is_loopback(broker.host) else "certificate-plain")


def judge_certificate(
    facts: probes.CertificateFacts, *, now: int, enrolled: bool, expected: str, key: Path
) -> Code:
    """`now` is unix ms, at least the last known good time; `expected` the name it should be of."""
    left, early = facts.life.not_after - now, facts.life.not_before - now
    for wrong, code in (
        (not facts.key_fits, _code("certificate-key")),
        (not facts.key_private, _code("certificate-open", key=key)),
        (facts.name != expected, _code("certificate-name", name=facts.name, expected=expected)),
        (left <= 0, _code("certificate-over", days=_days(-left))),
        (early > 0, _code("certificate-early", days=_days(early))),
        (
            left < DAY_MS * (SOON_ENROLLED_DAYS if enrolled else SOON_OWN_DAYS),
            _code("certificate-soon", days=_days(left)),
        ),
    ):
        if wrong:
            return code
    return _code("certificate-good", name=facts.name, days=_days(left))


def _days(milliseconds: int) -> str:
    return f"{milliseconds / DAY_MS:.1f}"


def judge_disk(facts: probes.DiskFacts, max_bytes: int) -> Code:
    """`max_bytes` is what the outbox may take."""
    room = max(0, max_bytes - facts.outbox_bytes)
    told = {"folder": facts.path, "free": _megabytes(facts.free_bytes), "room": _megabytes(room)}
    if not facts.writable:
        return _code("disk-unwritable", **told)
    if facts.free_bytes < FULL_BYTES:
        return _code("disk-full", **told)
    return _code("disk-tight" if facts.free_bytes < room + FULL_BYTES else "disk-good", **told)


def _megabytes(size: int) -> str:
    return f"{size / 1_048_576:.0f} MB"


def judge_mount(facts: probes.MountFacts | None, folder: Path) -> Code:
    if facts is None:
        return _code("mount-unknown", folder=folder)
    told = {"folder": folder, "kind": facts.kind, "point": facts.point}
    code = _MOUNT_KINDS.get(facts.kind)
    if code is not None:
        return _code(code, **told)
    for option, code in _MOUNT_OPTIONS.items():
        if option in facts.options:
            return _code(code, option=option, **told)
    return _code("mount-good", **told)


_MOUNT_KINDS: Final = {
    **dict.fromkeys(("tmpfs", "ramfs", "overlay", "overlayfs", "squashfs"), "mount-volatile"),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"), "mount-network"),
    **dict.fromkeys(("vfat", "exfat", "ntfs", "ntfs3", "fuseblk"), "mount-unfit"),
}
_MOUNT_OPTIONS: Final = {
    "ro": "mount-read-only",
    "nobarrier": "mount-no-barrier",
    "barrier=0": "mount-no-barrier",
    "sync": "mount-wearing",  # every write at once, where one commit a second is meant
    "strictatime": "mount-wearing",  # a write for each read
    "data=journal": "mount-wearing",  # every byte twice
}


def judge_outbox(facts: probes.OutboxFacts) -> Code:
    if facts.fault:
        return _code("outbox-damaged", detail=facts.fault)
    return _code("outbox-new") if facts.records is None else _code("outbox-good", records=facts.records)


def judge_service(facts: probes.ServiceFacts | None) -> Code:
    if facts is None:
        return _code("service-no-systemd")
    if facts.load != "loaded":
        return _code("service-absent")
    if facts.active not in ("active", "reloading"):
        return _code("service-stopped", active=facts.active)
    if not facts.watchdog_seconds:
        return _code("service-unwatched")
    return _code("service-good", seconds=f"{facts.watchdog_seconds:g}")


# Looking, each check in its own time --------------------------------------------------------------------


class _Late(Exception):
    """A check took longer than it may."""


class _Look:
    """Something that is being looked at in a thread, which nobody waits for longer than the limit."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self._look = look
        self._done = threading.Event()
        self._answer: Any = None
        self._error: Exception | None = None
        # A daemon, so that one that hangs holds up neither the report nor the end of the program.
        threading.Thread(target=self._run, daemon=True).start()

    def answer(self, seconds: float) -> Any:
        """What was seen. Raises _Late, and whatever looking raised."""
        if not self._done.wait(seconds):
            raise _Late
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._look()
        except Exception as error:  # noqa: BLE001 - told by `answer`, as the verdict `broken`
            self._error = error
        finally:
            self._done.set()


def examine(path: Path, clock: Clock, seconds: float = CHECK_SECONDS) -> list[Verdict]:
    """Looks at everything at once and judges each; `seconds` is the limit of each check."""
    config, code = _configuration(path)
    checks = {"configuration": _Look(lambda: code)}
    wanted = config.bluetooth.adapters if config else ()
    bus = _Look(lambda: asyncio.run(look_at_bluez()))

    def seen() -> BusFacts:
        facts: BusFacts = bus.answer(seconds)
        return facts

    checks |= {
        "python": _Look(lambda: judge_python(probes.look_at_python())),
        "bus": _Look(lambda: judge_bus(seen())),
        "bluez": _Look(lambda: judge_bluez(seen(), probes.bluez_version())),
        "adapter": _Look(lambda: judge_adapter(seen(), probes.kernel_adapters(), wanted)),
        "rfkill": _Look(lambda: judge_rfkill(probes.rfkill_switches())),
        "power": _Look(lambda: judge_power(seen(), wanted)),
        "clock": _Look(lambda: judge_clock(clock.synchronised())),
        "service": _Look(lambda: judge_service(probes.look_at_service())),
    }
    if config is not None:
        checks |= _of_configuration(config, clock)
    common = {"path": str(path), "user": _user()}
    return [_verdict(check, look, seconds, common) for check, look in checks.items()]


def _configuration(path: Path) -> tuple[Config | None, Code]:
    try:
        config = load(path)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, _code("configuration-none")
        return None, _code("configuration-bad", detail=error)
    return config, _code("configuration-good", gateway=config.address.gateway, store=config.address.store)


def _of_configuration(config: Config, clock: Clock) -> dict[str, _Look]:
    """What only a configuration leads to."""
    folder = config.data_dir
    return {
        "broker": _Look(lambda: _broker(config, clock)),
        "certificate": _Look(lambda: _certificate(config, clock)),
        "disk": _Look(lambda: judge_disk(probes.look_at_disk(folder), config.outbox_bytes)),
        "mount": _Look(lambda: judge_mount(probes.look_at_mount(folder), folder)),
        "outbox": _Look(lambda: judge_outbox(probes.look_at_outbox(folder))),
    }


def _broker(config: Config, clock: Clock) -> Code:
    way = probes.look_for_way(config, clock)
    if way.fault:
        return _code("broker-forbidden" if way.forbidden else "broker-papers", detail=way.fault)
    if way.broker is None:
        return _code("broker-none")
    return judge_broker(probes.look_at_broker(way.broker), way.broker)


def _certificate(config: Config, clock: Clock) -> Code:
    way = probes.look_for_way(config, clock)
    if way.fault:
        return _code("certificate-unreadable", detail=way.fault)
    if way.broker is None:
        return _code("broker-none")
    tls = way.broker.tls
    if tls is None or tls.certificate is None or tls.key is None:
        return judge_no_certificate(way.broker)
    try:
        facts = probes.look_at_certificate(tls.certificate, tls.key)
    except (OSError, ValueError, TypeError) as error:
        return _code("certificate-unreadable", detail=error)
    expected = f"{config.address.store}/{config.address.gateway}"
    now = KnownTime(config.data_dir, clock).now()
    return judge_certificate(facts, now=now, enrolled=way.enrolled, expected=expected, key=tls.key)


def _verdict(check: str, look: _Look, seconds: float, common: dict[str, Any]) -> Verdict:
    try:
        code: Code = look.answer(seconds)
    except _Late:
        code = _code("late", seconds=f"{seconds:g}")
    except Exception as error:  # noqa: BLE001 - a check that fails to look is itself a finding
        code = _code("broken", detail=f"{type(error).__name__}: {error}")
    return code.verdict(check, common)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return "this user"


# The report -------------------------------------------------------------------------------------------


def healthy(verdicts: Sequence[Verdict]) -> bool:
    """Whether everything is ok; a warning is not."""
    return all(verdict.level == "ok" for verdict in verdicts)


def as_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """For a terminal: one line a check, and its remedy below."""
    width = max(len(verdict.check) for verdict in verdicts)
    for verdict in verdicts:
        yield f"{verdict.level:<4}  {verdict.check:<{width}}  {verdict.finding}"
        if verdict.remedy:
            yield f"{'':<{width + 8}}→ {verdict.remedy}"


def as_object(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For programs."""
    checks = [
        {
            "check": verdict.check,
            "verdict": verdict.level,
            "code": verdict.code,
            "finding": verdict.finding,
            "fix": verdict.remedy,
        }
        for verdict in verdicts
    ]
    return {"ok": healthy(verdicts), "checks": checks}
