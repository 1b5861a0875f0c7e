-- name: take_sightings
-- The oldest seconds, taken away: exactly these are added to their hours in the same transaction.
delete from sightings where (second, gateway_number, key_number) in (
  select second, gateway_number, key_number from sightings where second < :before_s
  order by second, gateway_number, key_number limit :limit)
returning second, gateway_number, key_number, adverts, loss, best;

-- name: take_sightings_without_time
-- The same of boots whose clock was never set, by when they arrived.
delete from sightings_without_time where (boot_id, boot_second, gateway_number, key_number) in (
  select boot_id, boot_second, gateway_number, key_number from sightings_without_time
  where received_at < :before order by received_at limit :limit)
returning 0 as second, gateway_number, key_number, adverts, loss, best;

-- name: date_sightings_without_time!
-- Rows from before their arrival was kept begin to age now.
update sightings_without_time set received_at = :now
where (boot_id, boot_second, gateway_number, key_number) in (
  select boot_id, boot_second, gateway_number, key_number from sightings_without_time
  where received_at is null limit :limit);

-- name: add_sighting_hours!
-- One hour of one beacon at one gateway; an outage's backlog may add to it weeks later.
insert into sighting_hours (key_number, hour, gateway_number, adverts, loss_sum, best)
values (:key_number, :hour, :gateway_number, :adverts, :loss_sum, :best)
on conflict (key_number, hour, gateway_number) do update set
  adverts = sighting_hours.adverts + excluded.adverts, loss_sum = sighting_hours.loss_sum + excluded.loss_sum,
  best = case when excluded.best < sighting_hours.best then excluded.best else sighting_hours.best end;

-- name: forget_sighting_hours!
-- Hours that are too old; those without a time stay as long as the shop, for they are few.
delete from sighting_hours where (key_number, hour, gateway_number) in (
  select key_number, hour, gateway_number from sighting_hours where hour > 0 and hour < :before_s
  order by hour limit :limit);

-- name: forget_alerts!
-- Alerts that are too old.
delete from alerts where alert_id in (
  select alert_id from alerts where at < :before order by at limit :limit);

-- name: forget_push_addresses!
-- Where no app was for long: removed, or the phone is no more.
delete from push_addresses where (kind, value) in (
  select kind, value from push_addresses where last_seen_at < :before order by last_seen_at limit :limit);

-- name: forget_surplus_alerts!
-- The oldest alerts, where there are too many.
delete from alerts where alert_id in (
  select alert_id from alerts where alert_id <= (select max(alert_id) from alerts) - :most
  order by alert_id limit :limit);

-- name: forget_observations!
-- Where phones were, and which beacons they heard.
delete from events where event_id in (
  select event_id from events
  where (kind = 'location' or kind = 'beacon_sighting' or kind = 'fence_transition') and received_at < :before
  order by received_at limit :limit);

-- name: empty_pushes!
-- The text and the address of pushes that are over; a campaign's figures stay.
update pushes set content = :content, address_value = push_id, message_name = null where push_id in (
  select push_id from pushes where address_value <> push_id and created_at < :before
  and state not in ('queued', 'claimed', 'sending') order by created_at limit :limit);

-- name: empty_decisions!
-- By what somebody was observed when it was decided; that it was, and why, stays.
update decisions set subject = '' where decision_id in (
  select decision_id from decisions where subject <> '' and decided_at < :before and active = 0
  order by decided_at limit :limit);

-- name: forget_zone_visits!
-- Visits to zones that ended too long ago.
delete from zone_visits where visit_id in (
  select visit_id from zone_visits where left_at < :before order by left_at limit :limit);

-- name: forget_visits!
-- Visits to stores that ended too long ago.
delete from visits where visit_id in (
  select visit_id from visits where left_at < :before order by left_at limit :limit);

-- name: forget_fence_visits!
-- Visits to geofences that ended too long ago.
delete from fence_visits where visit_id in (
  select visit_id from fence_visits where left_at < :before order by left_at limit :limit);

-- How much there is to do ---------------------------------------------------------------------------------------

-- name: count_sightings$
-- Seconds that are to be thinned.
select count(*) from sightings where second < :before_s;

-- name: count_sightings_without_time$
-- Those of boots whose clock was never set.
select count(*) from sightings_without_time where received_at < :before;

-- name: count_sighting_hours$
-- Hours that are too old.
select count(*) from sighting_hours where hour > 0 and hour < :before_s;

-- name: count_alerts$
-- Alerts that are too old.
select count(*) from alerts where at < :before;

-- name: count_push_addresses$
-- Addresses that are too old.
select count(*) from push_addresses where last_seen_at < :before;

-- name: count_surplus_alerts$
-- Alerts that are too many.
select count(*) from alerts where alert_id <= (select max(alert_id) from alerts) - :most;

-- name: count_observations$
-- What phones observed too long ago.
select count(*) from events
where (kind = 'location' or kind = 'beacon_sighting' or kind = 'fence_transition') and received_at < :before;

-- name: count_pushes_to_empty$
-- Pushes whose text is too old.
select count(*) from pushes where address_value <> push_id and created_at < :before
and state not in ('queued', 'claimed', 'sending');

-- name: count_decisions_to_empty$
-- Decisions that name a subject for too long.
select count(*) from decisions where subject <> '' and decided_at < :before and active = 0;

-- name: count_zone_visits$
-- Visits to zones that are too old.
select count(*) from zone_visits where left_at < :before;

-- name: count_visits$
-- Visits to stores that are too old.
select count(*) from visits where left_at < :before;

-- name: count_fence_visits$
-- Visits to geofences that are too old.
select count(*) from fence_visits where left_at < :before;

-- The jobs ------------------------------------------------------------------------------------------------------

-- name: begin_retention!
-- A job begins, or goes on where a process died: then its rows are what was done and what is left.
insert into retention_jobs (kind, begun_at, finished_at, before_at, rows_found, rows_done)
values (:kind, :now, null, :before, :found, 0)
on conflict (kind) do update set before_at = excluded.before_at, finished_at = null,
  begun_at = case when retention_jobs.finished_at is null then retention_jobs.begun_at else excluded.begun_at end,
  rows_done = case when retention_jobs.finished_at is null then retention_jobs.rows_done else 0 end,
  rows_found = excluded.rows_found
    + case when retention_jobs.finished_at is null then retention_jobs.rows_done else 0 end;

-- name: retention_portion!
-- How many rows a portion did; in that portion's own transaction.
update retention_jobs set rows_done = rows_done + :rows where kind = :kind;

-- name: end_retention!
-- Nothing is left that is too old.
update retention_jobs set finished_at = :now where kind = :kind;

-- name: retention_jobs
-- How far each job is, or how its last run ended.
select kind, begun_at, finished_at, before_at, rows_found, rows_done from retention_jobs;
