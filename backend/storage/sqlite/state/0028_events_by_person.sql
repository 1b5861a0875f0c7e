-- One index tells of a person's events and of their views: each index more is a page more that an event writes.
drop index product_views;
drop index events_of_profile;
create index events_of_profile on events (profile_id, occurred_at, name);
