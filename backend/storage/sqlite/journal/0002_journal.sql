-- Dead letters that can be read once more: what kind of thing each is, whose, and how often that was tried.
alter table dead_letters add column form text not null default 'old'; -- batch, entry, message; old: before these columns
alter table dead_letters add column source text;          -- of an app's or a site's; null: a gateway's
alter table dead_letters add column events integer not null default 0;
alter table dead_letters add column partition integer;    -- of a gateway's message, and of an entry
alter table dead_letters add column lane text;
alter table dead_letters add column boot_offset integer;  -- of an entry, as the journal had it
alter table dead_letters add column envelope text;        -- JSON, of a gateway's message
alter table dead_letters add column tries integer not null default 0;
alter table dead_letters add column tried_at integer;     -- unix ms
-- How much of their room the letters take, and what had to make room for others.
create table dead_letter_room (
  room integer primary key check (room = 1),
  letters integer not null,
  bytes integer not null,
  fell_out integer not null,   -- letters that are gone, ever
  told integer not null        -- of these, how many people have been told of
);
insert into dead_letter_room (room, letters, bytes, fell_out, told)
select 1, count(*), coalesce(sum(length(payload)), 0), 0, 0 from dead_letters;
