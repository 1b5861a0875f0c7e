-- name: bury!
-- What could not be understood, with the reason, for people to look at and to try once more.
insert into dead_letters (received_at, origin, reason, payload, form, source, events, partition, lane,
  boot_offset, envelope, tries, tried_at)
values (:received_at, :origin, :reason, :payload, :form, :source, :events, :partition, :lane,
  :boot_offset, :envelope, :tries, :tried_at);

-- name: take_letter_room!
-- For letters that come; negative for letters that go.
update dead_letter_room set letters = letters + :letters, bytes = bytes + :bytes;

-- name: letter_room
-- How much is taken, and what fell out.
select letters, bytes, fell_out, told from dead_letter_room;

-- name: oldest_letter
-- The first to make room; a stranger must not fill the disk.
select letter_id, length(payload) as bytes from dead_letters order by letter_id limit 1;

-- name: remove_letter!
-- It was understood at last, or had to make room. `tries` says that nobody else has touched it meanwhile.
delete from dead_letters where letter_id = :letter_id and tries = coalesce(cast(:tries as integer), tries);

-- name: letter_fell_out!
-- One more that had to make room.
update dead_letter_room set fell_out = fell_out + 1;

-- name: letters_told!
-- People know of this many that fell out.
update dead_letter_room set told = :told where told < :told;

-- name: rewrite_letter!
-- It was tried once more, and this is left of it.
update dead_letters set reason = :reason, payload = :payload, events = :events, tries = dead_letters.tries + 1,
  tried_at = :tried_at
where letter_id = :letter_id and tries = :tries;

-- name: letter
-- One, with its content.
select letter_id, received_at, origin, reason, payload, form, source, events, partition, lane, boot_offset,
  envelope, tries, tried_at
from dead_letters where letter_id = :letter_id;

-- name: dead_letters_newest
-- For people: what could not be understood, the newest first, older than `before` where that is given.
select letter_id, received_at, origin, reason, form, source, events, length(payload) as bytes, tries, tried_at
from dead_letters
where (cast(:before as integer) is null or letter_id < :before)
  and (cast(:reason as text) is null or reason = :reason)
  and (cast(:origin as text) is null or origin = :origin)
order by letter_id desc limit :limit;

-- name: letters_to_replay
-- The ids of those that may be tried, the oldest first, behind `after`.
select letter_id from dead_letters
where letter_id > :after
  and (cast(:reason as text) is null or reason = :reason)
  and (cast(:origin as text) is null or origin = :origin)
order by letter_id limit :limit;
