-- name: claim_pushes
-- Due pushes for one sender, the longest due first; what another sender is just claiming is left to it.
with due as materialized (
  select push_id from pushes where state = 'queued' and next_try_at <= :now order by next_try_at limit :limit
  for update skip locked)
update pushes set state = 'claimed', owner = :owner, sending_at = null
where push_id in (select push_id from due)
returning push_id, decision_id, profile_id, address_kind, address_value, platform, content, owner, attempt,
  resent, sending_at, next_try_at;
