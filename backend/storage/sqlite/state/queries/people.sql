-- name: identity_history_of_person
-- Every identifier that a person has or had, since when, until when, and why.
with recursive tree (profile_id) as (
  select cast(:profile_id as text)
  union
  select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select p.id_type, p.id, p.profile_id, p.created_at as valid_from, null as valid_to, p.cause
from tree join profiles p on p.profile_id = tree.profile_id
union all
select e.id_type, e.id, e.profile_id, e.valid_from, e.valid_to, e.cause
from tree join identity_edges e on e.profile_id = tree.profile_id
union all
select 'profile', p.profile_id, p.merged_into, p.merged_at, null, p.merged_cause
from tree join profiles p on p.merged_into = tree.profile_id
order by 4, 1, 2 limit :limit;

-- name: segments_around_person
-- The audiences that a person is in.
select segment_id, since from segment_members where profile_id = :profile_id order by segment_id;
