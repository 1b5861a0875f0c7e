-- Geofences, who is in or near which, and who was. Times are unix ms, UTC.
create table geofences (
  fence_id text primary key,
  definition text not null,      -- JSON: backend/proximity/fences.py, Fence
  changed_at bigint not null
);
create table geofence_stamp ( -- rises with every change, so that thousands of fences are not read for nothing
  only_one integer primary key check (only_one = 1),
  version bigint not null
);
insert into geofence_stamp values (1, 0);
create table fence_presences ( -- what is remembered of a phone and a fence near it
  subject text not null,         -- phone:<device>
  fence_id text not null,
  profile_id text not null,
  inside integer not null,
  entered_at bigint not null,
  seen_at bigint not null,
  farthest double precision,     -- metres, on the present way towards it
  doubtful_at bigint,
  approached integer not null,
  primary key (subject, fence_id)
);
create index fence_presences_of_profile on fence_presences (profile_id);
create table fence_visits (
  visit_id integer primary key autoincrement,
  subject text not null,
  profile_id text not null,
  fence_id text not null,
  entered_at bigint not null,
  left_at bigint,
  confidence text not null
);
create index fence_visits_of_profile on fence_visits (profile_id, entered_at);
create index fence_visits_open on fence_visits (subject, fence_id) where left_at is null;
create index fence_visits_by_time on fence_visits (fence_id, entered_at);
