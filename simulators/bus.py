"""A private D-Bus message bus: dbus-daemon on a socket of its own, where a simulated BlueZ can live."""

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

START_TIMEOUT_S = 10.0  # it takes 3–9 ms; a loaded machine must not be mistaken for a broken one
_LARGE = 1_000_000_000  # a slow scanner must be told everything: at a limit the daemon drops signals silently

# EXTERNAL alone, because ANONYMOUS is refused by clients; `<allow user>` because without it another user's
# connection is reset, which bleak does not report as an error of its own.
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
  <limit name="max_outgoing_bytes">{large}</limit>
  <limit name="max_incoming_bytes">{large}</limit>
  <limit name="max_message_size">{large}</limit>
</busconfig>
"""


class BusError(RuntimeError):
    """The private message bus could not be started; the text says what is missing."""


class PrivateBus:
    """One dbus-daemon. `address` stays the same through `kill` and `restart`."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "bus"
        self._config = folder / "bus.conf"
        self._log = folder / "bus.log"
        self._process: asyncio.subprocess.Process | None = None
        self.address = f"unix:path={self._socket}"
        folder.chmod(0o711)  # another user's gateway must be able to reach the socket

    @property
    def running(self) -> bool:
        """Whether the daemon is alive."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the daemon, unless it runs, and waits until it accepts connections. Raises BusError."""
        if self.running:
            return
        self._config.write_text(_CONFIG.format(socket=self._socket, large=_LARGE))
        self._socket.unlink(missing_ok=True)  # a killed daemon leaves its socket, and bind refuses
        with self._log.open("wb") as log:  # a file, for an unread pipe would fill and stop the daemon
            self._process = await asyncio.create_subprocess_exec(
                *_command(self._config), stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            await self._until_listening(self._process)
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """The daemon dies at once, as by SIGKILL: every connection breaks."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ends the daemon in order."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """A new daemon at the same address; connections to the old one are lost."""
        await self.kill()
        await self.start()

    async def _until_listening(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            raise BusError("dbus-daemon was started without a pipe to announce itself")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                announced = await process.stdout.readline()
        except TimeoutError as error:
            raise BusError(f"dbus-daemon was not ready within {START_TIMEOUT_S:.0f} s") from error
        if not announced:
            complaint = self._log.read_text(errors="replace").strip()
            raise BusError(f"dbus-daemon ended at once: {complaint or 'without a word'}")

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        await process.communicate()


@contextlib.asynccontextmanager
async def private_bus() -> AsyncIterator[PrivateBus]:
    """A running PrivateBus, ended and its folder removed on the way out. Raises BusError."""
    with tempfile.TemporaryDirectory(prefix="footfall-bus-") as name:
        bus = PrivateBus(Path(name))
        try:
            await bus.start()
            yield bus
        finally:
            await bus.stop()


def _command(config: Path) -> list[str]:
    """dbus-daemon in the foreground, which dies with us even when we are killed, where setpriv exists."""
    program = shutil.which("dbus-daemon")
    if program is None:
        raise BusError("dbus-daemon is missing; install it, on Debian: apt-get install dbus-daemon")
    daemon = [program, "--nofork", "--nopidfile", "--print-address=1", f"--config-file={config}"]
    leash = shutil.which("setpriv")
    return [leash, "--pdeathsig", "KILL", *daemon] if leash else daemon
