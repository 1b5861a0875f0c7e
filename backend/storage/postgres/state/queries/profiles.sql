-- name: profiles_named
-- Identifiers' own profiles, as in profiles_by_id; given as JSON: {type: [id, ...], ...}.
select p.profile_id, p.id_type, p.id, p.created_at, p.merged_into, p.merged_at, p.attach_from,
  p.attach_until, p.shared, p.crowd, p.cause, p.event_id, p.merged_cause, p.merged_event_id,
  exists (select 1 from consents c where c.profile_id = p.profile_id) as has_consents
from json_each_text(cast(cast(:wanted as text) as json)) t cross join json_each(t.value) w
join profiles p on p.id_type = t.key and p.id = w.value;

-- name: claims_named
-- What is said of identifiers, given as in profiles_named.
select c.id_type, c.id, c.profile_id, c.via, c.first_at, c.last_at, c.last_hash, c.undone_at
from json_each_text(cast(cast(:wanted as text) as json)) t cross join json_each(t.value) w
join identity_claims c on c.id_type = t.key and c.id = w.value;
