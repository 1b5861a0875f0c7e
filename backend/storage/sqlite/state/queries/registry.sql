-- name: save_store!
-- A shop.
insert into stores (store_id, name, timezone) values (:store_id, :name, :timezone)
on conflict (store_id) do update set name = excluded.name, timezone = excluded.timezone;

-- name: save_zone!
-- A named area of a shop.
insert into zones (store_id, zone_id, name, categories) values (:store_id, :zone_id, :name, :categories)
on conflict (store_id, zone_id) do update set name = excluded.name, categories = excluded.categories;

-- name: save_gateway!
-- A gateway and the zone it stands for.
insert into gateways (store_id, gateway_id, zone_id, name, x_m, y_m)
values (:store_id, :gateway_id, :zone_id, :name, :x_m, :y_m)
on conflict (store_id, gateway_id) do update set zone_id = excluded.zone_id, name = excluded.name,
  x_m = excluded.x_m, y_m = excluded.y_m;

-- name: save_beacon!
-- A beacon fixed to a place, carried by a customer, or on a trolley.
insert into beacons (beacon_key, role, store_id, zone_id) values (:beacon_key, :role, :store_id, :zone_id)
on conflict (beacon_key) do update set role = excluded.role, store_id = excluded.store_id,
  zone_id = excluded.zone_id;

-- name: store
-- One shop.
select store_id, name, timezone from stores where store_id = :store_id;

-- name: zone
-- One zone.
select store_id, zone_id, name, categories from zones where store_id = :store_id and zone_id = :zone_id;

-- name: stores
-- Every shop.
select store_id, name, timezone from stores order by store_id;

-- name: zones
-- Every zone.
select store_id, zone_id, name, categories from zones order by store_id, zone_id;

-- name: gateways
-- Every gateway.
select store_id, gateway_id, zone_id, name, x_m, y_m from gateways order by store_id, gateway_id;

-- name: beacons
-- Every beacon an operator registered.
select beacon_key, role, store_id, zone_id from beacons order by beacon_key;

-- name: add_token!
-- Only the hash is kept.
insert into api_tokens (token_hash, name, role, created_at) values (:token_hash, :name, :role, :created_at);

-- name: token_by_hash
-- Whose token it is, unless it was revoked.
select name, role from api_tokens where token_hash = :token_hash and revoked_at is null;

-- name: revoke_token!
-- By its name; every token of that name.
update api_tokens set revoked_at = :at where name = :name and revoked_at is null;

-- name: tokens
-- For people; the tokens themselves are not known to us.
select name, role, created_at, revoked_at from api_tokens order by created_at;

-- name: audit!
-- Who changed what.
insert into audit (at, actor, action, subject, detail) values (:at, :actor, :action, :subject, :detail);

-- name: newest_audit
-- For people.
select at, actor, action, subject, detail from audit order by audit_id desc limit :limit;
