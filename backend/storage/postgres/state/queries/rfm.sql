-- Queries about scores of which PostgreSQL needs its own words.

-- name: rfm_purchases_of_people
-- What people with several profiles bought, [person, profiles] each, whose orders simply add up: no two profiles
-- report the same one, and all that a merged profile said of any happened while it was the person's. Each profile is
-- looked up alone (`offset 0`): of lists in lists PostgreSQL expects 10,000, and joined plainly reads everybody's.
with people as materialized (
  select value ->> 0 as person_id, value ->> 1 as profiles from json_each(cast(:trees as text)))
select b.person_id, b.last_at, b.orders, b.revenue from (
  {bought_by_people}
  from people t cross join json_each(t.profiles) one
  cross join lateral (select * from profiles own where own.profile_id = one.value offset 0) p
  cross join lateral (select * from orders bought where bought.profile_id = one.value offset 0) o
  group by t.person_id) b
where b.last_at is not null and b.reports = b.different and b.outside = 0;
