"""The messages that gateways and the backend exchange over MQTT.

Every Struct is array-like: on the wire a message is a MessagePack array whose first element is its tag, so
field names cost nothing. Fields are only ever appended, never reordered. Times inside a message are
milliseconds of the sender's CLOCK_BOOTTIME (a Pi has no real-time clock); the envelope beside the payload
says how to turn them into unix time.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

MAX_PAYLOAD_BYTES = 128 * 1024  # beyond any batch of ours; stops a stranger from filling the memory
MAX_KEYS = 4096  # beacons in one batch
MAX_ROWS = 16384  # rows in one column

_ASCII = r"^[ -~]*$(?!\n)"  # no NUL for PostgreSQL to refuse; Python's `$` alone lets a last newline pass

BootId: TypeAlias = Annotated[str, Meta(max_length=36, pattern=_ASCII)]
"""Linux's /proc/sys/kernel/random/boot_id; empty for a sender whose times are unix time already."""
BeaconKey: TypeAlias = Annotated[str, Meta(min_length=1, max_length=160)]
"""Canonical text of a beacon's identity, such as `ibeacon:<uuid>:<major>:<minor>`; printable ASCII."""
Word: TypeAlias = Annotated[str, Meta(max_length=32, pattern=_ASCII)]
Millis: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Small: TypeAlias = Annotated[int, Meta(ge=0, le=127)]
Index: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_KEYS - 1)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**32)]


class Readings(Struct, frozen=True, array_like=True):
    """What was heard, aggregated per beacon and second; five columns of equal length.

    `beacon` indexes the batch's keys; `second` is whole seconds after `base_ms`; `count` is adverts heard in
    that second; `loss` and `best` are the mean and the least attenuation, −RSSI in dB, so 67 means −67 dBm.
    """

    beacon: Annotated[list[Index], Meta(max_length=MAX_ROWS)] = []
    second: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(max_length=MAX_ROWS)] = []
    count: Annotated[list[Annotated[int, Meta(ge=1, le=65535)]], Meta(max_length=MAX_ROWS)] = []
    loss: Annotated[list[Small], Meta(max_length=MAX_ROWS)] = []
    best: Annotated[list[Small], Meta(max_length=MAX_ROWS)] = []


class RangeChange(Struct, frozen=True, array_like=True):
    """A beacon came into (`near` true) or went out of the gateway's range, `after_ms` past `base_ms`."""

    beacon: Index
    after_ms: Millis
    near: bool


class BeaconHealth(Struct, frozen=True, array_like=True):
    """A beacon's telemetry frame: millivolts, °C, adverts sent and seconds since it started."""

    beacon: Index
    after_ms: Millis
    battery_mv: Annotated[int, Meta(ge=0, le=65535)] | None = None
    temperature_c: Annotated[float, Meta(ge=-128, le=128)] | None = None
    adverts: Count | None = None
    uptime_s: Annotated[float, Meta(ge=0, le=2**32)] | None = None


class Batch(Struct, frozen=True, array_like=True, tag="batch"):
    """Observations of one boot of one gateway; `base_ms` is CLOCK_BOOTTIME where the offsets start."""

    boot_id: BootId
    base_ms: Millis
    keys: Annotated[list[BeaconKey], Meta(max_length=MAX_KEYS)]
    readings: Readings
    ranges: Annotated[list[RangeChange], Meta(max_length=MAX_ROWS)] = []
    health: Annotated[list[BeaconHealth], Meta(max_length=MAX_KEYS)] = []


ScanState: TypeAlias = Literal["starting", "hearing", "quiet", "deaf"]
"""`quiet` hears only its own fixed beacons or nothing expected; `deaf` misses a fixed beacon it knows."""


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Sent every three seconds in the live lane. `last_advert_age_ms` is None until the first advert.

    `config_state` is the gateway's last word about a remote configuration and `config_version` which one:
    `trial`, `applied`, or `rolled-back` and `refused`, each with `: ` and the reason; empty without any.
    While `outbox_writable` is false the gateway's card takes nothing, and what is heard is kept in memory.
    """

    boot_id: BootId
    at_ms: Millis
    scan: ScanState
    last_advert_age_ms: Millis | None
    adverts: Count
    forgotten: Count
    dropped: Count
    outbox_batches: Count
    outbox_bytes: Count
    clock_synchronised: bool
    version: Word
    config_version: Annotated[int, Meta(ge=0, le=2**53)] = 0
    config_state: Annotated[str, Meta(max_length=160, pattern=_ASCII)] = ""
    outbox_writable: bool = True


class SkipCounts(Struct, frozen=True, array_like=True):
    """What a skip left out: batches and readings."""

    batches: Count
    readings: Count


class Skip(Struct, frozen=True, array_like=True, tag="skip"):
    """The sequences from the envelope's up to and with `to` will never come; raises an alert."""

    to: Annotated[int, Meta(ge=1, le=2**53)]
    reason: Annotated[str, Meta(max_length=64, pattern=_ASCII)]
    counts: SkipCounts


UpMessage: TypeAlias = Batch | Heartbeat | Skip
Lane: TypeAlias = Literal["live", "backlog"]


class Ack(Struct, frozen=True, array_like=True, tag="ack"):
    """The backend has committed `lane` of `epoch` up to and with `upto`; `gap`: send again from there on.

    `server_ms` is the backend's unix time, which anchors a gateway whose own clock was never set.
    """

    epoch: Annotated[str, Meta(min_length=1, max_length=32, pattern=_ASCII)]
    lane: Lane
    upto: Annotated[int, Meta(ge=0, le=2**53)]
    gap: bool
    server_ms: Millis


class Status(Struct, frozen=True, array_like=True, tag="status"):
    """Retained; the last will is the same message with `online` false."""

    online: bool
    epoch: Word
    version: Word
