-- name: timeline_events_before
-- What a person did before a moment, the newest first; orders and consent are told by their own queries.
with recursive {attached_tree},
  chosen as (
    select e.event_id, s.kind as source_kind
    from tree join events e on e.profile_id = tree.profile_id left join sources s on s.source_id = e.source
    where e.occurred_at <= :at and (e.occurred_at, e.event_id) < (:at, :key) and e.kind <> 'consent'
      and e.occurred_at between tree.attach_from and tree.attach_until
      and coalesce(e.name, '') not in ('Order Completed', 'Completed Order', 'Order Updated', 'Order Refunded',
        'Order Cancelled', 'Order Canceled')
      and (cast(:channel as text) is null or coalesce(s.kind, 'unknown') = cast(:channel as text))
    order by e.occurred_at desc, e.event_id desc limit :limit)
select e.event_id, e.kind, e.name, e.source, e.occurred_at, e.received_at, e.properties,
  case when e.properties is null then e.body end as body, c.source_kind
from chosen c join events e on e.event_id = c.event_id order by e.occurred_at desc, e.event_id desc;

-- name: timeline_events_after
-- And after it, the oldest first.
with recursive {attached_tree},
  chosen as (
    select e.event_id, s.kind as source_kind
    from tree join events e on e.profile_id = tree.profile_id left join sources s on s.source_id = e.source
    where e.occurred_at >= :at and (e.occurred_at, e.event_id) > (:at, :key) and e.kind <> 'consent'
      and e.occurred_at between tree.attach_from and tree.attach_until
      and coalesce(e.name, '') not in ('Order Completed', 'Completed Order', 'Order Updated', 'Order Refunded',
        'Order Cancelled', 'Order Canceled')
      and (cast(:channel as text) is null or coalesce(s.kind, 'unknown') = cast(:channel as text))
    order by e.occurred_at, e.event_id limit :limit)
select e.event_id, e.kind, e.name, e.source, e.occurred_at, e.received_at, e.properties,
  case when e.properties is null then e.body end as body, c.source_kind
from chosen c join events e on e.event_id = c.event_id order by e.occurred_at, e.event_id;

-- name: timeline_orders_before
-- What was said of a person's orders before a moment, the newest first.
with recursive {attached_tree}
select o.event_id, o.order_id, o.what, o.occurred_at, o.total, o.currency, o.unreadable, s.kind as source_kind
from tree join order_statements o on o.profile_id = tree.profile_id
left join events e on e.event_id = o.event_id left join sources s on s.source_id = e.source
where o.occurred_at <= :at and (o.occurred_at, o.event_id) < (:at, :key)
  and o.occurred_at between tree.attach_from and tree.attach_until
  and (cast(:channel as text) is null or coalesce(s.kind, 'unknown') = cast(:channel as text))
order by o.occurred_at desc, o.event_id desc limit :limit;

-- name: timeline_orders_after
-- And after it, the oldest first.
with recursive {attached_tree}
select o.event_id, o.order_id, o.what, o.occurred_at, o.total, o.currency, o.unreadable, s.kind as source_kind
from tree join order_statements o on o.profile_id = tree.profile_id
left join events e on e.event_id = o.event_id left join sources s on s.source_id = e.source
where o.occurred_at >= :at and (o.occurred_at, o.event_id) > (:at, :key)
  and o.occurred_at between tree.attach_from and tree.attach_until
  and (cast(:channel as text) is null or coalesce(s.kind, 'unknown') = cast(:channel as text))
order by o.occurred_at, o.event_id limit :limit;

-- name: timeline_zone_visits_before
-- Where a person was before a moment, the newest first.
with recursive {attached_tree}
select v.visit_id, v.store_id, v.zone_id, z.name, v.entered_at, v.left_at
from tree join zone_visits v on v.profile_id = tree.profile_id
left join zones z on z.store_id = v.store_id and z.zone_id = v.zone_id
where v.entered_at <= :at and (v.entered_at, v.visit_id) < (:at, :key)
order by v.entered_at desc, v.visit_id desc limit :limit;

-- name: timeline_zone_visits_after
-- And after it, the oldest first.
with recursive {attached_tree}
select v.visit_id, v.store_id, v.zone_id, z.name, v.entered_at, v.left_at
from tree join zone_visits v on v.profile_id = tree.profile_id
left join zones z on z.store_id = v.store_id and z.zone_id = v.zone_id
where v.entered_at >= :at and (v.entered_at, v.visit_id) > (:at, :key)
order by v.entered_at, v.visit_id limit :limit;

-- name: timeline_store_visits_before
-- Which stores a person came to before a moment, the newest first.
with recursive {attached_tree}
select v.visit_id, v.store_id, s.name, v.entered_at, v.left_at
from tree join visits v on v.profile_id = tree.profile_id left join stores s on s.store_id = v.store_id
where v.entered_at <= :at and (v.entered_at, v.visit_id) < (:at, :key)
order by v.entered_at desc, v.visit_id desc limit :limit;

-- name: timeline_store_visits_after
-- And after it, the oldest first.
with recursive {attached_tree}
select v.visit_id, v.store_id, s.name, v.entered_at, v.left_at
from tree join visits v on v.profile_id = tree.profile_id left join stores s on s.store_id = v.store_id
where v.entered_at >= :at and (v.entered_at, v.visit_id) > (:at, :key)
order by v.entered_at, v.visit_id limit :limit;

-- name: timeline_fence_visits_before
-- Which geofences a person was in before a moment, the newest first.
with recursive {attached_tree}
select v.visit_id, v.fence_id, v.entered_at, v.left_at
from tree join fence_visits v on v.profile_id = tree.profile_id
where v.entered_at <= :at and (v.entered_at, v.visit_id) < (:at, :key)
order by v.entered_at desc, v.visit_id desc limit :limit;

-- name: timeline_fence_visits_after
-- And after it, the oldest first.
with recursive {attached_tree}
select v.visit_id, v.fence_id, v.entered_at, v.left_at
from tree join fence_visits v on v.profile_id = tree.profile_id
where v.entered_at >= :at and (v.entered_at, v.visit_id) > (:at, :key)
order by v.entered_at, v.visit_id limit :limit;

-- name: timeline_pushes_before
-- What was sent to a person before a moment, the newest first.
with recursive {attached_tree}
select u.push_id, u.campaign_id, u.state, u.reason, u.content, u.created_at, u.finished_at, u.received_at, u.opened_at
from tree join pushes u on u.profile_id = tree.profile_id
where u.created_at <= :at and (u.created_at, u.push_id) < (:at, cast(:key as text))
order by u.created_at desc, u.push_id desc limit :limit;

-- name: timeline_pushes_after
-- And after it, the oldest first.
with recursive {attached_tree}
select u.push_id, u.campaign_id, u.state, u.reason, u.content, u.created_at, u.finished_at, u.received_at, u.opened_at
from tree join pushes u on u.profile_id = tree.profile_id
where u.created_at >= :at and (u.created_at, u.push_id) > (:at, cast(:key as text))
order by u.created_at, u.push_id limit :limit;

-- name: timeline_segments_before
-- Which audiences a person came into or left before a moment, the newest first.
with recursive {attached_tree}
select c.change_id, c.segment_id, c.kind, c.version, c.backfill, c.at
from tree join segment_changes c on c.profile_id = tree.profile_id
where c.at <= :at and (c.at, c.change_id) < (:at, :key)
order by c.at desc, c.change_id desc limit :limit;

-- name: timeline_segments_after
-- And after it, the oldest first.
with recursive {attached_tree}
select c.change_id, c.segment_id, c.kind, c.version, c.backfill, c.at
from tree join segment_changes c on c.profile_id = tree.profile_id
where c.at >= :at and (c.at, c.change_id) > (:at, :key)
order by c.at, c.change_id limit :limit;

-- name: timeline_merges
-- When profiles became part of a person, and when that was undone; a merge since ever is told at the profile's birth.
with recursive {attached_tree}
select p.profile_id as id, p.merged_into as profile_id, p.merged_cause as cause, null as valid_to, p.id_type,
  case when p.merged_at > 0 then p.merged_at else p.created_at end as at
from tree join profiles p on p.merged_into = tree.profile_id
union all
select e.id, e.profile_id, e.cause, e.valid_to, p.id_type,
  case when e.valid_from > 0 then e.valid_from else p.created_at end
from tree cross join identity_edges e cross join profiles p
where e.profile_id = tree.profile_id and e.id_type = 'profile' and p.profile_id = e.id;
