-- The same with the times from and until which what a profile holds counts as the person's.
tree (profile_id, attach_from, attach_until) as (
  select cast(:profile_id as text), cast(0 as bigint), cast(9007199254740991 as bigint)
  union
  select p.profile_id, p.attach_from, p.attach_until
  from tree join profiles p on p.merged_into = tree.profile_id)
