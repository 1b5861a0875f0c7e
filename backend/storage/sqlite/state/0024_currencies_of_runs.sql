-- A run of scores says in how many currencies the orders were, since it adds amounts as they stand.
alter table rfm_runs add column currencies text not null default '{}'; -- JSON: currency (empty: not said) → orders
-- All that counting them asks, so that five million orders need not be read for it.
create index orders_by_currency on orders (status, currency, completed_at, total)
where completed_at is not null and total is not null;
