-- name: identifiers_with_prefix
-- Identifiers of one type that begin so, in their order, from behind one.
select id_type, id, profile_id from profiles
where id_type = :id_type and id >= :low and id < :high and id > :after
union all
select id_type, id, profile_id from identity_edges
where id_type = :id_type and id_type = 'beacon' and valid_to is null and id >= :low and id < :high and id > :after
order by id limit :limit;

-- name: traits_with_prefix
-- Profiles whose trait begins so, whatever the case of its Latin letters, from behind one.
select name, value, lower(value) as folded, profile_id from traits
where (name = 'email' or name = 'name' or name = 'firstName' or name = 'lastName' or name = 'first_name'
    or name = 'last_name' or name = 'phone')
  and name = :name and lower(value) >= :low and lower(value) < :high
  and (lower(value), profile_id) > (cast(:after_value as text), cast(:after_profile as text))
order by lower(value), profile_id limit :limit;

-- name: active_profiles
-- Whose events came last, the newest first, from before one.
select event_id, profile_id, occurred_at from events
where event_id < :before and profile_id is not null order by event_id desc limit :limit;
