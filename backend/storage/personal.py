"""Which tables name people: the one list that erasure empties and export reads.

A table is found by a profile, an identifier, a device, a push address, a beacon's key, or a subject (a
beacon's key, or phone:<device>). `erase` is a named query that takes one of them away and may be repeated;
where `exported`, the query `export_<table>` gives the rows of a profile out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

By: TypeAlias = Literal["profile", "identifier", "device", "address", "beacon", "subject"]
"""What a row is found by. Queries get `:profile_id` and `:hidden` (what takes its place); `:id_type`, `:id`;
`:device_id`; `:kind`, `:value`; `:beacon_key` and `:hidden`; `:subject`. All get `:limit` and `:at`."""


@dataclass(frozen=True, slots=True)
class Personal:
    """A table that names people in `columns`, and the query that empties it of one of them."""

    table: str
    by: By
    erase: str
    columns: tuple[str, ...]
    exported: bool = False


def _row(table: str, by: By, erase: str, columns: str, *, exported: bool = False) -> Personal:
    return Personal(table, by, erase, tuple(columns.split()), exported)


AT_ONCE: Final = (
    _row("segment_timers", "profile", "erase_segment_timers", "profile_id"),
    _row("segment_members", "profile", "erase_segment_members", "profile_id", exported=True),
    _row("campaign_waits", "profile", "erase_waits_of_profile", "profile_id", exported=True),
    _row("campaign_waits", "subject", "erase_waits_of_subject", "subject"),
    _row("pushes", "profile", "stop_pushes", "profile_id"),
    _row("presences", "profile", "erase_presence_of_profile", "profile_id engine", exported=True),
    _row("presences", "subject", "erase_presence_of_subject", "beacon_key"),
    _row("fence_presences", "profile", "erase_fence_presences_of_profile", "profile_id", exported=True),
    _row("fence_presences", "subject", "erase_fence_presences_of_subject", "subject"),
    _row("handovers", "subject", "erase_handovers", "subject"),
    _row("link_redemptions", "device", "erase_links_of_device", "device_id"),
    _row("link_redemptions", "identifier", "erase_links_of_visitor", "anonymous_id nonce"),
    _row("push_addresses", "address", "erase_push_address", "value device_id"),
    _row("push_addresses", "profile", "release_push_addresses", "profile_id", exported=True),
    _row("devices", "device", "erase_device", "device_id registers"),
    _row("devices", "profile", "release_devices", "profile_id", exported=True),
    _row("consents", "profile", "erase_consents", "profile_id", exported=True),
    _row("traits", "profile", "erase_traits", "profile_id value", exported=True),
    _row("device_clocks", "profile", "erase_device_clocks", "profile_id timezone", exported=True),
    _row("merge_reviews", "identifier", "erase_reviews_on_identifier", "id"),
    _row(
        "merge_reviews", "profile", "erase_reviews_of_profile", "profile_id other_profile_id", exported=True
    ),
    _row("identity_claims", "identifier", "erase_claims_on_identifier", "id via"),
    _row("identity_claims", "profile", "keep_shared_apart", "profile_id"),
    _row("identity_claims", "profile", "erase_claims_of_profile", "profile_id", exported=True),
    _row("identity_edges", "profile", "erase_identity_edges", "id profile_id", exported=True),
    _row("beacon_health", "beacon", "erase_beacon_health", "beacon_key"),
    _row("beacons", "beacon", "erase_tag", "beacon_key"),
    _row("eid_beacons", "beacon", "erase_rotating_tag", "beacon_key"),
    _row("heard_keys", "beacon", "hide_heard_key", "beacon_key key_number"),
    _row("profiles", "profile", "erase_profile", "profile_id id merged_into", exported=True),
)
"""Emptied in the first transaction, in this order: whatever makes somebody known, reached or seen."""

HISTORY: Final = (
    _row("order_lines", "profile", "erase_order_lines", "profile_id", exported=True),
    _row("order_statements", "profile", "erase_order_statements", "profile_id", exported=True),
    _row("orders", "profile", "erase_orders", "profile_id", exported=True),
    _row("events", "profile", "erase_events", "profile_id body properties", exported=True),
    _row("zone_visits", "profile", "erase_zone_visits", "profile_id beacon_key", exported=True),
    _row("visits", "profile", "erase_visits", "profile_id subject", exported=True),
    _row("fence_visits", "profile", "erase_fence_visits", "profile_id subject", exported=True),
    _row("rfm_changes", "profile", "erase_rfm_changes", "profile_id", exported=True),
    _row("segment_changes", "profile", "erase_segment_changes", "profile_id", exported=True),
    _row("rfm_scores", "profile", "erase_scores", "profile_id", exported=True),
    _row("pushes", "profile", "hide_pushes", "profile_id address_value content", exported=True),
    _row("decisions", "profile", "hide_decisions", "profile_id subject", exported=True),
)
"""Emptied afterwards, in chunks, for there may be thousands of rows."""

SEARCHED: Final[Mapping[str, tuple[str, ...]]] = {
    "events": ("body", "properties"),
    "devices": ("registers",),
    "traits": ("value",),
    "segment_versions": ("definition",),
    "campaigns": ("definition",),
    "campaign_versions": ("definition",),
    "audit": ("subject", "detail"),
    "alerts": ("subject", "detail"),
    "entries": ("payload",),
    "dead_letters": ("payload", "envelope"),
}
"""Where people may be mentioned by anybody: read from end to end. The last two are the journal's."""

IMPERSONAL: Final[Mapping[str, str]] = {
    "sightings.key_number": "a number that means nothing once heard_keys is emptied; the rows follow",
    "sightings_without_time.key_number": "the same",
    "sighting_hours.key_number": "the same",
    "erasure_tombstones.digest": "a keyed hash; the key is in no database",
    "erasure_work.work": "sealed with such a key, and gone with the erasure",
    "gateway_health.body": "what a gateway says of itself",
}
"""Columns that look like a person's and are none, with the reason."""
