-- Message ids lie in the order of their key alone: with an index beside the rows each id touched two pages of
-- the file, and pages are what a commit costs.
create table message_ids_by_key (
  hour integer not null,
  hash integer not null,
  received_hour integer not null, -- of our clock: the window counts from here, whatever theirs says
  primary key (hour, hash)
) without rowid;
insert into message_ids_by_key (hour, hash, received_hour) select hour, hash, received_hour from message_ids;
drop table message_ids;
alter table message_ids_by_key rename to message_ids;
