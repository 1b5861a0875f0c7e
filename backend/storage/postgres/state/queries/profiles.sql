-- Queries about identifiers of which PostgreSQL needs its own words.

-- name: profiles_named
-- Identifiers' own profiles, as in profiles_by_id; given as JSON: {type: [id, ...], ...}. Each is looked up alone
-- (`offset 0`): of lists in lists PostgreSQL expects 10,000, and joined plainly reads all profiles instead.
select p.profile_id, p.id_type, p.id, p.created_at, p.merged_into, p.merged_at, p.attach_from,
  p.attach_until, p.shared, p.crowd, p.cause, p.event_id, p.merged_cause, p.merged_event_id,
  exists (select 1 from consents c where c.profile_id = p.profile_id) as has_consents
from json_each_text(cast(cast(:wanted as text) as json)) t cross join json_each(t.value) w
cross join lateral (select * from profiles own where own.id_type = t.key and own.id = w.value offset 0) p;

-- name: claims_named
-- What is said of identifiers, given as in profiles_named.
select c.id_type, c.id, c.profile_id, c.via, c.first_at, c.last_at, c.last_hash, c.undone_at
from json_each_text(cast(cast(:wanted as text) as json)) t cross join json_each(t.value) w
cross join lateral (
  select * from identity_claims said where said.id_type = t.key and said.id = w.value offset 0) c;
