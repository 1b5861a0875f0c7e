-- What is kept for how long: sightings of old by the hour, and how far the thinning is. Times are unix ms, UTC.
create table sighting_hours ( -- the person's tag first: erasing one reads nobody else's rows
  key_number integer not null,
  hour integer not null,         -- its first unix second; 0: of a boot whose clock was never set
  gateway_number integer not null,
  adverts integer not null,
  loss_sum integer not null,     -- loss times adverts, so that hours add up without rounding
  best integer not null,
  primary key (key_number, hour, gateway_number)
);
create index sighting_hours_by_time on sighting_hours (hour);
create table retention_jobs (
  kind text primary key,
  begun_at bigint not null,
  finished_at bigint,            -- null: under way, also after the process died
  before_at bigint not null,     -- what is older goes
  rows_found bigint not null,
  rows_done bigint not null
);
alter table sightings_without_time add column received_at bigint; -- null: from before there was this column
create index sightings_without_time_by_age on sightings_without_time (received_at);
create index alerts_by_time on alerts (at);
create index events_observed on events (received_at)
where kind in ('location', 'beacon_sighting', 'fence_transition');
create index pushes_readable on pushes (created_at) where address_value <> push_id;
create index decisions_readable on decisions (decided_at) where subject <> '';
create index zone_visits_left on zone_visits (left_at) where left_at is not null;
create index visits_left on visits (left_at) where left_at is not null;
create index fence_visits_left on fence_visits (left_at) where left_at is not null;
