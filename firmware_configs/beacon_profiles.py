"""Beacon profiles: how a kind of beacon is to be set, read from TOML and checked whole."""

import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

Role: TypeAlias = Literal["zone", "tag", "asset"]
Uuid: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Namespace: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{20}$")]
Dbm: TypeAlias = Annotated[int, Meta(ge=-100, le=20)]

# Faster than 100 ms is not allowed to non-connectable advertisers before Bluetooth 5; slower than 2 s leaves
# holes in readings that are taken by the second, and a tag needs tens of seconds to be anywhere.
Interval: TypeAlias = Annotated[int, Meta(ge=100, le=2000, multiple_of=5)]
"""Milliseconds between advertisements; multiples of 5 are multiples of Bluetooth's 0.625 ms."""


class ProfileError(ValueError):
    """The profile cannot be used; the text says which and why."""


class IBeaconFrame(Struct, frozen=True, forbid_unknown_fields=True, tag="ibeacon"):
    """Apple's frame; `power_at_1m_dbm` is measured one metre away, in the casing it is sold in."""

    uuid: Uuid
    power_at_1m_dbm: Dbm

    def key(self, major: int, minor: int) -> str:
        """The canonical key of one beacon of this profile. Raises ProfileError beyond 16 bits."""
        for name, value in (("major", major), ("minor", minor)):
            if not 0 <= value <= 0xFFFF:
                raise ProfileError(f"{name} {value} must be 0 to 65535")
        return f"ibeacon:{self.uuid}:{major}:{minor}"


class UidFrame(Struct, frozen=True, forbid_unknown_fields=True, tag="eddystone-uid"):
    """Eddystone's fixed identity; `power_at_0m_dbm` is 41 dB more than at one metre."""

    namespace: Namespace
    power_at_0m_dbm: Dbm

    def key(self, instance: int) -> str:
        """The canonical key of one beacon of this profile. Raises ProfileError beyond 48 bits."""
        if not 0 <= instance < 2**48:
            raise ProfileError(f"instance {instance} must be 0 to 2^48 - 1")
        return f"eddystone-uid:{self.namespace}:{instance:012x}"


class EidFrame(Struct, frozen=True, forbid_unknown_fields=True, tag="eddystone-eid"):
    """Eddystone's rotating identity, new every 2^`rotation_exponent` seconds; it has no lasting key."""

    rotation_exponent: Annotated[int, Meta(ge=0, le=15)]
    power_at_0m_dbm: Dbm


class TlmFrame(Struct, frozen=True, forbid_unknown_fields=True, tag="eddystone-tlm"):
    """Telemetry between the other frames; encrypted it is eTLM."""

    every_s: Annotated[int, Meta(ge=1, le=3600)]
    encrypted: bool


Frame: TypeAlias = IBeaconFrame | UidFrame | EidFrame | TlmFrame


class BeaconProfile(Struct, frozen=True, forbid_unknown_fields=True):
    """How one kind of beacon is set. `traceable` admits that anybody can follow a tag of this profile."""

    role: Role
    interval_ms: Interval
    power_dbm: Annotated[int, Meta(ge=-40, le=20)]
    frames: Annotated[tuple[Frame, ...], Meta(min_length=1, max_length=4)]
    traceable: bool = False

    def __post_init__(self) -> None:
        for holds, why in _RULES:
            if not holds(self):
                raise ValueError(why)

    def has(self, *kinds: type[Frame]) -> bool:
        return any(isinstance(frame, kinds) for frame in self.frames)

    def allowed(self) -> dict[str, list[str]]:
        """The entries that a gateway's `[allow]` needs for these beacons; EIDs pass without one."""
        return {
            "ibeacon": [frame.uuid for frame in self.frames if isinstance(frame, IBeaconFrame)],
            "eddystone": [frame.namespace for frame in self.frames if isinstance(frame, UidFrame)],
        }


def _plain_telemetry(profile: BeaconProfile) -> bool:
    return any(isinstance(frame, TlmFrame) and not frame.encrypted for frame in profile.frames)


_RULES: tuple[tuple[Callable[[BeaconProfile], bool], str], ...] = (
    (
        lambda profile: len({type(frame) for frame in profile.frames}) == len(profile.frames),
        "each type of frame may stand once",
    ),
    (
        lambda profile: profile.has(IBeaconFrame, UidFrame, EidFrame),
        "telemetry alone names no beacon: add an identity frame",
    ),
    (
        lambda profile: profile.role != "tag" or profile.traceable or not profile.has(IBeaconFrame, UidFrame),
        "a tag with a fixed identity can be followed by anybody: use eddystone-eid, or say traceable = true",
    ),
    (
        lambda profile: not profile.has(EidFrame) or not _plain_telemetry(profile),
        "plain telemetry gives a rotating identity away: say encrypted = true",
    ),
    (
        lambda profile: profile.role == "tag" or not profile.traceable,
        "traceable is a word about tags only",
    ),
)


def read_profile(text: str, name: str = "profile") -> BeaconProfile:
    """A profile from its TOML text. Raises ProfileError."""
    try:
        return msgspec.convert(tomllib.loads(text), BeaconProfile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ProfileError(f"{name}: {error}") from error


def profile_names() -> Sequence[str]:
    """The profiles that come with Footfall, in order."""
    files = (resources.files("firmware_configs") / "profiles").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_profile(name: str) -> BeaconProfile:
    """One of those by its name. Raises ProfileError for a name that does not exist."""
    if name not in profile_names():
        raise ProfileError(f"no profile {name!r}; there are {', '.join(profile_names())}")
    text = (resources.files("firmware_configs") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return read_profile(text, name)
