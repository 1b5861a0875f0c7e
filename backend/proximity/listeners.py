"""A store's gateways, and the fixed beacons that phones hear: names, zones, who is around a place. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from backend.proximity.filter import PHONE, Filter, Gain
from backend.proximity.floors import Corner, GridFloor, StarFloor
from backend.proximity.radio import FilterSettings

Position: TypeAlias = tuple[float, float]

_MOST_CORNERS: Final = 4_096  # windows of one floor whose surroundings are remembered


class Listener(NamedTuple):
    """A corner of a floor: a gateway (`store/gateway`), or the fixed beacon of a zone, which phones hear.

    Tracks name it by its `source`; beliefs name it shortly, for each holds it.
    """

    source: str
    short: str
    zone_id: str
    phone: bool = False


class Listeners:
    """The corners of one store with the filter that knows where they hang.

    Gateways and what phones hear never mix: a phone cannot hear a gateway. A store of which any corner's
    place (by its short name) is missing is taken as one whose corners stand alike.
    """

    def __init__(
        self,
        corners: Sequence[Listener],
        positions: Mapping[str, Position],
        gains: Mapping[str, Gain],
        settings: FilterSettings,
    ) -> None:
        self.by_source = {corner.source: corner for corner in corners}
        self.zone_of = {corner.short: corner.zone_id for corner in corners}
        self._gateways = {corner.short: corner for corner in corners if not corner.phone}
        self.gateways = tuple(gateway.source for gateway in self._gateways.values())
        floor = (
            GridFloor(positions, settings)
            if positions.keys() == self.zone_of.keys()
            else StarFloor(list(self.zone_of), settings)
        )
        self.filter = Filter(floor, settings, gains)
        self._around: dict[Corner, tuple[Listener, ...]] = {}

    def around(self, corner: Corner) -> tuple[Listener, ...]:
        """The gateways that a window shows, by name."""
        if corner not in self._around:
            if len(self._around) >= _MOST_CORNERS:
                self._around.clear()
            inside = sorted(self.filter.floor.view(corner).inside)
            self._around[corner] = tuple(self._gateways[short] for short in inside if short in self._gateways)
        return self._around[corner]


def of_gateways(
    store_id: str,
    zones: Mapping[str, str],
    positions: Mapping[str, Position],
    gains: Mapping[str, Gain],
    settings: FilterSettings,
) -> Listeners:
    """The gateways of a store, given with their zones; all by `store/gateway`."""
    short = {gateway: gateway[len(store_id) + 1 :] for gateway in zones}
    return Listeners(
        [Listener(gateway, short[gateway], zone_id) for gateway, zone_id in zones.items()],
        {short[gateway]: positions[gateway] for gateway in zones if gateway in positions},
        {short[gateway]: gains[gateway] for gateway in zones if gateway in gains},
        settings,
    )


def of_beacons(
    beacons: Mapping[str, str],
    zones: Mapping[str, str],
    positions: Mapping[str, Position],
    settings: FilterSettings,
) -> Listeners:
    """The fixed beacons of a store, with their zones, as phones hear them; `zones` are the gateways'.

    A zone's beacon hangs beside its first gateway, if it has one; where two hang nobody said.
    """
    beside = {zones[gateway]: positions.get(gateway) for gateway in sorted(zones, reverse=True)}
    alone = {zone_id for zone_id, number in Counter(beacons.values()).items() if number == 1}
    places = {key: beside.get(zone_id) for key, zone_id in beacons.items() if zone_id in alone}
    return Listeners(
        [Listener(PHONE + key, key, zone_id, phone=True) for key, zone_id in beacons.items()],
        {key: place for key, place in places.items() if place is not None},
        {},
        settings,
    )
