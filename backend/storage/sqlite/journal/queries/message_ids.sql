-- name: known_messages
-- Which app events' ids of one hour, a JSON list, were there before.
select m.hash from json_each(cast(:hashes as text)) one
cross join message_ids m where m.hour = :hour and m.hash = cast(one.value as bigint);

-- name: remember_messages!
-- App events' ids of one hour, a JSON list. `or ignore`, as SQLite then need not keep each page as it was for
-- the case that a row in the middle is at fault.
insert or ignore into message_ids (hour, hash, received_hour)
select :hour, one.value, :received_hour from json_each(:hashes) one;

-- name: forget_messages!
-- Ids received before the window in which a client may send again. Clocks are mostly right, so the first
-- range holds nearly all of them; the second finds those of clocks that run ahead.
delete from message_ids where received_hour < :before_hour
  and (hour < :before_hour or hour > :before_hour + 24 * 7);

-- name: append_recent_ids!
-- Ids of one hour that one commit took in, or a sorted portion of those of many.
insert into recent_message_ids (hour, received_hour, is_sorted, hashes)
values (:hour, :received_hour, :is_sorted, :hashes);

-- name: recent_ids_after
-- What was appended since somebody last looked.
select run, hour, is_sorted, hashes from recent_message_ids where run > :run order by run;

-- name: unsorted_ids
-- What has not begun to move.
select hour, received_hour, hashes from recent_message_ids where is_sorted = 0;

-- name: unsorted_size
-- How much that is.
select count(*) as runs, coalesce(sum(length(hashes)), 0) as bytes from recent_message_ids where is_sorted = 0;

-- name: drop_unsorted_ids!
-- It was sorted.
delete from recent_message_ids where is_sorted = 0;

-- name: next_sorted_ids
-- What is to move next, in the order of the table it moves to: so many bytes, the last run begun whole.
select moving.run, moving.hour, moving.received_hour, moving.hashes
from (
  select run, sum(length(hashes)) over (order by run) - length(hashes) as bytes_before
  from recent_message_ids where is_sorted = 1) waiting
cross join recent_message_ids moving
where moving.run = waiting.run and waiting.bytes_before < :bytes
order by moving.run;

-- name: drop_sorted_ids!
-- It has moved.
delete from recent_message_ids where is_sorted = 1 and run <= :run;
