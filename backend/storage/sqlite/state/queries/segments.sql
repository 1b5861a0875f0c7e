-- name: segments
-- Every segment with its newest definition; deleted ones only while their members are being removed.
select s.segment_id, s.version, s.state, s.silent, s.computed_to, s.basis, s.changed_at, s.computed_at,
  v.definition, v.created_by
from segments s join segment_versions v on v.segment_id = s.segment_id and v.version = s.version
where s.state <> 'deleted' order by s.segment_id;

-- name: segment
-- One segment, deleted or not.
select s.segment_id, s.version, s.state, s.silent, s.computed_to, s.basis, s.changed_at, s.computed_at,
  v.definition, v.created_by
from segments s join segment_versions v on v.segment_id = s.segment_id and v.version = s.version
where s.segment_id = :segment_id;

-- name: save_segment!
-- A new definition is computed for everybody, silently.
insert into segments (segment_id, version, state, silent, computed_to, basis, changed_at)
values (:segment_id, :version, 'computing', 1, '', '', :now)
on conflict (segment_id) do update set version = excluded.version, state = 'computing', silent = 1,
  computed_to = '', basis = '', changed_at = excluded.changed_at, computed_at = null;

-- name: rename_segment!
-- The same condition under a new version: nobody has to be asked again.
update segments set version = :version, changed_at = :now where segment_id = :segment_id;

-- name: add_segment_version!
-- Every definition is kept.
insert into segment_versions (segment_id, version, definition, created_at, created_by)
values (:segment_id, :version, :definition, :now, :created_by);

-- name: segment_versions
-- What a segment was before, newest first.
select version, definition, created_at, created_by from segment_versions
where segment_id = :segment_id order by version desc limit :limit;

-- name: begin_segment_computing!
-- The world changed under a definition: everybody is asked again, and who comes or goes is news.
update segments set state = 'computing', silent = 0, computed_to = '', basis = :basis
where segment_id = :segment_id and state = 'live';

-- name: restart_segment_computing!
-- The same, while it is being computed anyhow.
update segments set computed_to = '', basis = :basis where segment_id = :segment_id and state = 'computing';

-- name: delete_segment!
-- Its members are removed little by little.
update segments set state = 'deleting', changed_at = :now where segment_id = :segment_id;

-- name: move_segment_computing!
-- How far the computing got; unless the segment was changed or deleted meanwhile.
update segments set computed_to = :computed_to
where segment_id = :segment_id and version = :version and state = 'computing';

-- name: end_segment_computing!
-- Everybody has been asked; unless the segment was changed or deleted meanwhile.
update segments set state = 'live', computed_at = :now
where segment_id = :segment_id and version = :version and state = 'computing';

-- name: forget_segment!
-- Its last member is removed; the row stays, so that a version's number is never given twice. It may have been
-- saved anew meanwhile.
update segments set state = 'deleted' where segment_id = :segment_id and state = 'deleting';

-- name: segment_people_after
-- People in the order of their ids; ids claimed without proof are nobody.
select profile_id from profiles
where profile_id > :after and merged_into is null and id_type <> 'claimed_user_id'
order by profile_id limit :limit;

-- name: count_people$
-- Everybody who could be in a segment.
select count(*) from profiles where merged_into is null and id_type <> 'claimed_user_id';

-- name: segment_profiles
-- What profiles are merged into, and what they began with.
select p.profile_id, p.merged_into, p.id_type
from json_each(cast(:profiles as text)) asked cross join profiles p where p.profile_id = asked.value;

-- name: segment_profiles_below
-- What is merged into profiles.
select p.profile_id, p.merged_into, p.attach_from, p.attach_until
from json_each(cast(:profiles as text)) asked cross join profiles p where p.merged_into = asked.value;

-- name: segment_bearers
-- Who carries beacons, or once did.
select e.profile_id
from json_each(cast(:beacons as text)) asked cross join identity_edges e
where e.id_type = 'beacon' and e.id = asked.value and e.valid_to is null
union
select e.profile_id
from json_each(cast(:beacons as text)) asked cross join identity_edges e
where e.id_type = 'beacon' and e.id = asked.value and e.valid_to is not null;

-- name: segment_events
-- What profiles did after a time that some segment asks for, by name or by kind alone; newest first.
select e.profile_id, e.kind, e.name, e.occurred_at, e.properties
from json_each(cast(:profiles as text)) asked cross join events e
where e.profile_id = asked.value and e.occurred_at > :since
  and (e.name in (select value from json_each(cast(:named as text)))
    or e.kind in (select value from json_each(cast(:nameless as text))))
order by e.occurred_at desc;

-- name: segment_traits
-- The traits asked for, of every profile, with what decides which one is the person's.
select t.profile_id, t.name, t.value, t.occurred_at, t.event_hash, p.id_type
from json_each(cast(:profiles as text)) asked
cross join profiles p cross join traits t
where p.profile_id = asked.value and t.profile_id = asked.value
  and t.occurred_at between p.attach_from and p.attach_until
  and t.name in (select value from json_each(cast(:names as text)));

-- name: segment_consents
-- What each profile last said of the purposes asked for.
select c.profile_id, c.purpose, c.granted, c.occurred_at, p.id_type, p.merged_at
from json_each(cast(:profiles as text)) asked
cross join profiles p cross join consents c
where p.profile_id = asked.value and c.profile_id = asked.value
  and c.purpose in (select value from json_each(cast(:purposes as text)))
order by c.granted desc;

-- name: segment_identifiers
-- By what the profiles are known.
select p.profile_id, p.id_type, p.id
from json_each(cast(:profiles as text)) asked cross join profiles p
where p.profile_id = asked.value and p.id_type in (select value from json_each(cast(:kinds as text)))
union all
select e.profile_id, e.id_type, e.id
from json_each(cast(:profiles as text)) asked cross join identity_edges e
where e.profile_id = asked.value and e.id_type = 'beacon' and e.valid_to is null
  and 'beacon' in (select value from json_each(cast(:kinds as text)));

-- name: segment_visits
-- Stays in zones that lasted beyond a time.
select v.profile_id, v.store_id, v.zone_id, v.entered_at, v.left_at
from json_each(cast(:profiles as text)) asked cross join zone_visits v
where v.profile_id = asked.value and (v.left_at is null or v.left_at > :since);

-- name: segment_zones
-- Who is in which zone now.
select p.profile_id, p.store_id, p.zone_id
from json_each(cast(:profiles as text)) asked cross join presences p
where p.profile_id = asked.value and p.zone_id is not null;

-- name: segment_stores
-- Who is in which store now.
select v.profile_id, v.store_id
from json_each(cast(:profiles as text)) asked cross join visits v
where v.profile_id = asked.value and v.left_at is null;

-- name: segment_fences
-- Who is inside of which geofence now.
select v.profile_id, v.fence_id
from json_each(cast(:profiles as text)) asked cross join fence_visits v
where v.profile_id = asked.value and v.left_at is null;

-- name: segment_fence_stores
-- The geofences that are around stores.
select fence_id, json_extract(definition, '$.store_id') as store_id from geofences
where json_extract(definition, '$.store_id') is not null order by fence_id;

-- name: segment_scores
-- The newest scores of recency, frequency and money.
select s.profile_id, s.r, s.f, s.m, s.name
from json_each(cast(:profiles as text)) asked cross join rfm_scores s where s.profile_id = asked.value;

-- name: segment_memberships
-- Which segments the profiles are in.
select m.profile_id, m.segment_id, m.since
from json_each(cast(:profiles as text)) asked cross join segment_members m where m.profile_id = asked.value;

-- name: segment_timers_of
-- What is waited for.
select t.profile_id, t.segment_id, t.due_at
from json_each(cast(:profiles as text)) asked cross join segment_timers t where t.profile_id = asked.value;

-- name: segment_categories
-- Which zones have which categories.
select store_id, zone_id, categories from zones order by store_id, zone_id;

-- name: put_segment_member!
-- Somebody came in; a person that was two keeps the earlier time.
insert into segment_members (segment_id, profile_id, since, version)
values (:segment_id, :profile_id, :since, :version)
on conflict (segment_id, profile_id) do update set since = min(segment_members.since, excluded.since);

-- name: end_segment_member!
-- Somebody went.
delete from segment_members where segment_id = :segment_id and profile_id = :profile_id;

-- name: add_segment_change!
-- For the timeline.
insert into segment_changes (segment_id, profile_id, version, kind, at, backfill)
values (:segment_id, :profile_id, :version, :kind, :at, :backfill);

-- name: put_segment_timer!
-- Ask again at this time, or earlier if so was said before.
insert into segment_timers (profile_id, segment_id, due_at) values (:profile_id, :segment_id, :due_at)
on conflict (profile_id, segment_id) do update set due_at = min(segment_timers.due_at, excluded.due_at);

-- name: ask_segments_again!
-- The same for people of whom something changed.
insert into segment_timers (profile_id, segment_id, due_at)
select distinct value, cast(:segment_id as text), cast(:now as bigint) from json_each(cast(:profiles as text)) where true
on conflict (profile_id, segment_id) do update set due_at = min(segment_timers.due_at, excluded.due_at);

-- name: end_segment_timer!
-- It is being looked at.
delete from segment_timers where profile_id = :profile_id and segment_id = :segment_id;

-- name: due_segment_timers
-- Whom time may have moved, longest waiting first.
select profile_id, segment_id from segment_timers where due_at <= :now order by due_at limit :limit;

-- name: next_segment_timer$
-- When the next of them is due.
select min(due_at) from segment_timers;

-- name: segment_members_between
-- Who is in a segment, among the people after one id and up to another.
select profile_id, since from segment_members
where segment_id = :segment_id and profile_id > :after and profile_id <= :until;

-- name: segment_members_beyond
-- Who is in a segment after one id, a page at a time.
select profile_id, since, version from segment_members
where segment_id = :segment_id and profile_id > :after order by profile_id limit :limit;

-- name: count_segment_members$
-- How many are in a segment.
select count(*) from segment_members where segment_id = :segment_id;

-- name: segments_of_person
-- Which segments a person is in, since when.
select m.segment_id, m.since, m.version from segment_members m join segments s on s.segment_id = m.segment_id
where m.profile_id = :profile_id and s.state in ('computing', 'live') order by m.segment_id;

-- name: erase_segment_members!
-- Erasure of a profile.
delete from segment_members where profile_id = :profile_id;

-- name: erase_segment_changes!
-- Erasure of a profile.
delete from segment_changes where profile_id = :profile_id;

-- name: erase_segment_timers!
-- Erasure of a profile.
delete from segment_timers where profile_id = :profile_id;

-- name: erase_scores!
-- Erasure of a profile.
delete from rfm_scores where profile_id = :profile_id;
