"""Whether a source vouches for the user id that it sends."""

import hmac

from sdk_bridge.server.ports import Source


def user_hash(proof_secret: str, user_id: str) -> str:
    """HMAC-SHA256 of the user id in hex: what a shop's own server gives its pages and apps with the login."""
    return hmac.digest(proof_secret.encode(), user_id.encode(), "sha256").hex()


def is_proven(source: Source, user_id: str | None, claimed_hash: object) -> bool:
    """True when the source is trusted, or the hash is the one only the shop's server can make."""
    if user_id is None:
        return False
    if source.kind == "server" or source.proof == "off":
        return True
    if not isinstance(claimed_hash, str) or not claimed_hash.isascii() or not source.proof_secret:
        return False
    return hmac.compare_digest(user_hash(source.proof_secret, user_id), claimed_hash.lower())
