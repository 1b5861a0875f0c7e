-- name: identity_history_of_person
-- Every identifier that a person has or had, since when, until when, and why.
with recursive tree (profile_id) as (
  select cast(:profile_id as text)
  union
  select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select e.id_type, e.id, e.profile_id, e.valid_from, e.valid_to, e.cause
from tree join identity_edges e on e.profile_id = tree.profile_id
order by e.valid_from, e.id_type, e.id limit :limit;

-- name: segments_around_person
-- The audiences that a person is in.
select segment_id, since from segment_members where profile_id = :profile_id order by segment_id;
