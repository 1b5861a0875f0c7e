-- name: begin_rfm_run
-- A run starts.
insert into rfm_runs (started_at) values (:started_at) returning run_id;

-- name: end_rfm_run!
-- And is done.
update rfm_runs set finished_at = :finished_at, people = :people, orders = :orders, changed = :changed,
  thresholds = :thresholds, currencies = :currencies where run_id = :run_id;

-- name: rfm_runs
-- The newest runs.
select run_id, started_at, finished_at, people, orders, changed, thresholds, currencies from rfm_runs
order by run_id desc limit :limit;

-- name: rfm_currencies
-- In which currencies the orders' amounts are, as each identifier reported them; empty: not said.
select coalesce(o.currency, '') as currency, count(*) as orders from orders o
where o.status = 'completed' and o.completed_at is not null and o.total is not null
group by o.currency order by o.currency;

-- name: rfm_currencies_of
-- The same of some profiles' orders.
select coalesce(o.currency, '') as currency, count(*) as orders from orders o
where o.profile_id in (select value from json_each(cast(:profiles as text)))
  and o.status = 'completed' and o.completed_at is not null and o.total is not null
group by o.currency;

-- name: rfm_purchases
-- What the next profiles bought, each by itself: when last, how often, for how much; and their scores until now.
select max(b.profile_id) as last, json_group_array(b.profile_id) as people,
  json_group_array(b.last_at) as last_at, json_group_array(b.orders) as orders,
  json_group_array(b.revenue) as revenue, json_group_array(coalesce(s.r, 0)) as r,
  json_group_array(coalesce(s.f, 0)) as f, json_group_array(coalesce(s.m, 0)) as m
from (
  select o.profile_id, max(o.completed_at) as last_at, count(*) as orders,
    cast(sum(coalesce(o.total, 0) - o.refunded) as integer) as revenue
  from orders o where o.status = 'completed' and o.completed_at is not null and o.profile_id > :after
  group by o.profile_id order by o.profile_id limit :limit) b
left join rfm_scores s on s.profile_id = b.profile_id;

-- name: rfm_merged_buyers
-- Profiles with orders that are part of somebody: those around them are reckoned as people.
select json_group_array(p.profile_id) as people from profiles p
where p.merged_into is not null and exists (select 1 from orders o where o.profile_id = p.profile_id);

-- name: rfm_purchases_of_people
-- The same of people with several profiles, [person, profiles] each, whose orders simply add up: no two profiles
-- report the same one, and all that a merged profile said of any happened while it was the person's.
with people as materialized (
  select value ->> 0 as person_id, value ->> 1 as profiles from json_each(cast(:trees as text)))
select b.person_id, b.last_at, b.orders, b.revenue from (
  {bought_by_people}
  from people t cross join json_each(t.profiles) one cross join profiles p cross join orders o
  where p.profile_id = one.value and o.profile_id = one.value
  group by t.person_id) b
where b.last_at is not null and b.reports = b.different and b.outside = 0;

-- name: rfm_gone
-- Whoever has scores and no orders of their own, or is part of somebody.
select json_group_array(g.profile_id) as people from (
  select s.profile_id from rfm_scores s
  where not exists (select 1 from orders o
    where o.status = 'completed' and o.profile_id = s.profile_id and o.completed_at is not null)
  union
  select s.profile_id from profiles p cross join rfm_scores s
  where p.merged_into is not null and s.profile_id = p.profile_id) g;

-- name: put_rfm_scores!
-- People's scores; for each cell its three scores, its name, and a list of the people. Whoever has none is left out.
insert into rfm_scores (profile_id, run_id, r, f, m, name, scored_at)
with cells as materialized (
  select cast(value ->> 0 as integer) as r, cast(value ->> 1 as integer) as f, cast(value ->> 2 as integer) as m,
    value ->> 3 as name, value ->> 4 as people
  from json_each(cast(:cells as text)))
select p.value, :run_id, c.r, c.f, c.m, c.name, :scored_at
from cells c cross join json_each(c.people) p where c.r is not null order by p.value
on conflict (profile_id) do update set run_id = excluded.run_id, r = excluded.r, f = excluded.f, m = excluded.m,
  name = excluded.name, scored_at = excluded.scored_at;

-- name: end_rfm_scores!
-- Whoever has no orders any more has no scores.
delete from rfm_scores where profile_id in (select value from json_each(cast(:people as text)));

-- name: add_rfm_changes!
-- For the people's history; cells as above.
insert into rfm_changes (profile_id, run_id, r, f, m, name, scored_at)
with cells as materialized (
  select cast(value ->> 0 as integer) as r, cast(value ->> 1 as integer) as f, cast(value ->> 2 as integer) as m,
    value ->> 3 as name, value ->> 4 as people
  from json_each(cast(:cells as text)))
select p.value, :run_id, c.r, c.f, c.m, c.name, :scored_at
from cells c cross join json_each(c.people) p where true order by p.value
on conflict (profile_id, run_id) do update set r = excluded.r, f = excluded.f, m = excluded.m, name = excluded.name;

-- name: rfm_changes_of
-- How a person's scores changed, the newest first.
select c.run_id, c.r, c.f, c.m, c.name, c.scored_at from rfm_changes c
where c.profile_id = :profile_id order by c.run_id desc limit :limit;

-- name: rfm_score_of
-- A person's scores now.
select s.run_id, s.r, s.f, s.m, s.name, s.scored_at from rfm_scores s where s.profile_id = :profile_id;

-- name: rfm_names
-- How many people are in each cell of recency and frequency, by name.
select s.name, s.r, s.f, count(*) as people from rfm_scores s group by s.name, s.r, s.f order by s.name, s.r, s.f;
