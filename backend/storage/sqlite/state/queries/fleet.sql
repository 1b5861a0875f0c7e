-- name: gateways_in_service
-- Gateways that may speak: registered, and not revoked.
select store_id, gateway_id, zone_id, name, x_m, y_m from gateways
where not exists (
  select 1 from revoked_gateways
  where revoked_gateways.store_id = gateways.store_id and revoked_gateways.gateway_id = gateways.gateway_id
)
order by store_id, gateway_id;

-- name: gateway_exists$
-- Whether a gateway is registered.
select count(*) from gateways where store_id = :store_id and gateway_id = :gateway_id;

-- name: add_enrolment_token!
-- Only the secret's hash is kept.
insert into enrolment_tokens (secret_hash, store_id, gateway_id, created_at, expires_at)
values (:secret_hash, :store_id, :gateway_id, :created_at, :expires_at);

-- name: void_enrolment_tokens!
-- A newer token, or a revocation, takes the place of those still open.
update enrolment_tokens set void_at = :at
where store_id = :store_id and gateway_id = :gateway_id and void_at is null;

-- name: forget_enrolment_tokens!
-- Those that ran out long ago.
delete from enrolment_tokens where expires_at < :before;

-- name: enrolment_token
-- By the hash of its secret.
select store_id, gateway_id, expires_at, used_by, void_at from enrolment_tokens
where secret_hash = :secret_hash;

-- name: spend_enrolment_token!
-- By the first key that uses it.
update enrolment_tokens set used_at = coalesce(used_at, :at), used_by = :used_by
where secret_hash = :secret_hash and (used_by is null or used_by = :used_by);

-- name: add_certificate!
-- A certificate that was issued.
insert into certificates (serial, store_id, gateway_id, public_key, pem, not_before, not_after, issued_at,
  follows)
values (:serial, :store_id, :gateway_id, :public_key, :pem, :not_before, :not_after, :issued_at, :follows);

-- name: certificate_by_serial
-- With whether it is its gateway's newest, or the one before.
select serial, store_id, gateway_id, public_key, not_after, revoked_at,
  exists (
    select 1 from certificates as newest
    where newest.number = (
      select max(number) from certificates as other
      where other.store_id = found.store_id and other.gateway_id = found.gateway_id
    ) and found.serial in (newest.serial, newest.follows)
  ) as in_line
from certificates as found where serial = :serial;

-- name: certificate_of_key
-- A certificate in force that a key has already.
select pem from certificates
where store_id = :store_id and gateway_id = :gateway_id and public_key = :public_key
  and revoked_at is null and not_after > :now
order by number desc limit 1;

-- name: revoke_certificates!
-- All that a gateway has.
update certificates set revoked_at = :at
where store_id = :store_id and gateway_id = :gateway_id and revoked_at is null;

-- name: revoked_certificates
-- For the list that brokers read; those that ran out are refused anyway.
select serial, revoked_at from certificates where revoked_at is not null and not_after > :now order by number;

-- name: take_out_of_service!
-- What it sends is no longer listened to.
insert into revoked_gateways (store_id, gateway_id, revoked_at) values (:store_id, :gateway_id, :at)
on conflict (store_id, gateway_id) do nothing;

-- name: put_in_service!
-- It was enrolled anew.
delete from revoked_gateways where store_id = :store_id and gateway_id = :gateway_id;

-- name: same_alert_lately
-- Whether people were told the very same already, among the newest.
select alert_id from alerts
where alert_id > (select max(alert_id) from alerts) - 1000
  and kind = :kind and subject = :subject and detail = :detail and at > :since
limit 1;

-- name: newest_configuration_version$
-- The highest version made for a gateway; 0 without any.
select coalesce(max(version), 0) from configurations where store_id = :store_id and gateway_id = :gateway_id;

-- name: add_configuration!
-- A signed version.
insert into configurations (store_id, gateway_id, version, issued_at, document, signature)
values (:store_id, :gateway_id, :version, :issued_at, :document, :signature);

-- name: forget_configurations!
-- Old versions, so that a program that writes one a minute does not fill the disk.
delete from configurations
where store_id = :store_id and gateway_id = :gateway_id and version <= cast(:version as integer) - 100;

-- name: newest_configurations
-- Each gateway's newest version, for those in service.
select store_id, gateway_id, version, document, signature from configurations as newest
where version = (
  select max(version) from configurations as other
  where other.store_id = newest.store_id and other.gateway_id = newest.gateway_id
) and not exists (
  select 1 from revoked_gateways
  where revoked_gateways.store_id = newest.store_id and revoked_gateways.gateway_id = newest.gateway_id
)
order by store_id, gateway_id;

-- name: configurations_of_gateway
-- For people: the newest first.
select version, issued_at, document, state, reported_at from configurations
where store_id = :store_id and gateway_id = :gateway_id order by version desc limit :limit;

-- name: configuration_report
-- What a gateway said last about a configuration.
select version, state, at from configuration_reports where gateway = :gateway;

-- name: save_configuration_report!
-- The gateway's newest word.
insert into configuration_reports (gateway, version, state, at) values (:gateway, :version, :state, :at)
on conflict (gateway) do update set version = excluded.version, state = excluded.state, at = excluded.at;

-- name: mark_configuration!
-- The same, beside the version that it is about.
update configurations set state = :state, reported_at = :at
where store_id = :store_id and gateway_id = :gateway_id and version = :version;

-- name: fleet
-- For people: every gateway with its newest certificate, its newest version and its last word.
select gateways.store_id, gateways.gateway_id, gateways.name, revoked_gateways.revoked_at,
  newest.serial, newest.issued_at, newest.not_after, newest.revoked_at as certificate_revoked_at,
  (select max(version) from configurations
   where configurations.store_id = gateways.store_id and configurations.gateway_id = gateways.gateway_id
  ) as newest_version,
  configuration_reports.version as reported_version, configuration_reports.state as reported_state,
  configuration_reports.at as reported_at
from gateways
left join revoked_gateways on revoked_gateways.store_id = gateways.store_id
  and revoked_gateways.gateway_id = gateways.gateway_id
left join certificates as newest on newest.number = (
  select max(number) from certificates
  where certificates.store_id = gateways.store_id and certificates.gateway_id = gateways.gateway_id
)
left join configuration_reports on configuration_reports.gateway = gateways.store_id || '/' || gateways.gateway_id
order by gateways.store_id, gateways.gateway_id;
