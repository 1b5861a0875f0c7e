"""What operators set up: shops, zones, gateways, beacons, tokens; and the audit of it."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.listening import Gateway
from backend.proximity.places import Place
from backend.storage.database import Session

TOKEN_PREFIX = "fft_"  # noqa: S105 - a mark by which a leaked token can be recognised, not a secret


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the token's name and role."""

    name: str
    role: str


def hash_secret(secret: str) -> bytes:
    """SHA-256. The secrets are 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create_token(session: Session, name: str, role: str, now: int) -> str:
    """A new API token; shown once, kept only as a hash."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    session.run("add_token", token_hash=hash_secret(token), name=name, role=role, created_at=now)
    note(session, now, "command line", "token created", name, {"role": role})
    return token


def revoke_token(session: Session, name: str, now: int) -> int:
    """Refuses every token of a name from now on; how many were in use."""
    revoked = session.run("revoke_token", name=name, at=now)
    note(session, now, "command line", "token revoked", name)
    return revoked


def caller_of(session: Session, token: str) -> Caller | None:
    """Whose token it is; None for a revoked or unknown one."""
    row = session.row("token_by_hash", token_hash=hash_secret(token))
    return None if row is None else Caller(row["name"], row["role"])


def gateways(session: Session) -> dict[str, Gateway]:
    """Every gateway in service, by `store/gateway`: registered, and not revoked."""
    rows = session.rows("gateways_in_service")
    found = (
        Gateway(row["store_id"], row["gateway_id"], row["zone_id"], _position(row["x_m"], row["y_m"]))
        for row in rows
    )
    return {gateway.name: gateway for gateway in found}


def _position(x_m: float | None, y_m: float | None) -> tuple[float, float] | None:
    return None if x_m is None or y_m is None else (x_m, y_m)


def zone_beacons(session: Session) -> dict[str, Place]:
    """The beacons that are fixed to zones, and to which."""
    return {
        row["beacon_key"]: Place(row["store_id"], row["zone_id"])
        for row in session.rows("beacons")
        if row["role"] == "zone" and row["zone_id"] is not None
    }


def place_beacons(session: Session) -> frozenset[str]:
    """Beacons that belong to the shop, not to a person: these are always kept."""
    return frozenset(row["beacon_key"] for row in session.rows("beacons") if row["role"] != "tag")


def note(
    session: Session, at: int, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Writes the audit's next line."""
    text = json.dumps(detail or {}, ensure_ascii=False, default=str)
    session.run("audit", at=at, actor=actor, action=action, subject=subject, detail=text)
