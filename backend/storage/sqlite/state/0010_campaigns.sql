-- Campaigns with every trigger, their versions, waits, codes and what they are measured by. Times are unix ms, UTC.
create table campaigns_next (
  campaign_id text primary key,
  version integer not null,
  state text not null check (state in ('draft', 'scheduled', 'live', 'paused', 'ended')),
  definition blob not null,
  changed_at integer not null
);
insert into campaigns_next select campaign_id, version, state, definition, changed_at from campaigns;
drop table campaigns;
alter table campaigns_next rename to campaigns;
create table campaign_versions ( -- what a decision of a version was made by
  campaign_id text not null,
  version integer not null,
  state text not null,
  definition blob not null,
  changed_at integer not null,
  changed_by text not null,
  primary key (campaign_id, version)
);
insert into campaign_versions select campaign_id, version, state, definition, changed_at, '' from campaigns;

-- A candidate in the making: until somebody has stayed long enough, or for so long by the clock.
create table campaign_waits (
  campaign_id text not null,
  subject text not null,         -- what was observed: a beacon's key, phone:<device>, an event's message id
  begun_at integer not null,     -- when the moment began: the entering, the leaving, the event
  profile_id text not null,
  due_at integer not null,
  stays integer not null,        -- 1: only evidence of the stay completes it; 0: the clock does
  holds text not null,           -- where the person must still be: zone, store, fence, nothing
  store_id text,
  zone_id text,
  fence_id text,
  confidence text not null,
  partition integer not null default 0,
  primary key (campaign_id, subject, begun_at)
);
create index campaign_waits_due on campaign_waits (due_at) where stays = 0;
create index campaign_waits_of_profile on campaign_waits (profile_id);
insert into campaign_waits (campaign_id, subject, begun_at, profile_id, due_at, stays, holds, store_id, zone_id, confidence)
select t.campaign_id, t.beacon_key, t.entered_at, coalesce(p.profile_id, ''), t.due_at, 1, 'zone', p.store_id, p.zone_id, 'low'
from dwell_timers t join presences p on p.beacon_key = t.beacon_key;
drop table dwell_timers;

alter table decisions add column subject text not null default '';
alter table decisions add column fence_id text;
alter table decisions add column holds text not null default 'zone';
alter table decisions add column confidence text not null default 'high';
alter table decisions add column variant text not null default 'offer';
alter table decisions add column send_at integer; -- when it may leave at the earliest; null: it never may
alter table decisions add column active integer not null default 0; -- 1: a push of it is still on its way
update decisions set send_at = decided_at where verdict = 'sent'; -- else they would count for no limit
create unique index decisions_active on decisions (campaign_id, profile_id) where active = 1;
create index pushes_left on pushes (campaign_id, sending_at) where sending_at is not null;
create index decisions_of_campaign on decisions (campaign_id, decided_at);
create index decisions_sent on decisions (profile_id, send_at) where verdict = 'sent';

-- Codes that are given away once each.
create table code_pools (
  pool_id text primary key,
  name text not null,
  created_at integer not null
);
create table codes (
  pool_id text not null references code_pools,
  code text not null,
  added_at integer not null,
  decision_id integer,           -- null: still to be given
  given_at integer,
  primary key (pool_id, code)
);
create index codes_left on codes (pool_id, added_at, code) where decision_id is null;
create index codes_of_decision on codes (decision_id) where decision_id is not null;
