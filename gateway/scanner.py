"""Keeps every radio listening: when to start anew, when to switch a radio off and on, when to give up.

BlueZ never resumes a scan by itself, and mostly does not say that it ended. So each adapter has a ladder that
climbs while nothing is heard, and the gateway knows of itself whether it hears, has nothing to hear, or is
deaf. The rules here are pure; `Radio` is the rim, which gateway/bluez.py satisfies.

Silence is a fault for certain where there is a fixed beacon to be heard, or where a crowd of devices fell
silent at a blow. Then the whole ladder is climbed within a minute, once, and at leisure after that. Any other
silence may be peace, as in a shop at night: a new scanner costs next to nothing and comes before a minute is
over; switching the radio off and on costs two seconds of deafness, so it comes once, and again after a
quarter of an hour unless it has helped; nothing is torn down that others use.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol, TypeAlias

import structlog

from sdk_bridge.wire.messages import ScanState

FAILING_MS: Final = (
    15_000  # bluetoothd says InProgress for ten seconds after its own restart; that is no fault
)
FIRST_RETRY_MS: Final = 250
LAST_RETRY_MS: Final = 2_000  # longer, and a daemon that is back would wait for us
POWER_ON_MS: Final = 10_000  # between attempts to switch on a radio that somebody keeps switching off
POWER_OFF_SECONDS: Final = 1.0  # a controller that is switched on again at once may keep its fault
DOWN_MS: Final = 5_000  # a restart of bluetoothd takes less, and is no deafness
GRACE_MS: Final = 15_000  # after the start nobody is called deaf: bluetoothd may still be starting too
FIRST_PATIENCE_MS: Final = 20_000  # a beacon of 1 Hz is heard by then even at the edge of its range
NEXT_PATIENCE_MS: Final = 4_000  # a radio that a remedy has cured hears by then; the ladder must fit a minute
PEACE_MS: Final = 45_000  # between new scanners in peace: with its start, a stuck scan is back in a minute
PEACE_CYCLE_MS: Final = 900_000  # oftener, and a quiet night would be full of small deafnesses
CROWD: Final = 8  # a family with telephones, watches and a tag leaves together; so many devices do not
CROWD_MS: Final = 5_000  # a crowd that is leaving thins out over more than that
CROWD_GONE_MS: Final = 120_000  # what no remedy brought back in that time has left, whatever it looked like
HEARD_MS: Final = 10_000  # a tag that advertises once in ten seconds still counts as being heard

Heard: TypeAlias = Callable[[str, Mapping[int, bytes], Mapping[str, bytes], int], None]
"""An advertisement: radio address, manufacturer data, service data, RSSI in dBm (−127 where not told)."""
Stop: TypeAlias = Callable[[], Awaitable[None]]

log = structlog.get_logger()


class RadioError(RuntimeError):
    """A call to the radio failed or was not answered in time; the text is the cause."""


class RadioUnanswered(RadioError):
    """Nobody answered in time. A daemon that is alive answers, if only that it will not."""


class RadiosLost(RuntimeError):
    """No radio could be brought back; a new process with a new D-Bus connection may do better."""


class Condition(Enum):
    """What D-Bus says about an adapter."""

    UNKNOWN = auto()  # no message bus
    ABSENT = auto()  # no bluetoothd, or no such adapter
    OFF = auto()
    READY = auto()


class AdapterView(NamedTuple):
    """How one adapter does; `rung` counts the remedies tried since it was last heard (boot ms)."""

    name: str
    condition: Condition
    scanning: bool
    rung: int
    last_heard_ms: int | None


class Remedy(Enum):
    """What to do next about an adapter that is not heard."""

    NEW_SCANNER = auto()
    POWER_ON = auto()
    POWER_CYCLE = auto()
    RESTART_BLUETOOTHD = auto()
    GIVE_UP = auto()


LADDER: Final[tuple[Remedy, ...]] = (
    Remedy.NEW_SCANNER,
    Remedy.NEW_SCANNER,
    Remedy.POWER_CYCLE,
    Remedy.POWER_CYCLE,
    Remedy.RESTART_BLUETOOTHD,
    Remedy.NEW_SCANNER,
    Remedy.GIVE_UP,
)
GENTLE: Final = (Remedy.NEW_SCANNER, Remedy.NEW_SCANNER, Remedy.POWER_CYCLE)  # where silence may be peace
TEARING_DOWN: Final = (Remedy.RESTART_BLUETOOTHD, Remedy.GIVE_UP)  # what takes other radios' scans along


class Step(NamedTuple):
    """The remedy due now, or None and when to ask again (boot milliseconds)."""

    remedy: Remedy | None
    at_ms: int


class Patience(NamedTuple):
    """How long silence is borne, in milliseconds: until the first remedy; until the next one of the first
    climb; and of all later climbs, which begin when the first has been in vain.
    """

    first_ms: int
    next_ms: int
    later_ms: int

    @classmethod
    def of(cls, silence_ms: int, expected_ms: int | None) -> "Patience":
        """With what is configured, and the time within which a fixed beacon counts as heard, if there is one.

        Whoever grants their beacons more than half a minute has slow ones: two thirds of that, then.
        """
        first = min(silence_ms, max(FIRST_PATIENCE_MS, (expected_ms or 0) * 2 // 3))
        return cls(first, min(first, max(NEXT_PATIENCE_MS, first // 5)), silence_ms)


class Ladder:
    """One adapter's state: scanning or not, how far up the ladder, when next. Times are boot milliseconds.

    A rung is climbed when the patience with a silent scan is at its end, or after fifteen seconds in which no
    scan could be started although the adapter is there. An advert leads back to the ground. `rung` counts the
    remedies since; past the top the ladder begins again, at leisure.
    """

    def __init__(self, patience: Patience, now: int) -> None:
        self.scanning = False
        self.condition = Condition.UNKNOWN
        self.rung = 0
        self.patience = patience
        self._since = now  # the trouble of this rung
        self._retry_at = now
        self._power_at = now
        self._cycle_at = now  # when peace may be disturbed by the next power cycle
        self._last: Remedy | None = None  # tried since it was last heard
        self._daemon_hangs = False
        self._daemon_is_new = False  # since it was last heard; once is enough, then the ladder goes on
        self._failures = 0

    def learned(self, condition: Condition, now: int) -> None:
        """D-Bus says how things stand; anything but READY ends a scan, which BlueZ would not tell."""
        if condition is self.condition:
            return
        self.condition = condition
        self._daemon_hangs = False
        if self.scanning and condition is not Condition.READY:
            self._fell(now)
        elif not self.scanning:
            self._since = self._retry_at = now
            self._failures = 0

    def started(self, now: int) -> None:
        self.scanning = True
        self._failures = 0
        self._since = now

    def failed(self, now: int, *, unanswered: bool = False) -> None:
        """`unanswered`: bluetoothd hangs, so nothing that it would have to do itself can help."""
        if self.scanning:
            self._fell(now)
        self._daemon_hangs = unanswered
        self._retry_at = now + min(FIRST_RETRY_MS << min(self._failures, 8), LAST_RETRY_MS)
        self._failures += 1

    def heard(self, at_ms: int) -> bool:
        """The first advert of a scan, and the latest now and then; whether it was news."""
        if not self.scanning or at_ms <= self._since:
            return False
        if self._last is Remedy.POWER_CYCLE and at_ms - self._since <= self.patience.next_ms:
            self._cycle_at = at_ms  # it has helped, so it may come as soon again; later, somebody passed by
        self._since = at_ms
        self._last = None
        self._daemon_is_new = False
        self.rung = 0
        return True

    def next(self, now: int, *, certain: bool, alone: bool) -> Step:
        """What to do now.

        `certain`: silence is a fault. `alone`: no other adapter hears, so nothing is lost by tearing down.
        """
        if self._daemon_hangs and alone and not self._daemon_is_new and self.condition is Condition.READY:
            return Step(self._renew_daemon(now), now)
        patience = self._patience_ms(certain)
        if now - self._since >= patience and (self.scanning or self.condition is Condition.READY):
            return Step(self._climb(now, certain, alone), now)
        if self.scanning:
            return Step(None, self._since + patience)
        if now < self._retry_at:
            return Step(None, self._retry_at)
        if self.condition is Condition.OFF and now >= self._power_at:
            self._power_at = now + POWER_ON_MS
            return Step(Remedy.POWER_ON, now)
        return Step(Remedy.NEW_SCANNER, now)

    def is_peaceful(self, certain: bool) -> bool:
        """Whether by now the silence is taken for peace."""
        return self.scanning and not certain and self.rung >= len(GENTLE)

    def _patience_ms(self, certain: bool) -> int:
        if not self.scanning:
            return FAILING_MS
        if self.rung == 0:
            return self.patience.first_ms
        if self.is_peaceful(certain):
            return min(self.patience.later_ms, PEACE_MS)
        return self.patience.next_ms if self.rung < len(LADDER) else self.patience.later_ms

    def _climb(self, now: int, certain: bool, alone: bool) -> Remedy:
        self._since = now
        gently = self.scanning and not certain
        self._last = self._gentle_remedy(now) if gently else self._remedy(alone)
        self.rung += 1
        return self._last

    def _renew_daemon(self, now: int) -> Remedy:
        self._since = now
        self._daemon_is_new = True
        self._last = Remedy.RESTART_BLUETOOTHD
        self.rung += 1
        return self._last

    def _gentle_remedy(self, now: int) -> Remedy:
        if GENTLE[min(self.rung, len(GENTLE) - 1)] is Remedy.NEW_SCANNER or now < self._cycle_at:
            return Remedy.NEW_SCANNER
        self._cycle_at = now + PEACE_CYCLE_MS
        return Remedy.POWER_CYCLE

    def _remedy(self, alone: bool) -> Remedy:
        while not self.scanning and LADDER[self.rung % len(LADDER)] is Remedy.NEW_SCANNER:
            self.rung += 1  # those have been tried every two seconds
        remedy = LADDER[self.rung % len(LADDER)]
        too_soon = remedy is Remedy.GIVE_UP and self.scanning and self.rung < len(LADDER)
        return Remedy.NEW_SCANNER if too_soon or (remedy in TEARING_DOWN and not alone) else remedy

    def _fell(self, now: int) -> None:
        self.scanning = False
        self._since = now
        self._retry_at = now
        self._failures = 0


class Crowd:
    """Whether many devices fell silent at a blow. People leave one after another, and so do their devices; a
    radio that gets stuck loses them all in one instant. Holds at most sixteen addresses, for seconds.
    """

    def __init__(self) -> None:
        self._recent: set[str] = set()
        self._former: set[str] = set()  # of the five seconds before
        self._turned_ms = -CROWD_MS
        self._last_ms = -CROWD_GONE_MS

    def heard(self, address: str, at_ms: int) -> None:
        """An advertisement from this radio address."""
        self._last_ms = at_ms
        if at_ms - self._turned_ms >= CROWD_MS:
            self._former = self._recent if at_ms - self._turned_ms < 2 * CROWD_MS else set()
            self._recent = set()
            self._turned_ms = at_ms
        if len(self._recent) < CROWD:
            self._recent.add(address)

    def has_vanished(self, now: int) -> bool:
        """Whether, if nothing is heard now, that is a crowd's silence."""
        return now - self._last_ms < CROWD_GONE_MS and len(self._recent | self._former) >= CROWD


class Hearing:
    """Whether the gateway hears, has nothing to hear, or is deaf. Times are boot milliseconds.

    With fixed beacons configured it is deaf when it has heard none of them for `silence_ms`: one of several
    that fell silent has an empty battery. Without any it cannot know, and claims no more than `quiet`.
    """

    def __init__(self, fixed: frozenset[str], silence_ms: int, started_ms: int) -> None:
        self._fixed = fixed
        self._silence_ms = silence_ms
        self._started_ms = started_ms
        self._up_ms = started_ms
        self._fixed_ms: int | None = None
        self._tag_ms: int | None = None
        self.last_advert_ms: int | None = None

    def expects(self, fixed: frozenset[str], silence_ms: int) -> bool:
        """Whether it goes by these fixed beacons and this patience already."""
        return (fixed, silence_ms) == (self._fixed, self._silence_ms)

    def advert(self, at_ms: int) -> None:
        """Any advertisement at all."""
        self.last_advert_ms = at_ms

    def beacon(self, key: str, at_ms: int, relayed: bool) -> None:
        """A beacon; `relayed` if the allow-list lets it pass."""
        if key in self._fixed:
            self._fixed_ms = at_ms
        elif relayed:
            self._tag_ms = at_ms

    def state(self, now: int, scanning: bool) -> ScanState:
        if scanning:
            self._up_ms = now
        young = now - self._started_ms < GRACE_MS
        if now - self._up_ms > DOWN_MS:
            return "starting" if young and self.last_advert_ms is None else "deaf"
        if self._fixed and not _within(self._fixed_ms, now, self._silence_ms):
            return "starting" if self._fixed_ms is None and self._is_early(now) else "deaf"
        if _within(self._tag_ms, now, HEARD_MS):
            return "hearing"
        return "starting" if young and self.last_advert_ms is None else "quiet"

    def _is_early(self, now: int) -> bool:
        return now - self._started_ms < max(GRACE_MS, self._silence_ms)


def _within(at_ms: int | None, now: int, span_ms: int) -> bool:
    return at_ms is not None and now - at_ms < span_ms


class Radio(Protocol):
    """The adapters of this machine. Every method raises RadioError."""

    async def scan(self, adapter: str, heard: Heard) -> Stop:
        """Starts listening; the answer ends it, and never raises."""

    async def power(self, adapter: str, on: bool) -> None:
        """Switches the radio."""

    async def restart_bluetoothd(self) -> None:
        """Asks systemd for a new bluetoothd."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """`expected_ms` is the time within which a fixed beacon should be heard; None where there is none."""

    adapters: Sequence[str]
    silence_ms: int
    expected_ms: int | None
    restart_bluetoothd: bool

    @property
    def patience(self) -> Patience:
        return Patience.of(self.silence_ms, self.expected_ms)


class Scanner:
    """All adapters together; `run` keeps them listening until it is cancelled."""

    def __init__(
        self, settings: ScanSettings, radio: Radio, heard: Heard, boot_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._radio = radio
        self._boot_ms = boot_ms
        self._supervisors = {
            name: Supervisor(name, self, radio, heard, boot_ms, settings) for name in settings.adapters
        }

    @property
    def scanning(self) -> bool:
        """Whether any adapter believes that it listens."""
        return any(supervisor.ladder.scanning for supervisor in self._supervisors.values())

    def views(self) -> list[AdapterView]:
        """Every adapter, in the order of the configuration."""
        return [supervisor.view() for supervisor in self._supervisors.values()]

    def overdue_ms(self) -> int:
        """By how much the latest supervisor is late for its next step; a hung one grows ever later."""
        now = self._boot_ms()
        return max((now - supervisor.due_ms for supervisor in self._supervisors.values()), default=0)

    def learned(self, adapter: str, condition: Condition) -> None:
        """From the watch on D-Bus."""
        supervisor = self._supervisors.get(adapter)
        if supervisor is not None:
            supervisor.learned(condition)

    def adopt(self, settings: ScanSettings) -> None:
        """Another patience from now on; the scans go on, with the adapters and the rights that they have."""
        self._settings = replace(
            self._settings, silence_ms=settings.silence_ms, expected_ms=settings.expected_ms
        )
        for supervisor in self._supervisors.values():
            supervisor.adopt(self._settings)

    def others_hear(self, adapter: str) -> bool:
        """Whether another adapter has heard something lately; then nothing may be torn down for this one."""
        others = (s for name, s in self._supervisors.items() if name != adapter)
        since = self._boot_ms() - self._settings.patience.first_ms
        return any(other.last_heard_ms > since for other in others)

    async def run(self) -> None:
        """Raises RadiosLost when the last rung is reached and no other adapter hears anything."""
        tasks = [asyncio.create_task(supervisor.run()) for supervisor in self._supervisors.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Supervisor:
    """One adapter, kept listening."""

    def __init__(
        self,
        adapter: str,
        scanner: Scanner,
        radio: Radio,
        heard: Heard,
        boot_ms: Callable[[], int],
        settings: ScanSettings,
    ) -> None:
        self.ladder = Ladder(settings.patience, boot_ms())
        self._crowd = Crowd()
        self.last_heard_ms = -1
        self.due_ms = boot_ms()  # the step under way, or the next
        self._adapter = adapter
        self._scanner = scanner
        self._radio = radio
        self._heard = heard
        self._boot_ms = boot_ms
        self._settings = settings
        self._stop: Stop | None = None
        self._awaits_first = False
        self._peaceful = False  # the new scanners of a quiet night would fill the log
        self._changed = asyncio.Event()
        self._log = log.bind(adapter=adapter)

    def learned(self, condition: Condition) -> None:
        if condition is not self.ladder.condition:
            self._log.info("adapter", condition=condition.name.lower())
        self.ladder.heard(self.last_heard_ms)  # up to now; a fault must not hide that the last one was cured
        self.ladder.learned(condition, self._boot_ms())
        self._changed.set()

    def view(self) -> AdapterView:
        ladder, heard_ms = self.ladder, self.last_heard_ms
        told = None if heard_ms < 0 else heard_ms
        return AdapterView(self._adapter, ladder.condition, ladder.scanning, ladder.rung, told)

    def adopt(self, settings: ScanSettings) -> None:
        self._settings = settings
        self.ladder.patience = settings.patience
        self._changed.set()

    async def run(self) -> None:
        try:
            while True:
                await self._step()
        finally:
            await self._end_scan()

    async def _step(self) -> None:
        self.ladder.heard(self.last_heard_ms)
        now, rung, certain = self._boot_ms(), self.ladder.rung, self._is_certain()
        alone = not self._scanner.others_hear(self._adapter)
        step = self.ladder.next(now, certain=certain, alone=alone)
        self.due_ms = max(now, step.at_ms)
        if step.remedy is None:
            await self._wait(step.at_ms - now)
            return
        self._peaceful = self.ladder.is_peaceful(certain)
        if self.ladder.rung != rung:
            tell = self._log.debug if self._peaceful else self._log.warning
            tell("adapter is silent", remedy=step.remedy.name.lower(), rung=self.ladder.rung)
        await self._apply(step.remedy)

    def _is_certain(self) -> bool:
        return self._settings.expected_ms is not None or self._crowd.has_vanished(self._boot_ms())

    async def _wait(self, milliseconds: int) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await self._changed.wait()
        except TimeoutError:
            return  # the time has come

    async def _apply(self, remedy: Remedy) -> None:
        if remedy is Remedy.GIVE_UP:
            raise RadiosLost(f"{self._adapter} cannot be brought back")
        await self._end_scan()
        try:
            await self._prepare(remedy)
            self._stop = await self._radio.scan(self._adapter, self._take)
        except RadioError as error:
            self.ladder.failed(self._boot_ms(), unanswered=isinstance(error, RadioUnanswered))
            self._log.warning("cannot scan", cause=str(error), condition=self.ladder.condition.name.lower())
        else:
            self.ladder.started(self._boot_ms())
            self._awaits_first = True
            (self._log.debug if self._peaceful else self._log.info)("scanning")

    async def _prepare(self, remedy: Remedy) -> None:
        if remedy is Remedy.POWER_CYCLE:
            await self._radio.power(self._adapter, False)
            await asyncio.sleep(POWER_OFF_SECONDS)
        if remedy in (Remedy.POWER_CYCLE, Remedy.POWER_ON):
            await self._radio.power(self._adapter, True)
        if remedy is Remedy.RESTART_BLUETOOTHD and self._settings.restart_bluetoothd:
            await self._radio.restart_bluetoothd()

    async def _end_scan(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            await stop()

    def _take(
        self, address: str, manufacturer: Mapping[int, bytes], service: Mapping[str, bytes], rssi: int
    ) -> None:
        self.last_heard_ms = now = self._boot_ms()
        if self._awaits_first and self.ladder.heard(now):  # how soon it came tells which remedy it was
            self._awaits_first = False
            self._changed.set()  # the patience of a rung is over, and the next silence has its own
        self._crowd.heard(address, now)
        self._heard(address, manufacturer, service, rssi)
