"""A gateway's remote configuration: the signed message of `down/config`, and the settings it may carry.

What is signed are the document's bytes as they stand, with a fixed word before them; so nobody has to agree
on a canonical form, and a signature made for this can never be taken for one of something else. The document
is JSON, for people with a terminal and for gateways that are not ours. Whoever reads it checks the signature
(Ed25519, by the key learned at enrolment) before anything else.

Only what may be changed from afar has a place here: how to reach the broker, and who the gateway is, do not,
so that no configuration can cut a gateway off. A setting that is left out stays as the gateway's file has it.
"""

from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sdk_bridge.wire.codec import MAX_REASON, WireError

T_co = TypeVar("T_co", covariant=True)
SIGNED_AS = b"footfall configuration 1\0"
MAX_DOCUMENT_BYTES = 64 * 1024  # four thousand beacon keys would be more, and no gateway hears so many
MAX_MESSAGE_BYTES = MAX_DOCUMENT_BYTES + 128
MAX_ENTRIES = 1024  # in one list
SIGNATURE_BYTES = 64

Entry: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[!-~]+$(?!\n)")]
Entries: TypeAlias = Annotated[list[Entry], Meta(max_length=MAX_ENTRIES)]


class AllowSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which beacons are relayed; each list replaces the whole list of the gateway's file."""

    ibeacon: Entries | UnsetType = UNSET
    eddystone: Entries | UnsetType = UNSET
    altbeacon: Entries | UnsetType = UNSET
    url: Entries | UnsetType = UNSET
    eid: bool | UnsetType = UNSET


class ZoneBeaconSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Fixed beacons that the gateway should always hear, and the seconds after which it counts as deaf."""

    keys: Entries | UnsetType = UNSET
    silence_s: Annotated[int, Meta(ge=5, le=3600)] | UnsetType = UNSET


class PresenceLevels(Struct, frozen=True, forbid_unknown_fields=True):
    """Smoothed strengths in dBm between which a beacon keeps the state it has."""

    near_dbm: Annotated[int, Meta(ge=-120, le=0)] | UnsetType = UNSET
    far_dbm: Annotated[int, Meta(ge=-127, le=0)] | UnsetType = UNSET


class BluetoothSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Patience, in seconds, with a radio that stays silent after the first, quick remedies."""

    silence_s: Annotated[int, Meta(ge=10, le=3600)] | UnsetType = UNSET


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How much is logged."""

    level: Literal["debug", "info", "warning", "error"] | UnsetType = UNSET


class RemoteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that may be changed from afar, by the names that it has in the gateway's file."""

    allow: AllowSettings = AllowSettings()
    zone_beacons: ZoneBeaconSettings = ZoneBeaconSettings()
    presence: PresenceLevels = PresenceLevels()
    bluetooth: BluetoothSettings = BluetoothSettings()
    log: LogSettings = LogSettings()

    def table(self) -> dict[str, dict[str, Any]]:
        """The sections that say anything, as a TOML file has them."""
        sections: dict[str, dict[str, Any]] = msgspec.to_builtins(self)
        return {name: section for name, section in sections.items() if section}


class Configuration(Struct, frozen=True):
    """One version for one gateway. Versions only rise; `issued_at` is the backend's unix time in ms."""

    store: Annotated[str, Meta(max_length=64)]
    gateway: Annotated[str, Meta(max_length=64)]
    version: Annotated[int, Meta(ge=1, le=2**53)]
    issued_at: Annotated[int, Meta(ge=0, le=2**53)]
    settings: RemoteSettings


class SignedConfiguration(Struct, frozen=True, array_like=True, tag="configuration"):
    """What travels: the document's bytes and their signature."""

    document: Annotated[bytes, Meta(max_length=MAX_DOCUMENT_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


def to_sign(document: bytes) -> bytes:
    """What the signature is made over."""
    return SIGNED_AS + document


def encode_document(configuration: Configuration) -> bytes:
    """The document, ready to be signed. Raises WireError where it is too long."""
    table = msgspec.to_builtins(configuration)
    document = msgspec.json.encode({**table, "settings": configuration.settings.table()})
    if len(document) > MAX_DOCUMENT_BYTES:
        raise WireError(f"a configuration of {len(document)} bytes exceeds {MAX_DOCUMENT_BYTES}")
    return document


def decode_document(document: bytes) -> Configuration:
    """What a document says. Raises WireError, also for what is no text in places that are not read."""
    try:
        document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"the document is not UTF-8: {error.reason}") from error
    return _checked(_configuration, document)


def decode_settings(text: bytes) -> RemoteSettings:
    """Settings as JSON, as an operator gives them. Raises WireError, which names the key."""
    return _checked(_settings, text)


def encode_signed(document: bytes, signature: bytes) -> bytes:
    """The message for `down/config`."""
    return _pack.encode(SignedConfiguration(document, signature))


def decode_signed(payload: bytes) -> SignedConfiguration:
    """A message of `down/config`, its signature not yet checked. Raises WireError."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise WireError(f"payload of {len(payload)} bytes exceeds {MAX_MESSAGE_BYTES}")
    return _checked(_signed, payload)


class _Decoder(Protocol[T_co]):
    def decode(self, given: bytes, /) -> T_co: ...


def _checked(decoder: _Decoder[T_co], given: bytes) -> T_co:
    try:
        return decoder.decode(given)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(str(error)[:MAX_REASON]) from error


_pack = msgspec.msgpack.Encoder()
_signed = msgspec.msgpack.Decoder(SignedConfiguration)
_configuration = msgspec.json.Decoder(Configuration)
_settings = msgspec.json.Decoder(RemoteSettings)
