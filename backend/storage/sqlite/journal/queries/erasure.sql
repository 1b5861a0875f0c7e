-- name: letters_to_search
-- Every dead letter in turn, to be searched for an erased person's names.
select letter_id, reason, envelope, payload from dead_letters
where letter_id > :after order by letter_id limit :limit;

-- name: blank_letter!
-- Overwrites a letter before it goes: what the file moves about meanwhile is empty already.
update dead_letters set payload = :payload, reason = '', envelope = null where letter_id = :letter_id;

-- name: copy_letter!
-- The same letter anew, at the end; with `remove_letter`, the page it lay on is left.
insert into dead_letters (received_at, origin, reason, payload, form, source, events, partition, lane, boot_offset,
  envelope, tries, tried_at)
select received_at, origin, reason, payload, form, source, events, partition, lane, boot_offset, envelope, tries,
  tried_at
from dead_letters where letter_id = :letter_id;

-- name: letters_until
-- Letters that have not been moved.
select letter_id from dead_letters where letter_id <= :until order by letter_id limit :limit;

-- name: newest_letter$
-- Up to which letter there is anything to move.
select max(letter_id) from dead_letters;
