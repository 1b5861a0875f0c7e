"""What else a person is known by, where that is proven: e-mail address, loyalty card, telephone number.

A client may write any address into a trait, so a trait alone proves nothing. An identifier counts when the
shop's own server names it (`context.externalIds`), or confirms what somebody typed (`email_verified` and so
on), or signed it, or when an ID token says it.
"""

import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

from sdk_bridge.server.id_tokens import IdClaims
from sdk_bridge.server.ports import Source
from sdk_bridge.server.spelling import MAX_CHARS, one_email, one_phone
from sdk_bridge.wire.app_events import ExternalId

ExternalType: TypeAlias = Literal["email", "loyalty_id", "phone"]
MAX_EXTERNAL = 8  # of one event; a person has a handful
_TYPES: Final[Mapping[str, ExternalType]] = {
    "email": "email",
    "phone": "phone",
    "phone_number": "phone",
    "loyalty_id": "loyalty_id",
    "loyaltyid": "loyalty_id",
    "loyalty": "loyalty_id",
}
_CONFIRMED: Final[Mapping[str, tuple[str, ...]]] = {
    "email": ("email_verified", "emailVerified"),
    "phone": ("phone_verified", "phoneVerified", "phone_number_verified"),
}
_SPELLED: Final[Mapping[str, Callable[[str], str | None]]] = {"email": one_email, "phone": one_phone}
_TRAITS: Final[tuple[tuple[str, ExternalType], ...]] = (
    ("email", "email"),
    ("phone", "phone"),
    ("loyalty_id", "loyalty_id"),
    ("loyaltyId", "loyalty_id"),
)


def external_hash(proof_secret: str, id_type: ExternalType, identifier: str) -> str:
    """HMAC-SHA256 in hex of the type, NUL and the identifier: for a page or app to show that it is theirs.

    No user id holds NUL, so the hash of one is never that of the other.
    """
    message = f"{id_type}\0{identifier}".encode()
    return hmac.digest(proof_secret.encode(), message, "sha256").hex()


def one_spelling(id_type: str, identifier: str) -> str | None:
    """The identifier as everybody's is compared; None for what is none of its type.

    E-mail addresses in lower case, telephone numbers as E.164 where they come with their country's code.
    """
    text = identifier.strip()
    if not text or len(text) > MAX_CHARS or "\0" in text:
        return None
    spell = _SPELLED.get(id_type)
    return text if spell is None else spell(text)


def external_ids_of(
    source: Source, traits: object, context: Mapping[str, Any], claims: IdClaims | None
) -> list[ExternalId]:
    """Every identifier that an event proves, at most MAX_EXTERNAL. `claims` are of the event's own user."""
    if not traits and claims is None and "externalIds" not in context:
        return []  # most events say nothing of the kind
    found: dict[ExternalId, None] = {}
    for id_type, identifier in (
        *_named(source, context.get("externalIds")),
        *_confirmed(source, traits if isinstance(traits, dict) else {}),
        *_told(claims),
    ):
        spelled = one_spelling(id_type, identifier)
        if spelled is not None:
            found[ExternalId(id_type, spelled)] = None
    return list(found)[:MAX_EXTERNAL]


def without_hashes(named: object) -> object:
    """`context.externalIds` as it may be kept: a hash stays valid for ever."""
    if not isinstance(named, list):
        return named
    return [
        {key: value for key, value in one.items() if key != "hash"} if isinstance(one, dict) else one
        for one in named
    ]


def _named(source: Source, named: object) -> Iterator[tuple[ExternalType, str]]:
    for one in (named if isinstance(named, list) else [])[: 4 * MAX_EXTERNAL]:
        if not isinstance(one, dict):
            continue
        id_type, identifier = _TYPES.get(str(one.get("type")).lower()), one.get("id")
        if id_type is None or not isinstance(identifier, str):
            continue
        if _is_trusted(source) or _is_signed(source, id_type, identifier, one.get("hash")):
            yield id_type, identifier


def _confirmed(source: Source, traits: Mapping[str, Any]) -> Iterator[tuple[ExternalType, str]]:
    """What a trusted source says of a person; of what people type themselves only if it was confirmed."""
    if not _is_trusted(source):
        return
    for name, id_type in _TRAITS:
        value = traits.get(name)
        marks = _CONFIRMED.get(id_type)
        if isinstance(value, str) and (marks is None or any(traits.get(mark) is True for mark in marks)):
            yield id_type, value


def _told(claims: IdClaims | None) -> Iterator[tuple[ExternalType, str]]:
    if claims is not None and claims.email is not None:
        yield "email", claims.email
    if claims is not None and claims.phone is not None:
        yield "phone", claims.phone


def _is_trusted(source: Source) -> bool:
    return source.kind == "server" or source.proof == "off"


def _is_signed(source: Source, id_type: ExternalType, identifier: str, claimed: object) -> bool:
    if not isinstance(claimed, str) or not claimed.isascii() or not source.proof_secret:
        return False
    return hmac.compare_digest(external_hash(source.proof_secret, id_type, identifier), claimed.lower())
