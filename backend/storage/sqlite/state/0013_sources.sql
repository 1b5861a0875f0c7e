-- Sources of events: which pages may send, how much, and by which keys. Times are unix ms, UTC.
alter table sources add column origins text not null default '[]'; -- JSON array; empty: pages of any origin
alter table sources add column events_per_second real;             -- null: what the bridge grants everybody
alter table sources add column burst real;
-- A source has one key, or while one is being replaced two. `sources.key_hash` was the only one, once.
create table source_keys (
  key_id text primary key,      -- the key's first characters, by which people tell keys apart
  source_id text not null references sources,
  key_hash blob not null unique,
  created_at integer not null,
  expires_at integer,           -- of one that was replaced; null: it does not end by itself
  revoked_at integer
);
create index source_keys_of_source on source_keys (source_id);
insert into source_keys (key_id, source_id, key_hash, created_at, expires_at, revoked_at)
select 'first-' || source_id, source_id, key_hash, created_at, null, revoked_at from sources;
