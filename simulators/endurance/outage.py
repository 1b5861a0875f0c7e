"""Days without a backend: what the outbox holds and writes while beacons go on being heard, hour by hour."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from gateway.aggregate import Aggregator
from gateway.gobackn import WINDOW
from gateway.outbox import FRESH_MS, Outbox, Parcel, Turn
from gateway.uplink import COALESCE_FROM, COALESCE_MS
from sdk_bridge.wire.codec import decode_up, encode
from sdk_bridge.wire.messages import Batch, Skip
from simulators.endurance.clock import SimulatedClock
from simulators.endurance.figures import megabytes, written_bytes

HOUR_S = 3600
ADVERTS_A_SECOND = 3  # of a tag at 0.3 s
UUID = "11111111-2222-4333-8444-555555555555"


@dataclass(frozen=True, slots=True)
class Outage:
    """`beacons` are heard in every second of `hours`; the outbox may grow to `max_bytes`."""

    hours: float = 72.0
    beacons: int = 50
    max_bytes: int = 256 * 1024 * 1024
    seed: int = 1


@dataclass(frozen=True, slots=True)
class OutageFigures:
    """What became of it. Bytes of the file are those of the database itself, its log included."""

    readings: int
    drained_readings: int = 0
    skipped_readings: int = 0
    outbox_bytes: int = 0
    file_bytes: int = 0
    records: int = 0
    commits: int = 0
    written_bytes: int = 0
    longest_turn_s: float = 0.0
    longest_coalescing_s: float = 0.0

    @property
    def bytes_a_reading(self) -> float:
        return self.outbox_bytes / max(1, self.readings - self.skipped_readings)


def run_outage(outage: Outage, path: Path, say: Callable[[str], None]) -> OutageFigures:
    """Plays the outage into an outbox at `path`, its time compressed, every commit a real one."""
    clock = SimulatedClock()
    epochs = (f"{number:016x}" for number in itertools.count(1))
    outbox = Outbox(path, max_bytes=outage.max_bytes, new_epoch=lambda: next(epochs), now_ms=clock.unix_ms)
    try:
        shop = _Shop(outage, clock, outbox)
        for hour in range(1, int(outage.hours) + 1):
            shop.play(HOUR_S)
            say(shop.line(hour))
        shop.play(round(outage.hours % 1 * HOUR_S))
        figures = shop.figures(path)
        say("the backend is back: the backlog drains")
        return shop.drain(figures)
    finally:
        outbox.close()


class _Shop:
    """Beacons that never leave, and a gateway's bookkeeping around its outbox."""

    def __init__(self, outage: Outage, clock: SimulatedClock, outbox: Outbox) -> None:
        self._keys = [f"ibeacon:{UUID}:1:{number}" for number in range(outage.beacons)]
        self._dice = Random(outage.seed)
        self._clock = clock
        self._outbox = outbox
        self._aggregator = Aggregator()
        self._coalesce_at = 0
        self._readings = 0
        self._commits = 0
        self._written_before = written_bytes()
        self._longest = {"turn": 0.0, "coalescing": 0.0}

    def play(self, seconds: int) -> None:
        for _ in range(seconds):
            for key in self._keys:
                loss = self._dice.randrange(45, 90)
                for spread in range(ADVERTS_A_SECOND):
                    self._aggregator.add(key, self._clock.now, -loss - spread)
            self._clock.now += 1000
            self._store()

    def drain(self, figures: OutageFigures) -> OutageFigures:
        """Numbers, reads and acknowledges everything, as a backend that is back would have it."""
        drained = skipped = 0
        self._clock.now += FRESH_MS
        while self._outbox.stock.records:
            stock = self._outbox.turn(self._turn(room={"backlog": WINDOW}))
            span = stock.lanes["backlog"]
            for record in self._outbox.load("backlog", span.acked + 1, WINDOW):
                message = decode_up(record.payload)
                drained += len(message.readings.beacon) if isinstance(message, Batch) else 0
                skipped += message.counts.readings if isinstance(message, Skip) else 0
            self._outbox.turn(self._turn(acked={"backlog": span.last}))
        return replace(figures, drained_readings=drained, skipped_readings=skipped)

    def line(self, hour: int) -> str:
        stock = self._outbox.stock
        return (
            f"hour {hour}: {megabytes(stock.bytes)} in {stock.records:,} records"
            f" for {self._readings:,} readings; {megabytes(written_bytes() - self._written_before)} written"
        )

    def figures(self, path: Path) -> OutageFigures:
        files = [path, path.with_name(path.name + "-wal")]
        return OutageFigures(
            readings=self._readings,
            outbox_bytes=self._outbox.stock.bytes,
            file_bytes=sum(file.stat().st_size for file in files if file.exists()),
            records=self._outbox.stock.records,
            commits=self._commits,
            written_bytes=written_bytes() - self._written_before,
            longest_turn_s=self._longest["turn"],
            longest_coalescing_s=self._longest["coalescing"],
        )

    def _store(self) -> None:
        now = self._clock.now
        batches = self._aggregator.close(now, self._clock.boot_id)
        parcels = [Parcel(encode(b), b.boot_id, now, len(b.readings.beacon)) for b in batches]
        self._readings += sum(parcel.readings for parcel in parcels)
        self._timed("turn", lambda: self._outbox.turn(self._turn(parcels=parcels)))
        if now >= self._coalesce_at and self._outbox.stock.waiting >= COALESCE_FROM:
            more = self._timed("coalescing", lambda: self._outbox.coalesce(self._clock.boot_id, now))
            self._coalesce_at = now if more else now + COALESCE_MS

    def _turn(self, **more: Any) -> Turn:
        return Turn(self._outbox.stock.epoch, self._clock.boot_id, self._clock.now, **more)

    def _timed(self, what: str, call: Callable[[], object]) -> object:
        began = time.monotonic()
        answer = call()
        self._longest[what] = max(self._longest[what], time.monotonic() - began)
        self._commits += 1
        return answer
