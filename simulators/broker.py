"""A real MQTT broker as a child process on loopback, which can be killed and started again.

Mosquitto where it is installed, else iotcore (rumqttd) from the Python package. Neither keeps anything on
disk: custody of what was not yet committed lies above the broker, so a restarted one knows nothing.
"""

import asyncio
import base64
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

from simulators.children import tied_to_us

Kind: TypeAlias = Literal["mosquitto", "iotcore"]

HOST = "127.0.0.1"
START_SECONDS = 15.0  # an idle machine needs 0.1 s; a loaded two-core one was seen to need 4
STOP_SECONDS = 5.0  # after this long a polite request becomes SIGKILL
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 5  # a free port may be taken by another program before the broker binds it
LOG_TAIL_BYTES = 2000
MAX_PACKET_BYTES = 256 * 1024  # iotcore's own 20,480 would cut off the publisher of a full batch
SEGMENT_BYTES = 10 * 1024 * 1024  # iotcore: with 2 × 1 MB it silently lost 561 of 1,500 messages
PASSWORD_ROUNDS = 101  # mosquitto's own choice

GATEWAY_ACL = """\
# A gateway's name, in its certificate or as its user, is store/gateway; it reaches its own topics only.
pattern write footfall/1/+/%u/up
pattern write footfall/1/+/%u/status
pattern read footfall/1/+/%u/down/ack
pattern read footfall/1/+/%u/down/config

user footfall-backend
topic read footfall/1/+/+/+/up
topic read footfall/1/+/+/+/status
topic write footfall/1/+/+/+/down/ack
topic write footfall/1/+/+/+/down/config
"""


class BrokerMissing(RuntimeError):
    """No broker of the wanted kind is installed; the text names what to install."""


class BrokerFailed(RuntimeError):
    """The broker's process ended, or did not listen in time; the text carries the end of its log."""


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Files of a listener that demands a client certificate; its common name becomes the user's name."""

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect, and to which topics; with none of the three anybody may do anything.

    `users` are names and passwords, `acl` the text of a mosquitto ACL file; `tls` and `acl` need mosquitto.
    """

    users: Mapping[str, str] | None = None
    tls: MutualTls | None = None
    acl: str | None = None

    @property
    def needs_mosquitto(self) -> bool:
        return self.tls is not None or self.acl is not None


class RunningBroker:
    """A broker under our control. Use `start_broker`, not the constructor.

    It belongs to no event loop, and dies with the thread that started it, however that ends.
    """

    host = HOST

    def __init__(self, kind: Kind, folder: Path, port: int, access: Access) -> None:
        self.kind = kind
        self.port = port
        self._folder = folder
        self._access = access
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The broker's process id. Raises BrokerFailed when it is not running."""
        if self._process is None:
            raise BrokerFailed("the broker is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Starts the process, again on the same port, and waits until it accepts. Raises BrokerFailed."""
        if self.is_running:
            return
        self._spawn()
        try:
            await self._listening()
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone. A no-op where it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not obeyed in five seconds."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        await self.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    def log_tail(self) -> str:
        """The end of what the broker has written to its log."""
        try:
            return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def _log(self) -> Path:
        return self._folder / f"{self.kind}.log"

    def _spawn(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = _COMMANDS[self.kind](self._folder, self.port, self._access)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_us(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must reach the program, and not take its broker first
            )

    async def _listening(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not _listens(self.pid, self.port):
            if not self.is_running:
                raise BrokerFailed(f"{self.kind} ended at once: {self.log_tail()}")
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerFailed(f"{self.kind} did not listen in {START_SECONDS:g} s: {self.log_tail()}")
            await asyncio.sleep(POLL_SECONDS)


async def start_broker(
    folder: Path,
    *,
    port: int = 0,
    kind: Literal["auto", "mosquitto", "iotcore"] = "auto",
    users: Mapping[str, str] | None = None,
    tls: MutualTls | None = None,
    acl: str | None = None,
) -> RunningBroker:
    """Starts a broker with its files in `folder`; port 0 takes a free one, and keeps it over restarts.

    Raises BrokerMissing when none is installed and BrokerFailed when it does not come up.
    """
    access = Access(users, tls, acl)
    chosen = choose_kind(kind, access)
    attempts = PORT_ATTEMPTS if port == 0 else 1
    while True:
        broker = RunningBroker(chosen, folder, port or free_port(), access)
        attempts -= 1
        try:
            await broker.start()
        except BrokerFailed:
            if attempts == 0:
                raise
        else:
            return broker


def choose_kind(kind: Literal["auto", "mosquitto", "iotcore"], access: Access | None = None) -> Kind:
    """The broker to run. Raises BrokerMissing where it is not installed or cannot do what `access` asks."""
    needs_mosquitto = access is not None and access.needs_mosquitto
    if kind != "iotcore" and find_mosquitto() is not None:
        return "mosquitto"
    if kind == "mosquitto" or needs_mosquitto:
        why = "client certificates and ACLs need mosquitto" if needs_mosquitto else "mosquitto was asked for"
        raise BrokerMissing(f"{why}, which is not installed: apt-get install mosquitto")
    if importlib.util.find_spec("iotcore") is None:
        raise BrokerMissing("no MQTT broker: apt-get install mosquitto, or pip install iotcore")
    return "iotcore"


def find_mosquitto() -> str | None:
    """Mosquitto's path; Debian keeps it in /usr/sbin, which a plain user's PATH lacks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Whether this very process listens; a connection could not tell it from another one on that port."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    try:
        return any(_link(descriptor) in sockets for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # it has just ended
        return False


def _link(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


# rumqttd reports every packet of every client as an error, which costs more than the packet.
_IOTCORE = """
import logging, sys
logging.basicConfig(level="WARNING")
logging.getLogger("rumqttd").setLevel("CRITICAL")
from iotcore import IotCoreBroker
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""


def _mosquitto_command(folder: Path, port: int, access: Access) -> list[str]:
    program = find_mosquitto()
    if program is None:
        raise BrokerMissing("mosquitto is gone: apt-get install mosquitto")
    config = folder / "mosquitto.conf"
    config.write_text(_mosquitto_config(folder, port, access))
    return [program, "-c", str(config)]


def _mosquitto_config(folder: Path, port: int, access: Access) -> str:
    lines = [
        f"listener {port} {HOST}",
        # As root, mosquitto would become another user, who cannot read the folder and loses PDEATHSIG.
        f"user {'root' if os.getuid() == 0 else 'mosquitto'}",
        "persistence false",
        "set_tcp_nodelay true",  # Nagle's delay would show as 40 ms on every acknowledgement
        "max_inflight_messages 256",
        "max_queued_messages 100000",  # beyond its 1,000 it drops silently what it had accepted
        f"max_packet_size {MAX_PACKET_BYTES}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        f"allow_anonymous {'true' if access.users is None and access.tls is None else 'false'}",
    ]
    if access.users is not None:
        lines.append(f"password_file {_write_passwords(folder, access.users)}")
    if access.tls is not None:
        lines += _tls_lines(access.tls)
    if access.acl is not None:
        acl = folder / "acl"
        _write_private(acl, access.acl)
        lines.append(f"acl_file {acl}")
    return "\n".join(lines) + "\n"


def _tls_lines(tls: MutualTls) -> list[str]:
    lines = [
        f"cafile {tls.ca}",
        f"certfile {tls.certificate}",
        f"keyfile {tls.key}",
        "require_certificate true",
        "use_identity_as_username true",
    ]
    return lines if tls.revoked is None else [*lines, f"crlfile {tls.revoked}"]


def _write_passwords(folder: Path, users: Mapping[str, str]) -> Path:
    path = folder / "passwords"
    _write_private(path, "".join(f"{name}:{_hashed(password)}\n" for name, password in users.items()))
    return path


def _hashed(password: str) -> str:
    """Mosquitto's `$7$`: PBKDF2 with SHA-512, base64."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PASSWORD_ROUNDS)
    return f"$7${PASSWORD_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)  # before the text, so that no other user can ever read it
    path.chmod(0o600)
    path.write_text(text)


def _iotcore_command(folder: Path, port: int, access: Access) -> list[str]:
    config = folder / "iotcore.toml"
    _write_private(config, _iotcore_config(port, access))
    return [sys.executable, "-P", "-c", _IOTCORE, str(config)]


def _iotcore_config(port: int, access: Access) -> str:
    lines = [
        "id = 0",
        "[router]",
        "id = 0",
        "max_connections = 1000",
        "max_outgoing_packet_count = 200",
        f"max_segment_size = {SEGMENT_BYTES}",
        "max_segment_count = 10",
        "[v5.1]",
        'name = "v5"',
        f'listen = "{HOST}:{port}"',
        "next_connection_delay_ms = 1",
        "[v5.1.connections]",
        "connection_timeout_ms = 10000",
        f"max_payload_size = {MAX_PACKET_BYTES}",
        "max_inflight_count = 256",
    ]
    if access.users is not None:
        lines.append("[v5.1.connections.auth]")
        lines += [f"{json.dumps(name)} = {json.dumps(word)}" for name, word in access.users.items()]
    return "\n".join(lines) + "\n"


_COMMANDS = {"mosquitto": _mosquitto_command, "iotcore": _iotcore_command}
