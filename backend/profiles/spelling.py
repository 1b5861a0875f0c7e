"""The one spelling in which identities are kept, whoever writes an identifier: a call, a segment, a file."""

from sdk_bridge.server.beacon_keys import canonical_beacon_key
from sdk_bridge.server.external_ids import one_spelling


def as_kept(id_type: str, identifier: str) -> str:
    """The identifier as identities have it: `Anna@Shop.example` is nobody else than `anna@shop.example`."""
    if id_type in ("email", "phone"):
        return one_spelling(id_type, identifier) or identifier
    if id_type == "beacon":
        return canonical_beacon_key(identifier) or identifier
    return identifier
