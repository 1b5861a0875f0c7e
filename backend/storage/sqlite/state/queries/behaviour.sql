-- name: product_views_of_person
-- What a person looked at, the newest first; the index tells which of their events are views.
with recursive {attached_tree}
select e.event_hash, e.occurred_at, e.properties, case when e.properties is null then e.body end as body
from tree join events e on e.profile_id = tree.profile_id
where e.name in ('Product Viewed', 'Viewed Product') and e.occurred_at between :since and :until
  and e.occurred_at between tree.attach_from and tree.attach_until
order by e.occurred_at desc, e.event_id desc limit :limit;

-- name: last_seen_of_person
-- When a person was last heard of through each source.
with recursive {attached_tree}
select e.source, s.kind, max(e.occurred_at) as at
from tree join events e on e.profile_id = tree.profile_id left join sources s on s.source_id = e.source
where e.occurred_at between tree.attach_from and tree.attach_until
group by e.source, s.kind;

-- name: zone_visits_of_person
-- Where a person was, the newest first.
with recursive {attached_tree}
select v.store_id, v.zone_id, v.entered_at, v.left_at
from tree join zone_visits v on v.profile_id = tree.profile_id
order by v.entered_at desc, v.visit_id desc limit :limit;

-- name: store_visits_of_person
-- Which stores a person visited, the newest first.
with recursive {attached_tree}
select v.store_id, v.entered_at, v.left_at
from tree join visits v on v.profile_id = tree.profile_id
order by v.entered_at desc, v.visit_id desc limit :limit;

-- name: consent_events_of_person
-- A person's newest events, in which statements of consent may stand.
with recursive {attached_tree}
select e.event_id, e.event_hash, e.profile_id, e.kind, e.source, e.occurred_at, e.body, s.kind as source_kind
from tree join events e on e.profile_id = tree.profile_id left join sources s on s.source_id = e.source
where e.occurred_at between tree.attach_from and tree.attach_until
order by e.occurred_at desc, e.event_id desc limit :limit;

-- name: refusals_of_claimed
-- What was refused in a person's name without proof; the events are those of whoever said so.
with recursive {attached_tree}
select c.profile_id, c.purpose, c.granted, c.occurred_at, c.event_hash, p.id
from tree join profiles p on p.profile_id = tree.profile_id
join consents c on c.profile_id = tree.profile_id
where p.id_type = 'claimed_user_id';
