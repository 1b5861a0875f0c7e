-- In place of what the SQLite file says about `fold`: each partition of the journal is folded by itself.
create table fold (
  partition bigint primary key,
  position bigint not null
);
insert into fold select generate_series(0, 63), 0;
