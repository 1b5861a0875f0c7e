-- Message ids of the last minutes, as each commit appends them: in the order of `message_ids` every one of them
-- would touch a page of its own. Many at a time are sorted and moved there; backend/storage/message_ids.py.
create table recent_message_ids (
  run integer primary key autoincrement, -- never reused, or a reader would pass over what is new
  hour integer not null,
  received_hour integer not null,
  hashes blob not null                   -- 64-bit numbers, as they lie in memory
);
-- Those on their way to `message_ids`, in its order.
create table sorted_message_ids (
  portion integer primary key,
  hour integer not null,
  received_hour integer not null,
  hashes blob not null
);
