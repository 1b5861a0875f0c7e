"""What travels beside a payload as MQTT 5 user properties: lane, epoch, sequence and the sender's clocks."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import cast

from msgspec import Struct

from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.messages import Lane

_EPOCH = re.compile(r"[0-9a-f]{8,32}")
_BOOT = re.compile(r"[0-9a-f-]{0,36}")
_MAX = 2**53


class Envelope(Struct, frozen=True, gc=False):
    """Beside a batch. Milliseconds throughout.

    `sent_at` is the sender's unix time, or 0 where its clock was never set. `boot_id` and `boot_ms` are its
    present boot and CLOCK_BOOTTIME at sending. `anchor` is the unix time at which the *batch's* boot clock
    read zero, as far as the sender knows; None for the present boot, or for a boot that was never anchored.
    """

    lane: Lane
    epoch: str
    seq: int
    sent_at: int = 0
    boot_id: str = ""
    boot_ms: int = 0
    anchor: int | None = None

    def properties(self) -> list[tuple[str, str]]:
        """As MQTT 5 user properties."""
        pairs = [
            ("lane", self.lane),
            ("epoch", self.epoch),
            ("seq", str(self.seq)),
            ("sent_at", str(self.sent_at)),
            ("boot_id", self.boot_id),
            ("boot_ms", str(self.boot_ms)),
        ]
        if self.anchor is not None:
            pairs.append(("anchor", str(self.anchor)))
        return pairs

    @classmethod
    def from_properties(cls, properties: Iterable[tuple[str, str]]) -> "Envelope":
        """Reads user properties; unknown ones are ignored. Raises WireError."""
        given = dict(properties)
        epoch, boot_id = given.get("epoch", ""), given.get("boot_id", "")
        lane = _lane_of(given.get("lane", ""), epoch, boot_id)
        return cls(
            lane=lane,
            epoch=epoch,
            seq=_number(given, "seq", least=1),
            sent_at=_number(given, "sent_at", default=0),
            boot_id=boot_id,
            boot_ms=_number(given, "boot_ms", default=0),
            anchor=_number(given, "anchor") if "anchor" in given else None,
        )


@lru_cache(4_096)  # a gateway's stay the same until it starts anew
def _lane_of(lane: str, epoch: str, boot_id: str) -> Lane:
    """The lane, where all three are well-formed. Raises WireError."""
    if lane not in ("live", "backlog"):
        raise WireError("`lane` must be live or backlog")
    if not _EPOCH.fullmatch(epoch):
        raise WireError("`epoch` must be 8 to 32 hexadecimal digits")
    if not _BOOT.fullmatch(boot_id):
        raise WireError("`boot_id` must be a boot id, or empty")
    return cast(Lane, lane)


def boot_offset(envelope: Envelope, batch_boot_id: str, received_at: int) -> int | None:
    """Milliseconds to add to a batch's boot times for unix time; None when that boot was never anchored.

    A batch of the sender's present boot is placed by when it was received, so the sender's wall clock does
    not matter. One of an earlier boot needs the anchor that the sender learned for it.
    """
    if batch_boot_id == "":
        return 0
    if batch_boot_id == envelope.boot_id:
        return received_at - envelope.boot_ms
    if envelope.anchor is not None and envelope.anchor <= received_at:
        return envelope.anchor
    return None


def _number(given: Mapping[str, str], name: str, *, least: int = 0, default: int | None = None) -> int:
    text = given.get(name)
    if text is None:
        if default is None:
            raise WireError(f"`{name}` is missing")
        return default
    number = int(text) if len(text) <= 16 and text.isascii() and text.isdigit() else -1
    if not least <= number <= _MAX:
        raise WireError(f"`{name}` must be a whole number from {least} to 2^53")
    return number
