-- name: claim_pushes
-- Due pushes for one sender, the longest due first; what another sender is just claiming is left to it.
with due as materialized (
  select push_id from pushes where state = 'queued' and next_try_at <= :now order by next_try_at limit :limit
  for update skip locked)
update pushes set state = 'claimed', owner = :owner, sending_at = null
where push_id in (select push_id from due)
returning push_id, decision_id, profile_id, address_kind, address_value, platform, content, owner, attempt,
  resent, sending_at, next_try_at;

-- name: requeue_dead_claims!
-- Their owners died before the first byte. A replica that was silent for ten seconds counts as dead; whatever
-- it thinks of its claims, it has lost them.
update pushes set state = 'queued', owner = null where state = 'claimed' and owner <> :owner
  and not exists (select 1 from replicas r where r.replica_id = pushes.owner
    and r.seen_at > extract(epoch from clock_timestamp()) * 1000 - 10000);

-- name: dead_sends
-- Their owners died between the commit of `sending` and the answer.
select push_id, decision_id, profile_id, address_kind, address_value, platform, content, owner, attempt,
  resent, sending_at from pushes where state = 'sending' and owner <> :owner
  and not exists (select 1 from replicas r where r.replica_id = pushes.owner
    and r.seen_at > extract(epoch from clock_timestamp()) * 1000 - 10000);
