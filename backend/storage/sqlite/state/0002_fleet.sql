-- The life of gateways: enrolment, certificates, remote configuration. Times are unix ms, UTC.
create table enrolment_tokens (
  secret_hash blob primary key,
  store_id text not null,
  gateway_id text not null,
  created_at integer not null,
  expires_at integer not null,
  used_at integer,
  used_by blob,                 -- SHA-256 of the public key that spent it
  void_at integer,
  foreign key (store_id, gateway_id) references gateways
);
create index enrolment_tokens_of_gateway on enrolment_tokens (store_id, gateway_id);
create table certificates (
  number integer primary key autoincrement, -- in the order of issue; a later one is newer
  serial text not null unique,  -- hexadecimal
  store_id text not null,
  gateway_id text not null,
  public_key blob not null,     -- DER
  pem text not null,
  not_before integer not null,
  not_after integer not null,
  issued_at integer not null,
  follows text,                 -- the serial it was renewed from; null: enrolled
  revoked_at integer,
  foreign key (store_id, gateway_id) references gateways
);
create index certificates_of_gateway on certificates (store_id, gateway_id, number);
create table revoked_gateways (
  store_id text not null,
  gateway_id text not null,
  revoked_at integer not null,
  primary key (store_id, gateway_id),
  foreign key (store_id, gateway_id) references gateways
);
create table configurations (
  store_id text not null,
  gateway_id text not null,
  version integer not null,
  issued_at integer not null,
  document blob not null,       -- JSON, exactly as signed
  signature blob not null,
  state text not null default '', -- what the gateway last said of it
  reported_at integer,
  primary key (store_id, gateway_id, version),
  foreign key (store_id, gateway_id) references gateways
);
create table configuration_reports ( -- the last word of each gateway, so that a repetition is no news
  gateway text primary key,     -- store/gateway
  version integer not null,
  state text not null,
  at integer not null
);
