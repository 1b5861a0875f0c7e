-- Who is to be erased -----------------------------------------------------------------------------------

-- name: erasure_edges
-- What a profile is or was known by.
select id_type, id from profiles where profile_id = :profile_id
union all
select id_type, id from identity_edges where profile_id = :profile_id and id_type <> 'profile';

-- name: erasure_called
-- Profiles of what an alias took for an anonymous id, and is a user id of this profile.
select distinct a.profile_id
from profiles u
join identity_claims c on c.id_type = 'anonymous_id' and c.id = u.id and c.via = 'alias'
join profiles a on a.id_type = 'anonymous_id' and a.id = u.id
where u.profile_id = :profile_id and u.id_type = 'user_id';

-- name: erasure_claims
-- What was proven to go with a profile.
select distinct id_type, id from identity_claims where profile_id = :profile_id;

-- name: erasure_claimants
-- Everybody who was ever proven to go with an identifier; a logout is nobody.
select distinct profile_id from identity_claims where id_type = :id_type and id = :id and profile_id <> '';

-- name: erasure_devices
-- The devices that a profile holds.
select device_id from devices where profile_id = :profile_id;

-- name: erasure_addresses
-- Push addresses of a profile, and those that a device of theirs reported.
select kind, value, device_id from push_addresses
where profile_id = :profile_id or device_id = cast(:device_id as text);

-- name: erasure_contacts
-- Addresses and numbers by which one person is reached, as JSON texts.
select name, value from traits where profile_id = :profile_id and name in ('email', 'phone');

-- name: erasure_trait_bearers
-- Whose trait has the same value.
select profile_id from traits
where (name = 'email' or name = 'name' or name = 'firstName' or name = 'lastName' or name = 'first_name'
    or name = 'last_name' or name = 'phone')
  and name = :name and lower(value) = lower(cast(:value as text));

-- name: erasure_known_again
-- Whether somebody is known by an identifier.
select 1 as known from profiles where id_type = :id_type and id = :id
union all
select 1 from identity_edges where id_type = :id_type and id = :id and id_type = 'beacon' and valid_to is null;

-- name: erasure_known_address
-- Whether somebody has a push address.
select 1 as known from push_addresses where kind = :kind and value = :value;

-- Receipts, tombstones, and what is left to do ----------------------------------------------------------

-- name: add_erasure!
-- A receipt, without anything personal.
insert into erasures (receipt_id, erased_at, counts) values (:receipt_id, :erased_at, :counts);

-- name: add_tombstone!
-- Refuses what happened up to then; a later erasure of the same identifier takes its place.
insert into erasure_tombstones (digest, erased_at, receipt_id) values (:digest, :erased_at, :receipt_id)
on conflict (digest) do update set erased_at = excluded.erased_at, receipt_id = excluded.receipt_id;

-- name: erasure_key_marks
-- What the keys of tombstones are told by.
select digest from erasure_tombstones where receipt_id = '';

-- name: tombstones_since
-- Those of receipts behind one, for memory.
select digest, erased_at, receipt_id from erasure_tombstones where receipt_id > :receipt_id;

-- name: newest_erasure$
-- The newest receipt there is.
select max(receipt_id) from erasures;

-- name: erasure
-- One receipt.
select receipt_id, erased_at, finished_at, counts from erasures where receipt_id = :receipt_id;

-- name: newest_erasures
-- For people.
select receipt_id, erased_at, finished_at, counts from erasures
where receipt_id < :before order by receipt_id desc limit :limit;

-- name: tombstones_of_erasure
-- The hashes of the identifiers that a receipt is about.
select digest from erasure_tombstones where receipt_id = :receipt_id order by digest;

-- name: put_erasure_counts!
-- What was deleted so far.
update erasures set counts = :counts where receipt_id = :receipt_id;

-- name: finish_erasure!
-- All of it is done.
update erasures set finished_at = :finished_at where receipt_id = :receipt_id;

-- name: put_erasure_work!
-- What is left, sealed.
insert into erasure_work (receipt_id, step, work) values (:receipt_id, :step, :work)
on conflict (receipt_id) do update set step = excluded.step, work = excluded.work;

-- name: erasure_work
-- The oldest erasure that is not finished.
select receipt_id, step, work from erasure_work order by receipt_id limit 1;

-- name: drop_erasure_work!
-- Nothing is left.
delete from erasure_work where receipt_id = :receipt_id;

-- At once: whatever makes somebody known, reached or seen -----------------------------------------------

-- name: erase_consents!
-- What a profile agreed to.
delete from consents where profile_id = :profile_id;

-- name: erase_traits!
-- What a profile is called, and so on.
delete from traits where profile_id = :profile_id;

-- name: erase_device_clocks!
-- Where their devices were.
delete from device_clocks where profile_id = :profile_id;

-- name: erase_profile!
-- The profile itself.
delete from profiles where profile_id = :profile_id;

-- name: erase_identity_edges!
-- The beacons that were a profile's, and its former merges.
delete from identity_edges
where profile_id = :profile_id or (id_type = 'profile' and id = :profile_id and valid_to is not null);

-- name: keep_shared_apart!
-- What others share with a profile belongs to nobody; without its claim it must not become theirs.
update identity_claims set undone_at = :at
where undone_at is null and profile_id <> :profile_id and exists (
  select 1 from identity_claims c where c.profile_id = :profile_id
    and c.id_type = identity_claims.id_type and c.id = identity_claims.id)
and not exists (
  select 1 from profiles p where p.id_type = identity_claims.id_type and p.id = identity_claims.id
    and p.shared = 0 and p.profile_id <> :profile_id)
and not exists (
  select 1 from identity_edges e where e.id_type = identity_claims.id_type and e.id = identity_claims.id
    and e.id_type = 'beacon' and e.valid_to is null and e.profile_id <> :profile_id);

-- name: erase_claims_of_profile!
-- What was proven to go with a profile.
delete from identity_claims where profile_id = :profile_id;

-- name: erase_claims_on_identifier!
-- What an identifier was proven to go with.
delete from identity_claims where id_type = :id_type and id = :id;

-- name: erase_reviews_of_profile!
-- Questions to operators about a profile.
delete from merge_reviews where profile_id = :profile_id or other_profile_id = :profile_id;

-- name: erase_reviews_on_identifier!
-- Questions to operators about an identifier.
delete from merge_reviews where id_type = :id_type and id = :id;

-- name: erase_links_of_device!
-- Link tokens that a device redeemed.
delete from link_redemptions where device_id = :device_id;

-- name: erase_links_of_visitor!
-- Link tokens that a visitor asked for.
delete from link_redemptions where cast(:id_type as text) = 'anonymous_id' and anonymous_id = :id;

-- name: erase_device!
-- A device that is nobody else's.
delete from devices where device_id = :device_id;

-- name: erase_push_address!
-- A push address that is nobody else's.
delete from push_addresses where kind = :kind and value = :value;

-- name: release_push_addresses!
-- Those of shared devices: who holds the device next has them.
update push_addresses set profile_id = null, proven = 0 where profile_id = :profile_id;

-- name: release_devices!
-- The same of the devices; their registers are looked through later.
update devices set profile_id = null where profile_id = :profile_id;

-- name: erase_presence_of_profile!
-- Where the person is.
delete from presences where profile_id = :profile_id;

-- name: erase_presence_of_subject!
-- Where their tag or phone is.
delete from presences where beacon_key = :subject;

-- name: erase_fence_presences_of_profile!
-- Which geofences they are in or near.
delete from fence_presences where profile_id = :profile_id;

-- name: erase_fence_presences_of_subject!
-- Which geofences their phone is in or near.
delete from fence_presences where subject = :subject;

-- name: erase_handovers!
-- Words between replicas about their tag or phone.
delete from handovers where subject = :subject;

-- name: erase_waits_of_profile!
-- Candidates in the making.
delete from campaign_waits where profile_id = :profile_id;

-- name: erase_waits_of_subject!
-- Candidates in the making.
delete from campaign_waits where subject = :subject;

-- name: erase_beacon_health!
-- Telemetry of their tag.
delete from beacon_health where beacon_key = :beacon_key;

-- name: erase_tag!
-- Their tag's registration: the shop hands out another.
delete from beacons where beacon_key = :beacon_key and role = 'tag';

-- name: erase_rotating_tag!
-- And the key of one whose ids rotate: nobody can follow it any more.
delete from eid_beacons where beacon_key = :beacon_key;

-- name: hide_heard_key!
-- Sightings name a tag by its number, which from now on means nothing.
update heard_keys set beacon_key = :hidden where beacon_key = :beacon_key;

-- name: stop_pushes!
-- What is not on its way yet never will be; of what is, nobody knows.
update pushes set state = case when state = 'sending' then 'unknown' else 'suppressed' end, reason = 'erased',
  owner = null, finished_at = :at
where profile_id = :profile_id and state in ('queued', 'claimed', 'sending');

-- Then, in chunks: history ------------------------------------------------------------------------------

-- name: erase_order_lines!
-- What a profile bought.
delete from order_lines where (profile_id, order_id, event_hash, line) in (
  select profile_id, order_id, event_hash, line from order_lines where profile_id = :profile_id limit :limit);

-- name: erase_order_statements!
-- What a profile's events said of orders.
delete from order_statements where (profile_id, order_id, event_hash) in (
  select profile_id, order_id, event_hash from order_statements where profile_id = :profile_id limit :limit);

-- name: erase_orders!
-- A profile's orders.
delete from orders where (profile_id, order_id) in (
  select profile_id, order_id from orders where profile_id = :profile_id limit :limit);

-- name: erase_events!
-- What a profile did.
delete from events where event_id in (select event_id from events where profile_id = :profile_id limit :limit);

-- name: erase_zone_visits!
-- Where a profile was.
delete from zone_visits where visit_id in (
  select visit_id from zone_visits where profile_id = :profile_id limit :limit);

-- name: erase_visits!
-- Which stores a profile visited.
delete from visits where visit_id in (select visit_id from visits where profile_id = :profile_id limit :limit);

-- name: erase_fence_visits!
-- Which geofences a profile visited.
delete from fence_visits where visit_id in (
  select visit_id from fence_visits where profile_id = :profile_id limit :limit);

-- name: erase_rfm_changes!
-- How a profile's scores changed.
delete from rfm_changes where profile_id = :profile_id;

-- name: hide_pushes!
-- A campaign's figures stay true: the push remains, without person, address, and text.
update pushes set profile_id = :hidden, address_value = push_id, content = :content, message_name = null
where push_id in (select push_id from pushes where profile_id = :profile_id limit :limit);

-- name: hide_decisions!
-- And so does the decision, as somebody's of whom nothing is known.
update decisions set profile_id = :hidden, subject = '', active = 0
where decision_id in (select decision_id from decisions where profile_id = :profile_id limit :limit);

-- name: key_number_hidden
-- The number of a tag that is being erased.
select key_number from heard_keys where beacon_key = :hidden;

-- name: sightings_span
-- From when to when anything was heard, unix seconds.
select min(second) as first, max(second) as last from sightings;

-- name: sightings_from
-- Until when the next so many sightings were, unix seconds.
select max(n.second) as last from (
  select second from sightings where second >= :low order by second limit :limit) n;

-- name: erase_sightings!
-- When and where a tag was heard, in a span of time; there is no index by tag, for it would halve ingest.
delete from sightings where second >= :low and second < :high and key_number = :key_number;

-- name: erase_sightings_without_time!
-- The same of boots whose clock was never set.
delete from sightings_without_time where key_number = :key_number;

-- name: erase_sighting_hours!
-- The same by the hour.
delete from sighting_hours where (key_number, hour, gateway_number) in (
  select key_number, hour, gateway_number from sighting_hours where key_number = :key_number limit :limit);

-- name: drop_hidden_key!
-- No sighting has the number any more.
delete from heard_keys where beacon_key = :hidden;

-- And what others' rows say of them ---------------------------------------------------------------------

-- name: events_to_search
-- Every event in turn, to be searched for an erased person's names; no column more than that takes.
select event_id, body, properties from events where event_id > :after order by event_id limit :limit;

-- name: event_found
-- One that mentions them, of those that happened until the erasure.
select event_id, event_hash, profile_id, body, properties from events
where event_id = :event_id and (occurred_at <= :erased_at or received_at <= :erased_at);

-- name: drop_event!
-- It was about them.
delete from events where event_id = :event_id;

-- name: rewrite_event!
-- It was somebody else's, and mentioned them.
update events set body = :body, properties = :properties where event_id = :event_id;

-- name: drop_traits_of_event!
-- What an event had said of a profile.
delete from traits where profile_id = :profile_id and event_hash = :event_hash;

-- name: devices_to_search
-- Every device in turn, for registers that remember an erased profile.
select device_id, registers from devices where device_id > :after order by device_id limit :limit;

-- name: rewrite_device!
-- The registers without the erased profile.
update devices set registers = :registers where device_id = :device_id;

-- name: audit_to_search
-- Every line of the audit in turn.
select audit_id, subject, detail from audit where audit_id > :after order by audit_id limit :limit;

-- name: rewrite_audit!
-- That something was done stays; to whom does not.
update audit set subject = :subject, detail = :detail where audit_id = :audit_id;

-- name: alerts_to_search
-- Every alert in turn.
select alert_id, subject, detail from alerts where alert_id > :after order by alert_id limit :limit;

-- name: rewrite_alert!
-- The same of alerts.
update alerts set subject = :subject, detail = :detail where alert_id = :alert_id;

-- name: traits_to_search
-- What people were said to be until an erasure, in turn.
select profile_id, name, value from traits
where (profile_id, name) > (cast(:after as text), cast(:after_name as text)) and occurred_at <= :erased_at
order by profile_id, name limit :limit;

-- name: rewrite_trait!
-- Somebody else's, who had named them; what was said since stays.
update traits set value = :value where profile_id = :profile_id and name = :name and value = :before;

-- name: definitions_to_search
-- Every audience as it is and was.
select segment_id, version, definition from segment_versions;

-- name: rewrite_definition!
-- An audience that had asked for them by name.
update segment_versions set definition = :definition where segment_id = :segment_id and version = :version;

-- name: campaigns_to_search
-- Every campaign as it is and was.
select campaign_id, version, definition from campaign_versions;

-- name: rewrite_campaign_version!
-- A campaign that had asked for them, or spoken of them.
update campaign_versions set definition = :definition where campaign_id = :campaign_id and version = :version;

-- name: rewrite_campaign!
-- The same, as it is.
update campaigns set definition = :definition where campaign_id = :campaign_id and version = :version;
