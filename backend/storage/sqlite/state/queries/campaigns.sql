-- name: save_campaign!
-- The newest definition; its version rises with every change.
insert into campaigns (campaign_id, version, state, definition, changed_at)
values (:campaign_id, 1, :state, :definition, :changed_at)
on conflict (campaign_id) do update set version = campaigns.version + 1, state = excluded.state,
  definition = excluded.definition, changed_at = excluded.changed_at;

-- name: campaigns
-- Every campaign.
select campaign_id, version, state, definition, changed_at from campaigns order by campaign_id;

-- name: campaign
-- One campaign.
select campaign_id, version, state, definition, changed_at from campaigns where campaign_id = :campaign_id;

-- name: start_dwell!
-- Someone entered the campaign's zone; due when they have stayed long enough.
insert into dwell_timers (campaign_id, beacon_key, entered_at, due_at)
values (:campaign_id, :beacon_key, :entered_at, :due_at)
on conflict (campaign_id, beacon_key) do update set entered_at = excluded.entered_at, due_at = excluded.due_at;

-- name: stop_dwell!
-- Decided, or gone again.
delete from dwell_timers where campaign_id = :campaign_id and beacon_key = :beacon_key;

-- name: dwell_timers
-- All that run; read at start.
select campaign_id, beacon_key, entered_at, due_at from dwell_timers;

-- name: record_decision
-- Every candidate ends here, with the reason; one per entering, so a repetition returns no id.
insert into decisions (campaign_id, campaign_version, profile_id, store_id, zone_id, entered_at, due_at,
  completed_at, decided_at, verdict, reason)
values (:campaign_id, :campaign_version, :profile_id, :store_id, :zone_id, :entered_at, :due_at,
  :completed_at, :decided_at, :verdict, :reason)
on conflict do nothing returning decision_id;

-- name: sent_by_campaign
-- When a campaign sent to a person, or to whom was merged into them; what never went out does not count.
with recursive tree (profile_id) as (
  select :profile_id
  union
  select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select min(created_at) as at from tree cross join pushes
where pushes.profile_id = tree.profile_id and campaign_id = :campaign_id
  and state not in ('suppressed', 'expired', 'rejected')
group by decision_id;

-- name: sent_between$
-- How many offers of any campaign went to a person in a span of time.
with recursive tree (profile_id) as (
  select :profile_id
  union
  select p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select count(distinct decision_id) from tree cross join pushes
where pushes.profile_id = tree.profile_id and created_at >= :start and created_at < :end
  and state not in ('suppressed', 'expired', 'rejected');

-- name: decisions_of_campaign
-- How a campaign's candidates ended.
select verdict, reason, count(*) as candidates from decisions
where campaign_id = :campaign_id group by verdict, reason order by candidates desc;

-- name: pushes_by_state
-- For people and for accounts.
select state, count(*) as pushes, count(opened_at) as opened from pushes group by state;

-- name: pushes_of_campaign
-- The funnel of one campaign.
select state, count(*) as pushes, count(received_at) as received,
  count(opened_at) as opened
from pushes where campaign_id = :campaign_id group by state;

-- name: accepted_latencies
-- For accounts: from the later of due and complete to FCM's 200.
select finished_at - max(due_at, completed_at) as ms from pushes
where state = 'accepted' and finished_at is not null;

-- name: newest_pushes
-- For the live floor.
select push_id, campaign_id, profile_id, state, reason, created_at, finished_at, opened_at
from pushes order by created_at desc limit :limit;

-- name: is_in_zone$
-- Whether the person behind a profile is in a zone now, with any of their beacons.
with recursive up (profile_id, parent) as (
  select profile_id, merged_into from profiles where profile_id = :profile_id
  union
  select p.profile_id, p.merged_into from up join profiles p on p.profile_id = up.parent)
select exists (select 1 from up join presences using (profile_id)
  where store_id = :store_id and zone_id = :zone_id);
