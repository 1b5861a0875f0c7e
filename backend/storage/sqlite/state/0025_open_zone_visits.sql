-- Whoever leaves a zone is found among those who are in one, not among all who ever were.
create index zone_visits_open on zone_visits (beacon_key) where left_at is null;
