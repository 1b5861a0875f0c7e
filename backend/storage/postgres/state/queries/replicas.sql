-- name: lock_profiles
-- In a fixed order: whoever merges profiles of one of these trees meanwhile has to begin again.
select profile_id from profiles
where profile_id in (select value from json_each(cast(:wanted as text))) order by profile_id for update;
