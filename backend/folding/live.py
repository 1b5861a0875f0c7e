"""What the fold keeps in memory; all of it can be read afresh from the database."""

from dataclasses import dataclass, field
from typing import Any

from backend.listening import Gateway, Listening
from backend.proximity.zones import Place, ZoneEngine, ZoneSettings
from backend.storage import campaigns as campaign_rows
from backend.storage import floor, profiles, registry
from backend.storage.campaigns import DwellTimer, VersionedCampaign
from backend.storage.database import Session
from backend.storage.floor import Numbers


@dataclass(slots=True)
class LiveState:
    """Tracks, timers, who owns which tag; it belongs to the thread that folds."""

    engine: ZoneEngine
    gateways: dict[str, Gateway]
    places: frozenset[str]
    people: dict[str, str]
    campaigns: dict[str, VersionedCampaign]
    timers: dict[str, dict[str, DwellTimer]]
    """By subject, then by campaign: whose stay is waited for."""
    stores: dict[str, dict[str, Any]]
    zone_names: dict[Place, str]
    numbers: Numbers = field(default_factory=Numbers)
    expired_at: int = 0

    @classmethod
    def read(cls, session: Session, settings: ZoneSettings) -> "LiveState":
        known = registry.gateways(session)
        zone_of = {name: Place(gateway.store_id, gateway.zone_id) for name, gateway in known.items()}
        positions = {name: gateway.position for name, gateway in known.items() if gateway.position}
        gains = floor.gateway_gains(session, zone_of, positions)
        engine = ZoneEngine(zone_of, settings, positions=positions, gains=gains)
        floor.restore_tracks(session, engine)
        timers: dict[str, dict[str, DwellTimer]] = {}
        for timer in campaign_rows.timers(session):
            timers.setdefault(timer.beacon_key, {})[timer.campaign_id] = timer
        return cls(
            engine=engine,
            gateways=known,
            places=registry.place_beacons(session),
            people=profiles.consented_beacons(session),
            campaigns=campaign_rows.campaigns(session),
            timers=timers,
            stores={row["store_id"]: dict(row) for row in session.rows("stores")},
            zone_names={Place(row["store_id"], row["zone_id"]): row["name"] for row in session.rows("zones")},
        )

    def may_keep(self, beacon_key: str) -> bool:
        return beacon_key in self.people or beacon_key in self.places

    @property
    def listening(self) -> Listening:
        return Listening(dict(self.gateways), self.places, dict(self.people))
