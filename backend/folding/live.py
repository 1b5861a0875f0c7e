"""What the fold keeps in memory; all of it can be read afresh from the database."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.campaigns.triggers import begins_with
from backend.catalog.shelves import Shelves
from backend.folding.audiences import Audiences
from backend.listening import Gateway, Listening, unless_erased
from backend.occurrences import OccurrenceKind
from backend.profiles.erasure import Tombstones
from backend.proximity.fence_tracks import FenceTracks
from backend.proximity.places import Place
from backend.proximity.visits import Visits
from backend.proximity.zones import ZoneEngine, ZoneSettings
from backend.storage import campaigns as campaign_rows
from backend.storage import catalog, erasure, fences, floor, profiles, registry
from backend.storage.behaviour import zone_categories
from backend.storage.campaigns import VersionedCampaign, Waiting
from backend.storage.database import Session
from backend.storage.fences import StampedFences
from backend.storage.floor import Numbers, Present
from backend.storage.ownership import EVERYTHING, Holding
from backend.storage.profile_rows import ProfileRows
from sdk_bridge.wire.topics import partition_of

PHONE_TRACK = "phone:"  # before a device's id; no beacon's key begins like this


@dataclass(slots=True)
class LiveState:
    """Tracks, timers, who owns which tag; it belongs to the thread that folds."""

    engine: ZoneEngine
    gateways: dict[str, Gateway]
    places: frozenset[str]
    people: dict[str, str]
    campaigns: dict[str, VersionedCampaign]
    campaigns_by_kind: dict[OccurrenceKind, list[str]]
    """Which campaigns want to see an occurrence."""
    stays: dict[str, list[Waiting]]
    """By subject: whose stay is waited for."""
    stores: dict[str, dict[str, Any]]
    zone_names: dict[Place, str]
    audiences: Audiences
    phones: dict[str, str] = field(default_factory=dict)
    """Phones that heard a zone's beacon lately, by the name of their track; whose they are."""
    visits: Visits = field(default_factory=Visits)
    zone_categories: dict[Place, list[str]] = field(default_factory=dict)
    shelves: Shelves = field(default_factory=Shelves)
    waits_looked_at: int = 0
    fences: StampedFences = field(default_factory=StampedFences)
    fence_tracks: FenceTracks = field(default_factory=FenceTracks)
    fence_owners: dict[str, str] = field(default_factory=dict)
    fences_expired_at: int = 0
    numbers: Numbers = field(default_factory=Numbers)
    tombstones: Tombstones = field(default_factory=Tombstones)
    last_erasure: str = ""
    """The newest receipt when this was read: whoever was erased since is still known here."""
    expired_at: int = 0
    absent_forgotten_at: int = 0
    weighed_at: int = 0
    identities: ProfileRows | None = None
    """What is known of identifiers from the last transactions."""
    holding: Holding = EVERYTHING
    """Whose partitions' people these are."""
    partitions: dict[str, int] = field(default_factory=dict)
    """By subject, the partition whose events tell of it."""
    strangers: set[str] = field(default_factory=set)
    """Subjects whose owner withdrew or has them no more, as somebody else saw to (another replica, an
    operator): they leave with the next transaction."""

    @classmethod
    def read(
        cls,
        session: Session,
        settings: ZoneSettings,
        tombstones: Tombstones | None = None,
        before: "LiveState | None" = None,
        holding: Holding = EVERYTHING,
    ) -> "LiveState":
        """All of it that is ours; of what was known before, only fences that nobody changed are kept."""
        tombstones = tombstones or Tombstones()
        erasure.catch_up(session, tombstones)
        known = registry.gateways(session)
        zone_of = {name: Place(gateway.store_id, gateway.zone_id) for name, gateway in known.items()}
        positions = {name: gateway.position for name, gateway in known.items() if gateway.position}
        gains = floor.gateway_gains(session, zone_of, positions)
        beacons = registry.zone_beacons(session)
        engine = ZoneEngine(zone_of, settings, positions=positions, gains=gains, zone_beacons=beacons)
        at = Present()
        floor.restore_tracks(session, engine, at, holding)
        campaigns = campaign_rows.campaigns(session)
        by_kind: dict[OccurrenceKind, list[str]] = {}
        for campaign_id, chosen in campaigns.items():
            by_kind.setdefault(begins_with(chosen.campaign.trigger), []).append(campaign_id)
        fence_tracks, fence_owners = fences.restore_tracks(session, at, holding)
        visits = floor.open_visits(session, at, holding)
        present = engine.tracks.keys() | visits.open.keys() | fence_tracks.tracks.keys()
        stays = campaign_rows.stays(session, present, at.elsewhere)
        people = profiles.consented_beacons(session)
        return cls(
            engine=engine,
            gateways={key: one for key, one in known.items() if holding.has(partition_of(one.store_id))},
            places=registry.place_beacons(session),
            people=people,
            campaigns=campaigns,
            campaigns_by_kind=by_kind,
            stays=stays,
            stores={row["store_id"]: dict(row) for row in session.rows("stores")},
            phones={track: owner for track, owner in at.owners.items() if track.startswith(PHONE_TRACK)},
            visits=visits,
            zone_categories={Place(*zone): held for zone, held in zone_categories(session).items()},
            shelves=catalog.load_shelves(session),
            fences=StampedFences.read(session, before.fences if before else None),
            fence_tracks=fence_tracks,
            fence_owners=fence_owners,
            zone_names={Place(row["store_id"], row["zone_id"]): row["name"] for row in session.rows("zones")},
            audiences=Audiences.read(session),
            tombstones=tombstones,
            last_erasure=erasure.newest_receipt(session),
            holding=holding,
            partitions=at.partitions,
            strangers=_strangers(session, engine.tracks.keys() | visits.open.keys(), people, at.owners),
        )

    def knows(self, subject: str) -> bool:
        """Whether a subject is somewhere, as far as we know."""
        return (
            subject in self.engine.tracks
            or subject in self.visits.open
            or subject in self.fence_tracks.tracks
        )

    def partition_for(self, subject: str, store_id: str) -> int:
        """The partition whose events tell of a subject: a phone's are its person's, a tag's its store's."""
        if subject.startswith(PHONE_TRACK):
            return self.partitions.get(subject, partition_of(store_id))
        return partition_of(store_id)

    def lose(self, subject: str) -> None:
        """Another replica knows the subject now."""
        self.engine.tracks.pop(subject, None)
        self.visits.open.pop(subject, None)
        self.fence_tracks.lose(subject)
        for known in (self.phones, self.fence_owners, self.stays, self.partitions):
            known.pop(subject, None)

    def forget_absent(self) -> None:
        """Forgets whose the phones are that are nowhere any more; one that comes back says it again."""
        for known in (self.phones, self.partitions):
            for subject in [subject for subject in known if not self.knows(subject)]:
                del known[subject]

    def owner_of(self, subject: str) -> str | None:
        """The person behind a track, if they agreed to be seen."""
        return self.people.get(subject) or self.phones.get(subject)

    def may_keep(self, beacon_key: str) -> bool:
        return beacon_key in self.people or beacon_key in self.places

    def may_keep_since(self, begins: int | None) -> Callable[[str], bool]:
        """What may be kept of a batch that begins then; see Listening."""
        return unless_erased(self.may_keep, self.tombstones, begins)

    @property
    def listening(self) -> Listening:
        return Listening(
            dict(self.gateways), self.places, dict(self.people), self.tombstones, self.holding.partitions
        )


def _strangers(
    session: Session, subjects: Iterable[str], people: Mapping[str, str], owners: Mapping[str, str]
) -> set[str]:
    """Tags that nobody who agreed carries, or somebody else than when they were last heard."""
    return {
        one
        for one in subjects
        if not one.startswith(PHONE_TRACK) and _is_strange(session, people.get(one), owners.get(one))
    }


def _is_strange(session: Session, bearer: str | None, owner: str | None) -> bool:
    if bearer is None:
        return True
    if owner is None or owner == bearer:
        return False
    return profiles.resolve(session, "profile_id", owner) != bearer
