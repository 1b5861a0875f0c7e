-- Each gives a profile's rows of one table, for its owner; `:offset` and `:limit` page through them.

-- name: export_segment_members
-- What `segment_members` holds.
select * from segment_members where profile_id = :profile_id order by since limit :limit offset :offset;

-- name: export_campaign_waits
-- What `campaign_waits` holds.
select * from campaign_waits where profile_id = :profile_id order by begun_at limit :limit offset :offset;

-- name: export_presences
-- What `presences` holds.
select * from presences where profile_id = :profile_id order by beacon_key limit :limit offset :offset;

-- name: export_push_addresses
-- What `push_addresses` holds.
select * from push_addresses where profile_id = :profile_id order by kind, value limit :limit offset :offset;

-- name: export_devices
-- What `devices` holds.
select * from devices where profile_id = :profile_id order by device_id limit :limit offset :offset;

-- name: export_consents
-- What `consents` holds.
select * from consents where profile_id = :profile_id order by purpose limit :limit offset :offset;

-- name: export_traits
-- What `traits` holds.
select * from traits where profile_id = :profile_id order by name limit :limit offset :offset;

-- name: export_device_clocks
-- What `device_clocks` holds.
select * from device_clocks where profile_id = :profile_id order by hour limit :limit offset :offset;

-- name: export_merge_reviews
-- What `merge_reviews` holds.
select * from merge_reviews where profile_id = :profile_id or other_profile_id = :profile_id order by review_id limit :limit offset :offset;

-- name: export_identity_claims
-- What `identity_claims` holds.
select * from identity_claims where profile_id = :profile_id order by id_type, id limit :limit offset :offset;

-- name: export_identity_edges
-- What `identity_edges` holds.
select * from identity_edges where profile_id = :profile_id order by valid_from, id_type, id limit :limit offset :offset;

-- name: export_profiles
-- What `profiles` holds.
select * from profiles where profile_id = :profile_id order by profile_id limit :limit offset :offset;

-- name: export_order_lines
-- What `order_lines` holds.
select * from order_lines where profile_id = :profile_id order by order_id, event_hash, line limit :limit offset :offset;

-- name: export_order_statements
-- What `order_statements` holds.
select * from order_statements where profile_id = :profile_id order by order_id, event_hash limit :limit offset :offset;

-- name: export_orders
-- What `orders` holds.
select * from orders where profile_id = :profile_id order by order_id limit :limit offset :offset;

-- name: export_events
-- What `events` holds.
select * from events where profile_id = :profile_id order by event_id limit :limit offset :offset;

-- name: export_zone_visits
-- What `zone_visits` holds.
select * from zone_visits where profile_id = :profile_id order by visit_id limit :limit offset :offset;

-- name: export_visits
-- What `visits` holds.
select * from visits where profile_id = :profile_id order by visit_id limit :limit offset :offset;

-- name: export_segment_changes
-- What `segment_changes` holds.
select * from segment_changes where profile_id = :profile_id order by change_id limit :limit offset :offset;

-- name: export_rfm_scores
-- What `rfm_scores` holds.
select * from rfm_scores where profile_id = :profile_id order by profile_id limit :limit offset :offset;

-- name: export_pushes
-- What `pushes` holds.
select * from pushes where profile_id = :profile_id order by push_id limit :limit offset :offset;

-- name: export_decisions
-- What `decisions` holds.
select * from decisions where profile_id = :profile_id order by decision_id limit :limit offset :offset;

-- name: export_fence_presences
-- What `fence_presences` holds.
select * from fence_presences where profile_id = :profile_id order by fence_id, subject limit :limit offset :offset;

-- name: export_fence_visits
-- What `fence_visits` holds.
select * from fence_visits where profile_id = :profile_id order by visit_id limit :limit offset :offset;

-- name: export_rfm_changes
-- What `rfm_changes` holds.
select * from rfm_changes where profile_id = :profile_id order by run_id limit :limit offset :offset;

-- name: export_beacons_of
-- The beacons that a profile carries.
select id from identity_edges where profile_id = :profile_id and id_type = 'beacon' and valid_to is null;

-- name: export_sightings
-- When and where a beacon was heard, in a span of time (unix seconds).
select s.second, g.gateway, s.adverts, s.loss, s.best
from heard_keys k join sightings s on s.key_number = k.key_number
join heard_gateways g on g.gateway_number = s.gateway_number
where k.beacon_key = :beacon_key and s.second >= :low and s.second < :high order by s.second, g.gateway;
