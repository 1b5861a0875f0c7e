-- The inbox: what was accepted and not yet folded, and how far each sender has got.
create table entries (
  position integer primary key autoincrement, -- never reused, or the fold would skip an entry
  partition integer not null,
  kind text not null check (kind in ('gateway', 'app')),
  source text not null,          -- store/gateway, or the id of an app source
  lane text,                     -- of a gateway's batch
  boot_offset integer,           -- added to a batch's boot times gives unix ms; null: time unknown
  received_at integer not null,  -- unix ms
  payload blob not null
);

create table lanes (
  gateway text not null,
  epoch text not null,
  lane text not null,
  upto integer not null,         -- the last sequence journalled
  updated_at integer not null,
  primary key (gateway, epoch, lane)
);

-- App events already accepted, by the hour of the client's own clock: a time-ordered key keeps inserts fast.
create table message_ids (
  hour integer not null,
  hash integer not null,
  received_hour integer not null, -- of our clock: the window counts from here, whatever theirs says
  primary key (hour, hash)
);

-- Adverts counted and forgotten before the journal, because nobody agreed to them.
create table forgotten (
  gateway text not null,
  reason text not null,
  adverts integer not null,
  primary key (gateway, reason)
);

create table dead_letters (
  letter_id integer primary key autoincrement,
  received_at integer not null,
  origin text not null,
  reason text not null,
  payload blob not null
);
