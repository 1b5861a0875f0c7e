-- name: decisions_page
-- A campaign's decisions in order, with what became of their pushes.
select d.decision_id, d.profile_id, d.verdict, d.reason, d.decided_at, d.send_at, d.variant, d.store_id, d.zone_id,
  d.fence_id,
  (select count(*) from pushes p where p.decision_id = d.decision_id and p.state = 'accepted') as accepted,
  (select count(*) from pushes p
    where p.decision_id = d.decision_id and p.state in ('queued', 'claimed', 'sending')) as on_the_way,
  (select count(*) from pushes p where p.decision_id = d.decision_id and p.state = 'unknown') as unknown,
  (select count(*) from pushes p where p.decision_id = d.decision_id and p.state = 'rejected') as rejected,
  (select count(*) from pushes p where p.decision_id = d.decision_id and p.opened_at is not null) as opened,
  (select min(p.reason) from pushes p
    where p.decision_id = d.decision_id and p.state in ('suppressed', 'expired')) as stopped
from decisions d
where d.campaign_id = :campaign_id and d.decision_id > :after and d.decided_at >= :since
order by d.decision_id limit :limit;

-- name: goal_events_of
-- When people did what a campaign is for; of browsers' doings those that are their people's. The name is hidden from
-- its index, which has everybody's.
select e.profile_id, e.occurred_at as at
from json_each(cast(:profiles as text)) asked
join profiles p on p.profile_id = asked.value join events e on e.profile_id = asked.value
where e.kind = 'track' and coalesce(e.name, '') = :name and e.occurred_at >= :since
  and e.occurred_at between p.attach_from and p.attach_until;

-- name: visits_of
-- When people came to stores.
select v.profile_id, v.entered_at as at
from json_each(cast(:profiles as text)) asked join visits v on v.profile_id = asked.value
where v.entered_at >= :since;

-- name: orders_since
-- What people bought; of browsers' doings those that are their people's.
select o.profile_id, o.order_id, o.completed_at as at, o.total, o.refunded, o.currency
from json_each(cast(:profiles as text)) asked
join profiles p on p.profile_id = asked.value join orders o on o.profile_id = asked.value
where o.status = 'completed' and o.completed_at >= :since
  and o.completed_at between p.attach_from and p.attach_until;

-- name: past_zone_visits
-- Stays in zones that began within a span of time, those of people only.
select v.profile_id, v.beacon_key as subject, v.store_id, v.zone_id, v.entered_at, v.left_at, v.confidence
from zone_visits v
where v.profile_id is not null and v.entered_at >= :since and v.entered_at < :until
order by v.entered_at limit :limit;

-- name: past_visits
-- Visits to stores that began within a span of time.
select v.profile_id, v.subject, v.store_id, v.entered_at, v.left_at
from visits v
where v.profile_id is not null and v.entered_at >= :since and v.entered_at < :until
order by v.entered_at limit :limit;

-- name: past_events
-- What people did within a span of time, by its name.
select e.profile_id, e.occurred_at, e.received_at, e.properties
from events e
where e.name = :name and e.kind = :kind and e.profile_id is not null
  and e.occurred_at >= :since and e.occurred_at < :until
order by e.occurred_at limit :limit;

-- name: past_segment_entries
-- Who came into a segment within a span of time, by what happened and not by computing it.
select c.profile_id, c.at from segment_changes c
where c.segment_id = :segment_id and c.kind = 'entered' and c.backfill = 0 and c.at >= :since and c.at < :until
order by c.at limit :limit;
