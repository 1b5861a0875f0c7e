"""MQTT topics: `footfall/1/{partition}/{store}/{gateway}/{leaf}`."""

import re
import zlib
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from sdk_bridge.wire.codec import WireError

PARTITIONS = 64
ROOT = "footfall/1"
Leaf: TypeAlias = Literal["up", "status", "down/ack", "down/config"]
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEPTH = 5


def is_id(text: str) -> bool:
    """Whether the text may stand for a store, zone or gateway: 1 to 64 of A–Z a–z 0–9 _ and -."""
    return _ID.fullmatch(text) is not None


def partition_of(text: str) -> int:
    """The partition, 0 to 63, of a store id (or of an HTTP event's user or anonymous id)."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % PARTITIONS


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """A gateway within its store; knows its topics."""

    store: str
    gateway: str

    def __post_init__(self) -> None:
        for name, value in (("store", self.store), ("gateway", self.gateway)):
            if not is_id(value):
                raise WireError(f"{name} {value[:80]!r} must be 1 to 64 of A–Z a–z 0–9 _ -")

    @property
    def partition(self) -> int:
        return partition_of(self.store)

    def topic(self, leaf: Leaf) -> str:
        return f"{ROOT}/{self.partition}/{self.store}/{self.gateway}/{leaf}"


def parse_topic(topic: str) -> tuple[GatewayAddress, Leaf]:
    """The gateway and the leaf that a topic names. Raises WireError."""
    parts = topic.split("/", _DEPTH)
    if len(parts) != _DEPTH + 1 or "/".join(parts[:2]) != ROOT:
        raise WireError(f"topic {topic[:120]!r} is not {ROOT}/partition/store/gateway/leaf")
    address = GatewayAddress(store=parts[3], gateway=parts[4])
    if parts[2] != str(address.partition):
        raise WireError(f"topic {topic[:120]!r}: store {address.store} belongs to {address.partition}")
    if parts[5] not in get_args(Leaf):
        raise WireError(f"topic {topic[:120]!r} ends in none of {', '.join(get_args(Leaf))}")
    return address, cast(Leaf, parts[5])


def subscription(leaf: Leaf, partition: int | None = None) -> str:
    """The filter for one leaf of every gateway, of one partition or of all."""
    return f"{ROOT}/{'+' if partition is None else partition}/+/+/{leaf}"
