-- name: profile_of_identifier
-- An identifier's own profile, or who carries a beacon.
select profile_id from profiles where id_type = :id_type and id = :id
union all
select profile_id from identity_edges
where id_type = :id_type and id = :id and id_type = 'beacon' and valid_to is null;

-- name: profiles_named
-- Identifiers' own profiles, as in profiles_by_id; given as JSON: {type: [id, ...], ...}. In pairs, each would be read
-- as a document of its own, which took four times as long as looking it up.
select p.profile_id, p.id_type, p.id, p.created_at, p.merged_into, p.merged_at, p.attach_from,
  p.attach_until, p.shared, p.crowd, p.cause, p.event_id, p.merged_cause, p.merged_event_id,
  exists (select 1 from consents c where c.profile_id = p.profile_id) as has_consents
from json_each(cast(:wanted as text)) t cross join json_each(t.value) w cross join profiles p
where p.id_type = t.key and p.id = w.value;

-- name: beacons_named
-- Whose beacons are; a JSON list of their keys.
select e.id_type, e.id, e.profile_id, e.valid_from, e.cause, e.event_id
from json_each(cast(:wanted as text)) w
join identity_edges e on e.id_type = 'beacon' and e.id = w.value and e.valid_to is null;

-- name: claims_named
-- What is said of identifiers, given as in profiles_named.
select c.id_type, c.id, c.profile_id, c.via, c.first_at, c.last_at, c.last_hash, c.undone_at
from json_each(cast(:wanted as text)) t cross join json_each(t.value) w cross join identity_claims c
where c.id_type = t.key and c.id = w.value;

-- name: profiles_by_id
-- Profiles with the identifiers they began with; a JSON list of profile ids.
select p.profile_id, p.id_type, p.id, p.created_at, p.merged_into, p.merged_at, p.attach_from,
  p.attach_until, p.shared, p.crowd, p.cause, p.event_id, p.merged_cause, p.merged_event_id,
  exists (select 1 from consents c where c.profile_id = p.profile_id) as has_consents
from json_each(cast(:wanted as text)) w join profiles p on p.profile_id = w.value;

-- name: claimed_by_profile
-- Every identifier that a profile has a claim on, but for beacons.
select distinct id_type, id from identity_claims where profile_id = :profile_id and id_type <> 'beacon';

-- name: add_profile!
-- An identifier's own profile, by itself.
insert into profiles (profile_id, id_type, id, created_at, cause, event_id)
values (:profile_id, :id_type, :id, :created_at, :cause, :event_id);

-- name: add_placed_profile!
-- The same, of which more is known already.
insert into profiles (profile_id, id_type, id, created_at, cause, event_id, merged_into, merged_at, attach_from,
  attach_until, shared, crowd, merged_cause, merged_event_id)
values (:profile_id, :id_type, :id, :created_at, :cause, :event_id, :merged_into, :merged_at, :attach_from,
  :attach_until, :shared, :crowd, :merged_cause, :merged_event_id);

-- name: put_profile!
-- A merge, its undoing, or earlier evidence for it.
update profiles set created_at = :created_at, cause = :cause, event_id = :event_id, merged_into = :merged_into, merged_at = :merged_at,
  attach_from = :attach_from, attach_until = :attach_until, shared = :shared, crowd = :crowd,
  merged_cause = :merged_cause, merged_event_id = :merged_event_id
where profile_id = :profile_id and id_type = :id_type;

-- name: open_identity_edge!
-- A beacon belongs to a profile from now on.
insert into identity_edges (id_type, id, profile_id, valid_from, cause, event_id)
values (:id_type, :id, :profile_id, :valid_from, :cause, :event_id);

-- name: add_past_edge!
-- A beacon belonged to a profile for a while, or a profile to another.
insert into identity_edges (id_type, id, profile_id, valid_from, valid_to, cause, event_id)
values (:id_type, :id, :profile_id, :valid_from, :valid_to, :cause, :event_id);

-- name: redate_identity_edge!
-- Something earlier turned up that says the same.
update identity_edges set valid_from = :valid_from, cause = :cause, event_id = :event_id
where id_type = :id_type and id = :id and valid_to is null;

-- name: close_identity_edge!
-- It does so no more.
update identity_edges set valid_to = :at where id_type = :id_type and id = :id and valid_to is null;

-- name: add_identity_claim!
-- Something new is said of an identifier.
insert into identity_claims (id_type, id, profile_id, via, first_at, last_at, last_hash)
values (:id_type, :id, :profile_id, :via, :first_at, :last_at, :last_hash);

-- name: put_identity_claim!
-- It is said again, or was undone; once per claimant and way.
update identity_claims
set first_at = :first_at, last_at = :last_at, last_hash = :last_hash, undone_at = :undone_at
where id_type = :id_type and id = :id and profile_id = :profile_id and via = :via;

-- name: widen_seen_claim!
-- It was said later than the row has.
update identity_claims set last_at = :at, last_hash = :hash
where id_type = :id_type and id = :id and profile_id = :profile_id and via = 'seen'
  and (last_at < :at or (last_at = :at and last_hash < :hash));

-- name: drop_identity_claim!
-- An alias of what turned out to be a user, or a decision taken back.
delete from identity_claims
where id_type = :id_type and id = :id and profile_id = :profile_id and via = :via;

-- name: add_merge_review!
-- For an operator to decide; once per pair.
insert into merge_reviews (at, id_type, id, profile_id, other_profile_id, cause)
values (:at, :id_type, :id, :profile_id, :other_profile_id, :cause) on conflict do nothing;

-- name: link_redemption
-- Who redeemed a link token.
select nonce, event_hash, device_id, anonymous_id, redeemed_at from link_redemptions where nonce = :nonce;

-- name: add_link_redemption!
-- A link token is spent.
insert into link_redemptions (nonce, event_hash, device_id, anonymous_id, redeemed_at)
values (:nonce, :event_hash, :device_id, :anonymous_id, :redeemed_at) on conflict (nonce) do nothing;

-- name: add_trait!
-- A trait of a profile that had none.
insert into traits (profile_id, name, value, occurred_at, event_hash)
values (:profile_id, :name, :value, :occurred_at, :event_hash);

-- name: put_trait!
-- The later writer wins, whichever came first.
insert into traits (profile_id, name, value, occurred_at, event_hash)
values (:profile_id, :name, :value, :occurred_at, :event_hash)
on conflict (profile_id, name) do update set
  value = excluded.value, occurred_at = excluded.occurred_at, event_hash = excluded.event_hash
where (excluded.occurred_at, excluded.event_hash) > (traits.occurred_at, traits.event_hash);

-- name: profiles_crowded_with_traits
-- Which of these profiles have more traits than they may.
select t.profile_id from json_each(cast(:profiles as text)) asked cross join traits t
where t.profile_id = asked.value group by t.profile_id having count(*) > cast(:most as bigint);

-- name: leave_out_oldest_traits!
-- Those that last stay, and the ones that were stated last; of one moment, by their names.
delete from traits where (profile_id, name) in (
  select placed.profile_id, placed.name from (
    select t.profile_id, t.name, row_number() over (
      partition by t.profile_id
      order by case when t.name in (select value from json_each(cast(:lasting as text))) then 0 else 1 end,
        t.occurred_at desc, t.event_hash desc, t.name) as place
    from json_each(cast(:profiles as text)) asked cross join traits t where t.profile_id = asked.value) placed
  where placed.place > cast(:most as bigint));

-- name: put_device_clock!
-- What a device says of its time zone: the later hour wins, whichever came first. A server's event is no device's.
insert into device_clocks (profile_id, timezone, hour)
select :profile_id, :timezone, cast(:hour as bigint)
where exists (select 1 from sources where source_id = :source and kind in ('web', 'app'))
on conflict (profile_id) do update set timezone = excluded.timezone, hour = excluded.hour
where (excluded.hour, excluded.timezone) > (device_clocks.hour, device_clocks.timezone);

-- name: device_clock_of_person
-- The time zone that a person's devices were in last, browsers' as far as their doings are the person's.
with recursive {tree}
select c.timezone from tree join profiles p using (profile_id) join device_clocks c using (profile_id)
where c.hour > p.attach_from - 3600000 and c.hour <= p.attach_until
order by c.hour desc, c.timezone desc limit 1;

-- name: consents_of_profile
-- What a profile last said, by purpose.
select purpose, granted, occurred_at, event_hash from consents where profile_id = :profile_id;

-- name: put_consent!
-- A later statement takes the place of an earlier one; the caller has compared them.
insert into consents (profile_id, purpose, granted, occurred_at, event_hash)
values (:profile_id, :purpose, :granted, :occurred_at, :event_hash)
on conflict (profile_id, purpose) do update set
  granted = excluded.granted, occurred_at = excluded.occurred_at, event_hash = excluded.event_hash;

-- name: devices_named
-- Who held devices when, and their addresses; a JSON list of device ids.
select d.device_id, d.profile_id, d.registers from json_each(cast(:wanted as text)) w
join devices d on d.device_id = w.value;

-- name: put_device!
-- The registers, and what follows from them.
insert into devices (device_id, profile_id, platform, last_seen_at, registers)
values (:device_id, :profile_id, :platform, :last_seen_at, :registers)
on conflict (device_id) do update set profile_id = excluded.profile_id, platform = excluded.platform,
  last_seen_at = excluded.last_seen_at, registers = excluded.registers;

-- name: see_push_address!
-- An address goes with the device that reported it last. One that belonged to another project, and is reported a day
-- later or more, is tried again: it may have been the service account that was wrong.
insert into push_addresses (kind, value, device_id, bound_at, bound_hash, last_seen_at)
values (:kind, :value, :device_id, :at, :hash, :seen_at)
on conflict (kind, value) do update set
  device_id = case when (excluded.bound_at, excluded.bound_hash)
      > (push_addresses.bound_at, push_addresses.bound_hash)
    then excluded.device_id else push_addresses.device_id end,
  bound_hash = case when (excluded.bound_at, excluded.bound_hash)
      > (push_addresses.bound_at, push_addresses.bound_hash)
    then excluded.bound_hash else push_addresses.bound_hash end,
  bound_at = max(push_addresses.bound_at, excluded.bound_at),
  quarantined_at = case when excluded.last_seen_at < push_addresses.quarantined_at + 86400000
    then push_addresses.quarantined_at end,
  last_seen_at = max(push_addresses.last_seen_at, excluded.last_seen_at);

-- name: push_addresses_on
-- The addresses that devices were the last to report; a JSON list of device ids.
select a.kind, a.value, a.device_id, a.bound_at, a.bound_hash, a.last_seen_at, a.profile_id, a.proven,
  a.platform
from json_each(cast(:wanted as text)) w join push_addresses a on a.device_id = w.value;

-- name: push_addresses_named
-- Push addresses, given as JSON: [[kind, value], ...].
select a.kind, a.value, a.device_id, a.bound_at, a.bound_hash, a.last_seen_at, a.profile_id, a.proven,
  a.platform
from json_each(cast(:wanted as text)) w join push_addresses a on a.kind = w.value ->> 0 and a.value = w.value ->> 1;

-- name: own_push_address!
-- Whose an address is.
update push_addresses set profile_id = :profile_id, proven = :proven, platform = :platform
where kind = :kind and value = :value;

-- name: person_of_profile
-- The profile at the top of a profile's merges.
with recursive up (profile_id, parent) as (
  select profile_id, merged_into from profiles where profile_id = :profile_id
  union
  select p.profile_id, p.merged_into from up join profiles p on p.profile_id = up.parent)
select profile_id from up where parent is null;

-- name: profiles_of_person
-- The person's own profile and every one merged into it.
with recursive {tree}
select p.profile_id, p.id_type, p.merged_into, p.merged_at, p.created_at
from tree join profiles p using (profile_id) order by p.created_at, p.profile_id;

-- name: consent_statements_of
-- What each of a person's profiles last said; about all purposes.
with recursive {tree}
select c.purpose, c.granted, c.occurred_at, p.id_type, p.merged_at
from tree join profiles p using (profile_id) join consents c using (profile_id);

-- name: traits_of_person
-- Every trait of each of a person's profiles, of browsers' as far as their doings are the person's.
with recursive {tree}
select t.name, t.value, t.occurred_at, t.event_hash, p.id_type
from tree join profiles p using (profile_id) join traits t using (profile_id)
where t.occurred_at between p.attach_from and p.attach_until;

-- name: push_addresses_of_person
-- Where pushes reach a person. One claimed without proof reaches them only while nobody knows who they are.
with recursive {tree}
select a.kind, a.value, a.platform, a.last_seen_at
from tree join push_addresses a using (profile_id)
where a.quarantined_at is null and (a.proven = 1 or a.profile_id = :profile_id)
order by a.last_seen_at desc, a.kind, a.value;

-- name: identifiers_of_person
-- Every identifier of a person, since when and why.
with recursive {tree}
select p.id_type, p.id, p.created_at as valid_from, p.cause
from tree join profiles p using (profile_id) where p.id_type <> 'claimed_user_id'
union all
select e.id_type, e.id, e.valid_from, e.cause
from tree cross join identity_edges e
where e.profile_id = tree.profile_id and e.valid_to is null and e.id_type = 'beacon' order by 1, 2;

-- name: beacons_of_people
-- The beacons that people carry; a JSON list of the roots' profile ids.
with recursive tree (person_id, profile_id) as (
  select p.profile_id, p.profile_id
  from json_each(cast(:people as text)) asked cross join profiles p where p.profile_id = asked.value
  union all
  select tree.person_id, p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select tree.person_id, e.id from tree cross join identity_edges e
where e.profile_id = tree.profile_id and e.id_type = 'beacon' and e.valid_to is null;

-- name: devices_of_person
-- The devices that a person holds.
with recursive {tree}
select d.device_id, d.platform, d.last_seen_at
from tree join devices d using (profile_id) order by d.device_id;

-- name: events_of_person
-- What a person did, newest first, through whichever identifier.
with recursive {tree}
select e.event_id, e.kind, e.name, e.source, e.occurred_at, e.body, e.properties
from tree join profiles p using (profile_id) join events e using (profile_id)
where e.occurred_at between p.attach_from and p.attach_until and e.occurred_at < :before order by e.occurred_at desc, e.event_id desc limit :limit;

-- name: kept_events_of_profile
-- Events of one profile, not of those merged into it, that no retention forgets, the last first.
select occurred_at, event_hash, body from events
where profile_id = :profile_id and occurred_at >= :from_at and occurred_at < :before
  and kind not in ('beacon_sighting', 'fence_transition', 'location')
order by occurred_at desc, event_hash desc limit :limit;

-- name: people_with_beacons
-- Every beacon that is a person's, not the shop's, with the person.
with recursive up (beacon, profile_id, parent) as (
  select e.id, p.profile_id, p.merged_into
  from identity_edges e join profiles p using (profile_id)
  where e.id_type = 'beacon' and e.valid_to is null
    and not exists (select 1 from beacons b where b.beacon_key = e.id and b.role <> 'tag')
  union
  select up.beacon, p.profile_id, p.merged_into from up join profiles p on p.profile_id = up.parent)
select beacon, profile_id from up where parent is null;

-- name: consent_statements_of_people
-- What each profile of people, given by their roots as a JSON list, last said of one purpose.
with recursive tree (person_id, profile_id) as (
  select p.profile_id, p.profile_id
  from json_each(cast(:people as text)) asked cross join profiles p where p.profile_id = asked.value
  union all
  select tree.person_id, p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select tree.person_id, c.granted, c.occurred_at, p.id_type, p.merged_at
from tree join profiles p on p.profile_id = tree.profile_id
join consents c on c.profile_id = tree.profile_id and c.purpose = :purpose;

-- name: consent_statements_of_people_with_beacons
-- What each profile of everybody who carries a beacon last said of one purpose.
with recursive
  up (profile_id, parent) as (
    select p.profile_id, p.merged_into
    from identity_edges e join profiles p using (profile_id)
    where e.id_type = 'beacon' and e.valid_to is null
    union
    select p.profile_id, p.merged_into from up join profiles p on p.profile_id = up.parent),
  tree (person_id, profile_id) as (
    select profile_id, profile_id from up where parent is null
    union
    select tree.person_id, p.profile_id from tree join profiles p on p.merged_into = tree.profile_id)
select tree.person_id, c.granted, c.occurred_at, p.id_type, p.merged_at
from tree join profiles p on p.profile_id = tree.profile_id
join consents c on c.profile_id = tree.profile_id and c.purpose = :purpose;

-- name: merge_reviews_page
-- Questions to operators of one state, the oldest first; each with the two identifiers that it is about.
select r.review_id, r.at, r.id_type, r.id, r.cause, r.state, r.decided_at, r.decided_by,
  one.id_type as one_type, one.id as one_id, r.profile_id as one_profile,
  other.id_type as other_type, other.id as other_id, r.other_profile_id as other_profile
from merge_reviews r
join profiles one on one.profile_id = r.profile_id
join profiles other on other.profile_id = r.other_profile_id
where r.state = :state and r.review_id > :after order by r.review_id limit :limit;

-- name: merge_review
-- One question.
select review_id, profile_id, other_profile_id, cause, state from merge_reviews where review_id = :review_id;

-- name: decide_merge_review!
-- It is answered.
update merge_reviews set state = :state, decided_at = :at, decided_by = :by where review_id = :review_id;

-- name: reopen_merge_reviews!
-- What was merged is apart again, so the question is open again.
update merge_reviews set state = 'open', decided_at = null, decided_by = null
where state = 'merged' and (profile_id = :profile_id or other_profile_id = :profile_id);

-- name: shared_identifiers
-- Browsers, phones and addresses that several people use, by type and in the order of their profiles.
select p.profile_id, p.id_type, p.id, p.created_at,
  (select count(distinct c.profile_id) from identity_claims c
    where c.id_type = p.id_type and c.id = p.id and c.profile_id <> '') as people
from profiles p
where p.shared = 1 and p.id_type = :id_type and p.profile_id > :after order by p.profile_id limit :limit;

-- name: people_using
-- Who an identifier was seen with, since when and until when.
select c.profile_id, p.id_type, p.id, min(c.first_at) as first_at, max(c.last_at) as last_at
from identity_claims c join profiles p on p.profile_id = c.profile_id
where c.id_type = :id_type and c.id = :id
group by c.profile_id, p.id_type, p.id order by last_at desc, c.profile_id limit :limit;

-- name: beacon_of_the_shop
-- A beacon that is fixed to a place, or to a thing.
select beacon_key from beacons where beacon_key = :beacon_key and role <> 'tag';
