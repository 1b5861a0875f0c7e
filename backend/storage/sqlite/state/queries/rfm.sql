-- name: begin_rfm_run
-- A run starts.
insert into rfm_runs (started_at) values (:started_at) returning run_id;

-- name: end_rfm_run!
-- And is done.
update rfm_runs set finished_at = :finished_at, people = :people, orders = :orders, changed = :changed,
  thresholds = :thresholds where run_id = :run_id;

-- name: rfm_runs
-- The newest runs.
select run_id, started_at, finished_at, people, orders, changed, thresholds from rfm_runs
order by run_id desc limit :limit;

-- name: rfm_purchases
-- What each profile that is nobody else's bought: when last, how often, for how much.
select o.profile_id, max(o.completed_at) as last_at, count(*) as orders,
  sum(coalesce(o.total, 0) - o.refunded) as revenue
from orders o where o.status = 'completed' and o.completed_at is not null
group by o.profile_id order by o.profile_id;

-- name: rfm_merged_buyers
-- Profiles with orders that are part of somebody, or that others are part of: these are reckoned as people.
select distinct o.profile_id from orders o join profiles p on p.profile_id = o.profile_id
where p.merged_into is not null
union
select distinct o.profile_id from orders o
where exists (select 1 from profiles c where c.merged_into = o.profile_id);

-- name: rfm_scores
-- Everybody's scores.
select profile_id, r, f, m from rfm_scores order by profile_id;

-- name: put_rfm_score!
-- A person's scores.
insert into rfm_scores (profile_id, run_id, r, f, m, name, scored_at)
values (:profile_id, :run_id, :r, :f, :m, :name, :scored_at)
on conflict (profile_id) do update set run_id = excluded.run_id, r = excluded.r, f = excluded.f, m = excluded.m,
  name = excluded.name, scored_at = excluded.scored_at;

-- name: end_rfm_score!
-- Whoever has no orders any more has no scores.
delete from rfm_scores where profile_id = :profile_id;

-- name: add_rfm_change!
-- For the person's history.
insert into rfm_changes (profile_id, run_id, r, f, m, name, scored_at)
values (:profile_id, :run_id, :r, :f, :m, :name, :scored_at)
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
