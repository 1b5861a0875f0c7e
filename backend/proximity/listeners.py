"""A store's gateways, and phones that hear beside them: names, zones, who is around a place. Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from backend.proximity.filter import PHONE, Filter, Gain
from backend.proximity.floors import Corner, GridFloor, StarFloor
from backend.proximity.radio import FilterSettings

_MOST_CORNERS: Final = 4_096  # windows of one floor whose surroundings are remembered


class Listener(NamedTuple):
    """Whoever can hear a beacon: `gateway` is `store/gateway`; beliefs name it shortly, for each holds it."""

    gateway: str
    short: str
    zone_id: str
    phone: bool


class Listeners:
    """The gateways of one store with the filter that knows where they hang.

    A store of which any gateway's place is missing is taken as one whose gateways stand alike.
    """

    def __init__(
        self,
        store_id: str,
        zones: Mapping[str, str],
        positions: Mapping[str, tuple[float, float]],
        gains: Mapping[str, Gain],
        settings: FilterSettings,
    ) -> None:
        self.by_source: dict[str, Listener] = {}
        self.zone_of: dict[str, str] = {}
        for gateway, zone_id in zones.items():
            short = gateway[len(store_id) + 1 :]
            self.zone_of[short] = zone_id
            self.by_source[gateway] = Listener(gateway, short, zone_id, phone=False)
            self.by_source[PHONE + gateway] = Listener(gateway, short, zone_id, phone=True)
        self._gateway_of = {gateway[len(store_id) + 1 :]: gateway for gateway in zones}
        placed = {short: positions[name] for short, name in self._gateway_of.items() if name in positions}
        known = {short: gains[name] for short, name in self._gateway_of.items() if name in gains}
        floor = (
            GridFloor(placed, settings)
            if len(placed) == len(zones)
            else StarFloor(list(self.zone_of), settings)
        )
        self.filter = Filter(floor, settings, known)
        self._around: dict[Corner, tuple[Listener, ...]] = {}

    def around(self, corner: Corner) -> tuple[Listener, ...]:
        """The gateways that a window shows, by name."""
        if corner not in self._around:
            if len(self._around) >= _MOST_CORNERS:
                self._around.clear()
            inside = sorted(self.filter.floor.view(corner).inside)
            self._around[corner] = tuple(self.by_source[self._gateway_of[short]] for short in inside)
        return self._around[corner]
