-- name: eid_beacon_of_key
-- The beacon that has this identity key already.
select number, beacon_key from eid_beacons where fingerprint = :fingerprint;

-- name: add_eid_beacon!
-- A beacon's wrapped key and its clock.
insert into eid_beacons (beacon_key, wrapped_key, fingerprint, exponent, told_ahead_s, told_at,
  clock_ahead_s, registered_at)
values (:beacon_key, :wrapped_key, :fingerprint, :exponent, :ahead_s, :told_at, :ahead_s, :registered_at);

-- name: tell_eid_clock!
-- A beacon known already, with a new battery perhaps: its clock as it is told now.
update eid_beacons set exponent = :exponent, told_ahead_s = :ahead_s, told_at = :told_at,
  clock_ahead_s = :ahead_s, learned_at = null
where number = :number;

-- name: learn_eid_clock!
-- What it sent shows how its clock runs: within what a crystal can do, lest replayed ids carry it away.
update eid_beacons set
  clock_ahead_s = min(max(:ahead_s, told_ahead_s - (:base_s + (:at - told_at) / :ms_per_s)),
    told_ahead_s + (:base_s + (:at - told_at) / :ms_per_s)),
  learned_at = :at
where number = :number;

-- name: remove_eid_beacon!
-- A tag that was lost or handed back.
delete from eid_beacons where beacon_key = :beacon_key;

-- name: eid_numbers
-- Which beacon each number is, a page at a time.
select number, beacon_key from eid_beacons where number > :after order by number limit :limit;

-- name: eid_exponents
-- How many beacons rotate how fast.
select exponent, count(*) as beacons from eid_beacons group by exponent;

-- name: eid_keys
-- What a table of ids is made from, a page at a time.
select number, beacon_key, wrapped_key, clock_ahead_s from eid_beacons
where exponent = :exponent and number > :after order by number limit :limit;

-- name: eid_beacons
-- For people: no key, wrapped or not.
select beacon_key, exponent, registered_at, told_at, clock_ahead_s - told_ahead_s as drift_s, learned_at
from eid_beacons where beacon_key > :after order by beacon_key limit :limit;
