-- name: fold_position
-- The last journal entry that this state holds, of each line.
select 0 as line, position from fold;

-- name: move_fold!
-- In the transaction of what the entries caused; changes nothing where somebody else was here.
update fold set position = :position where position = :before;

-- name: number_key!
-- Sightings name beacons by a small number.
insert into heard_keys (beacon_key) values (:beacon_key) on conflict do nothing;

-- name: key_number$
-- The number of a beacon.
select key_number from heard_keys where beacon_key = :beacon_key;

-- name: number_gateway!
-- Sightings name gateways by a small number.
insert into heard_gateways (gateway) values (:gateway) on conflict do nothing;

-- name: gateway_number$
-- The number of a gateway.
select gateway_number from heard_gateways where gateway = :gateway;

-- name: add_sighting!
-- One second of one beacon at one gateway. Two boots may share a second, so adverts add up.
insert into sightings (second, gateway_number, key_number, adverts, loss, best)
values (:second, :gateway_number, :key_number, :adverts, :loss, :best)
on conflict (second, gateway_number, key_number) do update set
  loss = (sightings.loss * sightings.adverts + excluded.loss * excluded.adverts)
    / (sightings.adverts + excluded.adverts),
  best = min(sightings.best, excluded.best),
  adverts = sightings.adverts + excluded.adverts;

-- name: fixed_beacon_levels
-- What gateways heard, in the newest five minutes, of the beacons that are fixed to zones.
select b.store_id, b.zone_id, b.beacon_key, g.gateway, count(*) as seconds,
  cast(sum(s.loss * s.adverts) as real) / sum(s.adverts) as loss
from sightings s
join heard_keys k using (key_number)
join heard_gateways g using (gateway_number)
join beacons b on b.beacon_key = k.beacon_key and b.role = 'zone' and b.zone_id is not null
where s.second > (select max(second) from sightings) - 300
group by b.beacon_key, g.gateway
order by b.beacon_key, g.gateway;

-- name: add_sighting_without_time!
-- The gateway's clock was never set in that boot; kept for the record, never presence.
insert into sightings_without_time (boot_id, boot_second, gateway_number, key_number, adverts, loss, best,
  received_at)
values (:boot_id, :second, :gateway_number, :key_number, :adverts, :loss, :best, :received_at)
on conflict (boot_id, boot_second, gateway_number, key_number) do update set
  adverts = sightings_without_time.adverts + excluded.adverts;

-- name: count_forgotten_late!
-- Adverts that the journal still held when their owner withdrew.
insert into forgotten_late (gateway, adverts) values (:gateway, :adverts)
on conflict (gateway) do update set adverts = forgotten_late.adverts + excluded.adverts;

-- name: forgotten_late_by_gateway
-- For accounts.
select gateway, adverts from forgotten_late;

-- name: save_presence!
-- Where a beacon is, with the filter's memory, so that a restart goes on where it stopped.
insert into presences (beacon_key, profile_id, store_id, zone_id, entered_at, seen_at, engine, confidence,
  partition)
values (:beacon_key, :profile_id, :store_id, :zone_id, :entered_at, :seen_at, :engine, :confidence, :partition)
on conflict (beacon_key) do update set profile_id = excluded.profile_id, store_id = excluded.store_id,
  zone_id = excluded.zone_id, entered_at = excluded.entered_at, seen_at = excluded.seen_at,
  engine = excluded.engine, confidence = excluded.confidence, partition = excluded.partition;

-- name: end_presence!
-- It is nowhere any more.
delete from presences where beacon_key = :beacon_key;

-- name: presences
-- Everything that is somewhere.
select beacon_key, profile_id, store_id, zone_id, entered_at, seen_at, engine, partition from presences;

-- name: begin_zone_visit!
-- A zone was entered.
insert into zone_visits (beacon_key, profile_id, store_id, zone_id, entered_at, confidence)
values (:beacon_key, :profile_id, :store_id, :zone_id, :entered_at, :confidence);

-- name: end_zone_visit!
-- And left.
update zone_visits set left_at = :left_at
where beacon_key = :beacon_key and store_id = :store_id and zone_id = :zone_id and entered_at = :entered_at
  and left_at is null;

-- name: begin_visit!
-- A store was entered.
insert into visits (subject, profile_id, store_id, entered_at, partition)
values (:subject, :profile_id, :store_id, :entered_at, :partition);

-- name: pause_visit!
-- Still in the store, but in no zone of it since then; null: in one again.
update visits set idle_since = :idle_since where subject = :subject and left_at is null;

-- name: end_visit!
-- And left.
update visits set left_at = :left_at, idle_since = null where subject = :subject and left_at is null;

-- name: open_visits
-- Everybody who is in a store; and of whoever is in none of its zones the last one, for a beacon that gateways hear.
select v.subject, v.store_id, v.profile_id, v.entered_at, v.idle_since, v.partition,
  case when v.idle_since is not null and v.subject not like 'phone:%' then
    (select z.zone_id from zone_visits z
    where z.profile_id = v.profile_id and z.beacon_key = v.subject and z.store_id = v.store_id
    order by z.entered_at desc limit 1) end as last_zone
from visits v where v.left_at is null order by v.subject;

-- name: save_gateway_health!
-- The newest heartbeat of a gateway.
insert into gateway_health (gateway, heard_at, body) values (:gateway, :heard_at, :body)
on conflict (gateway) do update set heard_at = excluded.heard_at, body = excluded.body;

-- name: gateway_health
-- The newest heartbeat of every gateway.
select gateway, heard_at, body from gateway_health;

-- name: save_beacon_health!
-- The newest telemetry of a beacon.
insert into beacon_health (beacon_key, at, gateway, battery_mv, temperature_c, adverts, uptime_s)
values (:beacon_key, :at, :gateway, :battery_mv, :temperature_c, :adverts, :uptime_s)
on conflict (beacon_key) do update set at = excluded.at, gateway = excluded.gateway,
  battery_mv = excluded.battery_mv, temperature_c = excluded.temperature_c, adverts = excluded.adverts,
  uptime_s = excluded.uptime_s
where excluded.at >= beacon_health.at;

-- name: raise_alert!
-- Something that a person should see.
insert into alerts (at, kind, subject, detail) values (:at, :kind, :subject, :detail);

-- name: newest_alerts
-- For people.
select at, kind, subject, detail from alerts order by alert_id desc limit :limit;

-- name: add_event!
-- An app event with the profile it was told of at the time.
insert into events (event_id, event_hash, profile_id, kind, name, source, message_id, occurred_at,
  received_at, body, properties)
values (:event_id, :event_hash, :profile_id, :kind, :name, :source, :message_id, :occurred_at,
  :received_at, :body, :properties);

-- name: adverts_by_gateway
-- For accounts: adverts stored, by gateway, also those that were thinned to hours.
select gateway, sum(adverts) as adverts from (
  select gateway_number, adverts from sightings
  union all select gateway_number, adverts from sightings_without_time
  union all select gateway_number, adverts from sighting_hours
) join heard_gateways using (gateway_number) group by gateway;

-- name: floor_people
-- The live floor: who is where, by profile, never by name.
select p.beacon_key, p.profile_id, p.store_id, p.zone_id, p.entered_at, p.seen_at, p.confidence,
  (select count(*) from pushes where pushes.profile_id = p.profile_id and state = 'accepted') as pushes,
  (select count(*) from pushes where pushes.profile_id = p.profile_id and opened_at is not null) as opened
from presences p where p.zone_id is not null and (p.store_id = :store_id or :store_id is null)
order by p.entered_at;

-- name: floor_zones
-- Zones with how many people are in each, and how many came since a time.
select z.store_id, z.zone_id, z.name,
  (select count(*) from presences p where p.store_id = z.store_id and p.zone_id = z.zone_id
    and p.profile_id is not null) as people,
  (select count(*) from zone_visits v where v.store_id = z.store_id and v.zone_id = z.zone_id
    and v.profile_id is not null and v.entered_at >= :since) as entries
from zones z order by z.store_id, z.zone_id;

-- name: zone_entries$
-- For accounts: how often people entered any zone.
select count(*) from zone_visits where profile_id is not null;

-- name: message_ids_stored
-- For accounts: the message ids of every stored app event.
select message_id, count(*) as times from events group by message_id;
