"""The fleet in the database: enrolment tokens by their hash, certificates, configurations, reports."""

from dataclasses import dataclass
from typing import Any

import msgspec

from backend.fleet.configurations import SignedVersion, is_alarming, next_version
from backend.fleet.enrolment import Grant, Refusal, StoredCertificate, StoredToken
from backend.storage import registry
from backend.storage.database import Session
from backend.storage.floor import raise_alert
from sdk_bridge.wire.messages import Heartbeat

TOKENS_KEPT_MS = 30 * 86_400_000  # a spent token is told from an unknown one for so long
VERSIONS_SHOWN = 20
ALERT_AGAIN_MS = 600_000  # who knocks all day with a spent token, or flaps, must not fill the disk


@dataclass(frozen=True, slots=True)
class SqlFleetRows:
    """What enrolment asks, within one transaction; satisfies `backend.fleet.enrolment.FleetRows`."""

    session: Session

    def token(self, secret_hash: bytes) -> StoredToken | None:
        row = self.session.row("enrolment_token", secret_hash=secret_hash)
        if row is None:
            return None
        name = f"{row['store_id']}/{row['gateway_id']}"
        return StoredToken(name, row["expires_at"], row["used_by"], row["void_at"] is not None)

    def spend_token(self, secret_hash: bytes, used_by: bytes, at: int) -> None:
        self.session.run("spend_enrolment_token", secret_hash=secret_hash, used_by=used_by, at=at)

    def certificate(self, serial: str) -> StoredCertificate | None:
        row = self.session.row("certificate_by_serial", serial=serial)
        if row is None:
            return None
        return StoredCertificate(
            serial=row["serial"],
            gateway=f"{row['store_id']}/{row['gateway_id']}",
            public_key=row["public_key"],
            not_after=row["not_after"],
            revoked=row["revoked_at"] is not None,
            in_line=bool(row["in_line"]),
        )

    def certificate_of_key(self, gateway: str, public_key: bytes, now: int) -> str | None:
        row = self.session.row("certificate_of_key", **_parts(gateway), public_key=public_key, now=now)
        return None if row is None else row["pem"]

    def retire(self, gateway: str, at: int) -> None:
        self.session.run("revoke_certificates", **_parts(gateway), at=at)
        self.session.run("put_in_service", **_parts(gateway))

    def add(self, grant: Grant) -> None:
        issued = grant.issued
        self.session.run(
            "add_certificate",
            **_parts(grant.gateway),
            serial=issued.serial,
            public_key=issued.public_key,
            pem=issued.pem,
            not_before=issued.not_before,
            not_after=issued.not_after,
            issued_at=grant.at,
            follows=grant.follows,
        )
        action = "gateway enrolled" if grant.follows is None else "certificate renewed"
        detail = {"serial": issued.serial, "not_after": issued.not_after, "follows": grant.follows}
        registry.note(self.session, grant.at, f"gateway {grant.gateway}", action, grant.gateway, detail)


def exists(session: Session, gateway: str) -> bool:
    """Whether a gateway is registered."""
    return bool(_number(session, "gateway_exists", gateway))


def add_token(session: Session, gateway: str, secret_hash: bytes, now: int, expires_at: int) -> None:
    """A new enrolment token; those still open for the gateway become void."""
    session.run("forget_enrolment_tokens", before=now - TOKENS_KEPT_MS)
    session.run("void_enrolment_tokens", **_parts(gateway), at=now)
    session.run(
        "add_enrolment_token",
        **_parts(gateway),
        secret_hash=secret_hash,
        created_at=now,
        expires_at=expires_at,
    )


def revoke(session: Session, gateway: str, now: int) -> int:
    """Certificates, open tokens, and being listened to: all end. How many certificates were in force."""
    session.run("void_enrolment_tokens", **_parts(gateway), at=now)
    session.run("take_out_of_service", **_parts(gateway), at=now)
    return session.run("revoke_certificates", **_parts(gateway), at=now)


def revoked_certificates(session: Session, now: int) -> list[tuple[str, int]]:
    """Serials and times of revocation of what has not run out yet."""
    return [(row["serial"], row["revoked_at"]) for row in session.rows("revoked_certificates", now=now)]


def note_refusal(session: Session, refusal: Refusal, now: int) -> None:
    """Tells people of a refusal that concerns one of their gateways."""
    if refusal.gateway is not None:
        _alert(session, now, "enrolment refused", refusal.gateway, refusal.message)


def version_to_come(session: Session, gateway: str) -> int:
    """The version that a gateway's next configuration has."""
    report = session.row("configuration_report", gateway=gateway)
    newest = _number(session, "newest_configuration_version", gateway)
    return next_version(newest, report["version"] if report else 0)


def add_configuration(session: Session, signed: SignedVersion, now: int) -> None:
    """Stores a signed version."""
    session.run(
        "add_configuration",
        **_parts(signed.gateway),
        version=signed.version,
        issued_at=now,
        document=signed.document,
        signature=signed.signature,
    )
    session.run("forget_configurations", **_parts(signed.gateway), version=signed.version)


def newest_configurations(session: Session) -> list[SignedVersion]:
    """Every gateway's newest version."""
    return [
        SignedVersion(
            f"{row['store_id']}/{row['gateway_id']}", row["version"], row["document"], row["signature"]
        )
        for row in session.rows("newest_configurations")
    ]


def configurations_of(session: Session, gateway: str) -> list[dict[str, Any]]:
    """A gateway's versions, the newest first, each with what the gateway said of it."""
    return [
        {
            "version": row["version"],
            "issued_at": row["issued_at"],
            "settings": msgspec.json.decode(row["document"])["settings"],
            "state": row["state"] or "issued",
            "reported_at": row["reported_at"],
        }
        for row in session.rows("configurations_of_gateway", **_parts(gateway), limit=VERSIONS_SHOWN)
    ]


def note_report(session: Session, gateway: str, at: int, heartbeat: Heartbeat) -> None:
    """Keeps what a heartbeat says about a configuration, where it is news; a bad end raises an alert.

    So does a card that takes nothing.
    """
    if not heartbeat.outbox_writable:
        _alert(session, at, "outbox not writable", gateway, "its card takes nothing; it keeps all in memory")
    version, state = heartbeat.config_version, heartbeat.config_state
    before = session.row("configuration_report", gateway=gateway)
    if before is None and not state:
        return
    if before is not None and (before["version"], before["state"]) == (version, state):
        return
    session.run("save_configuration_report", gateway=gateway, version=version, state=state, at=at)
    session.run("mark_configuration", **_parts(gateway), version=version, state=state, at=at)
    if is_alarming(state):
        _alert(session, at, "configuration not applied", gateway, f"version {version}: {state}")


def fleet(session: Session) -> list[dict[str, Any]]:
    """Every gateway with its certificate and its configuration, for people."""
    return [dict(row) for row in session.rows("fleet")]


def _alert(session: Session, at: int, kind: str, subject: str, detail: str) -> None:
    """Leaves word for a person, once in ten minutes for the very same."""
    alert = {"kind": kind, "subject": subject, "detail": detail}
    if session.row("same_alert_lately", **alert, since=at - ALERT_AGAIN_MS) is None:
        raise_alert(session, at, **alert)


def _parts(gateway: str) -> dict[str, str]:
    store_id, _, gateway_id = gateway.partition("/")
    return {"store_id": store_id, "gateway_id": gateway_id}


def _number(session: Session, query: str, gateway: str) -> int:
    row = session.row(query, **_parts(gateway))
    return int(row[0]) if row else 0
