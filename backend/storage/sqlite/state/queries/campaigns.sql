-- name: save_campaign!
-- The newest definition; its version rises with every change.
insert into campaigns (campaign_id, version, state, definition, changed_at)
values (:campaign_id, 1, :state, :definition, :changed_at)
on conflict (campaign_id) do update set version = version + 1, state = excluded.state,
  definition = excluded.definition, changed_at = excluded.changed_at;

-- name: campaigns
-- Every campaign.
select campaign_id, version, state, definition, changed_at from campaigns order by campaign_id;

-- name: campaign
-- One campaign.
select campaign_id, version, state, definition, changed_at from campaigns where campaign_id = :campaign_id;

-- name: start_dwell!
-- Someone entered the campaign's zone; due when they have stayed long enough.
insert or replace into dwell_timers (campaign_id, beacon_key, entered_at, due_at)
values (:campaign_id, :beacon_key, :entered_at, :due_at);

-- name: stop_dwell!
-- Decided, or gone again.
delete from dwell_timers where campaign_id = :campaign_id and beacon_key = :beacon_key;

-- name: dwell_timers
-- All that run; read at start.
select campaign_id, beacon_key, entered_at, due_at from dwell_timers;

-- name: record_decision<!
-- Every candidate ends here, with the reason; one per entering.
insert or ignore into decisions (campaign_id, campaign_version, profile_id, store_id, zone_id, entered_at, due_at,
  completed_at, decided_at, verdict, reason)
values (:campaign_id, :campaign_version, :profile_id, :store_id, :zone_id, :entered_at, :due_at,
  :completed_at, :decided_at, :verdict, :reason);

-- name: sent_by_campaign
-- When a campaign sent to a person; what never went out does not count.
select min(created_at) as at from pushes
where profile_id = :profile_id and campaign_id = :campaign_id
  and state not in ('suppressed', 'expired', 'rejected')
group by decision_id;

-- name: sent_between$
-- How many offers of any campaign went to a person in a span of time.
select count(distinct decision_id) from pushes
where profile_id = :profile_id and created_at >= :start and created_at < :end
  and state not in ('suppressed', 'expired', 'rejected');

-- name: decisions_of_campaign
-- How a campaign's candidates ended.
select verdict, reason, count(*) as candidates from decisions
where campaign_id = :campaign_id group by verdict, reason order by candidates desc;

-- name: pushes_by_state
-- For people and for accounts.
select state, count(*) as pushes, sum(opened_at is not null) as opened from pushes group by state;

-- name: pushes_of_campaign
-- The funnel of one campaign.
select state, count(*) as pushes, sum(received_at is not null) as received,
  sum(opened_at is not null) as opened
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
-- Whether a person is in a zone now, with any of their beacons.
select exists (select 1 from presences
  where profile_id = :profile_id and store_id = :store_id and zone_id = :zone_id);
