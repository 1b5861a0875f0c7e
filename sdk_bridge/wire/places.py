"""Where phones are told to look: fences and beacon regions near them, as the bridge answers a location."""

from typing import TypeAlias

from msgspec import Struct

MAX_REGIONS = 20  # what iOS lets an app watch at a time


class FenceRegion(Struct, frozen=True, tag_field="kind", tag="fence"):
    """A circle that holds the fence; degrees (WGS 84) and metres. Phones can watch nothing but circles."""

    fence_id: str
    name: str
    latitude: float
    longitude: float
    radius_m: float


class BeaconRegion(Struct, frozen=True, tag_field="kind", tag="beacons"):
    """Beacons whose keys begin so: `ibeacon:<uuid>`, also with `:<major>`; `altbeacon:<32 hex>`;
    `eddystone-uid:<namespace>`. `store_id` where all of them stand in one store."""

    key: str
    store_id: str | None = None


Region: TypeAlias = FenceRegion | BeaconRegion
