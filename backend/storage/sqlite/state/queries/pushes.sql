-- name: insert_push!
-- A push that its decision caused; once per decision and address, however often the fold repeats itself.
insert into pushes (push_id, decision_id, campaign_id, profile_id, address_kind, address_value, platform,
  content, state, next_try_at, expires_at, created_at, due_at, completed_at)
values (:push_id, :decision_id, :campaign_id, :profile_id, :address_kind, :address_value, :platform,
  :content, 'queued', :not_before, :expires_at, :created_at, :due_at, :completed_at)
on conflict do nothing;

-- name: claim_pushes
-- Due pushes for one sender, the longest due first.
update pushes set state = 'claimed', owner = :owner, sending_at = null
where push_id in (
  select push_id from pushes where state = 'queued' and next_try_at <= :now order by next_try_at limit :limit)
returning push_id, decision_id, profile_id, address_kind, address_value, platform, content, owner, attempt,
  resent, sending_at, next_try_at;

-- name: replaced_addresses
-- Of pushes, given as a JSON list, those whose phone has reported another address since, and that address. What
-- may have arrived under the old one stays there.
select p.push_id, n.kind, n.value, n.platform, n.profile_id
from json_each(cast(:pushes as text)) w join pushes p on p.push_id = w.value
join push_addresses o on o.kind = p.address_kind and o.value = p.address_value
join push_addresses n on n.device_id = o.device_id
where p.resent = 0 and o.profile_id is null and n.profile_id is not null and n.quarantined_at is null;

-- name: readdress_push!
-- It goes where its phone is reached now, unless another of its decision does.
update pushes set address_kind = :kind, address_value = :value, platform = :platform
where push_id = :push_id and not exists (select 1 from pushes q
  where q.decision_id = pushes.decision_id and q.address_kind = :kind and q.address_value = :value);

-- name: next_push_due$
-- When the queue wants to be looked at again.
select min(next_try_at) from pushes where state = 'queued';

-- name: mark_push_sending!
-- The last moment to stop: only while the address is still this person's, across merges of profiles, and
-- while no phone has reported the send that this one would repeat.
update pushes set state = 'sending', sending_at = :now, attempt = attempt + 1
where push_id = :push_id and state = 'claimed' and owner = :owner and received_at is null and exists (
  with recursive
    mine (profile_id) as (
      select pushes.profile_id
      union
      select merged_into from mine join profiles using (profile_id) where merged_into is not null),
    theirs (profile_id) as (
      select a.profile_id from push_addresses a
      where a.kind = :address_kind and a.value = :address_value and a.quarantined_at is null
      union
      select merged_into from theirs join profiles using (profile_id) where merged_into is not null)
  select 1 from mine join theirs using (profile_id));

-- name: touch_other_offers
-- Pushes of other offers to the same person, across merges of profiles, that may still leave or left lately.
-- They are written though nothing changes: of two senders who at one moment mark two offers to one person, the
-- one that commits later must start again, and see the other's.
with recursive
  up (profile_id) as (
    select profile_id from pushes where push_id = :push_id
    union
    select merged_into from up join profiles using (profile_id) where merged_into is not null),
  tree (profile_id) as (
    select profile_id from up
    union
    select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
update pushes set next_try_at = next_try_at
where push_id in (
  select q.push_id from tree cross join pushes q
  where q.profile_id = tree.profile_id and q.decision_id <> :decision_id
    and (q.state in ('queued', 'claimed', 'sending') or q.sending_at >= :since))
returning push_id;

-- name: end_unmarked_push!
-- What mark_push_sending refused.
update pushes set finished_at = :now,
  state = case when received_at is not null then 'accepted' when resent = 1 then 'unknown' else 'suppressed' end,
  reason = case when received_at is not null then 'the phone reported the first send' else 'address_gone' end
where push_id = :push_id and state = 'claimed' and owner = :owner;

-- name: finish_push!
-- An answer came, or a guard said no.
update pushes set state = :state, reason = :reason, message_name = :message_name, finished_at = :now
where push_id = :push_id and owner = :owner and state = :before;

-- name: requeue_push!
-- To be tried again.
update pushes set state = 'queued', owner = null, reason = :reason, resent = :resent,
  next_try_at = :next_try_at
where push_id = :push_id and owner = :owner and state = :before;

-- name: requeue_dead_claims!
-- Their owners died before the first byte.
update pushes set state = 'queued', owner = null where state = 'claimed' and owner <> :owner;

-- name: dead_sends
-- Their owners died between the commit of `sending` and the answer.
select push_id, decision_id, profile_id, address_kind, address_value, platform, content, owner, attempt,
  resent, sending_at from pushes where state = 'sending' and owner <> :owner;

-- name: drop_push_address!
-- The service knows the address no more; but not if the app showed itself after the send began.
delete from push_addresses where kind = :kind and value = :value and last_seen_at < :sending_at;

-- name: quarantine_push_address!
-- It belongs to another project: kept for the operators to look at, never sent to.
update push_addresses set quarantined_at = :now
where kind = :kind and value = :value and quarantined_at is null and last_seen_at < :sending_at;

-- name: raise_push_alert!
-- For the operators.
insert into alerts (at, kind, subject, detail) values (:now, :kind, :subject, :detail);

-- name: record_push_received!
-- The app shows that it got the push; the earliest report counts, whatever came first.
update pushes set received_at = min(coalesce(received_at, :at), :at) where push_id = :push_id;

-- name: record_push_opened!
-- Opened, so also received.
update pushes set opened_at = min(coalesce(opened_at, :at), :at),
  received_at = min(coalesce(received_at, :at), :at)
where push_id = :push_id;
