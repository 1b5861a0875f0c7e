"""Places by name: whoever only sets shops up needs nothing of what reckons with them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A zone of a store."""

    store_id: str
    zone_id: str
