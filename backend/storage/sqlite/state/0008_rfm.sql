-- Runs of RFM scoring, what bounds they found, and how people's scores changed. Times are unix ms, UTC.
create table rfm_runs (
  run_id integer primary key autoincrement,
  started_at bigint not null,
  finished_at bigint,            -- null: it runs, or died; a new run begins anew
  people bigint not null default 0,
  orders bigint not null default 0,
  changed bigint not null default 0,
  thresholds text not null default '{}' -- JSON: recency, frequency, monetary, four bounds each
);
create table rfm_changes ( -- one row for each change of a person's scores
  profile_id text not null,
  run_id bigint not null,
  r integer,                     -- null: no orders any more
  f integer,
  m integer,
  name text,
  scored_at bigint not null,
  primary key (profile_id, run_id)
);
