-- Replicas of the backend on one PostgreSQL share the journal's partitions. With SQLite one process owns
-- everything, and nothing of this is used. Times are unix ms, UTC.
create table replicas (
  replica_id text primary key,
  address text not null,
  seen_at integer not null       -- by the database's clock, for theirs may differ
);
create table replica_news ( -- a row for each change that every replica has to read
  news_id integer primary key autoincrement,
  told_at integer not null
);
alter table fold add column epoch integer not null default 0; -- rises whenever the partition gets another owner
-- Which partition's events a subject is known from; null: that of its store.
alter table presences add column partition integer;
alter table visits add column partition integer;
alter table fence_presences add column partition integer;
create table handovers ( -- whoever folds this partition is to forget the subject: it is known elsewhere now
  partition integer not null,
  subject text not null,
  primary key (partition, subject)
);
