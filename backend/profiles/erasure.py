"""Erasure, pure: tombstones that refuse an erased person's past, and finding traces of somebody in bytes."""

import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sdk_bridge.wire.app_events import AppEvent

ERASED: Final = "[erased]"
CONTACT_TRAITS: Final = ("email", "phone")
"""Traits that reach one person, and so name them wherever they stand."""
TELLING_CHARS: Final = 8  # shorter ones, such as the user id 42, stand in other people's numbers as well
_NONCE_BYTES: Final = 12
_NEVER: Final = -1


class SealBroken(RuntimeError):
    """What is left of an erasure was sealed under another secret."""


class ErasureKeys:
    """What is derived from the secret beside the database."""

    def __init__(self, secret: bytes) -> None:
        self._digests = _derived(secret, b"tombstones")
        self._seal = AESGCM(_derived(secret, b"work"))

    def digest(self, name: str) -> bytes:
        """Stands for an identifier, and is of no use without the secret."""
        return hmac.digest(self._digests, _one_spelling(name).encode("utf-8", "surrogatepass"), "sha256")

    def sealed(self, plain: bytes, nonce: bytes) -> bytes:
        """The bytes so that a look into the database tells nothing; `nonce` has 12 bytes and is used once."""
        return nonce + self._seal.encrypt(nonce, plain, None)

    def opened(self, sealed: bytes) -> bytes:
        """The bytes again. Raises SealBroken."""
        try:
            return self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except InvalidTag as error:
            raise SealBroken("the erasures that are under way were sealed under another secret") from error


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"footfall erasure: " + purpose).derive(secret)


def _one_spelling(name: str) -> str:
    """Addresses are written in any case."""
    return name.strip().casefold() if "@" in name else name.strip()


class Tombstones:
    """Whom nobody may bring back: refuses what happened before an erasure, and nothing that came after it.

    Kept in memory as hashes; may be asked from any thread. What is newer than the newest erasure, nearly
    everything, costs one comparison.
    """

    def __init__(self, digest: Callable[[str], bytes] | None = None) -> None:
        self._digest = digest
        self._erased: dict[bytes, int] = {}
        self.newest = _NEVER
        """When somebody was last erased, unix milliseconds."""
        self.upto = ""
        """The newest receipt that is known here."""

    def learn(self, digests: Mapping[bytes, int], upto: str) -> None:
        """Takes in erasures, by the hash of each identifier when."""
        self._erased.update(digests)
        self.newest = max([self.newest, *digests.values()])
        self.upto = max(self.upto, upto)

    def refuses(self, name: str, at: int) -> bool:
        """Whether an identifier's bearer was erased at `at` (unix ms) or later."""
        if at > self.newest or self._digest is None:
            return False
        return self._erased.get(self._digest(name), _NEVER) >= at

    def admitted(self, event: AppEvent) -> AppEvent | None:
        """The event, without what it says of erased people; None where it is about one of them."""
        at = min(event.occurred_at, event.received_at)
        if event.link is not None:  # redeemed later, a token still says what was so when it was made
            at = min(at, event.link.issued_at)
        if at > self.newest:
            return event
        erased = frozenset(name for name in names_in(event) if self.refuses(name, at))
        return without(event, erased) if erased else event


# What an event says of somebody ---------------------------------------------------------------------------


def names_in(event: AppEvent) -> Iterator[str]:
    """Everything in an event that may name a person."""
    yield from _given(event.user_id, event.anonymous_id, event.device_id, event.previous_id, event.beacon_key)
    if event.push_address is not None:
        yield event.push_address.value
    if event.link is not None:
        yield from _given(event.link.anonymous_id, event.link.user_id)
    yield from (one.id for one in event.external_ids)
    for name in CONTACT_TRAITS:
        value = event.traits.get(name)
        if isinstance(value, str):
            yield value


def without(event: AppEvent, erased: frozenset[str]) -> AppEvent | None:
    """The event with every mention of erased names taken out; None where it is theirs.

    It is somebody else's if it names another user with proof: then a shared phone or a borrowed address is
    left out, and the rest is kept. Whatever claims to be an erased user is theirs, with proof or without.
    """
    proven_other = event.proven and event.user_id is not None and event.user_id not in erased
    if not proven_other:
        return None
    address, link = event.push_address, event.link
    return msgspec.structs.replace(
        event,
        anonymous_id=_kept(event.anonymous_id, erased),
        device_id=_kept(event.device_id, erased),
        previous_id=_kept(event.previous_id, erased),
        beacon_key=_kept(event.beacon_key, erased),
        push_address=None if address is not None and address.value in erased else address,
        link=None if link is not None and erased & {link.anonymous_id, link.user_id} else link,
        external_ids=[one for one in event.external_ids if one.id not in erased],
        properties=scrubbed(event.properties, erased),
        traits=scrubbed(event.traits, erased),
        context=scrubbed(event.context, erased),
    )


def scrubbed(value: Any, erased: frozenset[str]) -> Any:
    """The value with every text that is, or that contains, a telling erased name blacked out."""
    if isinstance(value, str):
        return ERASED if value in erased or _mentions(value, erased) else value
    if isinstance(value, dict):
        return {scrubbed(key, erased): scrubbed(item, erased) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item, erased) for item in value]
    return value


def without_names(text: str, erased: Iterable[str]) -> str:
    """The text with every telling erased name in it blacked out, and nothing else."""
    telling = sorted(filter(is_telling, erased), key=len, reverse=True)
    if not telling:
        return text
    return re.sub("|".join(map(re.escape, telling)), ERASED, text, flags=re.IGNORECASE)


def _mentions(text: str, erased: frozenset[str]) -> bool:
    folded = text.casefold()
    return any(is_telling(name) and name.casefold() in folded for name in erased)


def _kept(value: str | None, erased: frozenset[str]) -> str | None:
    return None if value in erased else value


def _given(*names: str | None) -> Iterator[str]:
    return (name for name in names if name)


def is_telling(name: str) -> bool:
    """Whether the text stands for its bearer wherever it is found, not just in an identifier's place."""
    return len(name) >= TELLING_CHARS or "@" in name


# Traces in bytes ------------------------------------------------------------------------------------------

_ESCAPE = re.compile(rb"\\(?:u(d[89ab]..)\\u(d[c-f]..)|u([0-9a-f]{4})|([\"\\/bfnrt]))", re.IGNORECASE)
_SHORT: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_PLACES: Final = ("user_id", "anonymous_id", "device_id", "previous_id")
_KEYS: Final = rb'"(?:\w*_?id|email|phone|username)"\s*:\s*"?(?:%b)"?\s*[,}\]\s]'


class Traces:
    """Finds somebody's names in bytes.

    Names that are not telling are found only where an identifier stands: as the value of a key that is
    called like one. `written` are the telling ones as bytes, in lower case.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        telling = sorted(name for name in self.names if is_telling(name))
        short = sorted(self.names.difference(telling))
        self.written: list[bytes] = sorted({form.lower() for name in telling for form in _written(name)})
        self._packed = [_packed(place, name).lower() for name in short for place in _PLACES]
        choices = b"|".join(re.escape(_bytes(name).lower()) for name in short)
        self._keyed = re.compile(_KEYS % choices) if short else None

    def in_payload(self, payload: bytes) -> bool:
        """Whether bytes of whatever form speak of the person.

        Plain, as JSON with any escapes, as MessagePack, or percent-encoded; the case of Latin letters is
        ignored.
        """
        return any(self._in(form.lower()) for form in _forms(payload))

    def in_rows(self, stored: bytes) -> bool:
        """Whether rows as we write them do, MessagePack and JSON; quick, for there are millions."""
        lowered = stored.lower()
        return any(name in lowered for name in (*self.written, *self._packed))

    @property
    def longest(self) -> int:
        """Bytes of the longest that is written."""
        return max(map(len, self.written), default=0)

    def _in(self, lowered: bytes) -> bool:
        if any(name in lowered for name in (*self.written, *self._packed)):
            return True
        return self._keyed is not None and self._keyed.search(lowered) is not None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _written(name: str) -> set[bytes]:
    """As itself, in the cases that people write, for bytes know those of A–Z only; and inside a JSON text."""
    cases = {name, name.lower(), name.upper(), name.title()}
    texts = {msgspec.json.encode(one.encode("utf-8", "replace").decode())[1:-1] for one in cases}
    return {*map(_bytes, cases), *texts}


def _packed(place: str, name: str) -> bytes:
    return msgspec.msgpack.encode(place) + msgspec.msgpack.encode(name)


def _forms(payload: bytes) -> Iterator[bytes]:
    yield payload
    if b"\\" in payload:
        yield _ESCAPE.sub(_unescaped, payload)
    if b"%" in payload:
        yield unquote_to_bytes(payload)


def _unescaped(match: re.Match[bytes]) -> bytes:
    high, low, unit, plain = match.groups()
    if plain is not None:
        return _SHORT.get(plain, plain)
    if unit is not None:
        return _bytes(chr(int(unit, 16)))
    try:
        return bytes.fromhex((high + low).decode()).decode("utf-16-be").encode()
    except ValueError:
        return match[0]
