-- name: put_fence!
-- A fence, or its new definition.
insert into geofences (fence_id, definition, changed_at) values (:fence_id, :definition, :changed_at)
on conflict (fence_id) do update set definition = excluded.definition, changed_at = excluded.changed_at;

-- name: delete_fence!
-- It is no more.
delete from geofences where fence_id = :fence_id;

-- name: fences_changed!
-- Whoever keeps fences in memory reads them again.
update geofence_stamp set version = version + 1 where only_one = 1;

-- name: fence_stamp$
-- The version of all fences together.
select version from geofence_stamp where only_one = 1;

-- name: fences
-- Every fence.
select fence_id, definition, changed_at from geofences order by fence_id;

-- name: fence
-- One fence.
select fence_id, definition, changed_at from geofences where fence_id = :fence_id;

-- name: fences_after
-- A page of fences.
select fence_id, definition, changed_at from geofences where fence_id > :after order by fence_id limit :limit;

-- name: save_fence_presence!
-- A phone and a fence near it.
insert into fence_presences (subject, fence_id, profile_id, inside, entered_at, seen_at, farthest, doubtful_at,
  approached, partition)
values (:subject, :fence_id, :profile_id, :inside, :entered_at, :seen_at, :farthest, :doubtful_at, :approached,
  :partition)
on conflict (subject, fence_id) do update set profile_id = excluded.profile_id, inside = excluded.inside,
  entered_at = excluded.entered_at, seen_at = excluded.seen_at, farthest = excluded.farthest,
  doubtful_at = excluded.doubtful_at, approached = excluded.approached, partition = excluded.partition;

-- name: end_fence_presence!
-- It is far away, or unknown where.
delete from fence_presences where subject = :subject and fence_id = :fence_id;

-- name: fence_presences
-- Every phone near a fence; read at start.
select subject, fence_id, profile_id, inside, entered_at, seen_at, farthest, doubtful_at, approached, partition
from fence_presences;

-- name: begin_fence_visit!
-- A fence was entered, and perhaps left again.
insert into fence_visits (subject, profile_id, fence_id, entered_at, left_at, confidence)
values (:subject, :profile_id, :fence_id, :entered_at, :left_at, :confidence);

-- name: end_fence_visit!
-- And left.
update fence_visits set left_at = :left_at where subject = :subject and fence_id = :fence_id and left_at is null;

-- name: is_in_fence$
-- Whether a person is in a fence now, also as somebody who was merged into them.
with recursive {tree}
select count(*) from tree join fence_presences using (profile_id)
where fence_presences.fence_id = :fence_id and fence_presences.inside = 1;

-- name: past_fence_visits
-- Stays in a fence that began within a span of time.
select v.profile_id, v.subject, v.fence_id, v.entered_at, v.left_at, v.confidence
from fence_visits v
where v.fence_id = :fence_id and v.entered_at >= :since and v.entered_at < :until
order by v.entered_at limit :limit;
