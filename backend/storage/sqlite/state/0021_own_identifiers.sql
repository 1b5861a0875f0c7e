-- What a profile is known by, and what it is merged into, stands in the profile itself, which is written anyway. Edges
-- are left for what passes from one to another: beacons, and merges that are over.
alter table profiles add column id text; -- the identifier that it began with, of the type `id_type`
alter table profiles add column cause text not null default ''; -- of its beginning
alter table profiles add column event_id bigint; -- the event that gave the cause, unless an operator did
alter table profiles add column merged_cause text not null default '';
alter table profiles add column merged_event_id bigint;
update profiles set id = e.id, cause = e.cause, event_id = e.event_id from identity_edges e
where e.profile_id = profiles.profile_id and e.id_type = profiles.id_type and e.valid_to is null;
update profiles set merged_cause = e.cause, merged_event_id = e.event_id from identity_edges e
where profiles.merged_into is not null and e.id_type = 'profile' and e.id = profiles.profile_id
  and e.valid_to is null;
delete from identity_edges where id_type <> 'beacon' and valid_to is null;
create unique index profiles_by_id on profiles (id_type, id);
