-- name: tell_replicas!
-- Something changed that every replica keeps in memory.
insert into replica_news (told_at) values (:at);

-- name: forget_replica_news!
-- Everybody has read it.
delete from replica_news where told_at < :before;

-- name: hand_over!
-- A subject was seen in another partition; whoever folds the one it was known in forgets it.
insert into handovers (partition, subject) values (:partition, :subject) on conflict do nothing;

-- name: handovers
-- Which subjects are known elsewhere by now.
select partition, subject from handovers;

-- name: end_handover!
-- It is forgotten there, or has come back.
delete from handovers where partition = :partition and subject = :subject;

-- name: presence_of
-- What another replica knew of a subject.
select beacon_key, profile_id, store_id, engine, partition from presences where beacon_key = :subject;

-- name: open_visit_of
-- The store that a subject is in, as open_visits tells of everybody.
select v.subject, v.store_id, v.profile_id, v.entered_at, v.idle_since, v.partition,
  case when v.idle_since is not null and v.subject not like 'phone:%' then
    (select z.zone_id from zone_visits z
    where z.profile_id = v.profile_id and z.beacon_key = v.subject and z.store_id = v.store_id
    order by z.entered_at desc limit 1) end as last_zone
from visits v where v.subject = :subject and v.left_at is null;

-- name: fence_presences_of
-- The fences that a phone is near.
select subject, fence_id, profile_id, inside, entered_at, seen_at, farthest, doubtful_at, approached, partition
from fence_presences where subject = :subject;

-- name: move_visit!
-- A visit that is known from another partition's events now.
update visits set partition = :partition where subject = :subject and left_at is null;

-- name: stays_of
-- Stays of a subject that somebody waits for.
select campaign_id, subject, begun_at, profile_id, due_at, stays, holds, store_id, zone_id, fence_id, confidence,
  partition from campaign_waits where stays = 1 and subject = :subject order by due_at;

-- name: lock_profiles
-- In a fixed order: whoever merges profiles of one of these trees meanwhile has to begin again.
select profile_id from profiles
where profile_id in (select value from json_each(cast(:wanted as text))) order by profile_id;
