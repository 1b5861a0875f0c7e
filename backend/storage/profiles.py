"""Profiles in the database: what the identity rules write, and what the rest of the backend asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from backend.profiles.model import Claim, Device, Edge, IdType, Stamp, Statement
from backend.profiles.rules import standing
from backend.storage.database import Row, Session
from sdk_bridge.wire.app_events import PushAddress

PROXIMITY = "proximity"
"""The purpose that a person must have agreed to before a sighting of their beacon is kept."""

_device = msgspec.msgpack.Decoder(Device)


class ProfileRows:
    """Satisfies ProfileStore inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def profile_of(self, id_type: IdType, identifier: str) -> str | None:
        return _first(self._session.row("profile_of_identifier", id_type=id_type, id=identifier))

    def identifier_of(self, profile_id: str) -> tuple[IdType, str] | None:
        row = self._session.row("identifier_of_profile", profile_id=profile_id)
        return (cast(IdType, row["id_type"]), row["id"]) if row else None

    def add_profile(self, profile_id: str, id_type: IdType, created_at: int) -> None:
        self._session.run("add_profile", profile_id=profile_id, id_type=id_type, created_at=created_at)

    def parent_of(self, profile_id: str) -> str | None:
        return _first(self._session.row("parent_of_profile", profile_id=profile_id))

    def set_parent(self, profile_id: str, parent: str | None, merged_at: int | None) -> None:
        self._session.run("set_profile_parent", profile_id=profile_id, parent=parent, merged_at=merged_at)

    def children(self, profile_id: str, id_type: IdType) -> int:
        row = self._session.row("count_merged_profiles", profile_id=profile_id, id_type=id_type)
        return int(row[0]) if row else 0

    def open_edge(self, edge: Edge) -> None:
        self._session.run(
            "open_identity_edge",
            id_type=edge.id_type,
            id=edge.id,
            profile_id=edge.profile_id,
            valid_from=edge.valid_from,
            cause=edge.cause,
            event_id=edge.event_id,
        )

    def close_edge(self, id_type: IdType, identifier: str, at: int) -> None:
        self._session.run("close_identity_edge", id_type=id_type, id=identifier, at=at)

    def claims(self, id_type: IdType, identifier: str) -> Sequence[Claim]:
        return [
            Claim(
                row["profile_id"],
                row["via"],
                row["first_at"],
                Stamp(row["last_at"], row["last_hash"]),
                row["undone_at"] is not None,
            )
            for row in self._session.rows("identity_claims_on", id_type=id_type, id=identifier)
        ]

    def add_claim(self, id_type: IdType, identifier: str, profile_id: str, via: str, stamp: Stamp) -> None:
        self._session.run(
            "add_identity_claim",
            id_type=id_type,
            id=identifier,
            profile_id=profile_id,
            via=via,
            at=stamp.occurred_at,
            hash=stamp.event_hash,
        )

    def drop_claims(self, id_type: IdType, identifier: str, via: str) -> None:
        self._session.run("drop_identity_claims", id_type=id_type, id=identifier, via=via)

    def undo_claims(self, id_type: IdType, identifier: str, profile_id: str, at: int) -> None:
        self._session.run(
            "undo_identity_claims", id_type=id_type, id=identifier, profile_id=profile_id, at=at
        )

    def add_review(
        self, at: int, id_type: IdType, identifier: str, pair: tuple[str, str], cause: str
    ) -> None:
        self._session.run(
            "add_merge_review",
            at=at,
            id_type=id_type,
            id=identifier,
            profile_id=pair[0],
            other_profile_id=pair[1],
            cause=cause,
        )

    def put_traits(self, profile_id: str, traits: Mapping[str, str], stamp: Stamp) -> None:
        rows = [
            {
                "profile_id": profile_id,
                "name": name,
                "value": value,
                "occurred_at": stamp.occurred_at,
                "event_hash": stamp.event_hash,
            }
            for name, value in traits.items()
        ]
        self._session.many("put_trait", rows)

    def put_consent(self, profile_id: str, purpose: str, granted: bool, stamp: Stamp) -> bool:
        known = self._session.row("consent_statement", profile_id=profile_id, purpose=purpose)
        if known is not None and stamp <= Stamp(known["occurred_at"], known["event_hash"]):
            return False
        self._session.run(
            "put_consent",
            profile_id=profile_id,
            purpose=purpose,
            granted=granted,
            occurred_at=stamp.occurred_at,
            event_hash=stamp.event_hash,
        )
        return known is None or bool(known["granted"]) != granted

    def has_consents(self, profile_id: str) -> bool:
        return self._session.row("any_consent_statement", profile_id=profile_id) is not None

    def carries_beacon(self, person_id: str) -> bool:
        return self._session.row("carries_beacon", profile_id=person_id) is not None

    def device(self, device_id: str) -> Device | None:
        row = self._session.row("device_registers", device_id=device_id)
        return _device.decode(row["registers"]) if row else None

    def put_device(self, device: Device, holder: str | None) -> None:
        self._session.run(
            "put_device",
            device_id=device.device_id,
            profile_id=holder,
            platform=device.platform.platform if device.platform else None,
            last_seen_at=device.last_seen_at,
            registers=msgspec.msgpack.encode(device),
        )

    def see_address(self, address: PushAddress, device_id: str, stamp: Stamp, seen_at: int) -> None:
        self._session.run(
            "see_push_address",
            kind=address.kind,
            value=address.value,
            device_id=device_id,
            at=stamp.occurred_at,
            hash=stamp.event_hash,
            seen_at=seen_at,
        )

    def addresses_on(self, device_id: str) -> Sequence[PushAddress]:
        rows = self._session.rows("push_addresses_on", device_id=device_id)
        return [PushAddress(row["kind"], row["value"]) for row in rows]

    def own_address(
        self, address: PushAddress, profile_id: str | None, proven: bool, platform: str | None
    ) -> None:
        self._session.run(
            "own_push_address",
            kind=address.kind,
            value=address.value,
            profile_id=profile_id,
            proven=proven,
            platform=platform,
        )


# What the rest of the backend asks ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReachableAddress:
    """A push address that is a person's now; `last_seen_at` in unix milliseconds."""

    kind: Literal["token", "fid"]
    value: str
    platform: str | None
    last_seen_at: int


def resolve(session: Session, id_type: str, identifier: str) -> str | None:
    """The person behind an identifier, merges followed. `profile_id` is an identifier too."""
    if id_type == "profile_id":
        return _person(session, identifier)
    found = _first(session.row("profile_of_identifier", id_type=id_type, id=identifier))
    return _person(session, found) if found is not None else None


def consented_beacons(session: Session) -> dict[str, str]:
    """Beacon key to person, for everybody who agreed to proximity; nobody else's beacon is ever looked at."""
    statements: dict[str, list[Statement]] = {}
    for row in session.rows("consent_statements_of_people_with_beacons", purpose=PROXIMITY):
        statements.setdefault(row["person_id"], []).append(_statement(row))
    agreed = {person for person, said in statements.items() if standing(said)}
    return {
        row["beacon"]: row["profile_id"]
        for row in session.rows("people_with_beacons")
        if row["profile_id"] in agreed
    }


def bearer_of(session: Session, beacon_key: str) -> str | None:
    """The person who carries a beacon, if they agreed to proximity."""
    person = resolve(session, "beacon", beacon_key)
    return person if person is not None and consent_of(session, person, PROXIMITY) else None


def beacons_of(session: Session, profile_id: str) -> list[str]:
    """The beacons that the person behind a profile carries, agreed or not."""
    rows = session.rows("identifiers_of_person", profile_id=_person(session, profile_id))
    return [row["id"] for row in rows if row["id_type"] == "beacon"]


def consent_of(session: Session, profile_id: str, purpose: str) -> bool:
    """Whether the person behind a profile agrees to a purpose; False if nothing was ever said."""
    return _consents(session, _person(session, profile_id)).get(purpose, False)


def push_addresses_of(session: Session, profile_id: str) -> list[ReachableAddress]:
    """Where pushes reach the person behind a profile, the address seen last first."""
    rows = session.rows("push_addresses_of_person", profile_id=_person(session, profile_id))
    return [ReachableAddress(row["kind"], row["value"], row["platform"], row["last_seen_at"]) for row in rows]


def traits_of(session: Session, profile_id: str) -> dict[str, Any]:
    """The person's traits: the identified side wins, then the newest."""
    best: dict[str, tuple[tuple[Any, ...], str]] = {}
    for row in session.rows("traits_of_person", profile_id=_person(session, profile_id)):
        rank = (row["is_root"], row["id_type"] == "user_id", row["occurred_at"], row["event_hash"])
        if row["name"] not in best or rank > best[row["name"]][0]:
            best[row["name"]] = (rank, row["value"])
    return {name: msgspec.json.decode(value) for name, (_, value) in sorted(best.items()) if value != "null"}


def profiles_of_person(session: Session, profile_id: str) -> list[str]:
    """Every profile of the person behind one: what caps and histories are counted over."""
    rows = session.rows("profiles_of_person", profile_id=_person(session, profile_id))
    return [row["profile_id"] for row in rows]


def profile_view(session: Session, id_type: str, identifier: str) -> dict[str, Any] | None:
    """Everything known of the person behind an identifier, as JSON; None for nobody."""
    person = resolve(session, id_type, identifier)
    if person is None:
        return None
    identifiers = session.rows("identifiers_of_person", profile_id=person)
    merged = [row for row in session.rows("profiles_of_person", profile_id=person) if row["merged_into"]]
    return {
        "profile_id": person,
        "identified": any(row["id_type"] == "user_id" for row in identifiers),
        "traits": traits_of(session, person),
        "consents": _consents(session, person),
        "devices": [dict(row) for row in session.rows("devices_of_person", profile_id=person)],
        "push_addresses": [
            {"kind": address.kind, "platform": address.platform, "last_seen_at": address.last_seen_at}
            for address in push_addresses_of(session, person)
        ],
        "identities": [
            {"type": row["id_type"], "id": row["id"], "since": row["valid_from"], "cause": row["cause"]}
            for row in identifiers
        ],
        "merged": [{"profile_id": row["profile_id"], "since": row["merged_at"]} for row in merged],
    }


def _person(session: Session, profile_id: str) -> str | None:
    return _first(session.row("person_of_profile", profile_id=profile_id))


def _consents(session: Session, person: str | None) -> dict[str, bool]:
    statements: dict[str, list[Statement]] = {}
    for row in session.rows("consent_statements_of", profile_id=person):
        statements.setdefault(row["purpose"], []).append(_statement(row))
    return {purpose: standing(said) for purpose, said in sorted(statements.items())}


def _statement(row: Row) -> Statement:
    return Statement(bool(row["granted"]), row["occurred_at"], row["id_type"] == "user_id", row["merged_at"])


def _first(row: Row | None) -> str | None:
    return cast("str | None", row[0]) if row is not None else None


def timeline(session: Session, profile_id: str, before: int, limit: int) -> list[dict[str, Any]]:
    """What the person did before a time (unix ms), newest first, across web, apps and servers."""
    rows = session.rows(
        "events_of_person", profile_id=_person(session, profile_id), before=before, limit=limit
    )
    return [
        {
            "event_id": row["event_id"],
            "kind": row["kind"],
            "name": row["name"],
            "source": row["source"],
            "occurred_at": row["occurred_at"],
            "body": _body(row),
        }
        for row in rows
    ]


def _body(row: Row) -> dict[str, Any]:
    """The event as it came; its properties lie beside it, where queries can read them."""
    body: dict[str, Any] = msgspec.msgpack.decode(row["body"])
    return body | {"properties": msgspec.json.decode(row["properties"])} if row["properties"] else body
