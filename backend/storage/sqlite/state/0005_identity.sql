-- What identities need beyond merges: intervals, shared devices, reviews with their end, link tokens.
alter table profiles add column attach_from integer not null default 0; -- of a merged browser's doings the
alter table profiles add column attach_until integer not null default 9007199254740991; -- person has these
alter table profiles add column shared integer not null default 0; -- 1: seen with several people, so nobody's
alter table profiles add column crowd integer not null default 0;  -- 1: says nothing of others any more
create index profiles_shared on profiles (id_type, profile_id) where shared = 1;
update profiles set attach_from = merged_at - 2592000000
where merged_into is not null and merged_at > 2592000000 and id_type in ('anonymous_id', 'device_id');
update profiles set shared = 1 where id_type in ('anonymous_id', 'device_id') and 1 < (
  select count(distinct c.profile_id) from identity_edges e
  join identity_claims c on c.id_type = e.id_type and c.id = e.id
  where e.profile_id = profiles.profile_id and e.id_type = profiles.id_type and e.valid_to is null);
create index identity_claims_of_profile on identity_claims (profile_id, id_type, id);
alter table merge_reviews add column state text not null default 'open'
  check (state in ('open', 'merged', 'apart'));
alter table merge_reviews add column decided_at integer;
alter table merge_reviews add column decided_by text;
create index merge_reviews_open on merge_reviews (review_id) where state = 'open';
create table link_redemptions ( -- one-time: the first redemption counts
  nonce text primary key,
  event_hash integer not null,
  device_id text not null,
  anonymous_id text,
  redeemed_at integer not null
);
