-- Members lie together by person, as they are asked for and as they come and go; timers likewise.
create table members_by_person (
  segment_id text not null,
  profile_id text not null,     -- the person: always a profile that is merged into none
  since integer not null,       -- unix ms, UTC
  version integer not null,     -- of the definition by which they came in
  primary key (profile_id, segment_id)
) without rowid;
insert into members_by_person (segment_id, profile_id, since, version)
select segment_id, profile_id, since, version from segment_members order by profile_id, segment_id;
drop table segment_members;
alter table members_by_person rename to segment_members;
create index segment_members_of_segment on segment_members (segment_id, profile_id);
create table timers_by_person (
  profile_id text not null,
  segment_id text not null,     -- '': every segment, as soon as may be
  due_at integer not null,      -- unix ms, UTC
  primary key (profile_id, segment_id)
) without rowid;
insert into timers_by_person (profile_id, segment_id, due_at)
select profile_id, segment_id, due_at from segment_timers order by profile_id, segment_id;
drop table segment_timers;
alter table timers_by_person rename to segment_timers;
create index segment_timers_due on segment_timers (due_at);
