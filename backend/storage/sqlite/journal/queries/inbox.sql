-- name: append_entry!
-- One accepted batch, in the order of acceptance.
insert into entries (partition, kind, source, lane, boot_offset, received_at, payload)
values (:partition, :kind, :source, :lane, :boot_offset, :received_at, :payload);

-- name: lane_positions
-- How far every sender has got; read once at start.
select gateway, epoch, lane, upto from lanes;

-- name: lane_positions_of
-- How far some senders have got, asked inside the transaction that takes them further; a JSON list of
-- [gateway, epoch, lane].
select l.gateway, l.epoch, l.lane, l.upto
from json_each(cast(:lanes as text)) w cross join lanes l
where l.gateway = w.value ->> 0 and l.epoch = w.value ->> 1 and l.lane = w.value ->> 2;

-- name: advance_lane!
-- The sender's sequence, in the same transaction as what it carried; unless another process, which takes the
-- sender over or had it before, has moved it meanwhile.
insert into lanes (gateway, epoch, lane, upto, updated_at)
values (:gateway, :epoch, :lane, :upto, :updated_at)
on conflict (gateway, epoch, lane) do update set upto = excluded.upto, updated_at = excluded.updated_at
where lanes.upto = cast(:before as bigint);

-- name: bound_lanes!
-- A gateway's longest unused lanes go; it is told that we forgot them, and begins a new epoch.
delete from lanes where gateway = :gateway and rowid not in
  (select rowid from lanes where gateway = :gateway order by updated_at desc, rowid desc limit :keep);

-- name: count_forgotten!
-- Adverts that nobody agreed to, counted where they were heard and then forgotten.
insert into forgotten (gateway, reason, adverts) values (:gateway, :reason, :adverts)
on conflict (gateway, reason) do update set adverts = forgotten.adverts + excluded.adverts;

-- name: entries_after
-- What the fold has to do next: so many entries, and no more once there are so many bytes of app events.
select e.position, e.partition, e.kind, e.source, e.lane, e.boot_offset, e.received_at, e.payload, 0 as line
from (
  select position, coalesce(sum(bytes) over (
    order by position rows between unbounded preceding and 1 preceding), 0) as bytes_before
  from (
    select position, case kind when 'app' then length(payload) else 0 end as bytes
    from entries where position > json_extract(:cursor, '$."0"') order by position limit :limit)) next
cross join entries e
where e.position = next.position and next.bytes_before < :bytes order by e.position;

-- name: delete_folded!
-- Entries that the state holds by now, so many bytes of them; safe to repeat until there are none.
delete from entries where position <= (
  select max(position) from (
    select position, coalesce(sum(bytes) over (
      order by position rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
      select position, length(payload) as bytes from entries
      where position <= json_extract(:cursor, '$."0"') order by position limit 1000))
  where bytes_before < :bytes);

-- name: heads
-- The last position ever given in each line, also when its entry is folded and gone.
select 0 as line, coalesce((select seq from sqlite_sequence where name = 'entries'), 0) as position;

-- name: forgotten_by_gateway
-- For accounts: adverts forgotten, by gateway.
select gateway, sum(adverts) as adverts from forgotten group by gateway;

-- name: unresolved_adverts$
-- For accounts: those among them whose rotating id nobody registered.
select coalesce(sum(adverts), 0) from forgotten where reason = 'eid_unresolved';
