-- name: append_entry!
-- One accepted batch. Whoever appends to the same partition waits here until our transaction ends. A
-- partition that does not exist gives no position, and an entry without one is refused.
with taken as (
  update partitions set head = head + 1 where partition = :partition returning head)
insert into entries (partition, position, kind, source, lane, boot_offset, received_at, payload)
values (:partition, (select taken.head from taken), :kind, :source, :lane, :boot_offset, :received_at,
  :payload);

-- name: remember_messages!
-- App events' ids of one hour, a JSON list.
insert into message_ids (hour, hash, received_hour)
select cast(:hour as bigint), cast(one.value as bigint), cast(:received_hour as bigint)
from json_each(cast(:hashes as text)) one
on conflict do nothing;

-- name: heads
-- The last position ever given in each line, also when its entry is folded and gone.
select partition as line, head as position from partitions;

-- name: entries_after
-- What the fold has to do next: so many entries, and no more once there are so many bytes of app events. A
-- line's entries keep their order; the lines are merged by arrival, where an entry counts as no earlier than
-- those before it, for clocks may be set back.
with followed as (
  select cast(key as bigint) as partition, cast(value as bigint) as position
  from json_each_text(cast(cast(:cursor as text) as json)))
select position, partition, kind, source, lane, boot_offset, received_at, payload, partition as line
from (
  select waiting.*, coalesce(sum(case kind when 'app' then length(payload) else 0 end) over (
    order by turn, partition, position rows between unbounded preceding and 1 preceding), 0) as bytes_before
  from (
    select next.*, max(next.received_at) over (partition by next.partition order by next.position) as turn
    from followed cross join lateral (
      select * from entries
      where entries.partition = followed.partition and entries.position > followed.position
      order by entries.position limit :limit) next) waiting
  order by turn, partition, position limit :limit) merged
where bytes_before < cast(:bytes as bigint) order by turn, partition, position;

-- name: delete_folded!
-- Entries that the state holds by now; safe to repeat.
delete from entries using json_each_text(cast(cast(:cursor as text) as json)) as folded
where entries.partition = cast(folded.key as bigint) and entries.position <= cast(folded.value as bigint);

-- name: bound_lanes!
-- A gateway's longest unused lanes go; it is told that we forgot them, and begins a new epoch.
delete from lanes where gateway = :gateway and (epoch, lane) not in
  (select epoch, lane from lanes where gateway = :gateway order by updated_at desc, ctid desc limit :keep);
