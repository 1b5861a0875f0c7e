-- The same partial indexes under predicates that cost nothing: for a list of more than two values SQLite builds a
-- table of them with every row that is written, which took longer than writing the row.
drop index events_observed;
create index events_observed on events (received_at)
where kind = 'location' or kind = 'beacon_sighting' or kind = 'fence_transition';
drop index traits_for_search;
create index traits_for_search on traits (name, lower(value), profile_id)
where name = 'email' or name = 'name' or name = 'firstName' or name = 'lastName' or name = 'first_name'
  or name = 'last_name' or name = 'phone';
