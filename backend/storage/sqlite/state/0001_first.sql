-- Everything folded from the journal, and what operators set up. Times are unix ms, UTC.
create table fold (
  only integer primary key check (only = 1),
  position integer not null
);
insert into fold values (1, 0);

-- Set up by operators ------------------------------------------------------------------------------------
create table stores (
  store_id text primary key,
  name text not null,
  timezone text not null
);
create table zones (
  store_id text not null references stores,
  zone_id text not null,
  name text not null,
  categories text not null default '[]',
  primary key (store_id, zone_id)
);
create table gateways (
  store_id text not null,
  gateway_id text not null,
  zone_id text not null,
  name text not null,
  x_m real,                      -- where it hangs, in metres on the store's own plan; null: not known
  y_m real,
  primary key (store_id, gateway_id),
  foreign key (store_id, zone_id) references zones
);
create table beacons (
  beacon_key text primary key,
  role text not null check (role in ('zone', 'tag', 'asset')),
  store_id text,
  zone_id text
);
create table api_tokens (
  token_hash blob primary key,
  name text not null,
  role text not null check (role in ('viewer', 'marketer', 'operator', 'admin')),
  created_at integer not null,
  revoked_at integer
);
create table sources (
  source_id text primary key,
  name text not null,
  kind text not null check (kind in ('web', 'app', 'server')),
  key_hash blob not null unique,
  proof text not null check (proof in ('required', 'off')),
  proof_secret text not null,
  created_at integer not null,
  revoked_at integer
);
create table audit (
  audit_id integer primary key autoincrement,
  at integer not null,
  actor text not null,
  action text not null,
  subject text not null,
  detail text not null
);
create table alerts (
  alert_id integer primary key autoincrement,
  at integer not null,
  kind text not null,
  subject text not null,
  detail text not null
);

-- People -------------------------------------------------------------------------------------------------
-- Each identifier has a profile of its own, for good; a person is the tree that merges make of them.
create table profiles (
  profile_id text primary key,
  id_type text not null,        -- what it began with; 'user_id' makes it an identified one
  created_at integer not null,
  merged_into text,
  merged_at integer             -- when the earliest evidence for that happened
);
create index profiles_merged_into on profiles (merged_into) where merged_into is not null;
create table identity_edges (
  id_type text not null,        -- user_id, anonymous_id, device_id, claimed_user_id, beacon; profile for a merge
  id text not null,
  profile_id text not null,
  valid_from integer not null,
  valid_to integer,
  cause text not null,
  event_id integer              -- the event that gave the cause, unless an operator did
);
create unique index identity_open on identity_edges (id_type, id) where valid_to is null;
create index identity_of_profile on identity_edges (profile_id);
-- Which identified profiles an anonymous id, a device or a beacon was proven to go with; the merges follow.
create table identity_claims (
  id_type text not null,
  id text not null,
  profile_id text not null,
  via text not null,            -- seen, alias; for a beacon the device that claimed it
  first_at integer not null,
  last_at integer not null,
  last_hash integer not null,
  undone_at integer,            -- an operator said no: never merge these two by themselves again
  primary key (id_type, id, profile_id, via)
);
create table merge_reviews (
  review_id integer primary key autoincrement,
  at integer not null,
  id_type text not null,
  id text not null,
  profile_id text not null,
  other_profile_id text not null,
  cause text not null,
  unique (profile_id, other_profile_id)
);
create table traits (
  profile_id text not null,
  name text not null,
  value text not null,          -- JSON; null: removed
  occurred_at integer not null,
  event_hash integer not null,  -- breaks ties between equal times, whatever came first
  primary key (profile_id, name)
);
create table consents (
  profile_id text not null,
  purpose text not null,
  granted integer not null,
  occurred_at integer not null,
  event_hash integer not null,
  primary key (profile_id, purpose) -- the latest statement; the earlier ones are in events
);
create table devices (
  device_id text primary key,
  profile_id text,              -- who holds it, as the registers say
  platform text,
  last_seen_at integer not null,
  registers blob not null       -- the profiles' Device
);
create index devices_of_profile on devices (profile_id);
create table push_addresses (
  kind text not null check (kind in ('token', 'fid')),
  value text not null,
  profile_id text,              -- null: released by a logout, or replaced by a newer one of its device
  proven integer not null default 0, -- 0: a claim without proof, which reaches no identified person
  device_id text,
  platform text,
  bound_at integer not null,    -- when the device reported it, and that event's hash
  bound_hash integer not null,
  last_seen_at integer not null,
  quarantined_at integer,
  primary key (kind, value)
);
create index push_addresses_of_profile on push_addresses (profile_id);
create index push_addresses_of_device on push_addresses (device_id);
create table events (
  event_id integer primary key, -- journal position × 4096 + index in the entry
  event_hash integer not null,
  profile_id text,
  kind text not null,
  name text,
  source text not null,
  message_id text not null,
  occurred_at integer not null,
  received_at integer not null,
  body blob not null
);
create index events_of_profile on events (profile_id, occurred_at);

-- The shop floor -----------------------------------------------------------------------------------------
create table heard_keys (
  key_number integer primary key,
  beacon_key text not null unique
);
create table heard_gateways (
  gateway_number integer primary key,
  gateway text not null unique
);
create table sightings (
  second integer not null,      -- unix seconds
  gateway_number integer not null,
  key_number integer not null,
  adverts integer not null,     -- summed, so a batch folded twice would show
  loss integer not null,
  best integer not null,
  primary key (second, gateway_number, key_number)
);
create table sightings_without_time ( -- of a boot whose clock was never set: history, never presence
  boot_id text not null,
  boot_second integer not null,
  gateway_number integer not null,
  key_number integer not null,
  adverts integer not null,
  loss integer not null,
  best integer not null,
  primary key (boot_id, boot_second, gateway_number, key_number)
);
create table forgotten_late ( -- adverts of people who withdrew while these lay in the journal
  gateway text primary key,
  adverts integer not null
);
create table presences (
  beacon_key text primary key,
  profile_id text,
  store_id text not null,
  zone_id text,                 -- null: heard, but not surely in any zone
  entered_at integer not null,
  seen_at integer not null,
  engine blob not null          -- the zone filter's own state
);
create index presences_of_profile on presences (profile_id);
create table zone_visits (
  visit_id integer primary key autoincrement,
  beacon_key text not null,
  profile_id text,
  store_id text not null,
  zone_id text not null,
  entered_at integer not null,
  left_at integer
);
create index zone_visits_of_profile on zone_visits (profile_id, entered_at);
create table gateway_health (
  gateway text primary key,
  heard_at integer not null,
  body blob not null
);
create table beacon_health (
  beacon_key text primary key,
  at integer not null,
  gateway text not null,
  battery_mv integer,
  temperature_c real,
  adverts integer,
  uptime_s real
);

-- Campaigns and pushes -----------------------------------------------------------------------------------
create table campaigns (
  campaign_id text primary key,
  version integer not null,
  state text not null check (state in ('draft', 'live', 'paused', 'ended')),
  definition blob not null,
  changed_at integer not null
);
create table dwell_timers (
  campaign_id text not null,
  beacon_key text not null,
  entered_at integer not null,
  due_at integer not null,
  primary key (campaign_id, beacon_key)
);
create index dwell_timers_due on dwell_timers (due_at);
create table decisions (
  decision_id integer primary key autoincrement,
  campaign_id text not null,
  campaign_version integer not null,
  profile_id text not null,
  store_id text not null,
  zone_id text not null,
  entered_at integer not null,  -- one candidate per entering of the zone
  due_at integer not null,
  completed_at integer not null, -- arrival of the batch that completed the dwell
  decided_at integer not null,
  verdict text not null check (verdict in ('sent', 'suppressed', 'held_out')),
  reason text not null,
  unique (campaign_id, profile_id, zone_id, entered_at)
);
create index decisions_of_profile on decisions (profile_id, campaign_id, decided_at);
create table pushes (
  push_id text primary key,
  decision_id integer not null references decisions,
  campaign_id text not null,
  profile_id text not null,
  address_kind text not null,
  address_value text not null,
  platform text,
  content blob not null,        -- PushContent
  state text not null check (state in
    ('queued', 'claimed', 'sending', 'accepted', 'rejected', 'unknown', 'expired', 'suppressed')),
  reason text,
  owner text,
  attempt integer not null default 0,
  resent integer not null default 0,
  next_try_at integer not null,
  expires_at integer not null,
  created_at integer not null,
  due_at integer not null,
  completed_at integer not null,
  sending_at integer,
  finished_at integer,
  message_name text,
  received_at integer,
  opened_at integer,
  unique (decision_id, address_kind, address_value)
);
create index pushes_waiting on pushes (next_try_at) where state = 'queued';
create index pushes_in_hand on pushes (state) where state in ('claimed', 'sending');
create index pushes_of_profile on pushes (profile_id, created_at);
