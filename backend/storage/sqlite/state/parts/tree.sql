-- The profiles that are one person: :profile_id and all that were merged into it, and into those.
tree (profile_id) as (
  select :profile_id
  union
  select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
