"""Remote configuration: what is believed, tried, kept, rolled back and never tried again.

A version that is signed for this gateway and higher than every one before it goes on trial. The trial is
written down first, so a process that dies in it finds that out when it starts again, and counts it as the
version's fault. For under thirty seconds the gateway watches itself: worse than before, and the last good
configuration returns; else the version is the new good one. A version is tried once in its life.

    state       event                                     next        reported
    settled     higher version, signed, ours, sound       trial       trial
    settled     signature, name, age or settings wrong    settled     refused: why
    settled     the good version once more                settled     applied
    settled     the version that was refused or left      settled     as before
    trial       healthy to the end                        settled     applied
    trial       worse than before                         settled     rolled-back: why
    trial       the process starts                        settled     rolled-back: restart

The rules are pure and stand first; `Remote` is the rim.
"""

import asyncio
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway import config as files
from gateway.config import Config, ConfigError
from sdk_bridge.files import replace_file
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import Configuration, decode_document, decode_signed, to_sign
from sdk_bridge.wire.messages import ScanState
from sdk_bridge.wire.topics import GatewayAddress

TRIAL_MS: Final = 27_000  # with a look each second and the way back, over within thirty
OFFLINE_MS: Final = 10_000  # a broker that restarts is back by then; longer, and it may be our doing
SILENT_MS: Final = 10_000  # as long as the scanner itself believes in a beacon that it does not hear
SETTLE_MS: Final = 60_000  # a radio that has not found itself by then is judged as it is
LOOK_SECONDS: Final = 1.0
MEMORY_FILE: Final = "configuration.json"
MAX_STATE: Final = 160  # characters of a report, by the wire
_SOUND: Final = ("hearing", "quiet")

log = structlog.get_logger()


class ConfigurationRefused(ValueError):
    """A configuration is not for us, not genuine, or not sound; the text is the reason that is reported.

    `version` is 0 where not even that can be believed.
    """

    def __init__(self, reason: str, version: int = 0) -> None:
        super().__init__(reason)
        self.version = version


@dataclass(frozen=True, slots=True)
class Health:
    """How the gateway does. `relayed` counts adverts handed on since the start; ages are milliseconds."""

    scan: ScanState
    connected: bool
    last_advert_age_ms: int | None
    relayed: int


class Memory(msgspec.Struct, frozen=True):
    """What outlives the process. Documents are the signed JSON; an empty one is the file alone.

    `key` is the key that signed all of it: another backend starts afresh.
    """

    key: str
    highest: int = 0
    good: str = ""
    good_version: int = 0
    trial: str = ""
    trial_version: int = 0
    version: int = 0
    state: str = ""


class _Versioned(msgspec.Struct):
    version: int


# Which version is believed ----------------------------------------------------------------------------


def read_signed(payload: bytes, key: Ed25519PublicKey, address: GatewayAddress) -> tuple[Configuration, str]:
    """A message's configuration and its document. Raises ConfigurationRefused."""
    try:
        signed = decode_signed(payload)
    except WireError as error:
        raise ConfigurationRefused("not a configuration") from error
    try:
        key.verify(signed.signature, to_sign(signed.document))
    except InvalidSignature as error:
        raise ConfigurationRefused("signature") from error
    try:
        configuration = decode_document(signed.document)
    except WireError as error:  # genuine, but of a later program, with settings unknown here
        raise ConfigurationRefused(f"settings: {error}", _version_of(signed.document)) from error
    if (configuration.store, configuration.gateway) != (address.store, address.gateway):
        raise ConfigurationRefused("names another gateway")
    return configuration, signed.document.decode()


def is_news(memory: Memory, version: int) -> bool:
    """Whether a genuine version is to be tried. Raises ConfigurationRefused for one from the past."""
    if version > memory.highest:
        return True
    if version in (memory.good_version, memory.trial_version, memory.version):
        return False
    raise ConfigurationRefused("older than one before", version)


def repeated(memory: Memory, version: int) -> Memory:
    """The good version came once more, as it does at every connect: what was refused since is over."""
    if version == memory.good_version and not memory.trial:
        return _reporting(memory, version, "applied")
    return memory


def refused(memory: Memory, reason: ConfigurationRefused) -> Memory:
    """What is refused is reported; a genuine version that is refused is never tried again."""
    told = _reporting(memory, reason.version, f"refused: {reason}")
    return replace_in(told, highest=max(memory.highest, reason.version))


def begun(memory: Memory, version: int, document: str) -> Memory:
    """On trial."""
    tried = replace_in(memory, highest=version, trial=document, trial_version=version)
    return _reporting(tried, version, "trial")


def kept(memory: Memory) -> Memory:
    """The trial ended well."""
    good = replace_in(memory, good=memory.trial, good_version=memory.trial_version)
    return _reporting(_settled(good), memory.trial_version, "applied")


def rolled_back(memory: Memory, reason: str) -> Memory:
    """The trial ended badly; the last good configuration holds."""
    return _reporting(_settled(memory), memory.trial_version, f"rolled-back: {reason}")


def _settled(memory: Memory) -> Memory:
    return replace_in(memory, trial="", trial_version=0)


def _reporting(memory: Memory, version: int, state: str) -> Memory:
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in state)
    return replace_in(memory, version=version, state=plain[:MAX_STATE])


def replace_in(memory: Memory, **changes: Any) -> Memory:
    """A copy with some fields changed."""
    return msgspec.structs.replace(memory, **changes)


def _version_of(document: bytes) -> int:
    """The version of a genuine document whose settings are beyond us; 0 where it has none."""
    try:
        version = msgspec.json.decode(document, type=_Versioned).version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0
    return version if 0 < version <= 2**53 else 0


# How a trial goes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial under way: how things were before it, since when it runs, since when we are offline."""

    before: Health
    since_ms: int
    offline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """After a look: the trial goes on, or ended well, or (with the reason) badly."""

    trial: Trial
    over: bool = False
    worse: str = ""


def may_begin(health: Health, waited_ms: int) -> bool:
    """Whether there is something to compare with: connected, and the radio no longer just starting."""
    return health.connected and (health.scan != "starting" or waited_ms >= SETTLE_MS)


def look(trial: Trial, health: Health, now_ms: int) -> Finding:
    """Compares with how things were. What was bad before is nobody's fault."""
    offline = None if health.connected else (now_ms if trial.offline_ms is None else trial.offline_ms)
    trial = replace(trial, offline_ms=offline)
    passed = now_ms - trial.since_ms
    worse = _worse_now(trial, health, now_ms)
    if not worse and passed >= TRIAL_MS:
        worse = _worse_in_the_end(trial, health)
        return Finding(trial, over=True, worse=worse)
    return Finding(trial, over=bool(worse), worse=worse)


def _worse_now(trial: Trial, health: Health, now_ms: int) -> str:
    before = trial.before
    if trial.offline_ms is not None and now_ms - trial.offline_ms >= OFFLINE_MS:
        return "offline"
    if before.scan in _SOUND and health.scan == "deaf":
        return "deaf"
    passed = now_ms - trial.since_ms
    silent = passed if health.last_advert_age_ms is None else health.last_advert_age_ms
    if _heard_lately(before) and silent >= SILENT_MS:
        return "no adverts"
    return ""


def _worse_in_the_end(trial: Trial, health: Health) -> str:
    """What only the whole time can tell: a fixed beacon never heard, nothing of what was relayed before."""
    if not health.connected:
        return "offline"
    if trial.before.scan in _SOUND and health.scan not in _SOUND:
        return "deaf"
    if trial.before.scan == "hearing" and health.relayed <= trial.before.relayed:
        return "relays nothing"
    return ""


def _heard_lately(health: Health) -> bool:
    return health.last_advert_age_ms is not None and health.last_advert_age_ms < SILENT_MS


# The configuration that results -----------------------------------------------------------------------


def overlaid(base: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], path: Path) -> Config:
    """The gateway's own file with remote settings over it, checked in full. Raises ConfigError."""
    table = {name: dict(entry) if isinstance(entry, dict) else entry for name, entry in base.items()}
    for section, entries in settings.items():
        table[section] = {**table.get(section, {}), **entries}
    return files.read(table, path)


# The rim ----------------------------------------------------------------------------------------------


class Remote:
    """Keeps the memory, listens to `down/config`, runs the trials.

    `path` is the gateway's own file and `key` the hex of the key that signs. `apply` makes a checked
    configuration the gateway's own at once; `health` looks at the gateway.
    """

    def __init__(
        self,
        path: Path,
        data_dir: Path,
        address: GatewayAddress,
        key: str,
        boot_ms: Callable[[], int],
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.apply: Callable[[Config], None] = lambda _config: None
        self.health: Callable[[], Health] = lambda: Health("starting", False, None, 0)
        self.dropped = 0
        self._path = path
        self._address = address
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        self._boot_ms = boot_ms
        self._look_seconds = look_seconds
        self._file = data_dir / MEMORY_FILE
        self._base: Mapping[str, Any] = {}
        self._memory = Memory(key)
        self._newest: bytes | None = None
        self._arrived = asyncio.Event()

    @property
    def report(self) -> tuple[int, str]:
        """For heartbeats: the version and what became of it."""
        return self._memory.version, self._memory.state

    def start(self) -> Config:
        """The configuration to start with; a trial that was cut short is rolled back.

        Raises ConfigError and OSError where the gateway's own file is wrong or gone.
        """
        self._base = tomllib.loads(self._path.read_text("utf-8"))
        memory = self._memory = _read_memory(self._file, self._memory.key)
        if memory.trial:
            self._remember(rolled_back(memory, "restart"))
            log.error("configuration rolled back", version=memory.trial_version, cause="restart")
        return self._good()

    def receive(self, payload: bytes) -> None:
        """A message of `down/config`. Only the newest waits; those it takes the place of are counted."""
        self.dropped += self._newest is not None
        self._newest = payload
        self._arrived.set()

    async def run(self) -> None:
        """Takes what arrives, one at a time; lives as long as the process."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            payload, self._newest = self._newest, None
            if payload is not None:
                await self._take(payload)

    async def _take(self, payload: bytes) -> None:
        try:
            configuration, document = read_signed(payload, self._key, self._address)
            if not is_news(self._memory, configuration.version):
                await self._keep(repeated(self._memory, configuration.version))
                return
            config = self._checked(configuration)
        except ConfigurationRefused as error:
            log.error("configuration refused", version=error.version, cause=str(error))  # noqa: TRY400
            await self._keep(refused(self._memory, error))
            return
        await self._try(configuration.version, document, config)

    def _checked(self, configuration: Configuration) -> Config:
        try:
            return overlaid(self._base, configuration.settings.table(), self._path)
        except ConfigError as error:
            reason = str(error).removeprefix(f"{self._path}: ")
            raise ConfigurationRefused(f"settings: {reason}", configuration.version) from error

    async def _try(self, version: int, document: str, config: Config) -> None:
        await self._settle()
        before = self.health()
        if not await self._keep(begun(self._memory, version, document)):
            return  # no trial without a marker on the disk; the next connect brings the version again
        log.info("configuration on trial", version=version)
        self.apply(config)
        trial = Trial(before, self._boot_ms())
        while True:
            await asyncio.sleep(self._look_seconds)
            finding = look(trial, self.health(), self._boot_ms())
            trial = finding.trial
            if finding.over:
                break
        if finding.worse:
            log.error("configuration rolled back", version=version, cause=finding.worse)
            self.apply(self._good())
            await self._keep(rolled_back(self._memory, finding.worse))
        else:
            log.info("configuration applied", version=version)
            await self._keep(kept(self._memory))

    async def _settle(self) -> None:
        began = self._boot_ms()
        while not may_begin(self.health(), self._boot_ms() - began):  # noqa: ASYNC110 - it looks, nobody tells
            await asyncio.sleep(self._look_seconds)

    def _good(self) -> Config:
        """The last good configuration; the file alone where the two no longer go together."""
        if self._memory.good:
            try:
                good = decode_document(self._memory.good.encode())
                return overlaid(self._base, good.settings.table(), self._path)
            except (WireError, ConfigError) as error:
                log.error("last good configuration does not fit the file", cause=str(error))  # noqa: TRY400
        return overlaid(self._base, {}, self._path)

    async def _keep(self, memory: Memory) -> bool:
        return memory == self._memory or await asyncio.to_thread(self._remember, memory)

    def _remember(self, memory: Memory) -> bool:
        """Whether it will outlive the process; what ended holds for this process in any case."""
        try:
            replace_file(self._file, msgspec.json.encode(memory), 0o600)
        except OSError as error:
            log.error("configuration's memory not written", cause=str(error))  # noqa: TRY400 - a full disk
            if not memory.trial:
                self._memory = memory
            return False
        self._memory = memory
        return True


def _read_memory(path: Path, key: str) -> Memory:
    """What was remembered; afresh at the first start and under another backend's key."""
    try:
        memory = msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return Memory(key)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.error("memory of configurations is damaged and begins anew", cause=str(error))  # noqa: TRY400
        return Memory(key)
    return memory if memory.key == key else Memory(key)
