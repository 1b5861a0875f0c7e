"""Replaying a capture through the gateway's own rules: the same batches, bit by bit, in far less time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.allow import AllowList
from gateway.app import Listener
from gateway.capture import Block, CaptureHeader, CaptureReader
from gateway.presence import Presence, PresenceSettings
from gateway.record import Decisions, HeldClock, fingerprint
from gateway.scanner import Hearing
from sdk_bridge.wire.messages import Batch

LAST_YEAR_MS: Final = 253_000_000_000_000  # beyond the year 9986 no date can be written


@dataclass(slots=True)
class Replay:
    """A replay under way; `batches` does it. Times are boot milliseconds, those of the capture."""

    reader: CaptureReader
    allow: AllowList
    presence: PresenceSettings
    adverts: int = 0
    forgotten: int = 0
    dropped: int = 0
    now_ms: int = 0
    decisions: Decisions = field(default_factory=Decisions)

    @property
    def header(self) -> CaptureHeader:
        return self.reader.header

    @property
    def same_settings(self) -> bool:
        """Whether the capture was made with settings that decide alike."""
        return self.header.settings == fingerprint(self.allow, self.presence)

    def batches(self, progress: Callable[["Replay"], None] = lambda _replay: None) -> Iterator[Batch]:
        """Every batch as the recorded run made it. Raises CaptureError; `progress` hears of each block."""
        clock = HeldClock(self.header.boot_id)
        hearing = Hearing(frozenset(), 1, self.header.started_ms)
        listener = Listener(self.allow, Presence(self.presence), hearing, clock)
        for block in self.reader.blocks():
            for batches in _play(block, listener, clock):
                self.decisions.add(batches)
                yield from batches
            self.adverts = listener.adverts
            self.forgotten += block.forgotten
            self.dropped += block.dropped
            self.now_ms = clock.now
            progress(self)

    def moment(self, at_ms: int) -> str:
        """A time of the capture: UTC where the clock was set, else hours since the start."""
        since = at_ms - self.header.started_ms
        if not 0 < self.header.unix_ms + since < LAST_YEAR_MS or not self.header.unix_ms:
            minutes, milliseconds = divmod(since, 60_000)
            return f"+{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds / 1000:06.3f}"
        then = datetime.fromtimestamp((self.header.unix_ms + since) / 1000, UTC)
        return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def summary(self) -> dict[str, object]:
        """The figures, for people and for programs."""
        decided = self.decisions
        return {
            "store": self.header.store,
            "gateway": self.header.gateway,
            "recorded_with": self.header.version,
            "same_settings": self.same_settings,
            "seconds": round(max(0, self.now_ms - self.header.started_ms) / 1000, 3),
            "adverts": self.adverts,
            "forgotten": self.forgotten,
            "dropped": self.dropped,
            "batches": decided.batches,
            "readings": decided.readings,
            "entered": decided.entered,
            "left": decided.left,
            "torn": self.reader.torn,
            "digest": decided.digest,
        }


def _play(block: Block, listener: Listener, clock: HeldClock) -> Iterator[list[Batch]]:
    """One block, row by row; what each close took out."""
    heard = [(f"device {entry.device}", entry.manufacturer, entry.service) for entry in block.heard]
    clock.now = block.base_ms
    for after, what, value in zip(block.after, block.what, block.value, strict=True):
        clock.now += after
        if what:
            listener.heard(*heard[what - 1], value)
        else:
            yield listener.close(flush=value == 1)
