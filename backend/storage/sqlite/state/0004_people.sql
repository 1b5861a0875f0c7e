-- What people did and bought, and what erasing somebody leaves behind. Times are unix ms, UTC; money is hundredths.
alter table events add column properties text; -- JSON, as the app or site sent them; null: none
create index events_by_name on events (name, occurred_at) where name is not null;
-- What offers and profiles ask of the web: few events are views, so this stays small.
create index product_views on events (profile_id, occurred_at) where name in ('Product Viewed', 'Viewed Product');

-- Purchases ---------------------------------------------------------------------------------------------
-- What was said of an order, one row for each event that said something; `orders` follows from these.
create table order_statements (
  profile_id text not null,     -- of the event's own identifier
  order_id text not null,       -- empty: the event named no order
  event_hash bigint not null,
  event_id bigint not null,
  what text not null check (what in ('completed', 'updated', 'refunded', 'cancelled')),
  occurred_at bigint not null,
  total bigint,                 -- null: not said, or not readable
  currency text,
  refund_id text,               -- where the shop gives its refunds one
  whole integer not null,       -- a refund that names neither amount nor products: all of it
  has_lines integer not null,
  unreadable integer not null,  -- values in it that are no amounts or counts; they stay in the event
  primary key (profile_id, order_id, event_hash)
);
create index order_statements_of_profile on order_statements (profile_id, occurred_at, event_id);
create table order_lines (
  profile_id text not null,
  order_id text not null,
  event_hash bigint not null,   -- the statement that the line stands in; `orders.lines_of` says which counts
  line integer not null,
  product_id text not null,
  category text,
  quantity double precision not null, -- of goods sold by weight, a fraction
  price bigint,                 -- of one
  primary key (profile_id, order_id, event_hash, line)
);
create table orders (
  profile_id text not null,
  order_id text not null,
  status text not null check (status in ('completed', 'cancelled', 'incomplete')), -- incomplete: only a refund is known
  completed_at bigint,          -- the earliest that was said
  total bigint,
  currency text,
  refunded bigint not null,     -- never more than the total, where that is known
  stated_at bigint not null,    -- of the statement that `total` is from, with its hash: the later of two rows counts
  stated_hash bigint not null,
  lines_of bigint,              -- the statement whose lines count
  primary key (profile_id, order_id)
);
create index orders_for_scores on orders (status, profile_id, completed_at, total, refunded);
create index orders_by_id on orders (order_id); -- one order reported by two identifiers

-- Erasure -----------------------------------------------------------------------------------------------
-- Keyed hashes of what erased people were known by; the key is in no database.
create table erasure_tombstones (
  digest blob primary key,
  erased_at bigint not null,    -- refuses what happened until then, and nothing later
  receipt_id text not null
);
create index erasure_tombstones_of_receipt on erasure_tombstones (receipt_id);
create table erasures ( -- the receipts: without anything personal
  receipt_id text primary key,
  erased_at bigint not null,
  finished_at bigint,
  counts text not null          -- JSON: rows by table
);
create table erasure_work ( -- what is left to do; gone once it is done
  receipt_id text primary key references erasures,
  step text not null,
  work blob not null            -- whom to look for, encrypted under a key that is in no database
);
-- Search ------------------------------------------------------------------------------------------------
-- Names and addresses as JSON texts, opening quote included; `search.sql` names the same traits.
create index traits_for_search on traits (name, lower(value), profile_id)
  where name in ('email', 'name', 'firstName', 'lastName', 'first_name', 'last_name', 'phone');
