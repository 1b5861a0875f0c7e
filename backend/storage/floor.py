"""The shop floor in the database: sightings, presences, visits, health; inside the fold's transaction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from backend.proximity.calibration import Level, calibrate
from backend.proximity.filter import Gain
from backend.proximity.places import Place
from backend.proximity.visits import StoreTransition, Visit, Visits
from backend.proximity.zones import Track, Transition, ZoneEngine
from backend.storage.entries import Cursor
from backend.storage.ownership import EVERYTHING, Holding
from backend.storage.session import Row, Rows, Session, StorageError
from sdk_bridge.wire.messages import BeaconHealth, Heartbeat
from sdk_bridge.wire.topics import partition_of


class Sighting(NamedTuple):
    """One second of one beacon at one gateway; `second` unix seconds, `loss` and `best` −dBm.

    There are so many that the fold makes plain tuples of them, in this order.
    """

    beacon_key: str
    gateway: str
    second: int
    adverts: int
    loss: int
    best: int


Sightings: TypeAlias = Iterable[tuple[str, str, int, int, int, int]]
SIGHTING: Final = ("second", "gateway_number", "key_number", "adverts", "loss", "best")
PRESENCE: Final = (
    "beacon_key",
    "profile_id",
    "store_id",
    "zone_id",
    "entered_at",
    "seen_at",
    "engine",
    "confidence",
    "partition",
)
"""In the order in which their statements ask for them: see Rows."""


@dataclass(slots=True)
class Numbers:
    """The small numbers of beacons and gateways, looked up once. Discard with the fold's live state."""

    keys: dict[str, int] = field(default_factory=dict)
    gateways: dict[str, int] = field(default_factory=dict)

    def key(self, session: Session, beacon_key: str) -> int:
        if beacon_key not in self.keys:
            session.run("number_key", beacon_key=beacon_key)
            self.keys[beacon_key] = _one(session, "key_number", beacon_key=beacon_key)
        return self.keys[beacon_key]

    def gateway(self, session: Session, gateway: str) -> int:
        if gateway not in self.gateways:
            session.run("number_gateway", gateway=gateway)
            self.gateways[gateway] = _one(session, "gateway_number", gateway=gateway)
        return self.gateways[gateway]


class FoldMoved(StorageError):
    """Somebody else has folded meanwhile, or a commit took place that seemed lost: read everything afresh."""


def position(session: Session) -> Cursor:
    """How much of the journal the state holds."""
    return Cursor.of(session.rows("fold_position"))


def move_to(session: Session, before: Cursor, reached: Cursor, holding: Holding = EVERYTHING) -> None:
    """Says that everything up to a cursor is folded.

    Raises FoldMoved if the state was not at `before`, or a partition got another owner meanwhile.
    """
    moves = [{**move, "epoch": holding.epoch_of(move["line"])} for move in reached.moves(before)]
    if not all(session.changed("move_fold", moves)):
        raise FoldMoved("the fold is not where this process left it")


def add_sightings(session: Session, numbers: Numbers, sightings: Sightings) -> None:
    """Keeps what was heard, second by second."""
    session.many("add_sighting", Rows(SIGHTING, _rows(session, numbers, sightings)), together=True)


def add_sightings_without_time(
    session: Session, numbers: Numbers, boot_id: str, received_at: int, sightings: Sightings
) -> None:
    """Keeps what was heard in a boot whose clock was never set; `second` counts from that boot."""
    rows = [(*row, boot_id, received_at) for row in _rows(session, numbers, sightings)]
    session.many("add_sighting_without_time", Rows((*SIGHTING, "boot_id", "received_at"), rows))


def count_forgotten(session: Session, gateway: str, adverts: int) -> None:
    """Adverts of someone who withdrew while these were on their way; counted, not kept."""
    session.run("count_forgotten_late", gateway=gateway, adverts=adverts)


def apply_transition(session: Session, transition: Transition, profile_id: str | None) -> None:
    """Opens or closes a visit to a zone."""
    place = {
        "beacon_key": transition.beacon_key,
        "store_id": transition.place.store_id,
        "zone_id": transition.place.zone_id,
        "entered_at": transition.entered_at,
    }
    if transition.kind == "entered":
        theirs = _bearer(session, transition.beacon_key, profile_id)
        session.run("begin_zone_visit", profile_id=theirs, confidence=transition.confidence, **place)
    else:
        session.run("end_zone_visit", left_at=transition.at, **place)


def _bearer(session: Session, subject: str, person_id: str | None) -> str | None:
    """The very profile that a beacon belongs to, not the person it is merged into: undoing the merge then
    takes its visits along.
    """
    if person_id is None:
        return None
    row = session.row("profile_of_identifier", id_type="beacon", id=subject)
    return person_id if row is None else str(row["profile_id"])


def apply_store_transition(
    session: Session, transition: StoreTransition, profile_id: str | None, partition: int
) -> None:
    """Opens, interrupts or closes a visit to a store, which events of that partition tell of."""
    visit = transition.visit
    if transition.kind == "entered":
        session.run(
            "begin_visit",
            subject=visit.subject,
            profile_id=_bearer(session, visit.subject, profile_id),
            store_id=visit.store_id,
            entered_at=visit.entered_at,
            partition=partition,
        )
    elif transition.kind == "left":
        session.run("end_visit", subject=visit.subject, left_at=transition.at)
    else:
        session.run("pause_visit", subject=visit.subject, idle_since=visit.idle_since)


@dataclass(slots=True)
class Present:
    """Where subjects are known from: whose each is, the partition of each; and who is known elsewhere."""

    owners: dict[str, str] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)

    def admits(self, subject: str, partition: int, holding: Holding) -> bool:
        """Whether a subject is known from a partition of ours; notes which."""
        if not holding.has(partition):
            self.elsewhere.add(subject)
            return False
        self.partitions[subject] = partition
        return True


def partition_of_row(row: Row) -> int:
    """The partition from whose events a presence or a visit is known."""
    return partition_of(row["store_id"]) if row["partition"] is None else int(row["partition"])


def visit_of(row: Row, holding: Holding) -> Visit:
    """A row of an open visit. While it was only a row nobody listened: whoever was in no zone may be back.

    Not so where another replica listens to the store, and the subject was heard elsewhere since.
    """
    lost_in = row["last_zone"] if holding.has(partition_of(row["store_id"])) else None
    return Visit(row["subject"], row["store_id"], row["entered_at"], row["idle_since"], lost_in)


def open_visits(session: Session, present: Present, holding: Holding) -> Visits:
    """Everybody who is in a store, of our partitions; between two zones only the visit knows who it is."""
    found: dict[str, Visit] = {}
    for row in session.rows("open_visits"):
        if present.admits(row["subject"], partition_of_row(row), holding):
            found[row["subject"]] = visit_of(row, holding)
            if row["profile_id"] is not None:
                present.owners.setdefault(row["subject"], row["profile_id"])
    return Visits(found)


def save_tracks(
    session: Session, engine: ZoneEngine, people: Iterable[tuple[str, str | None, int | None]]
) -> None:
    """Stores the tracks that changed, given as (beacon key, its owner's profile, partition)."""
    saved, ended = [], []
    for beacon_key, profile_id, partition in people:
        track = engine.tracks.get(beacon_key)
        if track is None:
            ended.append({"beacon_key": beacon_key})
        else:
            saved.append(_presence(engine, beacon_key, track, profile_id, partition))
    session.many("end_presence", ended)
    session.many("save_presence", Rows(PRESENCE, saved), together=True)


def restore_tracks(session: Session, engine: ZoneEngine, present: Present, holding: Holding) -> None:
    """Puts every stored track of our partitions back into the engine."""
    for row in session.rows("presences"):
        subject = row["beacon_key"]
        if not present.admits(subject, partition_of_row(row), holding):
            continue
        engine.restore(subject, row["engine"])
        if row["profile_id"] is not None:
            present.owners[subject] = row["profile_id"]


def gateway_gains(
    session: Session, zone_of: Mapping[str, Place], positions: Mapping[str, tuple[float, float]]
) -> dict[str, Gain]:
    """How well each gateway hears, by what it heard lately of its store's fixed beacons."""
    beside: dict[Place, str] = {}
    for gateway in sorted(zone_of, reverse=True):
        beside[zone_of[gateway]] = gateway
    stores: dict[str, list[Level]] = {}
    for row in session.rows("fixed_beacon_levels"):
        place, heard_by = Place(row["store_id"], row["zone_id"]), zone_of.get(row["gateway"])
        if place in beside and heard_by is not None and heard_by.store_id == place.store_id:
            level = Level(row["beacon_key"], beside[place], row["gateway"], -row["loss"], row["seconds"])
            stores.setdefault(place.store_id, []).append(level)
    gains: dict[str, Gain] = {}
    for levels in stores.values():
        gains |= calibrate(levels, positions)
    return gains


def save_heartbeat(session: Session, gateway: str, heard_at: int, heartbeat: Heartbeat) -> None:
    """Keeps a gateway's newest word about itself."""
    body = msgspec.json.encode(msgspec.structs.asdict(heartbeat))
    session.run("save_gateway_health", gateway=gateway, heard_at=heard_at, body=body)


def save_beacon_health(
    session: Session, beacon_key: str, gateway: str, at: int, health: BeaconHealth
) -> None:
    """Keeps a beacon's newest telemetry."""
    session.run(
        "save_beacon_health",
        beacon_key=beacon_key,
        at=at,
        gateway=gateway,
        battery_mv=health.battery_mv,
        temperature_c=health.temperature_c,
        adverts=health.adverts,
        uptime_s=health.uptime_s,
    )


def raise_alert(session: Session, at: int, kind: str, subject: str, detail: str) -> None:
    """Leaves word for a person."""
    session.run("raise_alert", at=at, kind=kind, subject=subject, detail=detail)


def live_floor(session: Session, store_id: str | None, since: int, now: int) -> dict[str, Any]:
    """Who is where, zone by zone; profiles by id, never by name. For the live page."""
    return {
        "at": now,
        "zones": [dict(row) for row in session.rows("floor_zones", since=since)],
        "people": [dict(row) for row in session.rows("floor_people", store_id=store_id)],
        "pushes": [dict(row) for row in session.rows("newest_pushes", limit=20)],
        "gateways": [
            {
                "gateway": row["gateway"],
                "heard_ago_ms": now - row["heard_at"],
                "report": msgspec.json.decode(row["body"]),
            }
            for row in session.rows("gateway_health")
        ],
        "alerts": [dict(row) for row in session.rows("newest_alerts", limit=10)],
    }


def _presence(
    engine: ZoneEngine, beacon_key: str, track: Track, profile_id: str | None, partition: int | None
) -> tuple[Any, ...]:
    return (
        beacon_key,
        profile_id,
        track.store_id,
        track.zone_id,
        track.entered_at,
        track.seen_at,
        engine.state_of(beacon_key),
        track.confidence,
        partition,
    )


def _rows(
    session: Session, numbers: Numbers, sightings: Sightings
) -> list[tuple[int, int, int, int, int, int]]:
    """One for every reading there is, so the numbers that are known are taken without a call."""
    keys, gateways = numbers.keys, numbers.gateways
    return [
        (
            second,
            gateways.get(gateway) or numbers.gateway(session, gateway),
            keys.get(beacon_key) or numbers.key(session, beacon_key),
            adverts,
            loss,
            best,
        )
        for beacon_key, gateway, second, adverts, loss, best in sightings
    ]


def _one(session: Session, query: str, **values: Any) -> int:
    row = session.row(query, **values)
    if row is None:
        raise LookupError(f"{query} found nothing for {values}")
    return int(row[0])
