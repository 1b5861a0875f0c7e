"""Profiles in the database: what the identity rules write, and what the rest of the backend asks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from backend.profiles.model import IDENTIFIED, Statement
from backend.profiles.rules import standing
from backend.storage.database import Row, Session
from backend.storage.segment_facts import as_json
from sdk_bridge.wire.topics import partition_of

PROXIMITY = "proximity"
"""The purpose that a person must have agreed to before a sighting of their beacon is kept."""

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
    agreed = _agreeing(session.rows("consent_statements_of_people_with_beacons", purpose=PROXIMITY))
    return {
        row["beacon"]: row["profile_id"]
        for row in session.rows("people_with_beacons")
        if row["profile_id"] in agreed
    }


def bearer_of(session: Session, beacon_key: str) -> str | None:
    """The person who carries a beacon, if they agreed to proximity."""
    person = resolve(session, "beacon", beacon_key)
    return person if person is not None and consent_of(session, person, PROXIMITY) else None


def beacons_of_people(session: Session, people: Iterable[str]) -> dict[str, list[str]]:
    """The beacons that people carry, given by their roots; nothing of those who carry none."""
    found: dict[str, list[str]] = {}
    for person_id, beacon in session.rows("beacons_of_people", people=as_json(people)):
        found.setdefault(person_id, []).append(beacon)
    return found


def consent_of(session: Session, profile_id: str, purpose: str) -> bool:
    """Whether the person behind a profile agrees to a purpose; False if nothing was ever said."""
    return _consents(session, _person(session, profile_id)).get(purpose, False)


def agreeing(session: Session, people: Iterable[str], purpose: str) -> set[str]:
    """Those of some people, given by their roots, who agree to a purpose."""
    return _agreeing(session.rows("consent_statements_of_people", people=as_json(people), purpose=purpose))


def standing_consents(session: Session, profile_id: str) -> dict[str, bool]:
    """What the person behind a profile agrees to, by purpose, as far as anything was ever said."""
    return _consents(session, _person(session, profile_id))


def push_addresses_of(session: Session, profile_id: str) -> list[ReachableAddress]:
    """Where pushes reach the person behind a profile, the address seen last first."""
    rows = session.rows("push_addresses_of_person", profile_id=_person(session, profile_id))
    return [ReachableAddress(row["kind"], row["value"], row["platform"], row["last_seen_at"]) for row in rows]


def traits_of(session: Session, profile_id: str) -> dict[str, Any]:
    """The person's traits: the identified side wins, then the newest."""
    best: dict[str, tuple[tuple[Any, ...], str]] = {}
    for row in session.rows("traits_of_person", profile_id=_person(session, profile_id)):
        rank = (row["id_type"] in IDENTIFIED, row["occurred_at"], row["event_hash"])
        if row["name"] not in best or rank > best[row["name"]][0]:
            best[row["name"]] = (rank, row["value"])
    return {name: msgspec.json.decode(value) for name, (_, value) in sorted(best.items()) if value != "null"}


def device_clock_of(session: Session, profile_id: str) -> str | None:
    """The time zone that the person's own devices were in last, by its IANA name."""
    return _first(session.row("device_clock_of_person", profile_id=_person(session, profile_id)))


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
        "identified": any(row["id_type"] in IDENTIFIED for row in identifiers),
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


def _agreeing(rows: Iterable[Row]) -> set[str]:
    """Who agrees, by what each of their profiles last said of one purpose."""
    statements: dict[str, list[Statement]] = {}
    for row in rows:
        statements.setdefault(row["person_id"], []).append(_statement(row))
    return {person for person, said in statements.items() if standing(said)}


def _statement(row: Row) -> Statement:
    return Statement(bool(row["granted"]), row["occurred_at"], row["id_type"] in IDENTIFIED, row["merged_at"])


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


_NAMES_A_PARTITION = frozenset({"user_id", "anonymous_id", "device_id", "email", "loyalty_id", "phone"})


def partitions_of_person(session: Session, profile_id: str) -> frozenset[int]:
    """Where in the journal a person's events come in; empty for nobody, whose events may be anywhere."""
    root = resolve(session, "profile_id", profile_id) if profile_id else None
    rows = [] if root is None else session.rows("identifiers_of_person", profile_id=root)
    return frozenset(partition_of(row["id"]) for row in rows if row["id_type"] in _NAMES_A_PARTITION)
