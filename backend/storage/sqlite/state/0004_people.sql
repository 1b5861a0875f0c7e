-- What people did, in a form that audiences can ask for. Times are unix ms, UTC.
alter table events add column properties text; -- JSON, as the app or site sent them; null: none
create index events_by_name on events (name, occurred_at) where name is not null;
