-- Visits to stores, and how sure the zones of presences and visits are. Times are unix ms, UTC.
alter table presences add column confidence text not null default 'none';
alter table zone_visits add column confidence text not null default 'high'; -- of the entering
create table visits (
  visit_id integer primary key autoincrement,
  subject text not null,         -- a beacon's key, or phone:<device>
  profile_id text,
  store_id text not null,
  entered_at integer not null,
  idle_since integer,            -- in no zone since then; null: in one
  left_at integer
);
create unique index visits_open on visits (subject) where left_at is null;
create index visits_of_profile on visits (profile_id, entered_at);
create index visits_of_store on visits (store_id, entered_at);
