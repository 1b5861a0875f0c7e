-- name: known_messages
-- Which app events' ids of one hour, a JSON list, were there before. Often none of the hour are: that is asked
-- first, and once.
select m.hash from json_each(cast(:hashes as text)) one
cross join message_ids m where m.hour = :hour and m.hash = cast(one.value as bigint)
  and exists (select 1 from message_ids a where a.hour = :hour);

-- name: any_message_of
-- Whether there is any id of an hour.
select 1 as there from message_ids where hour = :hour limit 1;

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
-- Ids of one hour that one commit took in.
insert into recent_message_ids (hour, received_hour, hashes) values (:hour, :received_hour, :hashes);

-- name: recent_ids_after
-- What was appended since somebody last looked.
select run, hour, received_hour, hashes from recent_message_ids where run > :run order by run;

-- name: recent_ids_size
-- From which run to which the log reaches, and how much it is.
select min(run) as first, max(run) as last, sum(length(hashes)) as bytes from recent_message_ids;

-- name: drop_recent_ids!
-- It was sorted.
delete from recent_message_ids where run <= :run;

-- name: append_sorted_ids!
-- A part of what was sorted, in the order of the table it moves to.
insert into sorted_message_ids (hour, received_hour, hashes) values (:hour, :received_hour, :hashes);

-- name: all_sorted_ids
-- What has not moved yet.
select hour, hashes from sorted_message_ids;

-- name: next_sorted_ids
-- What is to move next: so many bytes, the last part whole.
select s.portion, s.hour, s.received_hour, s.hashes
from (
  select portion, coalesce(sum(length(hashes)) over (
    order by portion rows between unbounded preceding and 1 preceding), 0) as bytes_before
  from sorted_message_ids) waiting
cross join sorted_message_ids s
where s.portion = waiting.portion and waiting.bytes_before < :bytes
order by s.portion;

-- name: drop_sorted_ids!
-- It has moved.
delete from sorted_message_ids where portion <= :portion;
