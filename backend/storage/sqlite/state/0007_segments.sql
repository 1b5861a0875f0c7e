-- Audiences: what they are, who is in them, and when time alone may change that. Times are unix ms, UTC.
create table segments (
  segment_id text primary key,
  version integer not null,
  state text not null check (state in ('computing', 'live', 'deleting', 'deleted')),
  silent integer not null,      -- 1: whom the computing finds in or out is no news to campaigns
  computed_to text not null,    -- the last person that the computing has reached; '': none
  basis text not null,          -- the set-up that dwelling depends on: which zones have the categories
  changed_at integer not null,
  computed_at integer           -- when every person had been asked; null: not yet
);
create table segment_versions (
  segment_id text not null references segments,
  version integer not null,
  definition text not null,     -- JSON
  created_at integer not null,
  created_by text not null,
  primary key (segment_id, version)
);
create table segment_members (
  segment_id text not null,
  profile_id text not null,     -- the person: always a profile that is merged into none
  since integer not null,
  version integer not null,     -- of the definition by which they came in
  primary key (segment_id, profile_id)
);
create index segment_members_of_profile on segment_members (profile_id);
create table segment_changes (
  change_id integer primary key autoincrement,
  segment_id text not null,
  profile_id text not null,
  version integer not null,
  kind text not null check (kind in ('entered', 'left')),
  at integer not null,
  backfill integer not null     -- 1: found by computing a new definition, not by anything that happened
);
create index segment_changes_of_profile on segment_changes (profile_id, at);
create table segment_timers (
  profile_id text not null,
  segment_id text not null,     -- '': every segment, as soon as may be
  due_at integer not null,
  primary key (profile_id, segment_id)
);
create index segment_timers_due on segment_timers (due_at);
-- Who was known by an identifier before, or was merged into whom: it is no longer one person's, so ask both.
create index identity_closed on identity_edges (id_type, id) where valid_to is not null;
-- The newest scores of each person; filled by the run that the scores come from.
create table rfm_scores (
  profile_id text primary key,
  run_id integer not null,
  r integer,
  f integer,
  m integer,
  name text,
  scored_at integer not null
);
