-- Beacons whose ids rotate (Eddystone-EID). Their keys are readable only with a secret kept elsewhere.
create table eid_beacons (
  number integer primary key autoincrement, -- what a table of ids answers with; never reused
  beacon_key text not null unique, -- eid:<uuid>, by which everything else knows the beacon
  wrapped_key blob not null,       -- AES-GCM, bound to beacon_key
  fingerprint blob not null unique, -- keyed hash of the identity key: a beacon registered twice is one
  exponent integer not null check (exponent between 0 and 15),
  told_ahead_s integer not null,   -- the beacon's counter minus unix time, as it was told
  told_at integer not null,        -- unix ms, when that was so
  clock_ahead_s integer not null,  -- the same, as learned since from what it sent
  learned_at integer,              -- unix ms
  registered_at integer not null   -- unix ms
);
create index eid_beacons_of_exponent on eid_beacons (exponent, number);
