-- In place of what the SQLite file says about `entries`: each partition counts its own, and takes a position
-- by moving its head in the append's transaction. So positions have no gap, and come in the order of commits.
create table partitions (
  partition bigint primary key,
  head bigint not null default 0    -- the last position given
);
insert into partitions (partition) select generate_series(0, 63);
create table entries (
  partition bigint not null,
  position bigint not null,
  kind text not null check (kind in ('gateway', 'app')),
  source text not null,
  lane text,
  boot_offset bigint,
  received_at bigint not null,
  payload bytea not null,
  primary key (partition, position)
);
